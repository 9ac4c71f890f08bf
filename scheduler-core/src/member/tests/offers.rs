//! Tasks that are only offered until their workers touch them.

use std::time::Duration;

use super::{
    super::{Call, Event},
    SECOND, is_reported, lost, retries,
    rig::{Rig, SHARD, completed, config, failed},
};
use crate::{
    Config, LeaseLost, Outcome, TaskOptions, action::Answer, call::Held, port::store::StoredState,
};

/// Long enough for an offer, and too short for a lease.
fn past_offer() -> Duration {
    Config::default().offer + SECOND
}

fn rig() -> Rig {
    Rig::new(config(), retries(3, Duration::ZERO))
}

fn renew(rig: &mut Rig, held: Held) -> Result<Duration, LeaseLost> {
    let call = rig.call(Call::Renew(vec![(held, true, None)]));
    match rig.answer(call) {
        Some(Answer::Renewed(Ok(lease))) => Ok(*lease),
        answer => Err(lost(answer).expect("it is lost, if it is not renewed")),
    }
}

fn report(rig: &mut Rig, held: Held, outcome: Outcome) -> Result<(), LeaseLost> {
    let call = rig.report(held, outcome);
    match rig.answer(call) {
        answer if is_reported(answer) => Ok(()),
        answer => Err(lost(answer).expect("it is lost, if it is not taken")),
    }
}

#[test]
fn a_lost_answer_costs_the_time_of_an_offer_and_no_attempt() {
    let mut rig = rig();
    let id = rig.submit(TaskOptions::default());
    let first = rig.offer("w1").remove(0);
    assert_eq!(first.lease, Config::default().offer);
    rig.pass(Config::default().offer - Duration::from_millis(1));
    assert!(rig.offer("w2").is_empty());
    assert_eq!(rig.state(id), "running");
    rig.pass(Duration::from_millis(1));
    let second = rig.offer("w2").remove(0);
    assert_eq!((second.id, second.attempt), (id, 1));
    assert!(second.token > first.token);
    let second = Held::from(&second);
    assert_eq!(report(&mut rig, second, failed("x")), Ok(()));
    let errors = &rig.durable.rows[&id.offset].errors;
    assert_eq!(errors.len(), 1, "the offer left no error: {errors:?}");
}

#[test]
fn the_first_touch_makes_an_offer_a_lease() {
    let lease = Config::default().lease;
    for touches_by_poll in [false, true] {
        let mut rig = rig();
        let id = rig.submit(TaskOptions::default());
        let held = Held::from(&rig.offer("w")[0]);
        rig.pass(SECOND * 4);
        if touches_by_poll {
            rig.poll_holding("w", 0, vec![held]);
        } else {
            assert_eq!(renew(&mut rig, held), Ok(lease));
        }
        rig.pass(lease - SECOND);
        assert_eq!(rig.state(id), "running");
        rig.pass(SECOND * 2);
        let again = rig.offer("w2").remove(0);
        assert_eq!((again.id, again.attempt), (id, 2), "it had begun");
    }
}

#[test]
fn a_late_sign_under_an_offer_counts_only_if_nobody_else_has_the_task() {
    let mut rig = rig();
    let [resumed, done, taken] = [(); 3].map(|()| rig.submit(TaskOptions::default()));
    let offers = [(); 3].map(|()| Held::from(&rig.offer("w1")[0]));
    assert_eq!(offers.map(|held| held.id), [resumed, done, taken]);
    rig.pass(past_offer());
    assert_eq!(renew(&mut rig, offers[0]), Ok(Config::default().lease));
    assert_eq!(report(&mut rig, offers[1], completed()), Ok(()));
    assert_eq!(rig.state(done), "completed");
    assert_eq!(rig.lease_one("w2").id, taken);
    assert_eq!(renew(&mut rig, offers[2]), Err(LeaseLost::Stale));
    assert_eq!(
        report(&mut rig, offers[2], completed()),
        Err(LeaseLost::Stale)
    );
    assert_eq!(report(&mut rig, offers[0], completed()), Ok(()));
    assert_eq!(rig.durable.rows[&resumed.offset].attempt, 1);
}

