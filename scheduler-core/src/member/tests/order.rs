//! Who goes next: priorities, ordering keys, groups, rates, labels and cost.

use std::time::Duration;

use super::{
    SECOND,
    rig::{Rig, completed, config, failed},
};
use crate::{
    Config, Mode, OrderingKey, TaskId, TaskOptions,
    action::{Answer, Seen},
    call::{Held, Poll},
    explain::{Blocker, Scope},
    member::{Call, Event, Fleet},
    pipeline::limits::{Limit, Limits, Rate},
    task::retry::{Jitter, RetryPolicy},
};

fn rig() -> Rig {
    Rig::new(config(), TaskOptions::default())
}

fn prior(n: u32) -> TaskOptions {
    TaskOptions {
        priority: Some(n.try_into().unwrap()),
        ..TaskOptions::default()
    }
}

fn keyed(key: &str) -> TaskOptions {
    TaskOptions {
        key: Some(key.try_into().unwrap()),
        ..TaskOptions::default()
    }
}

fn grouped(group: &str) -> TaskOptions {
    TaskOptions {
        group: Some(group.try_into().unwrap()),
        ..TaskOptions::default()
    }
}

fn lease_ids(rig: &mut Rig, credit: usize) -> Vec<TaskId> {
    let tasks = rig.lease("w", credit);
    tasks.iter().map(|task| task.id).collect()
}

fn blocker(rig: &mut Rig, id: TaskId) -> Option<Blocker> {
    rig.member.explain(id, rig.now).map(|waits| waits.blocker)
}

fn with_limits(limits: Limits) -> Rig {
    let mut rig = rig();
    rig.change(|pipeline| pipeline.spec.limits = limits);
    rig
}

#[test]
fn a_higher_priority_goes_first_until_the_lower_one_has_waited_long_enough() {
    let config = Config {
        priority_wait_max: Duration::from_secs(90),
        ..config()
    };
    let mut rig = Rig::new(config, TaskOptions::default());
    let low = rig.submit(prior(0));
    rig.pass(Duration::from_secs(80));
    let high = rig.submit(prior(9));
    let middle = rig.submit(TaskOptions::default());
    rig.pass(Duration::from_secs(20));
    let late = rig.submit(prior(9));
    assert_eq!(lease_ids(&mut rig, 9), [high, low, late, middle]);
}

#[test]
fn tasks_of_one_key_start_one_at_a_time_in_order_and_others_flow_by() {
    let mut rig = rig();
    let a: Vec<_> = (0..3).map(|_| rig.submit(keyed("a"))).collect();
    let b = rig.submit(keyed("b"));
    let plain = rig.submit(TaskOptions::default());
    let first = rig.lease("w", 9);
    let ids: Vec<_> = first.iter().map(|task| task.id).collect();
    assert_eq!(ids, [a[0], b, plain]);
    let key: OrderingKey = "a".try_into().unwrap();
    let behind = Some(a[0]);
    assert_eq!(blocker(&mut rig, a[2]), Some(Blocker::Key { key, behind }));
    let held = Held {
        id: a[0],
        token: first[0].token,
    };
    rig.holds_flushes = true;
    rig.report(held, completed());
    assert_eq!(lease_ids(&mut rig, 9), [], "the end is not durable");
    rig.release_flushes();
    assert_eq!(lease_ids(&mut rig, 9), [a[1]]);
}

#[test]
fn a_retry_keeps_the_key_and_a_discard_or_cancel_frees_it() {
    let retry = RetryPolicy {
        max_attempts: 2,
        initial: Duration::from_secs(100),
        jitter: Jitter::None,
        ..RetryPolicy::default()
    };
    let defaults = TaskOptions {
        retry: Some(retry),
        ..TaskOptions::default()
    };
    let mut rig = Rig::new(config(), defaults);
    let ids: Vec<_> = (0..3).map(|_| rig.submit(keyed("a"))).collect();
    let held = rig.lease_one("w");
    rig.report(held, failed("x"));
    rig.pass(Duration::from_secs(90));
    assert_eq!(lease_ids(&mut rig, 9), [], "the first waits in the store");
    assert!(matches!(rig.see(ids[0]), Seen::Left), "and holds its key");
    let mut rig = rig.crash();
    rig.pass(Duration::from_secs(9));
    assert_eq!(lease_ids(&mut rig, 9), [], "also for the next owner");
    rig.pass(Duration::from_secs(9));
    let held = rig.lease_one("w");
    assert_eq!(held.id, ids[0]);
    rig.report(held, failed("x"));
    rig.pass(SECOND);
    let held = rig.lease_one("w");
    assert_eq!(held.id, ids[1], "the first was discarded");
    rig.call(Call::Cancel(held.id));
    assert_eq!(lease_ids(&mut rig, 9), [ids[2]]);
}

