//! What is counted of tasks that wait is what each of them says.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    SECOND, key, retries,
    rig::{Rig, SHARD, completed, config, failed},
};
use crate::{
    Config, Label, Mode, TaskId, TaskOptions,
    call::{Held, Poll},
    explain::Tally,
    member::{Call, Fleet},
    pipeline::limits::{Limit, Limits, Rate},
    shard::Shard,
};

type Counts = BTreeMap<&'static str, usize>;

/// What each task in memory says that it waits for.
fn said(rig: &Rig) -> Counts {
    let mut counts = Counts::new();
    let shard = rig.member.shards.get(&SHARD);
    let tasks = shard.map(|shard| shard.list(&[], None, usize::MAX));
    for task in tasks.into_iter().flatten() {
        let id = TaskId {
            shard: SHARD,
            offset: task.offset,
        };
        if let Some(waits) = rig.member.explain(id, rig.now) {
            *counts.entry(waits.blocker.name()).or_default() += 1;
        }
    }
    counts
}

fn counted(tally: &Tally) -> Counts {
    let waiting = tally.waiting().into_iter();
    waiting.filter(|(_, n)| *n > 0).collect()
}

/// Those that could start count as one: which of them waits for what is told by the lines that they wait in.
fn coarse(counts: Counts) -> Counts {
    let mut coarse = Counts::new();
    for (name, n) in counts {
        let is_line = ["concurrency", "rate", "worker", "turn"].contains(&name);
        *coarse
            .entry(if is_line { "turn" } else { name })
            .or_default() += n;
    }
    coarse
}

fn check_sum(rig: &Rig, tally: &Tally) {
    let n_waiting: usize = tally.waiting().iter().map(|(_, n)| n).sum();
    let n = n_waiting + tally.n_running + tally.n_ended;
    let n_tasks: usize = rig.member.shards.values().map(Shard::n_window).sum();
    assert_eq!(n, n_tasks, "each task counts once");
}

/// In whatever life, each task is counted once and as what it says.
pub(super) fn check(rig: &Rig) {
    let tally = rig.member.tally(rig.now);
    check_sum(rig, &tally);
    if rig.member.is_proven(rig.now) {
        assert_eq!(coarse(counted(&tally)), coarse(said(rig)));
    }
}

/// Where no task has left its line early, all is exact. Gives what waits for what.
fn exact(rig: &Rig) -> Counts {
    let tally = rig.member.tally(rig.now);
    check_sum(rig, &tally);
    let counts = counted(&tally);
    assert_eq!(counts, said(rig));
    counts
}

fn grouped(group: &str) -> TaskOptions {
    TaskOptions {
        group: Some(group.try_into().unwrap()),
        ..TaskOptions::default()
    }
}

fn labelled() -> TaskOptions {
    TaskOptions {
        labels: Some(gpu()),
        ..TaskOptions::default()
    }
}

fn gpu() -> BTreeSet<Label> {
    ["gpu".try_into().unwrap()].into()
}

fn ordered() -> TaskOptions {
    TaskOptions {
        key: Some("a".try_into().unwrap()),
        ..TaskOptions::default()
    }
}

fn soon(rig: &Rig) -> TaskOptions {
    TaskOptions {
        run_at: Some(rig.now + SECOND),
        ..TaskOptions::default()
    }
}

/// Two tasks run of which one has a key, one has failed, and of each reason another number waits.
fn mixed() -> (Rig, Held) {
    let mut rig = Rig::new(config(), retries(3, SECOND));
    let limit = Limit {
        concurrency: Some(1),
        rate: Some(Rate {
            n: 1,
            per: Duration::from_secs(60),
        }),
    };
    rig.change(|pipeline| pipeline.spec.limits.group = limit);
    rig.submit(grouped("h"));
    let held = rig.lease_one("w");
    rig.report(held, completed());
    rig.submit(grouped("g"));
    rig.lease_one("w");
    rig.submit(TaskOptions::default());
    let held = rig.lease_one("w");
    rig.report(held, failed("x"));
    rig.submit(ordered());
    let held = rig.lease_one("w");
    let later = soon(&rig);
    let all = [
        (2, later),
        (3, ordered()),
        (4, grouped("g")),
        (5, grouped("h")),
        (6, labelled()),
        (7, key("k")),
    ];
    rig.holds_reads = true;
    for (n, options) in all {
        for _ in 0..n {
            rig.submit(options.clone());
        }
    }
    (rig, held)
}

