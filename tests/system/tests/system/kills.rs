//! `workload dev` killed at random moments: nothing that was answered is lost, and nothing shown is unsaid.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};

use crate::fixture::{Dev, data_in, wait_until};

const KILLS: u32 = 20;
const SUBMITTERS: usize = 6;
/// Tasks that the agent of `workload dev` runs at once.
const CONCURRENCY: usize = 4;

/// What the clients know.
#[derive(Default)]
struct Known {
    accepted: Mutex<Vec<String>>,
    /// Ended tasks as they were shown, and how often they had run by then.
    shown: Mutex<BTreeMap<String, (Value, usize)>>,
    n_in_flight: AtomicUsize,
    n_unanswered: AtomicUsize,
}

#[test]
fn accepted_tasks_survive_kills() {
    let home = tempfile::tempdir().unwrap();
    let runs = home.path().join("runs");
    let known = Known::default();
    let seed = fastrand::u64(..);
    let mut rng = fastrand::Rng::with_seed(seed);
    println!("seed {seed}");
    let mut dev = Dev::start(&data_in(&home));
    let script = "sh -c 'echo $WORKLOAD_TASK_ID >> \"$1\"; sleep 0.02' sh {{runs}}";
    dev.create(
        "work",
        json!([{"executor": "any", "commands": [script]}]),
        json!({"retry": {"initial": "10ms"}}),
    );
    let mut n_running_at_kills = 0;
    for kill in 1..=KILLS {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..SUBMITTERS {
                scope.spawn(|| submit_until(&over, &dev, &known, &runs));
            }
            scope.spawn(|| watch_until(&over, &dev, &known, &runs));
            std::thread::sleep(Duration::from_millis(rng.u64(200..900)));
            let running = dev
                .get("/api/applications/app/pipelines/work/tasks?state=running")
                .body;
            let n_running = running["tasks"].as_array().map_or(0, Vec::len);
            n_running_at_kills += n_running;
            let n_in_flight = wait_until("a submit is in flight", || {
                let n = known.n_in_flight.load(Ordering::Relaxed);
                (n > 0).then_some(n)
            });
            let n_accepted = known.accepted.lock().unwrap().len();
            println!(
                "kill {kill}: {n_accepted} accepted, {n_in_flight} submits in flight, {n_running} running, of them {} with a report that is not durable",
                n_running.saturating_sub(CONCURRENCY)
            );
            crate::fixture::signal(dev.pid(), "KILL");
            over.store(true, Ordering::Relaxed);
        });
        dev.kill();
        dev = Dev::start_with(
            &data_in(&home),
            &["--grpc", "127.0.0.1:0", "--lease", "2s"],
            None,
        );
    }
    check(&dev, &known, &runs, n_running_at_kills);
}

fn submit_until(over: &AtomicBool, dev: &Dev, known: &Known, runs: &Path) {
    while !over.load(Ordering::Relaxed) {
        known.n_in_flight.fetch_add(1, Ordering::Relaxed);
        let answer = dev.post(
            "/api/applications/app/pipelines/work",
            &json!({ "runs": runs }),
        );
        known.n_in_flight.fetch_sub(1, Ordering::Relaxed);
        match answer.body["id"].as_str() {
            Some(id) if answer.status == 202 => known.accepted.lock().unwrap().push(id.to_owned()),
            _ => {
                known.n_unanswered.fetch_add(1, Ordering::Relaxed);
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn watch_until(over: &AtomicBool, dev: &Dev, known: &Known, runs: &Path) {
    let path = "/api/applications/app/pipelines/work/tasks?state=completed&limit=50";
    while !over.load(Ordering::Relaxed) {
        let listed = dev.get(path).body;
        let counts = count_runs(runs);
        for task in listed["tasks"].as_array().into_iter().flatten() {
            let id = task["id"].as_str().unwrap().to_owned();
            let n_runs = counts.get(&id).copied().unwrap_or(0);
            let mut shown = known.shown.lock().unwrap();
            shown.entry(id).or_insert_with(|| (task.clone(), n_runs));
        }
        std::thread::sleep(Duration::from_millis(30));
    }
}

fn count_runs(runs: &Path) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for id in std::fs::read_to_string(runs).unwrap_or_default().lines() {
        *counts.entry(id.to_owned()).or_default() += 1;
    }
    counts
}

fn check(dev: &Dev, known: &Known, runs: &Path, n_running_at_kills: usize) {
    let accepted = known.accepted.lock().unwrap();
    let shown = known.shown.lock().unwrap();
    assert!(
        accepted.len() > 100,
        "only {} tasks were accepted",
        accepted.len()
    );
    assert!(!shown.is_empty(), "no end was seen before a kill");
    for id in accepted.iter() {
        let state = wait_until("every accepted task ends", || {
            let task = dev
                .get(&format!("/api/applications/app/tasks/{id}?wait=10s"))
                .body;
            task["ended_at"].is_string().then(|| task["state"].clone())
        });
        assert_eq!(state, "completed", "{id}");
    }
    let n_runs = count_runs(runs);
    for (id, (task, n_before)) in shown.iter() {
        assert_eq!(dev.task(id), *task, "what was shown of {id} is unsaid");
        assert_eq!(n_runs[id], *n_before, "{id} had ended and ran again");
    }
    let n_again: usize = n_runs.values().map(|n| n - 1).sum();
    println!(
        "{} accepted, {} unanswered, {} shown before a kill; {n_again} second runs, {n_running_at_kills} seen running at kills",
        accepted.len(),
        known.n_unanswered.load(Ordering::Relaxed),
        shown.len()
    );
    // What was seen running is a little older than the kill: up to 4 more may have begun in between.
    let n_most = n_running_at_kills + KILLS as usize * CONCURRENCY;
    assert!(
        n_again <= n_most,
        "{n_again} second runs, and at most {n_most} tasks were running"
    );
    for id in accepted.iter() {
        assert!(n_runs.contains_key(id), "{id} never ran");
    }
}