#[test]
fn a_long_line_of_one_key_waits_in_the_store_in_order_and_leaves_room_for_others() {
    let config = Config {
        window_tasks_max: 400,
        ..config()
    };
    let mut rig = Rig::new(config, TaskOptions::default());
    let line: Vec<_> = (0..2_000).map(|_| rig.submit(keyed("a"))).collect();
    let others: Vec<_> = (0..100)
        .map(|_| rig.submit(TaskOptions::default()))
        .collect();
    rig.pass(SECOND * 30);
    let held = rig.lease("w", 200);
    let ids: Vec<_> = held.iter().map(|task| task.id).collect();
    assert_eq!(ids[0], line[0]);
    assert_eq!(ids[1..], others);
    assert!(rig.durable.rows.len() > 1_900, "the line is stored");
    let done = |rig: &mut Rig, task: &crate::LeasedTask| {
        let (id, token) = (task.id, task.token);
        rig.report(Held { id, token }, completed());
    };
    for task in &held {
        done(&mut rig, task);
    }
    for (n, id) in line.iter().enumerate().skip(1) {
        if n == 1_000 {
            rig = rig.crash();
            rig.pass(SECOND * 20);
        }
        let tasks = rig.lease("w", 9);
        let ids: Vec<_> = tasks.iter().map(|task| task.id).collect();
        assert_eq!(ids, [*id], "number {n}");
        done(&mut rig, &tasks[0]);
    }
    rig.pass(SECOND * 30);
    assert_eq!(rig.durable.watermark, 2_100);
}

#[test]
fn a_scheduled_task_joins_its_key_when_it_is_due() {
    let mut rig = rig();
    let mut options = keyed("a");
    options.run_at = Some(rig.now + SECOND * 60);
    let scheduled = rig.submit(options);
    let first = rig.submit(keyed("a"));
    let held = rig.lease_one("w");
    assert_eq!(held.id, first, "one that is not due holds up nobody");
    let second = rig.submit(keyed("a"));
    for _ in 0..6 {
        rig.pass(SECOND * 11);
        rig.call(Call::Renew(vec![(held, true, None)]));
    }
    assert_eq!(lease_ids(&mut rig, 9), []);
    rig.report(held, completed());
    assert_eq!(
        lease_ids(&mut rig, 9),
        [scheduled],
        "it was accepted before"
    );
    assert_ne!(scheduled, second);
}

#[test]
fn so_many_of_a_group_run_as_may_and_those_who_wait_are_told() {
    let limit = Limit {
        concurrency: Some(2),
        rate: None,
    };
    let mut rig = with_limits(Limits {
        all: Limit::default(),
        group: limit,
    });
    let a: Vec<_> = (0..3).map(|_| rig.submit(grouped("a"))).collect();
    let b = rig.submit(grouped("b"));
    let held = rig.lease("w", 9);
    let ids: Vec<_> = held.iter().map(|task| task.id).collect();
    assert_eq!(ids, [a[0], a[1], b]);
    let scope = Scope::Group("a".try_into().unwrap());
    let holders = vec![a[0], a[1]];
    assert_eq!(
        blocker(&mut rig, a[2]),
        Some(Blocker::Concurrency {
            scope,
            max: 2,
            holders
        })
    );
    let (id, token) = (held[0].id, held[0].token);
    rig.report(Held { id, token }, completed());
    assert_eq!(lease_ids(&mut rig, 9), [a[2]]);
}

#[test]
fn so_many_start_in_a_while_as_may() {
    let rate = Rate {
        n: 2,
        per: SECOND * 10,
    };
    let all = Limit {
        concurrency: None,
        rate: Some(rate),
    };
    let mut rig = with_limits(Limits {
        all,
        group: Limit::default(),
    });
    let ids: Vec<_> = (0..5).map(|_| rig.submit(TaskOptions::default())).collect();
    assert_eq!(lease_ids(&mut rig, 9), ids[..2]);
    let (scope, until) = (Scope::Pipeline, rig.now + SECOND * 5);
    assert_eq!(
        blocker(&mut rig, ids[4]),
        Some(Blocker::Rate { scope, until })
    );
    let call = rig.poll("w", 9);
    rig.pass(SECOND * 4);
    assert_eq!(rig.answer(call), None);
    rig.pass(SECOND);
    assert!(
        matches!(rig.answer(call), Some(Answer::Leased(Ok(leased))) if leased.tasks.len() == 1),
        "a waiting poll gets the next at its time"
    );
}

