//! A process that dies between what it did and the answer that says so: answers are kept from arriving until then.

use std::time::Duration;

use scheduler_core::{Error, StateName, Submit, TenantName};
use scheduler_grpc::client::{Client, connect};
use test_servers::{Fault, Proxy};

use super::{
    cluster::{Cluster, Service, path},
    load::TestWorker,
    setup::{Setup, Size},
};
use crate::fixture::{PATIENCE, wait_until};

/// A proxy before the gRPC port of a service.
fn before(service: &Service) -> Proxy {
    let address = service.grpc.trim_start_matches("http://");
    Proxy::to(address.parse().unwrap()).unwrap()
}

fn endpoint(proxy: &Proxy) -> String {
    format!("http://{}", proxy.address())
}

fn client(cluster: &Cluster, endpoint: &str) -> Client {
    let tenant: TenantName = "default".try_into().unwrap();
    cluster.run(async { Client::new(connect(endpoint).unwrap(), tenant) })
}

/// Without workers.
fn setup(n_members: usize, n_apis: usize) -> Setup {
    let size = Size {
        n_apis,
        n_workers: 0,
        ..Size::default()
    };
    Setup::start(n_members, size)
}

#[test]
fn a_member_that_dies_after_a_grant_and_before_its_reply_costs_a_wait_and_no_task() {
    const N: usize = 40;
    let mut setup = setup(2, 1);
    let proxies: Vec<_> = setup.members.iter().map(before).collect();
    let endpoints: Vec<_> = proxies.iter().map(endpoint).collect();
    let notes = setup.cluster.home().join("replies.notes");
    let worker = TestWorker::start(&endpoints.join(","), "work", notes, 64);
    let client = setup.apis[0].client();
    let first = setup.cluster.run(async {
        let submitted = client.submit(&path("work"), Submit::new("{}")).await;
        client.wait(submitted.unwrap().id, PATIENCE).await.unwrap()
    });
    assert_eq!(first.state, StateName::Completed, "the worker is there");

    // From now on the worker is heard, and hears nothing.
    for proxy in &proxies {
        proxy.set(Fault::HalfOpen);
    }
    let batch = vec![Submit::new("{}"); N];
    let submitted = setup.cluster.run(client.submit_batch(&path("work"), batch));
    let ids: Vec<_> = submitted
        .unwrap()
        .into_iter()
        .map(|answer| answer.unwrap().id)
        .collect();
    let victim = wait_until("tasks are granted", || {
        let running = |member: &Service| member.metric("workload_tasks_running");
        let mut members = setup.members.iter();
        members.position(|member| running(member) > 0.0)
    });
    let n_granted = setup.members[victim].metric("workload_tasks_running");
    assert_eq!(worker.runs().len(), 1, "none of them has arrived");
    setup.members[victim].kill();
    for proxy in &proxies {
        proxy.set(Fault::None);
    }
    for id in &ids {
        let task = setup.cluster.run(client.wait(*id, PATIENCE)).unwrap();
        assert_eq!(task.state, StateName::Completed);
    }
    let runs = worker.runs();
    println!("{n_granted} were granted and never arrived");
    assert_eq!(runs.len(), N + 1);
    assert!(runs.values().all(|n| *n == 1), "none of them ran twice");
}

#[test]
fn an_api_that_dies_after_kafkas_acknowledgement_and_before_its_reply_is_of_unknown_outcome() {
    let mut setup = setup(1, 2);
    let notes = setup.cluster.home().join("replies.notes");
    let worker = TestWorker::start(&setup.members[0].grpc, "work", notes, 4);
    for key in [None, Some("order-1")] {
        let n_before = worker.runs().len();
        let proxy = before(&setup.apis[0]);
        let through = client(&setup.cluster, &endpoint(&proxy));
        // The connection stands before answers stop.
        setup.cluster.run(through.pipeline(&path("work"))).unwrap();
        proxy.set(Fault::HalfOpen);
        let submit = || {
            let mut submit = Submit::new("{}");
            submit.options.idempotency_key = key.map(|key| key.try_into().unwrap());
            submit
        };
        let submitting = {
            let submit = submit();
            setup
                .cluster
                .spawn(async move { through.submit(&path("work"), submit).await })
        };
        // What runs is in Kafka; the one who submitted it does not know.
        wait_until("it runs", || (worker.runs().len() > n_before).then_some(()));
        assert!(!submitting.is_finished());
        setup.apis[0].kill();
        drop(proxy);
        let answer = setup.cluster.run(submitting).unwrap();
        assert!(
            matches!(answer, Err(Error::UnknownOutcome { .. })),
            "{answer:?}"
        );
        if key.is_some() {
            // Asked again with its key, at another API, it is the same task.
            let other = setup.apis[1].client();
            let again = setup
                .cluster
                .run(other.submit(&path("work"), submit()))
                .unwrap();
            assert!(again.repeated);
            let task = setup.cluster.run(other.wait(again.id, PATIENCE)).unwrap();
            assert_eq!(task.state, StateName::Completed);
            assert_eq!(worker.runs().get(&again.id.to_string()), Some(&1));
        }
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(worker.runs().len(), n_before + 1, "it ran once");
        setup.apis[0].start();
        setup.apis[0].ready();
    }
}
