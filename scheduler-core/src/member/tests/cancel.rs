//! Bulk cancels: what they reach, what they leave alone, and what survives of them.

use std::time::Duration;

use super::{
    SECOND,
    rig::{Rig, SHARD, completed, config, failed},
};
use crate::{
    CancelFilter, CancelProgress, CancelRequest, Config, Error, Offset, StateName, TaskId,
    TaskOptions,
    action::{Answer, CallId},
    member::{Call, Event},
    port::FailureKind,
    task::retry::{Jitter, RetryPolicy},
};

fn rig() -> Rig {
    let retry = RetryPolicy {
        max_attempts: 3,
        initial: SECOND * 60,
        factor: 1.0,
        max: SECOND * 60,
        jitter: Jitter::None,
    };
    let defaults = TaskOptions {
        retry: Some(retry),
        ..TaskOptions::default()
    };
    Rig::new(config(), defaults)
}

fn in_group(name: &str) -> TaskOptions {
    TaskOptions {
        group: Some(name.try_into().unwrap()),
        ..TaskOptions::default()
    }
}

fn group(name: &str) -> CancelFilter {
    CancelFilter {
        group: Some(name.try_into().unwrap()),
        ..CancelFilter::default()
    }
}

fn cancel(rig: &mut Rig, id: &str, filter: CancelFilter) -> CallId {
    let below = Offset(rig.durable.records.len() as u64);
    let id = id.try_into().unwrap();
    rig.call(Call::CancelMany(SHARD, CancelRequest { id, filter, below }))
}

/// Asks again until it is over.
fn finish(rig: &mut Rig, id: &str, filter: &CancelFilter) -> u64 {
    for _ in 0..100 {
        let call = cancel(rig, id, filter.clone());
        match rig.answer(call) {
            Some(Answer::CancelledMany(Ok(progress))) if progress.is_over => {
                return progress.n_cancelled;
            }
            _ => rig.pass(SECOND),
        }
    }
    panic!("{id} is not over");
}

fn delayed(rig: &Rig, wait: Duration, options: TaskOptions) -> TaskOptions {
    TaskOptions {
        run_at: Some(rig.now + wait),
        ..options
    }
}

fn states(rig: &mut Rig, ids: &[TaskId]) -> Vec<String> {
    ids.iter().map(|id| rig.state(*id)).collect()
}

#[test]
fn a_bulk_cancel_reaches_tasks_wherever_they_are_and_no_others() {
    let mut rig = Rig::new(
        Config {
            window_tasks_max: 8,
            ..config()
        },
        TaskOptions::default(),
    );
    let parked = delayed(&rig, SECOND * 3600, in_group("a"));
    let mut wanted = vec![rig.submit(parked)];
    let kept_parked = delayed(&rig, SECOND * 3600, in_group("b"));
    let mut kept = vec![rig.submit(kept_parked)];
    rig.pass(SECOND * 3);
    wanted.push(rig.submit(in_group("a")));
    let running = rig.lease_one("w");
    for _ in 0..10 {
        wanted.push(rig.append_with(in_group("a")));
        kept.push(rig.append_with(in_group("b")));
    }
    rig.event(Event::Tick);
    let listening = rig.poll_holding("w", 0, vec![running]);
    let call = cancel(&mut rig, "c", group("a"));
    rig.pass(SECOND);
    assert!(matches!(
        rig.answer(call),
        Some(Answer::CancelledMany(Ok(_)))
    ));
    let later = rig.submit(in_group("a"));
    // Memory is full of tasks that stay, until somebody takes them.
    loop {
        let tasks = rig.lease("w", 100);
        if tasks.is_empty() {
            break;
        }
        for task in tasks {
            assert!(!wanted.contains(&task.id), "{} starts", task.id);
            let held = crate::call::Held {
                id: task.id,
                token: task.token,
            };
            rig.report(held, completed());
        }
    }
    assert_eq!(finish(&mut rig, "c", &group("a")), wanted.len() as u64);
    assert!(
        states(&mut rig, &wanted)
            .iter()
            .all(|state| state == "cancelled")
    );
    assert_eq!(rig.state(kept[0]), "scheduled");
    assert!(
        states(&mut rig, &kept[1..])
            .iter()
            .all(|state| state == "completed")
    );
    assert_eq!(rig.state(later), "completed", "it was accepted later");
    let Some(Answer::Leased(Ok(leased))) = rig.answer(listening) else {
        panic!("the worker is told");
    };
    assert_eq!(leased.lost, [(running, crate::LeaseLost::Cancelled)]);
}

