//! Many tasks through the whole cluster: two APIs, one member, ten workers; and the member killed meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use scheduler_core::{ListTasks, StateName, Submit};
use scheduler_grpc::client::Client;

use super::cluster::{Cluster, Service, path, spec};
use crate::fixture::{binary, wait_until};

const N_TASKS: usize = 100_000;
const N_PARTITIONS: u16 = 24;
const N_WORKERS: usize = 10;
const BATCH: usize = 1_000;
const KILLS: u32 = 5;

/// A test-worker process; killed when dropped.
pub(crate) struct TestWorker {
    process: Child,
    pub(crate) notes: PathBuf,
}

impl TestWorker {
    /// At the first of these endpoints that can be reached, which are separated by commas.
    pub(crate) fn start(endpoints: &str, pipeline: &str, notes: PathBuf, concurrency: u32) -> Self {
        Self::start_with(&[], endpoints, pipeline, notes, concurrency)
    }

    /// One that knows no streams.
    pub(crate) fn start_older(
        endpoints: &str,
        pipeline: &str,
        notes: PathBuf,
        concurrency: u32,
    ) -> Self {
        Self::start_with(&["--unary"], endpoints, pipeline, notes, concurrency)
    }

    fn start_with(
        options: &[&str],
        endpoints: &str,
        pipeline: &str,
        notes: PathBuf,
        concurrency: u32,
    ) -> Self {
        let process = Command::new(binary("test-worker"))
            .args(options)
            .arg(endpoints)
            .arg(pipeline)
            .arg(&notes)
            .arg(concurrency.to_string())
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { process, notes }
    }

    /// How often it ran each task.
    pub(crate) fn runs(&self) -> BTreeMap<String, usize> {
        let mut runs = BTreeMap::new();
        let notes = std::fs::read_to_string(&self.notes).unwrap_or_default();
        for line in notes.lines() {
            let id = line.split(' ').next().unwrap_or_default();
            *runs.entry(id.to_owned()).or_default() += 1;
        }
        runs
    }
}

