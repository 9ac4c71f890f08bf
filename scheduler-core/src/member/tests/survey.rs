//! What a shard notes of its past is what tasks showed, and ends only once they are durable.

use std::{collections::BTreeMap, time::Duration};

use super::{
    SECOND, retries,
    rig::{Rig, SHARD, completed, config, failed},
};
use crate::{
    Offset, Outcome, ShardId, StateName, TaskId, TaskOptions,
    action::Answer,
    member::{Call, Event},
    port::store::StoredState,
    survey::{Ask, Heard, ShardSurvey},
};

fn asked(changes: Option<BTreeMap<ShardId, Heard>>) -> Ask {
    Ask {
        shards: vec![SHARD],
        workers: Some(SHARD.pipeline),
        changes,
    }
}

fn survey(rig: &mut Rig, changes: Option<BTreeMap<ShardId, Heard>>) -> Option<ShardSurvey> {
    let call = rig.call(Call::Survey(asked(changes)));
    match rig.answer(call) {
        Some(Answer::Surveyed(survey)) => survey.shards.first().cloned(),
        other => panic!("a look is answered at once, not by {other:?}"),
    }
}

fn told(rig: &mut Rig) -> ShardSurvey {
    survey(rig, None).unwrap()
}

/// Somebody who follows a member, whatever happens to it, and knows each task as it was told last.
#[derive(Debug, Default)]
pub(super) struct Watched {
    heard: BTreeMap<ShardId, Heard>,
    tasks: BTreeMap<Offset, (StateName, u32)>,
}

impl Watched {
    /// What is counted and told is what a look at each task shows.
    pub(super) fn check(&mut self, rig: &mut Rig) {
        let ask = asked(Some(self.heard.clone()));
        let Some(told) = rig.member.survey(&ask, rig.now).shards.pop() else {
            return;
        };
        let heard = Heard {
            epoch: told.epoch,
            n: told.changes.n,
        };
        let before = self.heard.insert(SHARD, heard);
        let is_same = before.is_some_and(|before| before.epoch == told.epoch);
        if !is_same {
            // What went on before it was asked is not known.
            self.tasks.clear();
        }
        for change in &told.changes.list {
            let state = (change.state, change.attempt);
            self.tasks.insert(change.id.offset, state);
        }
        let shard = &rig.member.shards[&SHARD];
        let mut states: BTreeMap<StateName, u64> = BTreeMap::new();
        let mut held: BTreeMap<String, u64> = BTreeMap::new();
        for state in StateName::ALL {
            for task in shard.list(&[state], None, usize::MAX) {
                *states.entry(state).or_default() += 1;
                if let Some(told) = self.tasks.get(&task.offset) {
                    assert_eq!(*told, (state, task.attempt), "{:?}", task.offset);
                }
                if let StoredState::Running { worker, .. } = &task.state {
                    *held.entry(worker.to_string()).or_default() += 1;
                }
            }
        }
        assert_eq!(told.states, states, "each task counts as what it shows");
        let hands = told.hands.iter();
        for (worker, n) in hands.map(|hand| (hand.worker.to_string(), hand.n_leases)) {
            // What is shown as running may have ended, and that is being saved.
            assert!(
                n <= held.get(&worker).copied().unwrap_or(0),
                "{worker} has {n}"
            );
        }
    }
}

#[test]
fn what_becomes_of_tasks_is_counted_once_it_is_durable() {
    let mut rig = Rig::new(config(), retries(2, SECOND));
    let task = rig.submit(TaskOptions::default());
    let held = rig.lease_one("w");
    rig.holds_flushes = true;
    rig.report(held, failed("x"));
    let before = told(&mut rig);
    assert_eq!((before.totals.n_failed, before.failures.len()), (0, 0));
    assert_eq!(before.states, [(StateName::Running, 1)].into());
    rig.release_flushes();
    let after = told(&mut rig);
    assert_eq!((after.totals.n_failed, after.totals.n_discarded), (1, 0));
    assert_eq!(after.failures[0].last, task);
    assert_eq!(after.states, [(StateName::Retryable, 1)].into());
    rig.pass(2 * SECOND);
    let held = rig.lease_one("w");
    rig.holds_flushes = true;
    rig.report(held, completed());
    assert_eq!(told(&mut rig).totals.n_completed, 0);
    rig.release_flushes();
    let end = told(&mut rig);
    assert_eq!((end.totals.n_failed, end.totals.n_completed), (1, 1));
    assert!(end.states.is_empty());
}