#[test]
fn nothing_covered_starts_while_a_bulk_cancel_is_being_saved_or_after_a_crash() {
    let mut rig = rig();
    let ids: Vec<_> = (0..5).map(|_| rig.submit(in_group("a"))).collect();
    rig.holds_flushes = true;
    let call = cancel(&mut rig, "c", group("a"));
    rig.pass(SECOND);
    assert_eq!(rig.answer(call), None, "it is not durable");
    assert_eq!(rig.lease("w", 10), [], "and yet none starts");
    assert!(
        states(&mut rig, &ids)
            .iter()
            .all(|state| state == "available")
    );
    // Only the rule was saved, as it was at first.
    let rules = rig.held[0].1[0].cancels.clone().unwrap();
    let mut durable = rig.durable.clone();
    durable.cancels = rules;
    let mut rig = Rig::on(durable, rig.now, config(), TaskOptions::default());
    rig.pass(SECOND * 15);
    assert_eq!(rig.lease("w", 10), []);
    assert!(
        states(&mut rig, &ids)
            .iter()
            .all(|state| state == "cancelled")
    );
}

#[test]
fn a_parked_task_that_comes_due_before_its_sweep_does_not_start() {
    let mut rig = rig();
    let soon = delayed(&rig, SECOND * 10, in_group("a"));
    let ids: Vec<_> = (0..3).map(|_| rig.submit(soon.clone())).collect();
    rig.pass(SECOND * 3);
    assert_eq!(rig.member.shards[&SHARD].n_window(), 0, "they are parked");
    rig.fails_reads = true;
    let call = cancel(&mut rig, "c", group("a"));
    rig.pass(SECOND * 9);
    assert!(matches!(
        rig.answer(call),
        Some(Answer::CancelledMany(Ok(CancelProgress {
            is_over: false,
            ..
        })))
    ));
    rig.fails_reads = false;
    for _ in 0..10 {
        rig.pass(SECOND);
        assert_eq!(rig.lease("w", 10), []);
    }
    assert_eq!(finish(&mut rig, "c", &group("a")), 3);
    assert!(
        states(&mut rig, &ids)
            .iter()
            .all(|state| state == "cancelled")
    );
}

#[test]
fn a_new_owner_goes_on_with_a_bulk_cancel_and_counts_on() {
    let mut rig = rig();
    let far = delayed(&rig, SECOND * 3600, in_group("a"));
    let ids: Vec<_> = (0..20).map(|_| rig.submit(far.clone())).collect();
    rig.pass(SECOND * 3);
    rig.fails_reads = true;
    cancel(&mut rig, "c", group("a"));
    rig.pass(SECOND);
    let mut rig = rig.crash();
    assert_eq!(finish(&mut rig, "c", &group("a")), 20);
    assert!(
        states(&mut rig, &ids)
            .iter()
            .all(|state| state == "cancelled")
    );
}

#[test]
fn the_same_id_is_the_same_bulk_cancel_for_an_hour() {
    let mut rig = rig();
    rig.submit(in_group("a"));
    assert_eq!(finish(&mut rig, "c", &group("a")), 1);
    let later = rig.submit(in_group("a"));
    let mut rig = rig.crash();
    assert_eq!(finish(&mut rig, "c", &group("a")), 1, "the first one");
    assert_eq!(rig.state(later), "available");
    let call = cancel(&mut rig, "c", group("b"));
    assert!(matches!(
        rig.answer(call),
        Some(Answer::CancelledMany(Err(Error::WrongState(_))))
    ));
    rig.pass(SECOND * 3_601);
    assert_eq!(finish(&mut rig, "other", &group("b")), 0);
    assert_eq!(finish(&mut rig, "c", &group("a")), 1, "a new one");
    assert_eq!(rig.state(later), "cancelled");
}

#[test]
fn a_cancelled_task_frees_its_key() {
    let mut rig = rig();
    let keyed = |group: &str| TaskOptions {
        key: Some("k".try_into().unwrap()),
        ..in_group(group)
    };
    rig.submit(keyed("a"));
    let held = rig.lease_one("w");
    rig.report(held, failed("x"));
    let next = rig.submit(keyed("b"));
    assert_eq!(rig.lease("w", 1), [], "a retry holds the key");
    assert_eq!(finish(&mut rig, "c", &group("a")), 1);
    assert_eq!(rig.lease_one("w").id, next);
}

