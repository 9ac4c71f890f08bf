//! Owners that come, go and are deposed.

use std::collections::BTreeSet;

use super::{super::Member, *};
use crate::port::store::Flushed;

#[test]
fn leases_survive_a_crash_if_their_workers_say_so() {
    let mut rig = rig();
    for _ in 0..3 {
        rig.submit(TaskOptions::default());
    }
    let kept = rig.lease_one("w1");
    let reported = rig.lease_one("w2");
    let dead = rig.lease_one("w3");
    let mut rig = rig.crash();
    let fresh = rig.submit(TaskOptions::default());
    assert_eq!(
        rig.lease_one("w4").id,
        fresh,
        "tasks newer than the claim go out at once"
    );
    rig.poll_holding("w1", 0, vec![kept]);
    let call = rig.report(reported, completed());
    assert!(is_reported(rig.answer(call)));
    rig.pass(SECOND * 13);
    let again = rig.lease_one("w4");
    assert_eq!(again.id, dead.id, "only what nobody claimed runs again");
    assert!(again.token > dead.token);
    let call = rig.report(kept, completed());
    assert!(is_reported(rig.answer(call)));
}

#[test]
fn a_lease_that_nobody_knows_of_outlives_the_end_of_an_older_one() {
    let mut rig = rig();
    let id = rig.submit(TaskOptions::default());
    let older = rig.lease_one("w1");
    // It runs out, which is saved; of the lease that follows nothing is.
    rig.pass(SECOND * 40);
    let newer = rig.lease_one("w2");
    let mut rig = rig.crash();
    rig.poll_holding("w1", 0, vec![older]);
    let call = rig.report(older, failed("late"));
    assert!(is_reported(rig.answer(call)));
    rig.pass(SECOND * 5);
    assert!(rig.lease("w3", 1).is_empty(), "w2 may have it still");
    let call = rig.report(newer, completed());
    assert!(is_reported(rig.answer(call)));
    assert_eq!(rig.state(id), "completed");
}

#[test]
fn a_clean_stop_hands_everything_over_and_nothing_waits() {
    let mut rig = rig();
    rig.submit(TaskOptions::default());
    let waiting = rig.submit(TaskOptions::default());
    let held = rig.lease_one("w");
    rig.event(Event::Stop);
    rig.pass(SECOND);
    assert!(rig.has_stopped);
    let mut rig = rig.crash();
    assert_eq!(rig.lease_one("w2").id, waiting, "no adoption window");
    let call = rig.report(held, completed());
    assert!(is_reported(rig.answer(call)));
}

#[test]
fn a_member_without_a_proof_grants_shows_and_expires_nothing() {
    let mut rig = rig();
    rig.submit(TaskOptions::default());
    let held = rig.lease_one("w");
    rig.now = rig.now + Duration::from_secs(100);
    rig.submit(TaskOptions::default());
    assert!(rig.lease("w", 1).is_empty());
    // Another owner may have shown more by now; the store knows.
    assert_eq!(rig.state(held.id), "nowhere");
    let shown_here = rig.member.shards[&SHARD].see(held.id.offset);
    assert!(
        matches!(shown_here, Seen::Here { task, .. } if task.state.name().as_str() == "running")
    );
}

#[test]
fn a_member_without_a_proof_judges_no_lease() {
    let mut rig = rig();
    rig.submit(TaskOptions::default());
    let held = rig.lease_one("w");
    // The owner after this one granted it anew, or adopted it: this one cannot know.
    let newer = Held {
        token: crate::LeaseToken::before_first(crate::Epoch(9)),
        ..held
    };
    rig.now = rig.now + Duration::from_secs(5);
    let poll = rig.poll_holding("w", 0, vec![newer]);
    assert_eq!(rig.answer(poll), None, "it is not told to be lost");
    for held in [held, newer] {
        let call = rig.call(Call::Renew(vec![(held, true, None)]));
        let moved = Answer::Renewed(Err(Error::moved()));
        assert_eq!(rig.answer(call), Some(&moved));
    }
    let call = rig.report(newer, completed());
    let moved = Answer::Reported(Err(Error::moved()));
    assert_eq!(rig.answer(call), Some(&moved));
    let call = rig.report(held, completed());
    assert!(is_reported(rig.answer(call)), "a flush proves enough");
}

