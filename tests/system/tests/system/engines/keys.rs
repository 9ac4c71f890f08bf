//! Idempotency keys over two APIs, while many tasks wait.

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

const N_WAITING: usize = 200_000;
const N_RACING: usize = 20;
const SUBMIT: &str = "/api/applications/app/pipelines/work";

#[test]
fn racing_retries_of_one_key_are_one_task_behind_a_long_backlog() {
    // A window of a few thousand tasks, so that most of them wait in Kafka.
    let cluster = Cluster::start().with(&["scheduler.window_tasks_max=5000"]);
    let (mut member, mut apis) = (cluster.member(), [cluster.api(), cluster.api()]);
    member.ready();
    apis.iter_mut().for_each(Service::ready);
    let client = apis[0].client();
    cluster
        .run(client.create_pipeline(&path("work"), &spec(4)))
        .unwrap();
    cluster.run(submit_all(&client, "work", N_WAITING));
    wait_until("the other API knows the pipeline", || {
        (apis[1].get(SUBMIT).status == 200).then_some(())
    });
    let answers: Vec<_> = std::thread::scope(|scope| {
        let racing: Vec<_> = (0..N_RACING)
            .map(|n| {
                let api = &apis[n % 2];
                scope.spawn(move || {
                    let start = Instant::now();
                    let key = [("idempotency-key", "order-17")];
                    let answer = api.post_with(SUBMIT, &key, r#"{"millis":1}"#);
                    (answer, start.elapsed())
                })
            })
            .collect();
        racing.into_iter().map(|one| one.join().unwrap()).collect()
    });
    for (answer, took) in &answers {
        assert_eq!(answer.status, 202, "{answer:?}");
        assert!(*took < Duration::from_secs(10), "answered after {took:?}");
    }
    let ids: BTreeSet<_> = answers
        .iter()
        .map(|(answer, _)| answer.body["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids.len(), 1, "one task");
    let slowest = answers.iter().map(|(_, took)| *took).max().unwrap();
    println!("{N_RACING} retries over two APIs, the slowest answered after {slowest:?}");
    let other = apis[1].post_with(SUBMIT, &[("idempotency-key", "order-17")], "{}");
    assert_eq!(other.status, 422, "{other:?}");
    assert!(other.body["type"].as_str().unwrap().ends_with("key-reused"));
    // It runs once, whatever came before it.
    let id = (*ids.first().unwrap()).to_owned();
    let workers = workers(&cluster, &member, "work", 4);
    let deadline = Instant::now() + Duration::from_secs(300);
    let runs = |id: &str| -> usize {
        let of = workers.iter().map(|worker| worker.runs());
        of.filter_map(|runs| runs.get(id).copied()).sum()
    };
    while apis[0].task(&id)["state"] != "completed" {
        assert!(Instant::now() < deadline, "{:#}", apis[0].task(&id));
        std::thread::sleep(Duration::from_millis(500));
    }
    assert_eq!(runs(&id), 1);
    let again = apis[1].post_with(
        SUBMIT,
        &[("idempotency-key", "order-17")],
        r#"{"millis":1}"#,
    );
    assert_eq!(again.body["id"], json!(id));
}