#[test]
fn what_cannot_be_a_task_and_what_runs_out_are_failures_too() {
    let mut rig = Rig::new(config(), retries(1, SECOND));
    rig.submit_malformed();
    rig.submit(TaskOptions::default());
    rig.lease_one("w");
    rig.pass(60 * SECOND);
    let told = told(&mut rig);
    assert_eq!((told.totals.n_failed, told.totals.n_discarded), (1, 2));
    let codes = told.failures.iter().map(|group| group.code.as_str());
    let mut codes: Vec<_> = codes.collect();
    codes.sort_unstable();
    assert_eq!(codes, ["lease_expired", "malformed"]);
}

#[test]
fn waits_and_runs_are_measured_and_an_interrupt_is_no_run() {
    let mut rig = Rig::new(config(), TaskOptions::default());
    rig.submit(TaskOptions::default());
    rig.pass(10 * SECOND);
    let held = rig.lease_one("w");
    rig.pass(5 * SECOND);
    rig.report(held, Outcome::Interrupted);
    rig.pass(3 * SECOND);
    let held = rig.lease_one("w");
    rig.pass(20 * SECOND);
    rig.report(held, completed());
    let told = told(&mut rig);
    let near = |took: Option<Duration>, s: u64| {
        let took = took.unwrap().as_millis();
        assert!(
            took.abs_diff(u128::from(s) * 1_000) <= u128::from(s) * 125,
            "{took}"
        );
    };
    assert_eq!((told.waited.n(), told.ran.n()), (2, 1));
    // From when it was free again, not from its beginning.
    near(told.waited.quantile(500), 3);
    near(told.waited.quantile(990), 10);
    near(told.ran.quantile(500), 20);
    rig.pass(360 * SECOND);
    let later = self::told(&mut rig);
    assert_eq!((later.waited.n(), later.ran.n()), (0, 0));
}

#[test]
fn who_holds_leases_is_known_also_after_a_crash() {
    let mut rig = Rig::new(config(), TaskOptions::default());
    let costly = TaskOptions {
        cost: Some(3),
        ..TaskOptions::default()
    };
    rig.submit(costly);
    rig.submit(TaskOptions::default());
    assert_eq!(rig.lease("w", 10).len(), 2);
    let since = rig.now;
    rig.pass(2 * SECOND);
    let hands = told(&mut rig).hands;
    assert_eq!((hands[0].n_leases, hands[0].n_slots), (2, 4));
    assert_eq!(hands[0].since, since);
    let mut rig = rig.crash();
    let hands = told(&mut rig).hands;
    assert_eq!((hands[0].worker.as_str(), hands[0].n_leases), ("w", 2));
    rig.pass(60 * SECOND);
    assert_eq!(told(&mut rig).hands, []);
}

#[test]
fn changes_are_noted_only_while_somebody_listens() {
    let mut rig = Rig::new(config(), TaskOptions::default());
    let unheard = rig.submit(TaskOptions::default());
    let held = rig.lease_one("w");
    assert_eq!(rig.changed, []);
    rig.event(Event::Watched(SHARD));
    rig.call(Call::Renew(vec![(held, true, Some("1".into()))]));
    assert_eq!(std::mem::take(&mut rig.changed), [unheard]);
    // Of its progress only those are told who follow the task.
    let none = told(&mut rig).changes;
    assert_eq!((none.n, none.list.len()), (0, 0));
    rig.report(held, completed());
    assert_eq!(std::mem::take(&mut rig.changed), [unheard]);
    let told = survey(&mut rig, Some(BTreeMap::new())).unwrap().changes;
    assert_eq!((told.n, told.list[0].state), (1, StateName::Completed));
    rig.pass(61 * SECOND);
    // The last change that is heard shows that nobody asks any more.
    rig.submit(TaskOptions::default());
    rig.changed.clear();
    rig.submit(TaskOptions::default());
    assert_eq!(rig.changed, []);
}

#[test]
fn an_end_is_told_only_once_it_is_durable() {
    let mut rig = Rig::new(config(), TaskOptions::default());
    let task = rig.submit(TaskOptions::default());
    let held = rig.lease_one("w");
    rig.event(Event::Watched(SHARD));
    rig.holds_flushes = true;
    rig.report(held, completed());
    assert_eq!(rig.changed, []);
    rig.release_flushes();
    assert_eq!(rig.changed, [task]);
}

#[test]
fn a_flood_of_changes_is_counted_and_the_newest_are_kept() {
    let mut rig = Rig::new(config(), TaskOptions::default());
    rig.event(Event::Watched(SHARD));
    let tasks: Vec<TaskId> = (0..1_000)
        .map(|_| rig.append_with(TaskOptions::default()))
        .collect();
    rig.event(Event::Tick);
    let told = survey(&mut rig, Some(BTreeMap::new())).unwrap().changes;
    assert_eq!((told.n, told.list.len()), (1_000, 256));
    assert_eq!(told.list.last().unwrap().id, tasks[999]);
}
