//! Workers that die, freeze and come back late.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::json;

use crate::fixture::{Dev, binary, data_in, signal, wait_until};

/// The lease that these tests give.
const LEASE: Duration = Duration::from_secs(2);

/// A `test-worker` for pipeline `app/slow`; killed when dropped.
pub(crate) struct Worker(Child);

impl Worker {
    pub(crate) fn start(dev: &Dev, notes: &Path) -> Self {
        let child = Command::new(binary("test-worker"))
            .args([&dev.grpc, "slow"])
            .arg(notes)
            .stdin(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn runs(notes: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(notes).unwrap_or_default();
    text.lines().map(ToOwned::to_owned).collect()
}

/// A dev with pipeline `app/slow`, which has no steps: only test workers run its tasks.
fn start(home: &tempfile::TempDir) -> Dev {
    let dev = Dev::start_with(
        &data_in(home),
        &["--grpc", "127.0.0.1:0", "--lease", "2s"],
        None,
    );
    let retry = json!({"retry": {"initial": "10ms"}, "partitions": 1});
    dev.create("slow", json!([]), retry);
    dev
}

#[test]
fn a_task_of_a_killed_worker_runs_again_within_its_lease_and_a_second() {
    let home = tempfile::tempdir().unwrap();
    let dev = start(&home);
    let notes = home.path().join("notes");
    let mut first = Worker::start(&dev, &notes);
    let id = dev.submit("slow", &json!({"millis": 3_000}));
    wait_until("the task runs", || (runs(&notes).len() == 1).then_some(()));
    // Past its first renewal, so that the lease that is left counts from then.
    std::thread::sleep(LEASE / 2);
    first.0.kill().unwrap();
    first.0.wait().unwrap();
    let killed = Instant::now();
    let _second = Worker::start(&dev, &notes);
    wait_until("it runs again", || (runs(&notes).len() == 2).then_some(()));
    assert!(
        killed.elapsed() <= LEASE + Duration::from_secs(1),
        "took {:?}",
        killed.elapsed()
    );
    let task = dev.ended(&id);
    assert_eq!(
        (task["state"].as_str(), task["attempt"].as_u64()),
        (Some("completed"), Some(2))
    );
    assert_eq!(task["errors"][0]["code"], "lease_expired");
}

#[test]
fn the_late_report_of_a_frozen_worker_is_refused_if_another_has_the_task() {
    let home = tempfile::tempdir().unwrap();
    let dev = start(&home);
    let notes = home.path().join("notes");
    let frozen = Worker::start(&dev, &notes);
    let id = dev.submit("slow", &json!({"millis": 1_500}));
    wait_until("the task runs", || (runs(&notes).len() == 1).then_some(()));
    signal(frozen.0.id(), "STOP");
    let second = Worker::start(&dev, &notes);
    wait_until("it runs again", || (runs(&notes).len() == 2).then_some(()));
    signal(frozen.0.id(), "CONT");
    let task = dev.ended(&id);
    assert_eq!(task["attempt"], 2);
    let pid = runs(&notes)[1].split(' ').nth(3).map(ToOwned::to_owned);
    assert_eq!(pid, Some(second.0.id().to_string()));
    std::thread::sleep(LEASE);
    assert_eq!(dev.task(&id), task, "the late report changed nothing");
    assert_eq!(runs(&notes).len(), 2);
}

#[test]
fn the_late_success_of_a_frozen_worker_counts_if_nobody_else_has_the_task() {
    let home = tempfile::tempdir().unwrap();
    let dev = Dev::start_with(
        &data_in(&home),
        &["--grpc", "127.0.0.1:0", "--lease", "2s"],
        None,
    );
    dev.create(
        "slow",
        json!([]),
        json!({"retry": {"initial": "1h", "max": "1h", "jitter": "none"}}),
    );
    let notes = home.path().join("notes");
    let frozen = Worker::start(&dev, &notes);
    let id = dev.submit("slow", &json!({"millis": 1_000}));
    wait_until("the task runs", || (runs(&notes).len() == 1).then_some(()));
    // It must be frozen in the middle of its work, and wake with its work done.
    signal(frozen.0.id(), "STOP");
    wait_until("the lease expires", || {
        (dev.task(&id)["state"] == "retryable").then_some(())
    });
    signal(frozen.0.id(), "CONT");
    let task = dev.ended(&id);
    assert_eq!(
        (task["state"].as_str(), task["attempt"].as_u64()),
        (Some("completed"), Some(1))
    );
    assert_eq!(runs(&notes).len(), 1, "it ran once");
}

#[test]
fn a_worker_that_is_asked_to_end_finishes_what_it_has() {
    let home = tempfile::tempdir().unwrap();
    let dev = start(&home);
    let notes = home.path().join("notes");
    let mut worker = Worker::start(&dev, &notes);
    let id = dev.submit("slow", &json!({"millis": 500}));
    wait_until("the task runs", || (runs(&notes).len() == 1).then_some(()));
    signal(worker.0.id(), "TERM");
    let status = wait_until("it ends", || worker.0.try_wait().unwrap());
    assert!(status.success());
    assert_eq!(dev.task(&id)["state"], "completed");
}

#[test]
fn a_worker_keeps_its_task_while_the_scheduler_is_killed_and_comes_back() {
    let home = tempfile::tempdir().unwrap();
    let dev = start(&home);
    let notes = home.path().join("notes");
    let port = dev.grpc.rsplit(':').next().unwrap().to_owned();
    let _worker = Worker::start(&dev, &notes);
    let id = dev.submit("slow", &json!({"millis": 4_000}));
    wait_until("the task runs", || (runs(&notes).len() == 1).then_some(()));
    dev.kill();
    let grpc = format!("127.0.0.1:{port}");
    let dev = Dev::start_with(&data_in(&home), &["--grpc", &grpc], None);
    let task = dev.ended(&id);
    assert_eq!(
        (task["state"].as_str(), task["attempt"].as_u64()),
        (Some("completed"), Some(1))
    );
    assert_eq!(runs(&notes).len(), 1, "it ran once");
}
