//! A steady load on a cluster while things happen to it, all of which is noted.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use scheduler_core::{Error, StateName, Submit, TaskId, TenantName};
use scheduler_grpc::client::{Client, connect};
use tokio::task::JoinHandle;

use super::{
    cluster::{Cluster, Service, path},
    history::{Harm, History, Run, now},
    load::TestWorker,
};

/// Submits a second, at most.
const SUBMITS: u32 = 20;
/// How long the last tasks may take to end once nothing happens any more.
const REST_WAIT: Duration = Duration::from_secs(150);

/// What is submitted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) pipeline: &'static str,
    /// Tasks a second.
    pub(crate) per_second: u32,
    /// The data of each.
    pub(crate) data: &'static str,
}

/// The load.
pub(crate) struct Pressure {
    pipeline: &'static str,
    history: Arc<Mutex<History>>,
    over: Arc<AtomicBool>,
    loops: [JoinHandle<()>; 2],
}

fn lock(history: &Mutex<History>) -> MutexGuard<'_, History> {
    history.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pressure {
    /// Submits to these APIs, and looks at the tasks again and again.
    pub(crate) fn start(cluster: &Cluster, apis: &[&Service], load: Load) -> Self {
        let history = Arc::new(Mutex::new(History::default()));
        let over = Arc::new(AtomicBool::new(false));
        let endpoints: Vec<_> = apis.iter().map(|api| api.grpc.clone()).collect();
        let submitter = client(cluster, &endpoints);
        let watcher = client(cluster, &endpoints);
        let shared = || (Arc::clone(&history), Arc::clone(&over));
        let submitting = submit(submitter, load, shared());
        let watching = watch(watcher, shared());
        Self {
            pipeline: load.pipeline,
            loops: [cluster.spawn(submitting), cluster.spawn(watching)],
            history,
            over,
        }
    }

    pub(crate) fn n_accepted(&self) -> usize {
        lock(&self.history).accepted.len()
    }

    /// Notes what was done to the cluster from then till now.
    pub(crate) fn harmed(&self, what: &str, from: u64) {
        lock(&self.history).harms.push(Harm {
            what: what.to_owned(),
            from,
            till: now(),
        });
    }

    /// Does something to the cluster and notes it.
    pub(crate) fn harm(&self, what: &str, harm: impl FnOnce()) {
        let from = now();
        harm();
        self.harmed(what, from);
    }

    /// Ends the load, waits until all tasks have ended, and gives what was seen.
    pub(crate) fn finish(self, cluster: &Cluster, workers: &[TestWorker]) -> History {
        self.over.store(true, Ordering::Relaxed);
        for ending in self.loops {
            cluster.run(ending).unwrap();
        }
        let mut history = std::mem::take(&mut *lock(&self.history));
        let (n_least, n_most) = {
            let n_accepted = history.accepted.len();
            (n_accepted, n_accepted + history.n_unknown)
        };
        let start = Instant::now();
        let left = "SELECT COUNT(*) FROM task WHERE ended_at IS NULL";
        loop {
            let n_ended = usize::try_from(cluster.number("SELECT COUNT(*) FROM completed_task"));
            let n_ended = n_ended.unwrap();
            if n_ended >= n_least && cluster.number(left) == 0 {
                assert!(n_ended <= n_most, "{n_ended} ended of at most {n_most}");
                break;
            }
            assert!(
                start.elapsed() < REST_WAIT,
                "{n_ended} of {n_least} tasks of {} have ended; unended rows: {}",
                self.pipeline,
                cluster.number(left)
            );
            std::thread::sleep(Duration::from_millis(500));
        }
        let notes = workers.iter().map(|worker| &worker.notes);
        for notes in notes {
            let notes = std::fs::read_to_string(notes).unwrap_or_default();
            history.runs.extend(notes.lines().filter_map(Run::read));
        }
        history
    }
}

/// A client of whichever of them can be reached.
fn client(cluster: &Cluster, endpoints: &[String]) -> Client {
    let tenant: TenantName = "default".try_into().unwrap();
    let endpoints = endpoints.join(",");
    cluster.run(async { Client::new(connect(&endpoints).unwrap(), tenant) })
}

async fn submit(
    client: Client,
    load: Load,
    (history, over): (Arc<Mutex<History>>, Arc<AtomicBool>),
) {
    let batch = load.per_second.div_ceil(SUBMITS);
    let every = Duration::from_secs(1) * batch / load.per_second;
    let mut ticks = tokio::time::interval(every);
    // What was not submitted in time is not made up for.
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let path = path(load.pipeline);
    while !over.load(Ordering::Relaxed) {
        ticks.tick().await;
        let submits = (0..batch).map(|_| Submit::new(load.data)).collect();
        let answers = client.submit_batch(&path, submits).await;
        let accepted_at = now();
        let mut history = lock(&history);
        for answer in answers.unwrap_or_else(|err| vec![Err(err); batch as usize]) {
            match answer {
                Ok(submitted) => drop(history.accepted.insert(submitted.id, accepted_at)),
                Err(Error::UnknownOutcome { .. }) => history.n_unknown += 1,
                Err(_) => history.n_refused += 1,
            }
        }
    }
}

async fn watch(client: Client, (history, over): (Arc<Mutex<History>>, Arc<AtomicBool>)) {
    let mut after = None;
    while !over.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(5)).await;
        // By a stride that comes to old and new ones alike.
        after = next(&lock(&history), after);
        let Some(id) = after else {
            continue;
        };
        // One that cannot be answered now is asked for again.
        let Ok(task) = client.get(id).await else {
            continue;
        };
        let seen_at = now();
        let mut history = lock(&history);
        if task.state == StateName::Completed {
            history.completed.entry(id).or_insert(seen_at);
        } else if history.completed.contains_key(&id) {
            history.unsaid.insert(id);
        }
    }
}

fn next(history: &History, after: Option<TaskId>) -> Option<TaskId> {
    const STRIDE: usize = 97;
    let all = &history.accepted;
    let onward = after.and_then(|after| all.range(after..).nth(STRIDE).map(|(id, _)| id));
    onward
        .or_else(|| {
            all.keys()
                .nth(fastrand::usize(..STRIDE.min(all.len().max(1))))
        })
        .copied()
}