#[test]
fn tasks_go_only_to_workers_that_have_their_labels_and_slots() {
    let mut rig = rig();
    let labels = |names: &[&str]| {
        names
            .iter()
            .map(|name| (*name).try_into().unwrap())
            .collect()
    };
    let gpu = rig.submit(TaskOptions {
        labels: Some(labels(&["gpu", "eu"])),
        ..TaskOptions::default()
    });
    let big = rig.submit(TaskOptions {
        cost: Some(4),
        ..TaskOptions::default()
    });
    let plain = rig.submit(TaskOptions::default());
    assert_eq!(lease_ids(&mut rig, 3), [plain]);
    assert!(matches!(
        blocker(&mut rig, gpu),
        Some(Blocker::Worker { labels, .. }) if labels.len() == 2
    ));
    let mut poll = Poll::new("v".try_into().unwrap(), 3);
    poll.labels = labels(&["gpu", "eu", "x"]);
    let fleet = Fleet::Pipeline(super::SHARD.pipeline);
    let call = rig.call(Call::Poll(fleet, poll));
    let granted = |rig: &Rig, call| match rig.answer(call) {
        Some(Answer::Leased(Ok(leased))) => leased.tasks.iter().map(|task| task.id).collect(),
        _ => Vec::new(),
    };
    assert_eq!(granted(&rig, call), [gpu]);
    let few = rig.poll("w", 3);
    let many = rig.poll("w", 4);
    assert_eq!(granted(&rig, few), []);
    assert_eq!(granted(&rig, many), [big]);
}

#[test]
fn a_full_window_of_tasks_that_no_worker_here_can_take_makes_room() {
    let config = Config {
        window_tasks_max: 1_000,
        ..config()
    };
    let mut rig = Rig::new(config, TaskOptions::default());
    for _ in 0..3_000 {
        rig.submit(TaskOptions {
            labels: Some([("gpu").try_into().unwrap()].into()),
            ..TaskOptions::default()
        });
    }
    let plain = rig.submit(TaskOptions::default());
    rig.pass(SECOND * 60);
    assert_eq!(rig.durable.rows.len(), 0, "a backlog alone costs no rows");
    let call = rig.poll("w", 1);
    for _ in 0..20 {
        rig.pass(SECOND);
    }
    assert!(
        matches!(rig.answer(call), Some(Answer::Leased(Ok(leased))) if leased.tasks[0].id == plain)
    );
}

#[test]
fn a_paused_pipeline_starts_nothing_and_says_who_paused_it() {
    let mut rig = rig();
    let id = rig.submit(TaskOptions::default());
    let since = rig.now;
    rig.change(|pipeline| {
        pipeline.mode = Mode::Paused {
            by: "ann".to_owned(),
            reason: "a new release".to_owned(),
            at: since,
        };
    });
    let call = rig.poll("w", 1);
    assert_eq!(rig.answer(call), None);
    let (by, reason) = ("ann".to_owned(), "a new release".to_owned());
    assert_eq!(
        blocker(&mut rig, id),
        Some(Blocker::Paused { by, reason, since })
    );
    rig.change(|pipeline| pipeline.mode = Mode::Active);
    assert!(
        matches!(rig.answer(call), Some(Answer::Leased(Ok(leased))) if leased.tasks[0].id == id)
    );
    rig.event(Event::Tick);
}

fn labelled(options: TaskOptions) -> TaskOptions {
    TaskOptions {
        labels: Some(["gpu".try_into().unwrap()].into()),
        ..options
    }
}

fn gpu_poll(credit: usize) -> Call {
    let mut poll = Poll::new("v".try_into().unwrap(), credit);
    poll.labels = ["gpu".try_into().unwrap()].into();
    Call::Poll(Fleet::Pipeline(super::SHARD.pipeline), poll)
}

/// Whether a worker that waits gets this task within so many seconds.
fn gets(rig: &mut Rig, credit: usize, id: TaskId, seconds: u32) -> bool {
    let call = rig.poll("w", credit);
    rig.pass(SECOND * seconds);
    match rig.answer(call) {
        Some(Answer::Leased(Ok(leased))) => leased.tasks.iter().any(|task| task.id == id),
        _ => false,
    }
}

