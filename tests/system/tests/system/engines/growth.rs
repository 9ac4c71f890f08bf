//! What a cluster costs as it grows: members, and workers that wait for tasks, each with a connection of its own.
//!
//! `GROWTH_MEMBERS` and `GROWTH_WORKERS` say how far; the figures are in `bench/README.md`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use scheduler_core::Submit;
use tokio::{sync::watch, task::JoinSet};
use worker_sdk::{Failure, TaskContext, Worker};

use super::{
    cluster::{Cluster, Service, path},
    load::submit_all,
    setup::{SESSION_SETTING, Setup, Size, from_environment},
    usage::Usage,
};
use crate::fixture::wait_until;

const MEMBERS_MAX: u64 = 2;
const WORKERS_MAX: u64 = 100;
/// Tasks that are submitted one by one while all workers are idle.
const N_SINGLE: usize = 200;
const PAUSE: Duration = Duration::from_millis(10);
/// Members remember no more workers of a pipeline, about.
const REMEMBERED: usize = 4_000;
/// Tasks that are submitted together.
const N_TOGETHER: usize = 10_000;

/// Microseconds that each task took from before its submit until its handler ran.
type Begun = Arc<Mutex<Vec<u64>>>;

fn lock(begun: &Begun) -> std::sync::MutexGuard<'_, Vec<u64>> {
    begun.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Workers that end when this is dropped.
struct Workers {
    running: JoinSet<()>,
    end: watch::Sender<()>,
    begun: Begun,
    base: Instant,
}

impl Workers {
    fn start(cluster: &Cluster, members: &[Service], n: usize) -> Self {
        let (end, ending) = watch::channel(());
        let (begun, base) = (Begun::default(), Instant::now());
        let mut running = JoinSet::new();
        cluster.run(async {
            for i in 0..n {
                let begun = Arc::clone(&begun);
                let handler = move |ctx: TaskContext| {
                    let data: BTreeMap<String, u64> = ctx.data().unwrap();
                    let now = u64::try_from(base.elapsed().as_micros()).unwrap();
                    // Those that are submitted together do not say when.
                    lock(&begun).push(data.get("at").map_or(0, |at| now - at));
                    async { Ok::<_, Failure>(1) }
                };
                let worker = Worker::builder("app", "work")
                    .endpoint(&members[i % members.len()].grpc)
                    .build(handler)
                    .unwrap();
                let mut ending = ending.clone();
                running.spawn(async move {
                    let ended = async { while ending.changed().await.is_ok() {} };
                    worker.run_until(ended).await.unwrap();
                });
            }
        });
        Self {
            running,
            end,
            begun,
            base,
        }
    }

    fn wait_for(&self, n: usize) {
        wait_until("all tasks have begun", || {
            (lock(&self.begun).len() >= n).then_some(())
        });
    }

    fn stop(mut self, cluster: &Cluster) {
        drop(self.end);
        cluster.run(async { while self.running.join_next().await.is_some() {} });
    }
}

fn usage(services: &[Service]) -> Usage {
    services.iter().map(Usage::of).sum()
}

/// Waits until all workers ask for tasks, as far as the members remember them.
fn connected(api: &Service, n: usize) {
    let n = n.min(REMEMBERED);
    wait_until("all workers are connected", || {
        let all = api.get("/api/applications/app/pipelines/work/workers").body;
        let n_shown = all["workers"].as_array()?.len();
        let n_more = usize::try_from(all["more"].as_u64()?).ok()?;
        (n_shown + n_more >= n).then_some(())
    });
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn measure(n_members: usize, n_workers: usize) {
    let cluster = Cluster::start().with(&[SESSION_SETTING]);
    let members = (0..n_members).map(|_| cluster.member()).collect();
    let size = Size {
        n_partitions: 24,
        n_workers: 0,
        ..Size::default()
    };
    let setup = Setup::of(cluster, members, size);
    let (cluster, members) = (&setup.cluster, &setup.members);
    let alone = usage(members);
    let workers = Workers::start(cluster, members, n_workers);
    connected(&setup.apis[0], n_workers);
    let idle = usage(members);
    std::thread::sleep(Duration::from_secs(5));
    let waited = usage(members);
    let client = setup.apis[0].client();
    cluster.run(async {
        for _ in 0..N_SINGLE {
            let at = workers.base.elapsed().as_micros();
            let submit = Submit::new(format!(r#"{{"at": {at}}}"#));
            client.submit(&path("work"), submit).await.unwrap();
            tokio::time::sleep(PAUSE).await;
        }
    });
    workers.wait_for(N_SINGLE);
    let mut dispatch = std::mem::take(&mut *lock(&workers.begun));
    dispatch.sort_unstable();
    let before = (usage(members), usage(&setup.apis));
    cluster.run(submit_all(&client, "work", N_TOGETHER));
    workers.wait_for(N_TOGETHER);
    wait_until("all ends are durable", || {
        let ended = cluster.number("SELECT COUNT(*) FROM completed_task");
        (usize::try_from(ended).unwrap() == N_SINGLE + N_TOGETHER).then_some(())
    });
    let after = (usage(members), usage(&setup.apis));
    let micros = |before: &Usage, after: &Usage| {
        (after.core_time - before.core_time).as_secs_f64() * 1e6 / N_TOGETHER as f64
    };
    println!(
        "| {n_members} | {n_workers} | {:.1} | {:.1} | {:.1} | {:.1} | {:.0} | {:.0} |",
        dispatch[N_SINGLE / 2] as f64 / 1e3,
        dispatch[N_SINGLE * 99 / 100] as f64 / 1e3,
        (idle.resident_kib - alone.resident_kib.min(idle.resident_kib)) as f64 / n_workers as f64,
        (waited.core_time - idle.core_time).as_secs_f64() / 5.0 * 1e3,
        micros(&before.0, &after.0),
        micros(&before.1, &after.1),
    );
    workers.stop(cluster);
}

#[test]
fn more_members_and_more_idle_workers_cost_little() {
    let members_max = from_environment("GROWTH_MEMBERS").unwrap_or(MEMBERS_MAX);
    let workers_max = from_environment("GROWTH_WORKERS").unwrap_or(WORKERS_MAX);
    println!(
        "| members | idle workers | dispatch p50, ms | p99, ms | KiB of memory a worker | idle, thousandths of a core | members: µs of a core a task | API |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for n_members in [1, 2, 4, 8].into_iter().filter(|n| *n <= members_max) {
        for n_workers in [10, 100, 1_000, 10_000]
            .into_iter()
            .filter(|n| *n <= workers_max)
        {
            measure(
                usize::try_from(n_members).unwrap(),
                usize::try_from(n_workers).unwrap(),
            );
        }
    }
}
