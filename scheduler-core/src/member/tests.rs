//! What a member promises, each with a test that tries to break it.

mod cancel;
mod ends;
mod fair;
mod models;
mod offers;
mod order;
mod ownership;
mod random;
mod rig;
mod room;
mod seek;
mod survey;
mod tally;

use std::time::Duration;

use self::rig::{Rig, SHARD, completed, config, failed, token};
use super::{Call, Event};
use crate::{
    Config, Error, LeaseLost, Offset, Outcome, Retention, TaskOptions,
    action::{Action, Answer, Seen},
    call::Held,
    port::log::NewTask,
    task::retry::{Jitter, RetryPolicy},
};

const SECOND: Duration = Duration::from_secs(1);

fn rig() -> Rig {
    Rig::new(config(), TaskOptions::default())
}

fn retries(max_attempts: u32, initial: Duration) -> TaskOptions {
    TaskOptions {
        retry: Some(RetryPolicy {
            max_attempts,
            initial,
            factor: 2.0,
            max: Duration::from_secs(300),
            jitter: Jitter::None,
        }),
        ..TaskOptions::default()
    }
}

fn key(text: &str) -> TaskOptions {
    TaskOptions {
        idempotency_key: Some(text.try_into().unwrap()),
        ..TaskOptions::default()
    }
}

fn is_reported(answer: Option<&Answer>) -> bool {
    matches!(answer, Some(Answer::Reported(Ok(()))))
}

fn lost(answer: Option<&Answer>) -> Option<LeaseLost> {
    match answer {
        Some(
            Answer::Reported(Err(Error::LeaseLost(why)))
            | Answer::Renewed(Err(Error::LeaseLost(why))),
        ) => Some(*why),
        _ => None,
    }
}

#[test]
fn a_task_that_ends_between_two_flushes_costs_one_row() {
    let mut rig = rig();
    let id = rig.submit(TaskOptions::default());
    let held = rig.lease_one("w");
    let call = rig.report(held, completed());
    assert!(is_reported(rig.answer(call)));
    assert_eq!(rig.state(id), "completed");
    assert_eq!(rig.durable.n_rows_written, 1);
    assert_eq!(rig.durable.watermark, 1);
}

#[test]
fn a_task_whose_result_is_not_kept_costs_no_row() {
    let mut rig = Rig::new(
        config(),
        TaskOptions {
            retention: Some(Retention::None),
            ..TaskOptions::default()
        },
    );
    let id = rig.submit(TaskOptions::default());
    let held = rig.lease_one("w");
    let call = rig.report(held, completed());
    assert!(is_reported(rig.answer(call)));
    assert_eq!(rig.state(id), "gone");
    assert_eq!((rig.durable.n_rows_written, rig.durable.watermark), (0, 1));
    let again = rig.report(held, completed());
    assert!(
        is_reported(rig.answer(again)),
        "the same report gets the same answer"
    );
}

#[test]
fn nothing_is_shown_or_acknowledged_before_its_flush() {
    let mut rig = rig();
    let id = rig.submit(TaskOptions::default());
    let held = rig.lease_one("w");
    rig.holds_flushes = true;
    let call = rig.report(held, completed());
    let cancel = rig.call(Call::Cancel(id));
    let beat = rig.call(Call::Renew(vec![(held, false, None)]));
    assert_eq!(rig.answer(call), None);
    assert_eq!(
        rig.answer(cancel),
        None,
        "even a refusal would show the ending"
    );
    assert_eq!(lost(rig.answer(beat)), Some(LeaseLost::Stale));
    assert_eq!(rig.state(id), "running");
    rig.release_flushes();
    assert!(is_reported(rig.answer(call)));
    assert!(matches!(
        rig.answer(cancel),
        Some(Answer::Cancelled(Err(_)))
    ));
    assert_eq!(rig.state(id), "completed");
}