#[test]
fn room_is_made_until_the_log_is_read_on_however_large_the_window() {
    let config = Config {
        window_tasks_max: 20_000,
        flush_tasks_max: 500,
        ..config()
    };
    let mut rig = Rig::new(config, TaskOptions::default());
    for _ in 0..25_000 {
        rig.append_with(labelled(TaskOptions::default()));
    }
    let plain = rig.submit(TaskOptions::default());
    assert!(gets(&mut rig, 1, plain, 19));
}

#[test]
fn room_is_made_in_short_lines_too() {
    let config = Config {
        window_tasks_max: 800,
        ..config()
    };
    let mut rig = Rig::new(config, TaskOptions::default());
    for n in 0..1_000 {
        let group = format!("g{}", n % 10);
        rig.append_with(labelled(grouped(&group)));
    }
    let plain = rig.submit(TaskOptions::default());
    assert!(gets(&mut rig, 1, plain, 19));
}

#[test]
fn a_group_at_its_limit_that_fills_the_window_makes_room_for_others() {
    let config = Config {
        window_tasks_max: 1_000,
        ..config()
    };
    let mut rig = Rig::new(config, TaskOptions::default());
    rig.change(|pipeline| pipeline.spec.limits.group.concurrency = Some(1));
    for _ in 0..1_500 {
        rig.append_with(grouped("a"));
    }
    let other = rig.submit(grouped("b"));
    rig.pass(SECOND * 3);
    assert_eq!(rig.durable.rows.len(), 0, "a backlog alone costs no rows");
    let held = rig.lease_one("v");
    let beat = Call::Renew(vec![(held, true, None)]);
    rig.call(beat);
    assert!(gets(&mut rig, 1, other, 19));
}

#[test]
fn a_task_that_is_set_aside_goes_before_the_others_of_its_key() {
    let config = Config {
        window_tasks_max: 1_000,
        ..config()
    };
    let mut rig = Rig::new(config, TaskOptions::default());
    for _ in 0..900 {
        rig.append_with(labelled(TaskOptions::default()));
    }
    let first = rig.append_with(labelled(keyed("a")));
    // Without labels, so that it could go if it were next.
    let second = rig.append_with(keyed("a"));
    for _ in 0..400 {
        rig.append_with(labelled(TaskOptions::default()));
    }
    rig.event(Event::Tick);
    assert!(!gets(&mut rig, 1, second, 19), "the first is away");
    let is_away = |rig: &mut Rig| matches!(rig.see(first), Seen::Left);
    assert!(is_away(&mut rig), "the test sets it aside");
    let mut order = Vec::new();
    for _ in 0..200 {
        rig.pass(SECOND * 10);
        for call in [
            gpu_poll(200),
            Call::Poll(
                Fleet::Pipeline(super::SHARD.pipeline),
                Poll::new("w".try_into().unwrap(), 9),
            ),
        ] {
            let call = rig.call(call);
            let Some(Answer::Leased(Ok(leased))) = rig.answer(call).cloned() else {
                rig.event(Event::PollGone(call));
                continue;
            };
            for task in leased.tasks {
                order.push(task.id);
                let (id, token) = (task.id, task.token);
                rig.report(Held { id, token }, completed());
            }
        }
    }
    order.retain(|id| [first, second].contains(id));
    assert_eq!(order, [first, second]);
}

#[test]
fn a_redriven_task_of_a_long_line_is_the_next_of_its_key() {
    let retry = RetryPolicy {
        max_attempts: 1,
        ..RetryPolicy::default()
    };
    let defaults = TaskOptions {
        retry: Some(retry),
        ..TaskOptions::default()
    };
    let mut rig = Rig::new(config(), defaults);
    let dead = rig.submit(keyed("a"));
    let held = rig.lease_one("w");
    rig.report(held, failed("x"));
    let line: Vec<_> = (0..300).map(|_| rig.append_with(keyed("a"))).collect();
    rig.event(Event::Tick);
    let held = rig.lease_one("w");
    assert_eq!(held.id, line[0]);
    let call = rig.call(Call::Redrive(dead));
    assert_eq!(rig.answer(call), Some(&Answer::Redriven(Ok(()))));
    rig.pass(SECOND * 3);
    assert_eq!(lease_ids(&mut rig, 9), [], "another of its key runs");
    rig.report(held, completed());
    assert_eq!(lease_ids(&mut rig, 9), [dead]);
}