#[test]
fn states_are_those_at_the_call_also_for_tasks_whose_time_has_come_since() {
    let mut rig = Rig::new(
        Config {
            window_tasks_max: 1,
            ..config()
        },
        TaskOptions::default(),
    );
    let first = rig.submit(TaskOptions::default());
    let later = delayed(&rig, SECOND * 5, TaskOptions::default());
    let scheduled = rig.append_with(later);
    let available = rig.append_with(TaskOptions::default());
    let filter = CancelFilter {
        states: [StateName::Scheduled].into(),
        ..CancelFilter::default()
    };
    cancel(&mut rig, "c", filter.clone());
    rig.pass(SECOND * 10);
    let held = rig.lease_one("w");
    assert_eq!(held.id, first);
    rig.report(held, completed());
    rig.pass(SECOND);
    assert_eq!(rig.lease_one("w").id, available);
    assert_eq!(finish(&mut rig, "c", &filter), 1);
    assert_eq!(rig.state(scheduled), "cancelled");
}

#[test]
fn a_running_task_is_not_taken_for_an_available_one_after_a_crash() {
    let mut rig = rig();
    let id = rig.submit(TaskOptions::default());
    let held = rig.lease_one("w");
    let filter = CancelFilter {
        states: [StateName::Available].into(),
        ..CancelFilter::default()
    };
    cancel(&mut rig, "c", filter.clone());
    let mut rig = rig.crash();
    rig.pass(SECOND * 5);
    assert_eq!(rig.state(id), "available", "its lease was not stored");
    rig.poll_holding("w", 0, vec![held]);
    rig.pass(SECOND * 10);
    assert_eq!(finish(&mut rig, "c", &filter), 0);
    let call = rig.report(held, completed());
    assert_eq!(rig.answer(call), Some(&Answer::Reported(Ok(()))));
}

#[test]
fn a_dead_letter_is_not_redriven_into_a_bulk_cancel() {
    let mut rig = rig();
    let id = rig.submit(in_group("a"));
    let held = rig.lease_one("w");
    let crate::Outcome::Failed(mut failure) = failed("bug") else {
        unreachable!("it failed");
    };
    failure.retryable = false;
    rig.report(held, crate::Outcome::Failed(failure));
    assert_eq!(rig.state(id), "discarded");
    rig.fails_reads = true;
    cancel(&mut rig, "c", group("a"));
    rig.fails_reads = false;
    let call = rig.call(Call::Redrive(id));
    assert!(matches!(
        rig.answer(call),
        Some(Answer::Redriven(Err(Error::WrongState(_))))
    ));
    assert_eq!(finish(&mut rig, "c", &group("a")), 0, "it had ended");
    let call = rig.call(Call::Redrive(id));
    assert_eq!(rig.answer(call), Some(&Answer::Redriven(Ok(()))));
    assert_eq!(rig.lease_one("w").id, id);
}

#[test]
fn a_group_of_the_defaults_is_that_of_the_call() {
    let mut rig = rig();
    rig.change(|pipeline| pipeline.spec.defaults.group = Some("a".try_into().unwrap()));
    let far = delayed(&rig, SECOND * 3600, TaskOptions::default());
    rig.submit(far);
    rig.pass(SECOND * 3);
    rig.fails_reads = true;
    cancel(&mut rig, "c", group("a"));
    rig.change(|pipeline| pipeline.spec.defaults.group = None);
    rig.fails_reads = false;
    assert_eq!(finish(&mut rig, "c", &group("a")), 1);
}

#[test]
fn bulk_cancels_beyond_the_limit_are_refused_and_lost_answers_can_be_asked_again() {
    let mut rig = rig();
    rig.submit(in_group("none"));
    rig.fails_reads = true;
    for n in 0..16 {
        let call = cancel(&mut rig, &format!("c{n}"), group("a"));
        assert!(matches!(
            rig.answer(call),
            Some(Answer::CancelledMany(Ok(_)))
        ));
    }
    let call = cancel(&mut rig, "c16", group("a"));
    assert!(matches!(
        rig.answer(call),
        Some(Answer::CancelledMany(Err(Error::Overloaded { .. })))
    ));
    rig.fails_reads = false;
    rig.pass(SECOND * 3);
    rig.holds_flushes = true;
    let lost = cancel(&mut rig, "c16", group("a"));
    rig.pass(SECOND);
    let again = cancel(&mut rig, "c16", group("a"));
    for (lane, parts) in std::mem::take(&mut rig.held) {
        rig.durable.flush(&parts);
        rig.event(Event::Flushed(lane, Err(FailureKind::Unknown)));
    }
    rig.holds_flushes = false;
    rig.pass(SECOND);
    for call in [lost, again] {
        assert!(matches!(
            rig.answer(call),
            Some(Answer::CancelledMany(Ok(_)))
        ));
    }
}