#[test]
fn tasks_are_counted_by_what_they_wait_for() {
    let (mut rig, held) = mixed();
    // It takes no task that asks for a label, and there is no other.
    rig.poll("w", 1);
    let waiting = [
        ("backoff", 1),
        ("concurrency", 4),
        ("key", 3),
        ("rate", 5),
        ("repetition", 7),
        ("scheduled", 2),
        ("worker", 6),
    ];
    assert_eq!(exact(&rig), Counts::from(waiting));
    assert_eq!(rig.member.tally(rig.now).n_running, 2);

    rig.holds_flushes = true;
    rig.report(held, completed());
    let mut unsaved = Counts::from(waiting);
    unsaved.insert("saving", 1);
    assert_eq!(exact(&rig), unsaved);
    rig.release_flushes();
    rig.release_reads();
    exact(&rig);
}

#[test]
fn what_stops_a_whole_pipeline_counts_for_all_that_could_start() {
    let (mut rig, _) = mixed();
    let n_free = 4 + 5 + 6;
    let all = |max: Option<u32>, rate| Limits {
        all: Limit {
            concurrency: max,
            rate,
        },
        ..Limits::default()
    };
    rig.change(|pipeline| pipeline.spec.limits = all(Some(1), None));
    assert_eq!(exact(&rig).get("concurrency"), Some(&n_free));
    let rate = Rate {
        n: 1,
        per: Duration::from_secs(600),
    };
    rig.change(|pipeline| pipeline.spec.limits = all(None, Some(rate)));
    rig.lease_with("w", 1, gpu());
    assert_eq!(exact(&rig).get("rate"), Some(&(n_free - 1)));
    let at = rig.now;
    rig.change(|pipeline| {
        pipeline.mode = Mode::Paused {
            by: "ann".to_owned(),
            reason: "a new release".to_owned(),
            at,
        };
    });
    let counts = exact(&rig);
    assert_eq!(counts.get("paused"), Some(&(n_free - 1 + 3)));
    assert_eq!(counts.get("key"), None);
}

#[test]
fn a_tenant_at_its_limit_and_an_outage_count_for_all_that_could_start() {
    let tenant = "default".try_into().unwrap();
    let one = Limit {
        concurrency: Some(1),
        rate: None,
    };
    let limited = Config {
        tenant_limits: [(tenant, one)].into(),
        ..config()
    };
    let mut rig = Rig::new(limited, TaskOptions::default());
    for _ in 0..3 {
        rig.submit(TaskOptions::default());
    }
    rig.lease_one("w");
    assert_eq!(exact(&rig), Counts::from([("concurrency", 2)]));

    let easy = Config {
        discard_credits: 1,
        ..config()
    };
    let mut rig = Rig::new(easy, retries(1, SECOND));
    for _ in 0..4 {
        rig.submit(TaskOptions::default());
    }
    for _ in 0..2 {
        let held = rig.lease_one("w");
        rig.report(held, failed("down"));
    }
    assert_eq!(exact(&rig).get("failing"), Some(&2));
}

#[test]
fn a_new_owner_counts_what_waits_for_its_worker() {
    let mut rig = Rig::new(config(), TaskOptions::default());
    for _ in 0..3 {
        rig.submit(TaskOptions::default());
    }
    let mut rig = rig.crash();
    assert_eq!(exact(&rig), Counts::from([("adoption", 3)]));
    rig.pass(config().adoption_window);
    assert_eq!(exact(&rig), Counts::from([("worker", 3)]));
}

#[test]
fn a_worker_that_comes_and_goes_moves_what_waits_for_it() {
    let mut rig = Rig::new(config(), TaskOptions::default());
    rig.submit(TaskOptions {
        cost: Some(3),
        ..labelled()
    });
    let ask = |rig: &mut Rig, credit| {
        let mut poll = Poll::new("w".try_into().unwrap(), credit);
        poll.labels = gpu();
        rig.call(Call::Poll(Fleet::Pipeline(SHARD.pipeline), poll))
    };
    ask(&mut rig, 2);
    assert_eq!(exact(&rig), Counts::from([("worker", 1)]));
    ask(&mut rig, 3);
    assert_eq!(exact(&rig), Counts::new());
    assert_eq!(rig.member.tally(rig.now).n_running, 1);
}