#[test]
fn other_late_reports_under_an_offer_that_ran_out_are_refused() {
    for outcome in [failed("x"), Outcome::Interrupted, Outcome::Snoozed(SECOND)] {
        let mut rig = rig();
        rig.submit(TaskOptions::default());
        let held = Held::from(&rig.offer("w")[0]);
        rig.pass(past_offer());
        assert_eq!(report(&mut rig, held, outcome), Err(LeaseLost::Stale));
    }
}

#[test]
fn a_task_that_kills_its_workers_before_they_touch_it_uses_up_its_attempts() {
    let mut rig = rig();
    let id = rig.submit(TaskOptions::default());
    let mut attempts = Vec::new();
    for _ in 0..200 {
        let tasks = rig.offer("w");
        attempts.extend(tasks.iter().map(|task| task.attempt));
        rig.pass(past_offer());
    }
    assert_eq!(rig.state(id), "discarded");
    attempts.dedup();
    assert_eq!(attempts, [1, 2, 3]);
}

#[test]
fn an_offer_survives_a_crash_and_a_move_as_a_lease_does() {
    for crashes in [false, true] {
        let mut rig = rig();
        let id = rig.submit(TaskOptions::default());
        let held = Held::from(&rig.offer("w")[0]);
        if !crashes {
            rig.event(Event::Stop);
            rig.pass(SECOND);
            let row = &rig.durable.rows[&id.offset];
            assert!(matches!(row.state, StoredState::Running { .. }));
        }
        let mut rig = rig.crash();
        rig.poll_holding("w", 0, vec![held]);
        rig.pass(Config::default().lease - SECOND);
        assert_eq!(rig.state(id), "running");
        assert_eq!(report(&mut rig, held, completed()), Ok(()));
        assert_eq!(rig.durable.rows[&id.offset].attempt, 1);
    }
}

#[test]
fn tokens_grow_and_old_ones_are_refused_through_all_that_ends_a_lease() {
    let mut rig = rig();
    let id = rig.submit(TaskOptions::default());
    let mut tokens = Vec::new();
    let take = |rig: &mut Rig, tokens: &mut Vec<Held>| {
        let task = rig.offer("w").remove(0);
        assert_eq!((task.id, task.attempt), (id, 1));
        let held = Held::from(&task);
        for old in tokens.iter() {
            assert!(old.token < held.token);
            assert_eq!(renew(rig, *old), Err(LeaseLost::Stale));
            assert_eq!(report(rig, *old, completed()), Err(LeaseLost::Stale));
            assert_eq!(report(rig, *old, failed("x")), Err(LeaseLost::Stale));
        }
        tokens.push(held);
        held
    };
    take(&mut rig, &mut tokens);
    rig.pass(past_offer());

    let held = take(&mut rig, &mut tokens);
    assert_eq!(report(&mut rig, held, Outcome::Interrupted), Ok(()));

    let held = take(&mut rig, &mut tokens);
    let snoozed = Outcome::Snoozed(SECOND * 30);
    assert_eq!(report(&mut rig, held, snoozed), Ok(()));
    rig.pass(SECOND * 30);

    let held = take(&mut rig, &mut tokens);
    let slot = SHARD.slot();
    rig.event(Event::Revoking(vec![slot]));
    rig.pass(SECOND);
    assert_eq!(rig.given_up, [slot]);
    rig.event(Event::Assigned(vec![slot]));
    assert_eq!(report(&mut rig, held, Outcome::Interrupted), Ok(()));

    let held = take(&mut rig, &mut tokens);
    let mut rig = rig.crash();
    assert_eq!(renew(&mut rig, held), Ok(Config::default().lease));
    assert_eq!(report(&mut rig, held, Outcome::Interrupted), Ok(()));
    rig.pass(config().adoption_window);

    let held = take(&mut rig, &mut tokens);
    assert_eq!(report(&mut rig, held, completed()), Ok(()));
    assert_eq!((tokens.len(), rig.state(id).as_str()), (6, "completed"));
}
