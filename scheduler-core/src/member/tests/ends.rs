//! How tasks end beside their results: deadlines, last attempts, outages, and the way back from there.

use std::time::Duration;

use super::{
    SECOND,
    rig::{Rig, completed, config, failed},
};
use crate::{
    Error, Outcome, TaskId, TaskOptions,
    action::Answer,
    call::Held,
    explain::Blocker,
    member::Call,
    port::store::StoredTask,
    task::retry::{Jitter, RetryPolicy},
};

fn attempts(max_attempts: u32) -> TaskOptions {
    TaskOptions {
        retry: Some(RetryPolicy {
            max_attempts,
            initial: SECOND,
            factor: 1.0,
            max: SECOND,
            jitter: Jitter::None,
        }),
        ..TaskOptions::default()
    }
}

fn rig(max_attempts: u32) -> Rig {
    Rig::new(config(), attempts(max_attempts))
}

fn row(rig: &Rig, id: TaskId) -> &StoredTask {
    &rig.durable.rows[&id.offset]
}

fn last_code(rig: &Rig, id: TaskId) -> String {
    let error = row(rig, id).errors.last().unwrap();
    error.failure.code.to_string()
}

fn lease_and_report(rig: &mut Rig, outcome: &Outcome) -> usize {
    let tasks = rig.lease("w", 100);
    for task in &tasks {
        let (id, token) = (task.id, task.token);
        rig.report(Held { id, token }, outcome.clone());
    }
    tasks.len()
}

#[test]
fn a_task_that_has_not_started_in_time_is_discarded_wherever_it_waits() {
    let mut rig = rig(3);
    let expires = |rig: &Rig, seconds| TaskOptions {
        expires_at: Some(rig.now + SECOND * seconds),
        ..TaskOptions::default()
    };
    let waiting = expires(&rig, 60);
    let waiting = rig.submit(waiting);
    let started = expires(&rig, 59);
    let started = rig.submit(started);
    let held = rig.lease("w", 2).remove(1);
    assert_eq!(held.id, started);
    let held = Held {
        id: held.id,
        token: held.token,
    };
    // The first one was granted and is given back, so it has started, too.
    rig.pass(SECOND * 20);
    rig.call(Call::Renew(vec![(held, true, None)]));
    let late = expires(&rig, 10);
    let late = rig.submit(late);
    rig.pass(SECOND * 11);
    assert_eq!(rig.state(late), "discarded");
    assert_eq!(last_code(&rig, late), "expired");
    for _ in 0..4 {
        rig.pass(SECOND * 10);
        rig.call(Call::Renew(vec![(held, true, None)]));
    }
    assert_eq!(
        rig.state(started),
        "running",
        "one that has started goes on"
    );
    assert_ne!(
        rig.state(waiting),
        "discarded",
        "and so does one whose lease expired"
    );
}

#[test]
fn a_total_timeout_counts_over_all_attempts_from_the_first_one() {
    let mut rig = rig(100);
    let id = rig.submit(TaskOptions {
        total_timeout: Some(SECOND * 10),
        ..TaskOptions::default()
    });
    rig.pass(SECOND * 30);
    for _ in 0..5 {
        let held = rig.lease_one("w");
        rig.report(held, failed("x"));
        rig.pass(SECOND);
    }
    let held = rig.lease_one("w");
    rig.pass(SECOND * 5);
    assert_eq!(rig.state(id), "discarded");
    assert_eq!(last_code(&rig, id), "total_timeout");
    let late = rig.report(held, completed());
    assert!(matches!(
        rig.answer(late),
        Some(Answer::Reported(Err(Error::LeaseLost(_))))
    ));
}

