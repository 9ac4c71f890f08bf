//! A pipeline is deleted whole, wherever it is cut short and whoever submits meanwhile.
#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use scheduler_core::{
    Config, Deleted, Epoch, Error, ListTasks, Mode, Offset, Outcome, Pipeline, PipelineNumber,
    PipelinePath, PipelineSpec, Poll, Ports, Report, Scheduler, ShardId, Submit, TaskId,
    TaskOptions, memory,
    port::{
        Catalog, FailureKind, PortError, TaskLog, TaskStore,
        catalog::{CatalogVersion, Change, Changed, Snapshot},
        log::{Appended, Bounds, Fetch, Fetches, NewRecord, Record},
        store::{
            Claim, Claimed, DuePage, DueTasks, Flushed, Found, KeyedPage, KeyedTasks, ListPage,
            Lookup, ShardFlush, StoredTask,
        },
    },
};
use tokio::task::LocalSet;

const SOON: Duration = Duration::from_secs(20);

/// Lets so many steps of a deletion pass. The next one is done or not, but never answered, and neither is
/// any call after it: the process is dead.
#[derive(Debug)]
struct Life {
    steps: AtomicI64,
    /// Whether the last step is done.
    is_done: bool,
}

impl Life {
    fn of(steps: i64, is_done: bool) -> Arc<Self> {
        let steps = AtomicI64::new(steps);
        Arc::new(Self { steps, is_done })
    }

    /// Does a step, if the process lives long enough.
    async fn step<T>(
        &self,
        step: impl Future<Output = Result<T, PortError>>,
    ) -> Result<T, PortError> {
        match self.steps.fetch_sub(1, Ordering::Relaxed) {
            1.. => step.await,
            0 => {
                if self.is_done {
                    step.await?;
                }
                Err(dead())
            }
            ..0 => Err(dead()),
        }
    }

    fn is_over(&self) -> bool {
        self.steps.load(Ordering::Relaxed) < 0
    }
}

fn dead() -> PortError {
    PortError::new("live", FailureKind::Unknown)
}

#[derive(Debug)]
struct Mortal<P: ?Sized> {
    life: Arc<Life>,
    port: Arc<P>,
}

#[async_trait]
impl Catalog for Mortal<dyn Catalog> {
    async fn snapshot(&self) -> Result<Snapshot, PortError> {
        self.port.snapshot().await
    }

    async fn change(&self, change: Change) -> Result<Changed, PortError> {
        match &change {
            Change::SetMode { .. } | Change::DeletePipeline { .. } => {
                self.life.step(self.port.change(change)).await
            }
            _ => self.port.change(change).await,
        }
    }

    async fn changed(&self, seen: CatalogVersion) -> Result<CatalogVersion, PortError> {
        self.port.changed(seen).await
    }
}

#[async_trait]
impl TaskLog for Mortal<dyn TaskLog> {
    async fn ensure(&self, pipelines: &[Arc<Pipeline>]) -> Vec<Result<(), PortError>> {
        self.port.ensure(pipelines).await
    }

    async fn close(&self, pipeline: &Pipeline) -> Result<Option<Vec<Bounds>>, PortError> {
        self.life.step(self.port.close(pipeline)).await
    }

    async fn remove(&self, pipeline: &Pipeline) -> Result<(), PortError> {
        self.life.step(self.port.remove(pipeline)).await
    }

    async fn append(&self, records: Vec<NewRecord>) -> Vec<Result<Appended, PortError>> {
        self.port.append(records).await
    }

    async fn fetch(&self, wanted: &[Fetch], wait: Duration) -> Result<Fetches, PortError> {
        self.port.fetch(wanted, wait).await
    }

    async fn read_at(&self, wanted: &[TaskId]) -> Vec<Result<Option<Record>, PortError>> {
        self.port.read_at(wanted).await
    }

    async fn bounds(&self, shards: &[ShardId]) -> Vec<Result<Bounds, PortError>> {
        self.port.bounds(shards).await
    }

    async fn trim(&self, below: &[(ShardId, Offset)]) -> Result<(), PortError> {
        self.port.trim(below).await
    }

    async fn publish_watermarks(&self, watermarks: &[(ShardId, Offset)]) -> Result<(), PortError> {
        self.port.publish_watermarks(watermarks).await
    }
}