impl Drop for TestWorker {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// Submits `n` tasks in batches, and gives their ids.
pub(crate) async fn submit_all(client: &Client, pipeline: &str, n: usize) -> Vec<String> {
    let path = path(pipeline);
    let mut ids = Vec::with_capacity(n);
    while ids.len() < n {
        let batch = vec![Submit::new("{}"); BATCH.min(n - ids.len())];
        let answers = client.submit_batch(&path, batch).await.unwrap();
        ids.extend(
            answers
                .into_iter()
                .map(|answer| answer.unwrap().id.to_string()),
        );
    }
    ids
}

pub(crate) fn workers(
    cluster: &Cluster,
    member: &Service,
    pipeline: &str,
    n: usize,
) -> Vec<TestWorker> {
    let notes = |i| cluster.home().join(format!("{pipeline}-{i}.notes"));
    (0..n)
        .map(|i| TestWorker::start(&member.grpc, pipeline, notes(i), 32))
        .collect()
}

fn n_noted(workers: &[TestWorker]) -> usize {
    let lines = |notes: &Path| std::fs::read(notes).unwrap_or_default();
    workers
        .iter()
        .map(|worker| {
            lines(&worker.notes)
                .iter()
                .filter(|byte| **byte == b'\n')
                .count()
        })
        .sum()
}

/// Waits until all tasks ran, and then until their ends are durable; tells how long it took.
fn wait_for_all(cluster: &Cluster, api: &Service, workers: &[TestWorker], start: Instant) {
    let deadline = Instant::now() + Duration::from_secs(300);
    while n_noted(workers) < N_TASKS {
        assert!(
            Instant::now() < deadline,
            "{} ran in time",
            n_noted(workers)
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    wait_until("all ends are durable", || {
        let query = ListTasks {
            states: vec![StateName::Available, StateName::Running],
            ..ListTasks::default()
        };
        let page = cluster.run(api.client().list(&path("load"), query));
        let page = page.ok()?;
        (page.tasks.is_empty() && page.backlog == 0).then_some(())
    });
    println!(
        "{N_TASKS} tasks in {:.1} s, {:.0} a second",
        start.elapsed().as_secs_f64(),
        N_TASKS as f64 / start.elapsed().as_secs_f64()
    );
}

/// Each of these ended well, and nothing else is there; tells how many ran more than once.
fn check(cluster: &Cluster, workers: &[TestWorker], ids: &[String]) -> usize {
    let expected: BTreeSet<_> = ids.iter().collect();
    assert_eq!(expected.len(), N_TASKS, "every task has an id of its own");
    let n_completed = cluster.number("SELECT COUNT(*) FROM completed_task");
    let n_others = cluster.number("SELECT COUNT(*) FROM task");
    let n_tasks = i64::try_from(N_TASKS).unwrap();
    assert_eq!((n_completed, n_others), (n_tasks, 0));
    let mut runs: BTreeMap<String, usize> = BTreeMap::new();
    for worker in workers {
        for (id, n) in worker.runs() {
            *runs.entry(id).or_default() += n;
        }
    }
    assert_eq!(runs.keys().collect::<BTreeSet<_>>(), expected);
    runs.values().filter(|n| **n > 1).count()
}

/// A member and two APIs that know the pipeline.
fn start(cluster: &Cluster) -> (Service, [Service; 2]) {
    let (mut member, mut apis) = (cluster.member(), [cluster.api(), cluster.api()]);
    member.ready();
    apis.iter_mut().for_each(Service::ready);
    let spec = spec(N_PARTITIONS);
    cluster
        .run(apis[0].client().create_pipeline(&path("load"), &spec))
        .unwrap();
    wait_until("the other API knows it", || {
        cluster.run(apis[1].client().pipeline(&path("load"))).ok()
    });
    (member, apis)
}

/// Submits all tasks, half of them to each API, and gives their ids.
async fn submit_halves(clients: [Client; 2]) -> Vec<String> {
    let [one, other] = &clients;
    let halves = tokio::join!(
        submit_all(one, "load", N_TASKS / 2),
        submit_all(other, "load", N_TASKS / 2)
    );
    [halves.0, halves.1].concat()
}

#[test]
fn many_tasks_over_many_partitions_run_once_each() {
    let cluster = Cluster::start();
    let (member, apis) = start(&cluster);
    let workers = workers(&cluster, &member, "load", N_WORKERS);
    let start = Instant::now();
    let ids = cluster.run(submit_halves(apis.each_ref().map(Service::client)));
    println!("accepted after {:.1} s", start.elapsed().as_secs_f64());
    wait_for_all(&cluster, &apis[0], &workers, start);
    let n_again = check(&cluster, &workers, &ids);
    assert_eq!(n_again, 0, "nothing ran twice");
}

#[test]
fn many_tasks_survive_a_member_that_is_killed_again_and_again() {
    let cluster = Cluster::start();
    let (mut member, apis) = start(&cluster);
    let workers = workers(&cluster, &member, "load", N_WORKERS);
    let start = Instant::now();
    // The APIs take tasks whether there is a member or not.
    let submitting = cluster.spawn(submit_halves(apis.each_ref().map(Service::client)));
    for kill in 1..=KILLS {
        let goal = N_TASKS * kill as usize / (KILLS as usize + 2);
        let deadline = Instant::now() + Duration::from_secs(120);
        while n_noted(&workers) < goal {
            assert!(Instant::now() < deadline, "{} ran", n_noted(&workers));
            std::thread::sleep(Duration::from_millis(20));
        }
        member.kill();
        println!("kill {kill} after {} runs", n_noted(&workers));
        member.start();
    }
    let ids = cluster.run(submitting).unwrap();
    wait_for_all(&cluster, &apis[0], &workers, start);
    let n_again = check(&cluster, &workers, &ids);
    println!("{n_again} tasks ran more than once over {KILLS} kills");
    // Only what was running or not yet durable at a kill may run again.
    let n_at_risk = KILLS as usize * (N_WORKERS * 32 + 20_000);
    assert!(n_again < n_at_risk, "{n_again} ran again");
}