#[test]
fn a_task_on_its_last_attempt_is_handed_out_alone() {
    let mut rig = rig(2);
    let poison = rig.submit(TaskOptions::default());
    let held = rig.lease_one("w");
    rig.report(held, failed("x"));
    rig.pass(SECOND);
    let mates: Vec<_> = (0..3).map(|_| rig.submit(TaskOptions::default())).collect();
    rig.pass(SECOND);
    let ids = |rig: &mut Rig| -> Vec<_> {
        let tasks = rig.lease("w", 9);
        tasks.iter().map(|task| task.id).collect()
    };
    assert_eq!(ids(&mut rig), [poison]);
    assert_eq!(ids(&mut rig), mates);
}

#[test]
fn an_outage_fills_no_dead_letters_and_ends_by_itself() {
    let mut rig = rig(2);
    let ids: Vec<_> = (0..100)
        .map(|_| rig.submit(TaskOptions::default()))
        .collect();
    let n_attempts: usize = (0..600)
        .map(|_| {
            rig.pass(SECOND);
            lease_and_report(&mut rig, &failed("down"))
        })
        .sum();
    let n_discarded = |rig: &mut Rig| {
        ids.iter()
            .filter(|id| rig.state(**id) == "discarded")
            .count()
    };
    assert_eq!(n_discarded(&mut rig), 10, "as many as there are credits");
    // 100 first attempts, 10 discards, and a probe each minute.
    assert!(n_attempts < 240, "{n_attempts} attempts");
    let waits = ids
        .iter()
        .find_map(|id| match rig.member.explain(*id, rig.now)?.blocker {
            Blocker::Failing { code, .. } => Some(code),
            _ => None,
        });
    assert_eq!(waits.as_deref(), Some("down"));
    for _ in 0..200 {
        rig.pass(SECOND);
        lease_and_report(&mut rig, &completed());
    }
    assert_eq!(n_discarded(&mut rig), 10);
    let n_completed = ids
        .iter()
        .filter(|id| rig.state(**id) == "completed")
        .count();
    assert_eq!(n_completed, 90);
}

#[test]
fn poison_among_good_tasks_is_discarded_however_much_it_is() {
    let mut rig = rig(2);
    let mut n_discarded = 0;
    for _ in 0..50 {
        let bad = rig.submit(TaskOptions::default());
        let good = rig.submit(TaskOptions::default());
        for _ in 0..4 {
            for task in rig.lease("w", 9) {
                let (id, token) = (task.id, task.token);
                let outcome = if id == bad { failed("x") } else { completed() };
                rig.report(Held { id, token }, outcome);
            }
            rig.pass(SECOND);
        }
        n_discarded += usize::from(rig.state(bad) == "discarded");
        assert_eq!(rig.state(good), "completed");
    }
    assert_eq!(n_discarded, 50);
}

#[test]
fn a_redriven_task_has_all_its_attempts_and_newer_tokens() {
    let mut rig = rig(2);
    let id = rig.submit(TaskOptions::default());
    let mut tokens = Vec::new();
    for _ in 0..2 {
        let held = rig.lease_one("w");
        tokens.push(held.token);
        rig.report(held, failed("x"));
        rig.pass(SECOND);
    }
    assert_eq!(rig.state(id), "discarded");
    rig.holds_flushes = true;
    let call = rig.call(Call::Redrive(id));
    assert_eq!(rig.answer(call), None, "it is not durable");
    assert!(rig.lease("w", 1).is_empty());
    rig.release_flushes();
    assert_eq!(rig.answer(call), Some(&Answer::Redriven(Ok(()))));
    let tasks = rig.lease("w", 1);
    assert_eq!((tasks[0].id, tasks[0].attempt), (id, 1));
    assert!(tasks[0].token > tokens[1]);
    for token in tokens {
        let stale = rig.report(Held { id, token }, completed());
        assert!(matches!(
            rig.answer(stale),
            Some(Answer::Reported(Err(Error::LeaseLost(_))))
        ));
    }
    let token = tasks[0].token;
    rig.report(Held { id, token }, completed());
    assert_eq!(rig.state(id), "completed");
    let again = rig.call(Call::Redrive(id));
    assert!(matches!(
        rig.answer(again),
        Some(Answer::Redriven(Err(Error::WrongState(_))))
    ));
}