#[test]
fn a_member_without_a_proof_does_not_tell_what_another_owner_has_saved() {
    let mut rig = rig();
    rig.submit(TaskOptions::default());
    let held = rig.lease_one("w");
    rig.report(held, completed());
    // The next owner remembers no report, so it looks into the store.
    let mut rig = rig.crash();
    let call = rig.report(held, completed());
    assert!(is_reported(rig.answer(call)));
    // Now the store may be ahead of the owner, who does not know yet that it is saved.
    rig.now = rig.now + SECOND * 5;
    let call = rig.report(held, completed());
    let error = match rig.answer(call) {
        Some(Answer::Reported(Err(error))) => error,
        answer => panic!("{answer:?}"),
    };
    assert!(error.retry_after().is_some(), "it is asked again: {error}");
}

#[test]
fn a_claim_from_before_a_loss_counts_for_nothing() {
    let now = crate::Timestamp::from_millis(1_000_000);
    let mut member = member_with(config(), 1, now);
    let slot = SHARD.slot();
    assert_eq!(claims(&mut member, Event::Assigned(vec![slot]), now), [[0]]);
    let mut durable = rig::Durable::default();
    let early = Event::Claimed(durable.claim(), durable.bounds());
    // Meanwhile the slot goes to another owner, which claims and writes, and comes back.
    claims(&mut member, Event::Lost(vec![slot]), now);
    durable.claim();
    let again = claims(&mut member, Event::Assigned(vec![slot]), now);
    assert!(again.is_empty(), "one claim at a time");
    assert_eq!(claims(&mut member, early, now), [[0]], "claimed anew");
    assert!(member.shards.is_empty());
    let claimed = Event::Claimed(durable.claim(), durable.bounds());
    claims(&mut member, claimed, now);
    assert_eq!(member.shards[&SHARD].epoch(), crate::Epoch(3));
}

#[test]
fn a_member_without_a_proof_claims_nothing() {
    let mut now = crate::Timestamp::from_millis(1_000_000);
    let mut member = member_with(config(), 1, now);
    let slots = vec![SHARD.slot()];
    assert_eq!(claims(&mut member, Event::Assigned(slots), now), [[0]]);
    now = now + SECOND * 5;
    let mut durable = rig::Durable::default();
    let late = Event::Claimed(durable.claim(), durable.bounds());
    let again = claims(&mut member, late, now);
    assert!(again.is_empty(), "the slot may be another's by now");
    assert!(member.shards.is_empty(), "so may the shard");
    let idle = member.wake_at(now).is_none_or(|at| at > now);
    assert!(idle, "only a proof helps");
    assert_eq!(claims(&mut member, Event::Proven(now), now), [[0]]);
}

#[test]
fn a_shard_that_cannot_be_read_from_one_place_is_refused_after_some_claims() {
    let mut now = crate::Timestamp::from_millis(1_000_000);
    let mut member = member_with(config(), 1, now);
    let mut durable = rig::Durable::default();
    claims(&mut member, Event::Assigned(vec![SHARD.slot()]), now);
    for n_lost in 1..=3 {
        let claimed = Event::Claimed(durable.claim(), durable.bounds());
        claims(&mut member, claimed, now);
        assert_eq!(member.shards.len(), 1);
        let lost = Event::LogLost(SHARD, Offset::ZERO, "a broken batch".to_owned());
        claims(&mut member, lost, now);
        now = now + SECOND * 2;
        let claimed_again = claims(&mut member, Event::Proven(now), now);
        assert_eq!(claimed_again.is_empty(), n_lost == 3);
    }
    let (_, why) = member.refused().next().unwrap();
    assert!(why.contains("offset 0: a broken batch"), "{why}");
}