#[async_trait]
impl TaskStore for Mortal<dyn TaskStore> {
    async fn claim(&self, claims: &[Claim]) -> Result<Vec<Claimed>, PortError> {
        self.port.claim(claims).await
    }

    async fn flush(&self, parts: &[ShardFlush]) -> Result<Vec<Flushed>, PortError> {
        self.port.flush(parts).await
    }

    async fn release(&self, shards: &[(ShardId, Epoch)]) -> Result<(), PortError> {
        self.port.release(shards).await
    }

    async fn due(&self, pages: &[DuePage]) -> Result<Vec<DueTasks>, PortError> {
        self.port.due(pages).await
    }

    async fn keyed(&self, pages: &[KeyedPage]) -> Result<Vec<KeyedTasks>, PortError> {
        self.port.keyed(pages).await
    }

    async fn get(&self, lookups: &[Lookup]) -> Result<Vec<Option<Found>>, PortError> {
        self.port.get(lookups).await
    }

    async fn list(&self, pages: &[ListPage]) -> Result<Vec<Vec<StoredTask>>, PortError> {
        self.port.list(pages).await
    }

    async fn owners(&self, shards: &[ShardId]) -> Result<Vec<Option<Arc<str>>>, PortError> {
        self.port.owners(shards).await
    }

    async fn forget(&self, pipeline: PipelineNumber) -> Result<(), PortError> {
        self.life.step(self.port.forget(pipeline)).await
    }
}

/// The same places, for a process that lives so long.
fn mortal(ports: &Ports, life: &Arc<Life>) -> Ports {
    Ports {
        log: Arc::new(Mortal {
            life: Arc::clone(life),
            port: Arc::clone(&ports.log),
        }),
        store: Arc::new(Mortal {
            life: Arc::clone(life),
            port: Arc::clone(&ports.store),
        }),
        catalog: Arc::new(Mortal {
            life: Arc::clone(life),
            port: Arc::clone(&ports.catalog),
        }),
        placement: again(),
        clock: Arc::clone(&ports.clock),
    }
}

/// A member that starts owns every slot anew.
fn again() -> Arc<dyn scheduler_core::port::Placement> {
    Arc::new(scheduler_core::port::placement::SoleMember::new())
}

async fn start(ports: &Ports) -> Scheduler {
    let ports = Ports {
        placement: again(),
        ..ports.clone()
    };
    Scheduler::start(Config::default(), ports).await.unwrap()
}

fn path() -> PipelinePath {
    scheduler_core::path("tenant", "app", "mail").unwrap()
}

fn spec() -> PipelineSpec {
    PipelineSpec {
        steps: [].into(),
        defaults: TaskOptions::default(),
        n_partitions: 2,
        ..PipelineSpec::default()
    }
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let met = async {
        while !is_so().await {
            tokio::task::yield_now().await;
        }
    };
    let met = tokio::time::timeout(SOON, met).await;
    met.unwrap_or_else(|_| panic!("it is not so in time: {what}"));
}

/// Runs a task, if there is one.
async fn work(scheduler: &Scheduler) -> usize {
    let poll = Poll {
        wait: Duration::from_millis(50),
        ..Poll::new("worker".try_into().unwrap(), 10)
    };
    let Ok(leased) = scheduler.lease(&path(), poll).await else {
        return 0;
    };
    for task in &leased.tasks {
        let report = Report {
            id: task.id,
            token: task.token,
            outcome: Outcome::Completed { result: "1".into() },
        };
        scheduler.report(&path().tenant, report).await.unwrap();
    }
    leased.tasks.len()
}

/// A pipeline with a task that has ended.
async fn used(scheduler: &Scheduler) -> Pipeline {
    let pipeline = scheduler.create_pipeline(&path(), spec()).await.unwrap();
    scheduler.submit(&path(), Submit::new("{}")).await.unwrap();
    until("the task ends", async || work(scheduler).await == 1).await;
    Pipeline::clone(&pipeline)
}

async fn is_gone(ports: &Ports) -> bool {
    ports.catalog.snapshot().await.unwrap().pipelines.is_empty()
}