#[test]
fn a_malformed_record_is_not_redriven() {
    let mut rig = rig(2);
    let id = rig.submit_malformed();
    rig.pass(SECOND * 2);
    let call = rig.call(Call::Redrive(id));
    assert!(matches!(
        rig.answer(call),
        Some(Answer::Redriven(Err(Error::WrongState(_))))
    ));
    assert_eq!(rig.state(id), "discarded");
    rig.pass(Duration::from_secs(30));
    assert!(rig.lease("w", 9).is_empty());
}

#[test]
fn a_deadline_spends_no_credit_and_a_late_success_ends_the_probing() {
    let retry = RetryPolicy {
        max_attempts: 2,
        initial: SECOND,
        factor: 1.0,
        max: SECOND,
        jitter: Jitter::None,
    };
    let mut rig = Rig::new(
        config(),
        TaskOptions {
            retry: Some(retry),
            ..TaskOptions::default()
        },
    );
    for _ in 0..30 {
        // Its second attempt would come too late.
        let id = rig.submit(TaskOptions {
            total_timeout: Some(SECOND / 2),
            ..TaskOptions::default()
        });
        let held = rig.lease_one("w");
        rig.report(held, failed("x"));
        assert_eq!(rig.state(id), "discarded");
    }
    let ids: Vec<_> = (0..11)
        .map(|_| rig.submit(TaskOptions::default()))
        .collect();
    for _ in 0..40 {
        rig.pass(SECOND);
        lease_and_report(&mut rig, &failed("down"));
    }
    let n_discarded = ids
        .iter()
        .filter(|id| rig.state(**id) == "discarded")
        .count();
    assert_eq!(n_discarded, 10, "all the credits were left");
    // Its worker is silent for longer than the lease, and done in the end.
    let silent = loop {
        rig.pass(SECOND);
        if let Some(task) = rig.lease("w", 1).pop() {
            break task;
        }
    };
    rig.pass(SECOND * 31);
    let (id, token) = (silent.id, silent.token);
    rig.report(Held { id, token }, completed());
    assert_eq!(rig.state(id), "completed");
    let more: Vec<_> = (0..3).map(|_| rig.submit(TaskOptions::default())).collect();
    let leased = rig.lease("w", 9);
    assert_eq!(leased.len(), more.len(), "no longer one at a time");
}

/// All credits are used up, and so a worker has the one task that is tried.
fn probe(rig: &mut Rig) -> Held {
    for _ in 0..11 {
        rig.submit(TaskOptions::default());
    }
    lease_and_report(rig, &failed("down"));
    rig.pass(SECOND * 2);
    rig.lease_one("w")
}

#[test]
fn an_attempt_that_was_not_counted_goes_on_as_the_first() {
    let mut rig = rig(1);
    let held = probe(&mut rig);
    // The lease expires, which counts for nothing now, and then its worker speaks up.
    rig.pass(SECOND * 31);
    assert_ne!(rig.state(held.id), "running");
    let beat = rig.call(Call::Renew(vec![(held, true, None)]));
    assert!(matches!(rig.answer(beat), Some(Answer::Renewed(Ok(_)))));
    rig.report(held, completed());
    let row = row(&rig, held.id);
    assert_eq!((row.state.name().as_str(), row.attempt), ("completed", 1));
}

#[test]
fn a_probe_that_takes_long_holds_up_nobody() {
    let mut rig = rig(1);
    let held = probe(&mut rig);
    let waits = rig.submit(TaskOptions::default());
    for _ in 0..4 {
        rig.pass(SECOND * 7);
        assert!(rig.lease("w", 1).is_empty(), "one at a time");
        rig.call(Call::Renew(vec![(held, true, None)]));
    }
    rig.pass(SECOND * 7);
    assert_eq!(rig.lease_one("w").id, waits);
    assert_eq!(rig.state(held.id), "running");
}
