//! Two members, and workers that are connected to one of them only.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use scheduler_core::{ListTasks, StateName, Submit};

use super::{
    cluster::{Cluster, path, spec},
    load::{submit_all, workers},
};
use crate::fixture::{PATIENCE, wait_until};

const N_TASKS: usize = 2_000;
const N_PARTITIONS: u16 = 8;
const N_WORKERS: usize = 3;
/// Tasks that are submitted one by one while all workers are idle.
const N_SINGLE: usize = 32;

#[test]
fn workers_at_one_member_run_the_tasks_of_both() {
    let cluster = Cluster::start();
    let (mut one, mut other, mut api) = (cluster.member(), cluster.member(), cluster.api());
    for service in [&mut one, &mut other, &mut api] {
        service.ready();
    }
    let client = api.client();
    let pipeline = path("both");
    let spec = spec(N_PARTITIONS);
    let created = client.create_pipeline(&pipeline, &spec);
    cluster.run(created).unwrap();
    let of_each = "SELECT COALESCE(MIN(n), 0) FROM (SELECT COUNT(*) AS n FROM shard GROUP BY address \
                   UNION ALL SELECT 0 FROM dual WHERE (SELECT COUNT(DISTINCT address) FROM shard) < 2) AS each_one";
    let n_fewest = wait_until("both members have shards", || {
        let n_shards = cluster.number("SELECT COUNT(*) FROM shard");
        let n_fewest = cluster.number(of_each);
        (n_shards == i64::from(N_PARTITIONS) && n_fewest > 0).then_some(n_fewest)
    });
    let workers = workers(&cluster, &one, "both", N_WORKERS);

    // All workers are idle from here on.
    let mut slowest = Duration::ZERO;
    let mut ids = BTreeSet::new();
    for n in 0..N_SINGLE {
        let task = cluster.run(async {
            let submitted = client.submit(&pipeline, Submit::new("{}")).await.unwrap();
            client.wait(submitted.id, PATIENCE).await.unwrap()
        });
        assert_eq!(task.state, StateName::Completed);
        ids.insert(task.id.to_string());
        // The first ones meet workers that are only starting.
        if n >= usize::from(N_PARTITIONS) {
            let started_at = task.started_at.unwrap();
            slowest = slowest.max(started_at.since(task.accepted_at));
        }
    }
    assert!(
        slowest < Duration::from_secs(1),
        "one started {slowest:?} late"
    );

    let start = Instant::now();
    ids.extend(cluster.run(submit_all(&client, "both", N_TASKS)));
    wait_until("all have ended", || {
        let query = ListTasks {
            states: vec![StateName::Available, StateName::Running],
            ..ListTasks::default()
        };
        let page = cluster.run(client.list(&pipeline, query)).ok()?;
        (page.tasks.is_empty() && page.backlog == 0).then_some(())
    });
    println!(
        "{N_TASKS} tasks in {:.1} s; at least {n_fewest} of {N_PARTITIONS} shards each; single tasks start within {slowest:?}",
        start.elapsed().as_secs_f64()
    );
    let n_tasks = i64::try_from(ids.len()).unwrap();
    let n_completed = cluster.number("SELECT COUNT(*) FROM completed_task");
    assert_eq!(n_completed, n_tasks);
    let mut runs: BTreeMap<String, usize> = BTreeMap::new();
    for worker in &workers {
        for (id, n) in worker.runs() {
            *runs.entry(id).or_default() += n;
        }
    }
    assert_eq!(runs.keys().cloned().collect::<BTreeSet<_>>(), ids);
    assert!(runs.values().all(|n| *n == 1), "none ran twice");
}
