//! Workers on streams over a real scheduler, whose servers come and go.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use scheduler_core::{
    Config, PipelinePath, PipelineSpec, Scheduler, StateName, Submit, TaskId, TaskOptions, memory,
};
use scheduler_grpc::server::{Access, Limits, Services};
use tokio::{
    runtime::Runtime,
    sync::{Semaphore, oneshot},
    task::JoinHandle,
    time::{Instant, timeout},
};
use worker_sdk::{Builder, Failure, TaskContext, Worker};

const SOON: Duration = Duration::from_secs(20);
/// The data of a task that waits to be let go on, and of one that does not.
const WAIT: &str = r#"{"wait":true}"#;
const GO: &str = r#"{"wait":false}"#;

/// A server in a runtime of its own: when that ends, its connections break as those of a process that dies.
struct Server {
    address: String,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<()>,
    runtime: Option<Runtime>,
}

impl Server {
    fn start(scheduler: &Scheduler) -> Self {
        Self::on(
            std::net::TcpListener::bind("127.0.0.1:0").unwrap(),
            scheduler,
        )
    }

    fn on(listener: std::net::TcpListener, scheduler: &Scheduler) -> Self {
        let runtime = Runtime::new().unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let services = Services::new(scheduler.clone(), Access::Open, Limits::default()).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = runtime.spawn(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let stopped = async { stopped.await.unwrap() };
            services.serve(listener, stopped).await.unwrap();
        });
        Self {
            address,
            stop: Some(stop),
            serving,
            runtime: Some(runtime),
        }
    }

    /// Stops in good order; answers how long that took.
    async fn stop(mut self) -> Duration {
        let began = Instant::now();
        self.stop.take().unwrap().send(()).unwrap();
        (&mut self.serving).await.unwrap();
        began.elapsed()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

struct Rig {
    scheduler: Scheduler,
    path: PipelinePath,
    /// How often each task was begun.
    begun: Arc<Mutex<BTreeMap<TaskId, u32>>>,
    /// Tasks that wait end when they get a permit.
    gate: Arc<Semaphore>,
    end: Option<oneshot::Sender<()>>,
    worker: Option<JoinHandle<()>>,
}

impl Rig {
    async fn start() -> Self {
        Self::start_at(Config::default().address).await
    }

    /// The scheduler says that it is reached at this address.
    async fn start_at(address: String) -> Self {
        let config = Config {
            address,
            ..Config::default()
        };
        let scheduler = Scheduler::start(config, memory::ports()).await.unwrap();
        let path = scheduler_core::path("default", "shop", "mail").unwrap();
        let spec = PipelineSpec {
            steps: [].into(),
            defaults: TaskOptions::default(),
            n_partitions: 2,
            ..PipelineSpec::default()
        };
        scheduler.create_pipeline(&path, spec).await.unwrap();
        Self {
            scheduler,
            path,
            begun: Arc::default(),
            gate: Arc::new(Semaphore::new(0)),
            end: None,
            worker: None,
        }
    }

    fn work(&mut self, concurrency: usize, servers: &[&Server]) {
        self.work_as(|builder| builder.concurrency(concurrency), servers);
    }

    fn work_as(&mut self, set: impl FnOnce(Builder) -> Builder, servers: &[&Server]) {
        let (begun, gate) = (Arc::clone(&self.begun), Arc::clone(&self.gate));
        let handler = move |ctx: TaskContext| {
            *begun.lock().unwrap().entry(ctx.id()).or_default() += 1;
            let gate = Arc::clone(&gate);
            async move {
                if ctx.data::<BTreeMap<String, bool>>()?["wait"] {
                    gate.acquire().await?.forget();
                }
                Ok::<_, Failure>(ctx.attempt())
            }
        };
        let addresses: Vec<_> = servers
            .iter()
            .map(|server| server.address.as_str())
            .collect();
        let builder = Worker::builder("shop", "mail").endpoint(addresses.join(","));
        let worker = set(builder).build(handler).unwrap();
        let (end, ended) = oneshot::channel::<()>();
        self.end = Some(end);
        self.worker = Some(tokio::spawn(async {
            let run = worker.run_until(async { ended.await.unwrap() });
            run.await.unwrap();
        }));
    }

    async fn submit(&self, data: &'static str) -> TaskId {
        let submitted = self.scheduler.submit(&self.path, Submit::new(data)).await;
        submitted.unwrap().id
    }

    async fn begins(&self, id: TaskId) {
        let begun = async {
            while !self.begun.lock().unwrap().contains_key(&id) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(SOON, begun).await.expect("the task is begun");
    }

    /// Waits until it has ended well, on its first attempt.
    async fn completes(&self, id: TaskId) {
        let task = self.scheduler.wait(&self.path.tenant, id, SOON).await;
        let task = task.unwrap();
        assert_eq!((task.state, task.attempt), (StateName::Completed, 1));
    }

    async fn end(mut self) {
        self.end.take().unwrap().send(()).unwrap();
        timeout(SOON, self.worker.take().unwrap())
            .await
            .unwrap()
            .unwrap();
        let begun = self.begun.lock().unwrap();
        assert!(begun.values().all(|n| *n == 1), "{begun:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_server_stops_goes_on_at_another_and_loses_nothing() {
    let mut rig = Rig::start().await;
    let (first, second) = (Server::start(&rig.scheduler), Server::start(&rig.scheduler));
    rig.work(4, &[&first, &second]);
    let waiting = rig.submit(WAIT).await;
    rig.begins(waiting).await;
    let submitted = async {
        let mut ids = Vec::new();
        for _ in 0..500 {
            ids.push(rig.submit(GO).await);
        }
        ids
    };
    let (ids, took) = tokio::join!(submitted, first.stop());
    assert!(took < Duration::from_secs(4), "{took:?}");
    for id in ids {
        rig.completes(id).await;
    }
    // The task that ran all the while has kept its lease.
    rig.gate.add_permits(1);
    rig.completes(waiting).await;
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_server_dies_is_at_another_within_a_second_with_what_it_holds() {
    let mut rig = Rig::start().await;
    let (first, second) = (Server::start(&rig.scheduler), Server::start(&rig.scheduler));
    rig.work(2, &[&first, &second]);
    let waiting = rig.submit(WAIT).await;
    rig.begins(waiting).await;
    let other = rig.submit(WAIT).await;
    rig.begins(other).await;
    drop(first);
    let died = Instant::now();
    // Word of a cancel is of a lease that the worker has named to the second server.
    let cancelled = rig.scheduler.cancel(&rig.path.tenant, other).await;
    assert_eq!(cancelled.unwrap().state, StateName::Cancelled);
    let next = rig.submit(GO).await;
    rig.begins(next).await;
    assert!(
        died.elapsed() < Duration::from_secs(1),
        "{:?}",
        died.elapsed()
    );
    rig.completes(next).await;
    rig.gate.add_permits(1);
    rig.completes(waiting).await;
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_of_many_slots_comes_as_soon_as_they_are_free() {
    let mut rig = Rig::start().await;
    let server = Server::start(&rig.scheduler);
    rig.work(3, &[&server]);
    let ids = [rig.submit(WAIT).await, rig.submit(WAIT).await];
    for id in ids {
        rig.begins(id).await;
    }
    let mut submit = Submit::new(GO);
    submit.options.cost = Some(3.try_into().unwrap());
    let large = rig.scheduler.submit(&rig.path, submit).await.unwrap().id;
    rig.gate.add_permits(2);
    let freed = Instant::now();
    rig.completes(large).await;
    assert!(
        freed.elapsed() < Duration::from_secs(2),
        "{:?}",
        freed.elapsed()
    );
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_near_its_shards_is_connected_to_their_owner() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut rig = Rig::start_at(listener.local_addr().unwrap().to_string()).await;
    let (first, owner) = (
        Server::start(&rig.scheduler),
        Server::on(listener, &rig.scheduler),
    );
    rig.work_as(Builder::near_shards, &[&first]);
    let task = rig.submit(GO).await;
    rig.completes(task).await;
    // Where it asked for the owner is needed no longer.
    drop(first);
    let task = rig.submit(GO).await;
    rig.completes(task).await;
    rig.end().await;
    drop(owner);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_stays_where_it_began_if_the_owner_cannot_be_reached() {
    // Nobody answers at port 1.
    let mut rig = Rig::start_at("127.0.0.1:1".to_owned()).await;
    let first = Server::start(&rig.scheduler);
    rig.work_as(Builder::near_shards, &[&first]);
    let task = rig.submit(GO).await;
    rig.completes(task).await;
    rig.end().await;
}
