//! A store that cannot be reached.

use super::*;
use crate::{Slot, port::FailureKind};

fn all_slots() -> Vec<Slot> {
    (0..=255).map(Slot).collect()
}

/// One with a task that a worker has reported, which cannot be saved.
fn unsaved() -> (Rig, Held) {
    let mut rig = rig();
    rig.submit(TaskOptions::default());
    let held = rig.lease_one("w1");
    rig.fails_flushes = true;
    let report = rig.report(held, completed());
    rig.pass(SECOND * 4);
    assert_eq!(rig.answer(report), None);
    assert!(rig.member.is_ready(rig.now), "it may be over in a moment");
    (rig, held)
}

#[test]
fn one_that_cannot_save_is_not_ready_and_goes_on() {
    let (mut rig, held) = unsaved();
    rig.pass(SECOND * 4);
    assert!(!rig.member.is_ready(rig.now));
    rig.pass(SECOND * 90);
    let next = rig.submit(TaskOptions::default());
    assert_eq!(rig.lease_one("w2").id, next, "it still owns the shard");
    assert_eq!(rig.state(held.id), "running", "its end is not saved");
    rig.fails_flushes = false;
    rig.pass(SECOND * 3);
    assert!(rig.member.is_ready(rig.now));
    assert_eq!(rig.state(held.id), "completed");
    rig.pass(SECOND * 200);
    assert_eq!(rig.left, []);
}

#[test]
fn one_that_cannot_save_for_long_lets_go_and_leaves() {
    let (mut rig, held) = unsaved();
    let next = rig.submit(TaskOptions::default());
    rig.pass(SECOND * 120);
    assert_eq!(rig.left, [SHARD]);
    assert!(rig.lease("w2", 1).is_empty(), "another may own the shard");
    assert_eq!(rig.state(next), "nowhere");
    // It says so once, though the last flush is still tried, and claims that were on their way fail.
    rig.event(Event::Lost(all_slots()));
    for _ in 0..100 {
        rig.event(Event::StoreAsked(Err(FailureKind::Unavailable)));
        rig.pass(SECOND * 3);
    }
    assert_eq!(rig.left, [SHARD]);

    // The store is back, and so is the member: what it has left is as after a crash.
    rig.fails_flushes = false;
    rig.event(Event::Assigned(all_slots()));
    rig.pass(SECOND * 3);
    assert!(rig.member.is_ready(rig.now));
    let report = rig.report(held, completed());
    assert!(is_reported(rig.answer(report)));
    rig.pass(SECOND * 13);
    assert_eq!(rig.lease_one("w2").id, next);
}

#[test]
fn one_that_came_back_is_as_patient_as_before() {
    let (mut rig, _) = unsaved();
    rig.pass(SECOND * 120);
    rig.event(Event::Lost(all_slots()));
    rig.pass(SECOND * 100);
    rig.fails_claims = true;
    rig.event(Event::Assigned(all_slots()));
    rig.pass(SECOND * 100);
    assert_eq!(rig.left.len(), 1);
    assert!(!rig.member.is_ready(rig.now));
    rig.pass(SECOND * 40);
    assert_eq!(rig.left.len(), 2, "others may be able to claim");
}

#[test]
fn a_claim_that_fails_elsewhere_is_no_reason_to_leave() {
    let mut rig = rig();
    rig.fails_claims = true;
    rig.event(Event::Lost(all_slots()));
    rig.event(Event::Assigned(all_slots()));
    for _ in 0..100 {
        // The store takes the claim, and then the log cannot be read.
        rig.event(Event::StoreAsked(Ok(())));
        rig.pass(SECOND * 2);
    }
    assert_eq!(rig.left, []);
}

#[test]
fn one_that_wants_nothing_more_of_the_store_is_ready() {
    let mut rig = rig();
    rig.fails_claims = true;
    rig.event(Event::Lost(all_slots()));
    rig.event(Event::Assigned(all_slots()));
    rig.pass(SECOND * 10);
    assert!(!rig.member.is_ready(rig.now));
    // The shard that it could not claim goes to another.
    rig.event(Event::Lost(vec![SHARD.slot()]));
    assert!(rig.member.is_ready(rig.now));
}