#[tokio::test]
async fn a_deletion_cut_short_at_any_step_is_finished_by_the_next_process() {
    let deaths = LocalSet::new();
    // Mode, close, remove, forget, row.
    for steps in 0..5 {
        for is_done in [false, true] {
            deaths.spawn_local(is_finished_after(steps, is_done));
        }
    }
    deaths.await;
}

async fn is_finished_after(steps: i64, is_done: bool) {
    let ports = memory::ports();
    let life = Life::of(steps, is_done);
    let scheduler = start(&mortal(&ports, &life)).await;
    let old = used(&scheduler).await;
    // It hears nothing of what comes after its death.
    let deleting = tokio::spawn({
        let scheduler = scheduler.clone();
        async move { scheduler.delete_pipeline(&path()).await }
    });
    until("the process dies", async || life.is_over()).await;
    deleting.abort();
    drop(scheduler);
    let next = start(&ports).await;
    if steps == 0 && !is_done {
        // Once it owns the shards.
        until("it deletes", async || {
            next.delete_pipeline(&path()).await.is_ok()
        })
        .await;
    }
    until("nothing is left", async || is_gone(&ports).await).await;
    assert_eq!(ports.log.close(&old).await.unwrap(), None, "{steps}");
    until("the next process knows", async || {
        next.pipeline(&path()).await.is_err()
    })
    .await;
    let new = next.create_pipeline(&path(), spec()).await.unwrap();
    assert_ne!(new.number, old.number);
    let page = next.list(&path(), ListTasks::default()).await.unwrap();
    assert_eq!((page.tasks.len(), page.backlog), (0, 0));
    next.submit(&path(), Submit::new("{}")).await.unwrap();
    until("it works", async || work(&next).await == 1).await;
}

#[tokio::test]
async fn tasks_that_were_accepted_before_the_log_closed_end_first() {
    let ports = memory::ports();
    let scheduler = start(&ports).await;
    let pipeline = used(&scheduler).await;
    // Another process submits, and does not know yet that it is being deleted.
    let late = NewRecord {
        shard: ShardId {
            pipeline: pipeline.number,
            partition: scheduler_core::Partition(1),
        },
        task: scheduler_core::port::log::NewTask {
            data: "{}".into(),
            options: None,
            traceparent: None,
        },
    };
    let change = Change::SetMode {
        path: path(),
        number: pipeline.number,
        mode: Mode::Deleting,
    };
    ports
        .log
        .append(vec![late.clone()])
        .await
        .remove(0)
        .unwrap();
    ports.catalog.change(change).await.unwrap();
    until("it is being deleted", async || {
        let found = scheduler.pipeline(&path()).await.unwrap();
        found.mode == Mode::Deleting
    })
    .await;
    until("the log is closed", async || {
        let refused = ports.log.append(vec![late.clone()]).await.remove(0);
        // What is accepted until then runs as well.
        refused.is_err_and(|err| err.kind() == FailureKind::Closed)
    })
    .await;
    let refused = scheduler.submit(&path(), Submit::new("{}")).await;
    assert!(matches!(refused, Err(Error::WrongState(_))), "{refused:?}");
    let refused = scheduler
        .create_pipeline(&path(), spec())
        .await
        .unwrap_err();
    assert!(matches!(refused, Error::Exists { .. }), "{refused:?}");
    assert!(refused.to_string().contains("being deleted"), "{refused}");
    let page = scheduler.list(&path(), ListTasks::default()).await.unwrap();
    assert!(page.tasks.len() + usize::try_from(page.backlog).unwrap() >= 2);
    until("the last tasks run", async || {
        work(&scheduler).await;
        is_gone(&ports).await
    })
    .await;
}

#[tokio::test]
async fn a_pipeline_with_tasks_is_not_deleted_and_goes_on() {
    let ports = memory::ports();
    let scheduler = start(&ports).await;
    used(&scheduler).await;
    scheduler.submit(&path(), Submit::new("{}")).await.unwrap();
    let refused = scheduler.delete_pipeline(&path()).await;
    assert!(matches!(refused, Err(Error::WrongState(_))), "{refused:?}");
    until("the task ends", async || work(&scheduler).await == 1).await;
    let deleted = scheduler.delete_pipeline(&path()).await;
    assert_eq!(deleted, Ok(Deleted::Done));
    assert!(is_gone(&ports).await);
}