#[test]
fn changed_defaults_hold_for_tasks_that_wait() {
    let mut rig = rig();
    let ids: Vec<_> = (0..3).map(|_| rig.submit(TaskOptions::default())).collect();
    rig.change(|pipeline| pipeline.spec.defaults.cost = Some(8));
    assert_eq!(lease_ids(&mut rig, 1), [], "a task takes 8 slots now");
    assert_eq!(lease_ids(&mut rig, 9), ids[..1]);
    rig.change(|pipeline| pipeline.spec.defaults = labelled(TaskOptions::default()));
    assert_eq!(lease_ids(&mut rig, 9), []);
    rig.change(|pipeline| pipeline.spec.defaults = TaskOptions::default());
    assert_eq!(lease_ids(&mut rig, 9), ids[1..]);
}

#[test]
fn a_task_cancelled_in_the_backlog_holds_its_key_until_that_is_durable() {
    let config = Config {
        window_tasks_max: 16,
        ..config()
    };
    let mut rig = Rig::new(config, TaskOptions::default());
    let filling: Vec<_> = (0..16)
        .map(|_| rig.submit(TaskOptions::default()))
        .collect();
    let first = rig.append_with(keyed("a"));
    let second = rig.append_with(keyed("a"));
    rig.event(Event::Tick);
    let held = rig.lease("w", 16);
    assert_eq!(held.len(), filling.len());
    rig.holds_flushes = true;
    let report = |task: &crate::LeasedTask| {
        let (id, token) = (task.id, task.token);
        (Held { id, token }, completed())
    };
    rig.call(Call::Report(held[..4].iter().map(report).collect()));
    rig.call(Call::Cancel(first));
    // The reports are durable and make room to read; the cancel is on its way.
    let (lane, parts) = rig.held.remove(0);
    let answers = rig.durable.flush(&parts);
    rig.event(Event::Flushed(lane, Ok(answers)));
    assert!(matches!(rig.see(second), Seen::Here { .. }));
    assert_eq!(lease_ids(&mut rig, 9), []);
    rig.release_flushes();
    assert_eq!(lease_ids(&mut rig, 9), [second]);
    assert_eq!(rig.state(first), "cancelled");
}

#[test]
fn a_key_that_is_held_from_behind_a_long_line_is_known_after_a_crash() {
    let slow = RetryPolicy {
        max_attempts: 9,
        initial: Duration::from_secs(300),
        factor: 1.0,
        max: Duration::from_secs(300),
        jitter: Jitter::None,
    };
    let mut rig = Rig::new(
        config(),
        TaskOptions {
            retry: Some(slow),
            ..TaskOptions::default()
        },
    );
    let delayed = TaskOptions {
        run_at: Some(rig.now + SECOND * 10),
        ..keyed("k")
    };
    let line: Vec<_> = (0..300).map(|_| rig.submit(delayed.clone())).collect();
    // It starts before those that are due later, fails, and holds the key in the store.
    let holder = rig.submit(keyed("k"));
    let held = rig.lease_one("w");
    assert_eq!(held.id, holder);
    rig.report(held, failed("x"));
    rig.pass(SECOND * 20);
    assert!(rig.lease("w", 9).is_empty());
    let mut rig = rig.crash();
    rig.pass(SECOND * 60);
    assert!(rig.lease("w", 9).is_empty());
    rig.pass(SECOND * 300);
    let held = rig.lease_one("w");
    assert_eq!(held.id, holder);
    rig.report(held, completed());
    for id in line {
        let held = rig.lease_one("w");
        assert_eq!(held.id, id);
        rig.report(held, completed());
    }
}

#[test]
fn long_lines_in_a_small_window_go_on_after_a_crash() {
    let config = Config {
        window_tasks_max: 64,
        ..config()
    };
    let mut rig = Rig::new(config, TaskOptions::default());
    let key = |n: usize| keyed(&format!("k{}", n % 4));
    let mut ids: Vec<_> = (0..600).map(|n| rig.submit(key(n))).collect();
    let work = |rig: &mut Rig| {
        let tasks = rig.lease("w", 9);
        for task in &tasks {
            let (id, token) = (task.id, task.token);
            rig.report(Held { id, token }, completed());
        }
        rig.pass(SECOND);
        tasks.len()
    };
    let n_before: usize = (0..20).map(|_| work(&mut rig)).sum();
    let mut rig = rig.crash();
    // More of each key is read from the log before the store is asked.
    ids.extend((0..40).map(|n| rig.submit(key(n))));
    rig.pass(SECOND * 20);
    let n_after: usize = (0..400).map(|_| work(&mut rig)).sum();
    assert_eq!(n_before + n_after, ids.len());
}
