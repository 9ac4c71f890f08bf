//! A long backlog of tasks that cannot run blocks nobody.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::fixture::{Dev, data_in, wait_until};

const N_DELAYED: usize = 150_000;
const N_THREADS: usize = 8;

fn resident_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        / 1024
}

/// Submits a failing task and 100 that sleep; gives how long the 100 took.
fn run_behind_the_delayed(dev: &Dev) -> Duration {
    let start = Instant::now();
    let failing = dev.submit("mixed", &json!({"program": "false", "arg": ""}));
    let ids: Vec<_> = (0..100)
        .map(|_| dev.submit("mixed", &json!({"program": "sleep", "arg": "0.1"})))
        .collect();
    for id in &ids {
        assert_eq!(dev.ended(id)["state"], "completed");
    }
    let took = start.elapsed();
    assert_eq!(dev.ended(&failing)["state"], "discarded");
    took
}

#[test]
fn a_delayed_backlog_blocks_nobody() {
    let home = tempfile::tempdir().unwrap();
    let dev = Dev::start(&data_in(&home));
    let steps = json!([{"executor": "any", "commands": ["env {{program}} {{arg}}"]}]);
    dev.create(
        "mixed",
        steps,
        json!({"partitions": 1, "retry": {"max_attempts": 3, "initial": "10ms"}}),
    );
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..N_THREADS {
            scope.spawn(|| {
                let data = json!({"program": "false", "arg": "never"}).to_string();
                for _ in 0..N_DELAYED / N_THREADS {
                    let submitted =
                        dev.post_text("/api/applications/app/pipelines/mixed?delay=1h", &data);
                    assert_eq!(
                        (submitted.status, submitted.body["state"].as_str()),
                        (202, Some("scheduled"))
                    );
                }
            });
        }
    });
    println!(
        "{N_DELAYED} delayed tasks submitted in {:?}",
        start.elapsed()
    );
    let before = run_behind_the_delayed(&dev);
    let mib_before = resident_mib(dev.pid());
    dev.stop();
    let dev = Dev::start(&data_in(&home));
    let ready = Instant::now();
    wait_until("it is ready", || {
        (dev.get("/readyz").status == 200).then_some(())
    });
    let ready = ready.elapsed();
    let after = run_behind_the_delayed(&dev);
    let mib_after = resident_mib(dev.pid());
    println!(
        "100 tasks of 0.1 s, 4 at once: {before:?} and after a restart {after:?}; ready in {ready:?}; {mib_before} and {mib_after} MiB"
    );
    for took in [before, after] {
        assert!(took < Duration::from_secs(30), "took {took:?}");
    }
    assert!(
        mib_before < 400 && mib_after < 200,
        "{mib_before} and {mib_after} MiB"
    );
    let listed = dev
        .get("/api/applications/app/pipelines/mixed/tasks?state=scheduled&limit=1")
        .body;
    assert_eq!(listed["tasks"][0]["state"], "scheduled");
}