#[test]
fn a_log_that_was_shortened_is_refused() {
    let mut rig = rig();
    for _ in 0..10 {
        rig.submit(TaskOptions::default());
        let held = rig.lease_one("w");
        rig.report(held, completed());
    }
    rig.durable.records.truncate(5);
    let rig = rig.crash();
    assert_eq!(rig.refusals.len(), 1);
    assert!(rig.member.shards.is_empty());
}

#[test]
fn a_slot_that_is_gone_is_not_claimed_again() {
    let mut rig = rig();
    let epoch = rig.durable.epoch;
    let slot = SHARD.slot();
    for event in [Event::Lost(vec![slot]), Event::Revoking(vec![slot])] {
        rig.event(Event::Lost(vec![slot]));
        rig.fails_claims = true;
        rig.event(Event::Assigned(vec![slot]));
        let call = rig.call(Call::Cancel(crate::TaskId {
            shard: SHARD,
            offset: Offset(0),
        }));
        rig.event(event);
        assert!(rig.answer(call).is_some(), "nobody waits for the shard");
        rig.fails_claims = false;
        rig.pass(SECOND * 10);
        assert_eq!(
            rig.durable.epoch, epoch,
            "a claim would fence its new owner"
        );
    }
    assert_eq!(rig.given_up, [slot]);
}

#[test]
fn a_slot_that_comes_back_while_it_is_given_up_is_kept() {
    let mut rig = rig();
    rig.submit(TaskOptions::default());
    let held = rig.lease_one("w");
    rig.holds_flushes = true;
    let slot = SHARD.slot();
    rig.event(Event::Revoking(vec![slot]));
    rig.event(Event::Assigned(vec![slot]));
    rig.release_flushes();
    rig.pass(SECOND);
    assert_eq!(rig.given_up, []);
    let call = rig.report(held, completed());
    assert!(is_reported(rig.answer(call)));
}

#[test]
fn a_claim_that_nobody_wants_any_more_leaves_no_call_waiting() {
    let mut rig = rig();
    let slot = SHARD.slot();
    rig.event(Event::Lost(vec![slot]));
    let mut out = Vec::new();
    let now = rig.now;
    rig.member
        .handle(Event::Assigned(vec![slot]), now, &mut out);
    let call = crate::action::CallId(77);
    let cancel = Call::Cancel(crate::TaskId {
        shard: SHARD,
        offset: Offset(0),
    });
    rig.member.handle(Event::Call(call, cancel), now, &mut out);
    rig.member
        .handle(Event::Pipelines(Vec::new()), now, &mut out);
    let is_answer = |action: &Action| matches!(action, Action::Answer(id, ..) if *id == call);
    assert!(out.iter().any(is_answer));
}

#[test]
fn a_page_that_an_earlier_epoch_asked_for_is_ignored() {
    let mut rig = rig();
    let run_at = Some(rig.now + SECOND * 60);
    rig.submit(TaskOptions {
        run_at,
        ..TaskOptions::default()
    });
    rig.pass(SECOND * 2);
    rig.holds_reads = true;
    rig.pass(SECOND * 60);
    let outdated = std::mem::take(&mut rig.reads);
    assert_eq!(outdated.len(), 1);
    // Someone else owned the shard for a while and did the task.
    let slot = SHARD.slot();
    rig.event(Event::Lost(vec![slot]));
    rig.durable.end(Offset(0));
    rig.event(Event::Assigned(vec![slot]));
    for read in outdated {
        rig.event(read);
    }
    rig.pass(SECOND * 20);
    assert!(rig.lease("w", 1).is_empty(), "it has ended");
}

#[test]
fn the_lease_of_a_task_that_was_delayed_survives_a_crash() {
    let mut rig = rig();
    let run_at = Some(rig.now + SECOND * 60);
    let id = rig.submit(TaskOptions {
        run_at,
        ..TaskOptions::default()
    });
    rig.pass(SECOND * 61);
    // The store still says that the task is scheduled.
    let held = rig.lease_one("w1");
    let mut rig = rig.crash();
    let poll = rig.poll_holding("w1", 0, vec![held]);
    rig.pass(SECOND * 15);
    assert_eq!(rig.answer(poll), None);
    assert!(rig.lease("w2", 1).is_empty(), "it runs still");
    let call = rig.report(held, completed());
    assert!(is_reported(rig.answer(call)));
    assert_eq!(rig.state(id), "completed");
}