#[test]
fn the_next_grant_waits_for_the_flush_of_the_attempt_before() {
    let mut rig = Rig::new(config(), retries(3, Duration::ZERO));
    rig.submit(TaskOptions::default());
    let held = rig.lease_one("w");
    rig.holds_flushes = true;
    rig.report(held, failed("x"));
    rig.pass(SECOND);
    assert!(rig.lease("w", 1).is_empty());
    rig.release_flushes();
    let next = rig.lease_one("w");
    assert!(next.token > held.token);
}

#[test]
fn failures_back_off_and_end_as_a_dead_letter_with_all_errors() {
    let mut rig = Rig::new(config(), retries(3, SECOND));
    let id = rig.submit(TaskOptions::default());
    for (wait, code) in [(1, "first"), (2, "second"), (0, "third")] {
        let held = rig.lease_one("w");
        let call = rig.report(held, failed(code));
        assert!(is_reported(rig.answer(call)));
        assert!(rig.lease("w", 1).is_empty());
        rig.pass(SECOND * wait);
    }
    assert_eq!(rig.state(id), "discarded");
    let errors = &rig.durable.rows[&id.offset].errors;
    let codes: Vec<_> = errors
        .iter()
        .map(|error| error.failure.code.as_str())
        .collect();
    assert_eq!(codes, ["first", "second", "third"]);
}

#[test]
fn a_code_that_cannot_be_retried_ends_the_task_at_once() {
    let mut rig = Rig::new(
        config(),
        TaskOptions {
            non_retryable: Some(vec!["bad_input".try_into().unwrap()]),
            ..TaskOptions::default()
        },
    );
    let id = rig.submit(TaskOptions::default());
    let held = rig.lease_one("w");
    rig.report(held, failed("bad_input"));
    assert_eq!(rig.state(id), "discarded");
}

#[test]
fn an_expired_lease_makes_the_task_run_again_and_its_late_report_is_refused() {
    let mut rig = Rig::new(config(), retries(3, Duration::ZERO));
    let id = rig.submit(TaskOptions::default());
    let first = rig.lease_one("w1");
    rig.pass(Config::default().lease + SECOND);
    let second = rig.lease_one("w2");
    assert_eq!(second.id, id);
    let call = rig.report(first, completed());
    assert_eq!(lost(rig.answer(call)), Some(LeaseLost::Stale));
    assert_eq!(rig.state(id), "running");
}

#[test]
fn a_late_success_counts_if_nobody_else_has_the_task() {
    let mut rig = Rig::new(config(), retries(3, Duration::from_secs(60)));
    let id = rig.submit(TaskOptions::default());
    let held = rig.lease_one("w1");
    rig.pass(Config::default().lease + SECOND);
    assert_eq!(rig.state(id), "retryable");
    assert_eq!(rig.see(id), Seen::Left, "a long backoff is parked");
    let call = rig.report(held, completed());
    assert!(is_reported(rig.answer(call)));
    assert_eq!(rig.state(id), "completed");
    rig.pass(Duration::from_secs(100));
    assert!(rig.lease("w2", 1).is_empty(), "it does not run again");
}

#[test]
fn a_worker_that_was_silent_too_long_goes_on_if_nobody_else_has_the_task() {
    let mut rig = Rig::new(config(), retries(3, Duration::from_secs(600)));
    let id = rig.submit(TaskOptions::default());
    let held = rig.lease_one("w1");
    rig.pass(Config::default().lease + SECOND);
    assert_eq!(rig.state(id), "retryable");
    let beat = rig.call(Call::Renew(vec![(held, false, None)]));
    assert!(matches!(rig.answer(beat), Some(Answer::Renewed(Ok(_)))));
    assert_eq!(rig.state(id), "running");
    let mut rig = rig.crash();
    rig.poll_holding("w1", 0, vec![held]);
    rig.pass(SECOND * 15);
    assert_eq!(rig.state(id), "running");
    let call = rig.report(held, completed());
    assert!(is_reported(rig.answer(call)));
    assert_eq!(rig.durable.rows[&id.offset].attempt, 1);
}

