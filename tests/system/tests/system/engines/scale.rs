//! Many pipelines on one member, and many tasks that wait.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{
    cluster::{Cluster, Service, path, spec},
    load::{submit_all, workers},
};
use crate::fixture::wait_until;

const N_PIPELINES: usize = 1_000;
const N_WAITING: usize = 1_000_000;
const WINDOW: usize = 10_000;

/// Resident memory of a process in MiB.
fn resident_mib(service: &Service) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", service.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib: u64 = line
        .unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    kib / 1_024
}

/// Processor time of a process so far.
fn cpu(service: &Service) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", service.pid())).unwrap();
    let fields: Vec<_> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // Linux counts in hundredths of a second.
    Duration::from_millis(ticks * 10)
}

/// A number that TiDB shows of itself.
fn n_writes(cluster: &Cluster) -> i64 {
    cluster.number("SELECT CAST(SUM(flush_number) + SUM(epoch) AS SIGNED) FROM shard")
}

#[test]
fn a_thousand_pipelines_fit_one_member_and_cost_nothing_while_idle() {
    let cluster = Cluster::start();
    let (mut member, mut api) = (cluster.member(), cluster.api());
    member.ready();
    api.ready();
    let client = api.client();
    let start = Instant::now();
    cluster.run(async {
        for n in 0..N_PIPELINES {
            let path = path(&format!("p{n}"));
            client.create_pipeline(&path, &spec(4)).await.unwrap();
        }
    });
    println!("{N_PIPELINES} pipelines made in {:.1?}", start.elapsed());
    wait_until("all shards are claimed", || {
        (cluster.number("SELECT COUNT(*) FROM shard") == 4_000).then_some(())
    });
    member.stop();
    let start = Instant::now();
    member.start();
    member.ready();
    let ready_after = start.elapsed();
    let before = (cpu(&member), n_writes(&cluster));
    let idle = Duration::from_secs(10);
    std::thread::sleep(idle);
    let busy = (cpu(&member) - before.0).as_secs_f64() / idle.as_secs_f64();
    let rss = resident_mib(&member);
    println!(
        "ready after {ready_after:.1?}; {rss} MiB; {:.1} % of a core while idle",
        busy * 100.0
    );
    assert_eq!(
        n_writes(&cluster),
        before.1,
        "no flush and no claim while idle"
    );
    assert!(busy < 0.25, "{busy}");
    assert!(rss < 1_024, "{rss} MiB");
    // A new pipeline's first task starts soon, and one of an old one too.
    let start = Instant::now();
    cluster
        .run(client.create_pipeline(&path("new"), &spec(4)))
        .unwrap();
    for name in ["new", "p500"] {
        let worker = workers(&cluster, &member, name, 1);
        let start = if name == "new" { start } else { Instant::now() };
        let submit = format!("/api/applications/app/pipelines/{name}");
        assert_eq!(api.post(&submit, &json!({})).status, 202);
        wait_until("it runs", || (worker[0].runs().len() == 1).then_some(()));
        println!("{name}: its first task ran after {:.1?}", start.elapsed());
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "{:?}",
            start.elapsed()
        );
    }
}

#[test]
fn a_million_waiting_tasks_cost_no_rows() {
    let cluster = Cluster::start().with(&[&format!("scheduler.window_tasks_max={WINDOW}")]);
    let (mut member, mut api) = (cluster.member(), cluster.api());
    member.ready();
    api.ready();
    let client = api.client();
    cluster
        .run(client.create_pipeline(&path("work"), &spec(1)))
        .unwrap();
    // The first is slow: it holds the watermark back while others end above it.
    let slow = "/api/applications/app/pipelines/work";
    assert_eq!(api.post(slow, &json!({"millis": 60_000})).status, 202);
    let start = Instant::now();
    let ids = cluster.run(submit_all(&client, "work", N_WAITING));
    println!("{N_WAITING} accepted in {:.1?}", start.elapsed());
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), N_WAITING);
    let live = "SELECT COUNT(*) FROM task WHERE ended_at IS NULL";
    let rows = cluster.number(live);
    let workers = workers(&cluster, &member, "work", 1);
    let n_ran = || -> usize { workers[0].runs().len() };
    wait_until("some ran", || (n_ran() > 5_000).then_some(()));
    let rows_meanwhile = cluster.number(live);
    println!(
        "{rows} rows of waiting tasks before the workers came and {rows_meanwhile} while they work; {} MiB",
        resident_mib(&member)
    );
    let max = i64::try_from(2 * WINDOW).unwrap();
    assert!(rows < max && rows_meanwhile < max);
    assert!(resident_mib(&member) < 512, "{} MiB", resident_mib(&member));
}