#[test]
fn a_lease_is_adopted_while_its_task_is_being_saved() {
    let mut rig = Rig::new(
        Config {
            straggler_after: 1,
            ..config()
        },
        TaskOptions::default(),
    );
    let first = rig.submit(TaskOptions::default());
    let held = rig.lease_one("w1");
    let mut rig = rig.crash();
    let second = rig.submit(TaskOptions::default());
    rig.holds_flushes = true;
    rig.call(Call::Cancel(second));
    let rows = rig.held.iter().flat_map(|(_, parts)| parts[0].tasks.iter());
    assert_eq!(rows.count(), 2, "the first is saved as a straggler");
    let call = rig.report(held, completed());
    rig.release_flushes();
    assert!(is_reported(rig.answer(call)));
    assert_eq!(rig.state(first), "completed");
}

#[test]
fn a_stop_within_the_adoption_window_cuts_it_short_for_nobody() {
    let mut rig = rig();
    let id = rig.submit(TaskOptions::default());
    let held = rig.lease_one("w1");
    let mut rig = rig.crash();
    rig.pass(SECOND * 2);
    rig.event(Event::Stop);
    rig.pass(SECOND);
    assert!(rig.has_stopped);
    let mut rig = rig.crash();
    assert!(rig.lease("w2", 1).is_empty(), "w1 may have it still");
    let call = rig.report(held, completed());
    assert!(is_reported(rig.answer(call)));
    assert_eq!(rig.state(id), "completed");
}

/// A member with a pipeline of many partitions, whose actions the test carries out itself.
fn member_with(config: Config, n_partitions: u16, now: crate::Timestamp) -> Member {
    let pipeline = crate::Pipeline {
        number: SHARD.pipeline,
        path: crate::path("default", "app", "pipe").unwrap(),
        revision: crate::Revision(1),
        spec: crate::PipelineSpec {
            steps: [].into(),
            defaults: TaskOptions::default(),
            n_partitions,
            ..crate::PipelineSpec::default()
        },
        mode: crate::Mode::Active,
        created_at: now,
    };
    let mut member = Member::new(std::sync::Arc::new(config));
    let mut out = Vec::new();
    member.handle(Event::Proven(now), now, &mut out);
    member.handle(Event::Pipelines(vec![pipeline.into()]), now, &mut out);
    member
}

fn claims(member: &mut Member, event: Event, now: crate::Timestamp) -> Vec<Vec<u16>> {
    let mut out = Vec::new();
    member.handle(event, now, &mut out);
    member.settle(now, &mut out);
    let claims = out.into_iter().filter_map(|action| match action {
        Action::Claim(ids) => Some(ids.iter().map(|id| id.partition.0).collect()),
        _ => None,
    });
    claims.collect()
}

#[test]
fn a_shard_that_cannot_be_claimed_holds_up_no_other() {
    let mut now = crate::Timestamp::from_millis(1_000_000);
    let mut member = member_with(config(), 3, now);
    let slots = (0..=255).map(crate::Slot).collect();
    let mut asked = claims(&mut member, Event::Assigned(slots), now);
    assert_eq!(asked, [[0, 1, 2]]);
    for _ in 0..2 {
        for partition in 0..3 {
            let shard = crate::ShardId {
                partition: crate::Partition(partition),
                ..SHARD
            };
            let kind = crate::port::FailureKind::Damaged;
            claims(&mut member, Event::ClaimFailed(shard, kind), now);
        }
        now = now + SECOND * 2;
        asked = claims(&mut member, Event::Proven(now), now);
    }
    assert_eq!(asked, [[0], [1], [2]], "each alone");
    let kind = crate::port::FailureKind::Damaged;
    claims(&mut member, Event::ClaimFailed(SHARD, kind), now);
    now = now + SECOND * 100;
    let again = claims(&mut member, Event::Proven(now), now);
    assert!(again.is_empty(), "damage is for people to look at");
    assert_eq!(member.refused().count(), 1);
}