#[test]
fn heartbeats_keep_a_lease_and_silence_of_the_handler_ends_it() {
    let mut rig = Rig::new(
        config(),
        TaskOptions {
            heartbeat_timeout: Some(Duration::from_secs(50)),
            ..TaskOptions::default()
        },
    );
    rig.submit(TaskOptions::default());
    let held = rig.lease_one("w");
    for _ in 0..3 {
        rig.pass(SECOND * 20);
        let beat = rig.call(Call::Renew(vec![(held, true, Some("7".into()))]));
        assert!(matches!(rig.answer(beat), Some(Answer::Renewed(Ok(_)))));
    }
    rig.pass(SECOND * 20);
    let beat = rig.call(Call::Renew(vec![(held, false, None)]));
    assert!(matches!(rig.answer(beat), Some(Answer::Renewed(Ok(_)))));
    rig.pass(SECOND * 29);
    let beat = rig.call(Call::Renew(vec![(held, false, None)]));
    assert!(matches!(rig.answer(beat), Some(Answer::Renewed(Ok(_)))));
    rig.pass(SECOND * 2);
    let late = rig.call(Call::Renew(vec![(held, true, None)]));
    assert_eq!(lost(rig.answer(late)), Some(LeaseLost::Stale));
}

#[test]
fn a_poll_learns_at_once_that_a_lease_it_names_is_lost() {
    let mut rig = rig();
    let id = rig.submit(TaskOptions::default());
    let held = rig.lease_one("w");
    let poll = rig.poll_holding("w", 0, vec![held]);
    assert_eq!(rig.answer(poll), None);
    let cancel = rig.call(Call::Cancel(id));
    assert_eq!(rig.answer(cancel), Some(&Answer::Cancelled(Ok(()))));
    let Some(Answer::Leased(Ok(leased))) = rig.answer(poll) else {
        panic!("the poll is answered");
    };
    assert_eq!(leased.lost, [(held, LeaseLost::Cancelled)]);
    assert_eq!(rig.state(id), "cancelled");
}

#[test]
fn what_a_dropped_poll_was_granted_is_given_back_without_an_attempt() {
    let mut rig = rig();
    rig.submit(TaskOptions::default());
    let tasks = rig.lease("w", 1);
    assert_eq!(tasks[0].attempt, 1);
    rig.event(Event::Ungranted(tasks));
    let again = rig.lease("w", 1);
    assert_eq!(again[0].attempt, 1);
}

#[test]
fn interrupts_and_snoozes_cost_no_attempt() {
    let mut rig = rig();
    rig.submit(TaskOptions::default());
    let first = rig.lease_one("w");
    rig.report(first, Outcome::Interrupted);
    let second = rig.lease_one("w");
    rig.report(second, Outcome::Snoozed(SECOND * 30));
    assert!(rig.lease("w", 1).is_empty());
    rig.pass(SECOND * 30);
    let third = rig.lease("w", 1);
    assert_eq!(third[0].attempt, 1);
    assert!(first.token < second.token && second.token < third[0].token);
}

#[test]
fn a_worker_is_told_of_a_cancel_only_when_it_is_durable() {
    let mut rig = rig();
    let id = rig.submit(TaskOptions::default());
    let held = rig.lease_one("w");
    let poll = rig.poll_holding("w", 0, vec![held]);
    rig.holds_flushes = true;
    rig.call(Call::Cancel(id));
    let beat = rig.call(Call::Renew(vec![(held, false, None)]));
    assert_eq!(rig.answer(poll), None);
    assert_eq!(lost(rig.answer(beat)), Some(LeaseLost::Stale));
    rig.release_flushes();
    assert!(rig.answer(poll).is_some());
}
