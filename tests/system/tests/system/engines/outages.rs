//! Kafka or TiDB away for a minute: what is refused, what goes on, and that nothing is lost or unsaid.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use serde_json::json;
use test_servers::{Fault, Kafka, Tidb};

use super::{
    cluster::{Cluster, Service, path, spec},
    load::{TestWorker, workers},
};
use crate::fixture::{Answer, wait_until};

const OUTAGE: Duration = Duration::from_secs(60);
/// How long a call may take to be answered while a server is away.
const ANSWER_WAIT: Duration = Duration::from_secs(15);

/// Dropped in this order: servers last.
struct Broken {
    workers: Vec<TestWorker>,
    api: Service,
    member: Service,
    cluster: Cluster,
    kafka: Kafka,
    tidb: Tidb,
}

/// A cluster on servers of its own, all of whose traffic goes through their proxies.
fn start() -> Broken {
    let (kafka, tidb) = (Kafka::start().unwrap(), Tidb::start().unwrap());
    let cluster = Cluster::on(&kafka.proxied_bootstrap_servers(), &tidb.proxied_url());
    let (mut member, mut api) = (cluster.member(), cluster.api());
    member.ready();
    api.ready();
    let created = api.client();
    let created = cluster.run(created.create_pipeline(&path("work"), &spec(4)));
    created.unwrap();
    let workers = workers(&cluster, &member, "work", 2);
    Broken {
        workers,
        api,
        member,
        cluster,
        kafka,
        tidb,
    }
}

impl Broken {
    fn submit(&self, query: &str) -> Answer {
        let path = format!("/api/applications/app/pipelines/work{query}");
        let start = Instant::now();
        let answer = self.api.post(&path, &json!({}));
        assert!(
            start.elapsed() < ANSWER_WAIT,
            "answered after {:?}: {answer:?}",
            start.elapsed()
        );
        answer
    }

    fn runs(&self) -> Vec<(String, usize)> {
        let runs = self.workers.iter().flat_map(|worker| worker.runs());
        runs.collect()
    }

    fn n_ran(&self) -> usize {
        self.runs().len()
    }

    /// Waits until each of these has run and ended well, and nothing else has run, or anything twice.
    fn check(&self, accepted: &[String], unknown: usize) {
        for id in accepted {
            assert_eq!(self.api.ended(id)["state"], "completed");
        }
        let runs = self.runs();
        let ran: BTreeSet<_> = runs.iter().map(|(id, _)| id.clone()).collect();
        assert_eq!(ran.len(), runs.len(), "a task ran on two workers");
        assert!(runs.iter().all(|(_, n)| *n == 1), "a task ran twice");
        let n_extra = ran.len() - accepted.len();
        assert!(n_extra <= unknown, "{n_extra} ran that were refused");
    }
}

fn id(answer: &Answer) -> String {
    assert_eq!(answer.status, 202, "{answer:?}");
    answer.body["id"].as_str().unwrap().to_owned()
}

#[test]
fn without_kafka_submits_are_told_to_come_again_and_what_was_accepted_goes_on() {
    let broken = start();
    let mut accepted: Vec<_> = (0..20).map(|_| id(&broken.submit(""))).collect();
    wait_until("they ran", || (broken.n_ran() == 20).then_some(()));
    let (mut n_refused, mut n_unknown) = (0, 0);
    let start = Instant::now();
    for fault in [Fault::Cut, Fault::BlackHole] {
        broken.kafka.proxy().set(fault);
        while start.elapsed() < OUTAGE / if fault == Fault::Cut { 2 } else { 1 } {
            let answer = broken.submit("");
            let kind = answer.body["type"].as_str().unwrap_or_default().to_owned();
            assert_eq!(answer.status, 503, "{answer:?}");
            if kind.ends_with("unknown-outcome") {
                n_unknown += 1;
            } else {
                assert!(answer.retry_after.is_some(), "{answer:?}");
                n_refused += 1;
            }
        }
    }
    println!("{n_refused} refused, {n_unknown} unknown in {OUTAGE:?}");
    assert!(n_refused > n_unknown, "most were surely not written");
    assert_eq!(broken.api.get("/healthz").status, 200);
    broken.kafka.proxy().set(Fault::None);
    let back = wait_until("submits are accepted again", || {
        let answer = broken.submit("");
        (answer.status == 202).then(|| id(&answer))
    });
    accepted.push(back);
    accepted.extend((0..20).map(|_| id(&broken.submit(""))));
    // Tasks whose submit was answered as unknown may run; none that was refused does.
    broken.check(&accepted, n_unknown + n_refused.min(1));
}

#[test]
fn without_tidb_submits_go_on_and_nothing_is_shown_as_ended_before_it_is_durable() {
    let broken = start();
    let before: Vec<_> = (0..20).map(|_| id(&broken.submit(""))).collect();
    before.iter().for_each(|id| drop(broken.api.ended(id)));
    broken.tidb.proxy().set(Fault::BlackHole);
    let start = Instant::now();
    let mut accepted = Vec::new();
    while start.elapsed() < OUTAGE {
        if start.elapsed() > OUTAGE / 2 {
            broken.tidb.proxy().set(Fault::Cut);
        }
        accepted.push(id(&broken.submit("")));
        if let Some(id) = accepted.get(accepted.len() / 2) {
            let seen = broken.api.get(&format!("/api/applications/app/tasks/{id}"));
            let state = seen.body["state"].as_str().unwrap_or_default();
            assert_ne!(state, "completed", "{:?} is not durable", seen.body);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let keyed = broken.api.post_with(
        "/api/applications/app/pipelines/work",
        &[("idempotency-key", "k")],
        "{}",
    );
    assert_eq!(keyed.status, 503, "{keyed:?}");
    let n_ran = broken.n_ran() - before.len();
    println!("{} accepted and {n_ran} ran without TiDB", accepted.len());
    assert!(n_ran >= accepted.len() / 2, "workers go on");
    assert_eq!(broken.member.get("/healthz").status, 200);
    broken.tidb.proxy().set(Fault::None);
    let all = [before, accepted].concat();
    broken.check(&all, 1);
    let ended = "SELECT COUNT(*) FROM completed_task";
    let n_ended = broken.cluster.number(ended);
    assert!(n_ended >= i64::try_from(all.len()).unwrap(), "{n_ended}");
}
