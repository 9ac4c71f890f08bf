//! The worker over real connections, against a scheduler that only knows what to answer.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod scheduler;

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use scheduler_grpc::pb;
use worker_sdk::{Failure, Outcome, TaskContext, Worker};

use crate::scheduler::FakeScheduler;

/// Cargo builds the examples before it runs the tests, beside them.
fn example(name: &str) -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.join("examples").join(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_shouts_and_stops_on_sigterm() {
    let scheduler = FakeScheduler::on_tcp();
    scheduler.submit(1, r#"{"text":"hello"}"#);
    scheduler.submit(2, r#"{"wrong":"field"}"#);
    let child = Command::new(example("shout"))
        .env("WORKLOAD_ENDPOINT", scheduler.endpoint())
        .stdout(Stdio::piped())
        .spawn()
        .expect("`cargo test` builds the example");
    let reports = scheduler.reports(2).await;
    assert!(matches!(
        &reports[0].outcome,
        Some(pb::task_report::Outcome::Completed(done)) if done.result == "5"
    ));
    assert!(matches!(
        &reports[1].outcome,
        Some(pb::task_report::Outcome::Failed(failure)) if failure.message == "there is no text"
    ));

    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let output = tokio::task::spawn_blocking(|| child.wait_with_output());
    let output = output.await.unwrap().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "HELLO!\n");
    assert!(output.status.success());
}

/// How a worker reaches the scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Stream,
    Unary,
    /// As for a scheduler that knows no streams.
    Fallback,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_goes_on_over_a_unix_socket_after_the_scheduler_came_back() {
    for way in [Way::Stream, Way::Unary, Way::Fallback] {
        go_on_after_the_scheduler_came_back(way).await;
    }
}

async fn go_on_after_the_scheduler_came_back(way: Way) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("scheduler.sock");
    let on_socket = || {
        let scheduler = FakeScheduler::on_unix(&socket);
        if way == Way::Fallback {
            scheduler.grow_older();
        }
        scheduler
    };
    let scheduler = on_socket();
    scheduler.submit(1, "1");
    let (began, mut begun) = tokio::sync::mpsc::unbounded_channel();
    let wait = move |ctx: TaskContext| {
        began.send(ctx.id()).unwrap();
        async move {
            tokio::time::sleep(Duration::from_millis(300)).await;
            Ok::<_, Failure>(ctx.attempt())
        }
    };
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut worker = Worker::builder("shop", "wait").endpoint(format!("unix:{}", socket.display()));
    if way == Way::Unary {
        worker = worker.unary();
    }
    let worker = worker.build(wait).unwrap();
    let worker = tokio::spawn(worker.run_until(async { drop(stopped.await) }));
    let id = begun.recv().await.unwrap();
    assert_eq!(scheduler.hellos().len(), usize::from(way == Way::Stream));

    // The scheduler goes away while the task runs, and its report must reach the next one.
    drop(scheduler);
    std::fs::remove_file(&socket).unwrap();
    let next = on_socket();
    let reports = next.reports(1).await;
    assert_eq!(reports[0].lease_token, 1);
    if let [hello] = &next.hellos()[..] {
        assert_eq!(hello.held[0].id, id.to_string());
    } else {
        assert_ne!(way, Way::Stream);
    }
    stop.send(()).unwrap();
    worker.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_payload_that_is_none_is_a_failure() {
    let handler = |ctx: TaskContext| async move { Ok::<_, Failure>(ctx.data::<u8>()? + 1) };
    let outcome = worker_sdk::testing::run_once(handler, "text").await;
    assert!(matches!(outcome, Outcome::Failed(failure) if failure.code() == "error"));
}