#[test]
fn full_shards_leave_room_for_the_others() {
    let now = crate::Timestamp::from_millis(1_000_000);
    let config = Config {
        payload_bytes_max: 1_000,
        window_bytes_max: 8_000,
        member_bytes_max: 8_000,
        ..config()
    };
    let mut member = member_with(config, 2, now);
    let mut out = Vec::new();
    let slots = (0..=255).map(crate::Slot).collect();
    member.handle(Event::Assigned(slots), now, &mut out);
    for partition in 0..2 {
        let shard = crate::ShardId {
            partition: crate::Partition(partition),
            ..SHARD
        };
        let mut durable = rig::Durable::default();
        let claimed = crate::port::store::Claimed {
            shard,
            ..durable.claim()
        };
        let event = Event::Claimed(claimed, durable.bounds());
        member.handle(event, now, &mut out);
    }
    member.settle(now, &mut out);
    let records = (0..10).map(|offset| crate::port::log::Record {
        offset: Offset(offset),
        accepted_at: now,
        body: crate::port::log::RecordBody::Task(NewTask {
            data: vec![b' '; 1_000].into(),
            options: None,
            traceparent: None,
        }),
    });
    let fetched = crate::port::log::Fetched {
        shard: SHARD,
        records: records.collect(),
        next: Offset(10),
    };
    member.handle(Event::Fetched(vec![(Offset::ZERO, fetched)]), now, &mut out);
    member.settle(now, &mut out);
    let wanted = member.wanted();
    assert_eq!(wanted.len(), 1);
    assert_eq!(wanted[0].shard.partition, crate::Partition(1));
    assert_eq!(wanted[0].bytes_max, 500, "its share of what is reserved");
}

#[test]
fn a_shard_that_cannot_be_saved_is_refused_and_the_others_are_saved() {
    let now = crate::Timestamp::from_millis(1_000_000);
    let config = Config {
        n_lanes: 1,
        ..config()
    };
    let mut member = member_with(config, 5, now);
    let mut out = Vec::new();
    let slots = (0..=255).map(crate::Slot).collect();
    member.handle(Event::Assigned(slots), now, &mut out);
    let shards: Vec<_> = super::super::shards_of(&member.pipelines[&SHARD.pipeline]).collect();
    for shard in &shards {
        let mut durable = rig::Durable::default();
        let claimed = crate::port::store::Claimed {
            shard: *shard,
            ..durable.claim()
        };
        let claimed = Event::Claimed(claimed, durable.bounds());
        member.handle(claimed, now, &mut out);
        let fetched = crate::port::log::Fetched {
            shard: *shard,
            records: vec![crate::port::log::Record {
                offset: Offset::ZERO,
                accepted_at: now,
                body: crate::port::log::RecordBody::Malformed {
                    reason: "no JSON".to_owned(),
                    head: "x".into(),
                },
            }],
            next: Offset(1),
        };
        member.handle(Event::Fetched(vec![(Offset::ZERO, fetched)]), now, &mut out);
    }
    let poison = shards[3];
    let (mut saved, mut n_flushes) = (BTreeSet::new(), 0);
    let mut now = now;
    for _ in 0..20 {
        now = now + SECOND;
        member.settle(now, &mut out);
        for action in std::mem::take(&mut out) {
            let Action::Flush(lane, parts) = action else {
                continue;
            };
            n_flushes += 1;
            let answer = if parts.iter().any(|part| part.shard == poison) {
                Err(crate::port::FailureKind::Damaged)
            } else {
                saved.extend(parts.iter().map(|part| part.shard));
                Ok(vec![Flushed::Saved; parts.len()])
            };
            member.handle(Event::Flushed(lane, answer), now, &mut out);
        }
    }
    let others = shards.iter().copied().filter(|shard| *shard != poison);
    assert_eq!(saved, others.collect());
    let refused: Vec<_> = member.refused().map(|(id, _)| id).collect();
    assert_eq!(refused, [poison]);
    assert!(n_flushes <= 8, "found by halves, in {n_flushes} flushes");
}
