//! Random lives of a shard, with crashes, lost answers and failing flushes; then everything heals.
//!
//! Each seed is one life and replays exactly.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{
    super::{Call, Event},
    rig::{Rig, SHARD, completed, config, failed},
    survey::Watched,
    tally,
};
use crate::{
    CancelFilter, CancelId, CancelRequest, Config, Label, LeaseToken, Offset, OrderingKey, Outcome,
    Retention, TaskId, TaskOptions,
    action::{Answer, CallId},
    call::{Held, LeasedTask},
    port::{FailureKind, log::NewTask, store::StoredState},
    task::{
        retry::{Jitter, RetryPolicy},
        tests::edges,
    },
};

fn ordering_key(n: u32) -> OrderingKey {
    format!("o{n}").as_str().try_into().unwrap()
}

const N_STEPS: u32 = 600;

/// What the world outside knows.
#[derive(Default)]
struct World {
    accepted: Vec<TaskId>,
    held: Vec<Held>,
    tokens: BTreeMap<TaskId, LeaseToken>,
    /// Tasks whose success was acknowledged.
    completed: Vec<TaskId>,
    cancelled: Vec<TaskId>,
    /// Tasks that someone wanted to end, whether that was answered or not, or that a deadline may end.
    unwanted: BTreeSet<TaskId>,
    /// Tasks whose results are not kept.
    unkept: BTreeSet<TaskId>,
    /// Reports that were acknowledged.
    reported: Vec<(Held, Outcome)>,
    /// Submits with a key: the key, and whether its answer was looked at.
    keyed: Vec<(u32, CallId)>,
    answered: BTreeMap<u32, TaskId>,
    ran: BTreeMap<u32, TaskId>,
    /// Ordering keys of tasks, and whether they were asked to run later.
    ordered: BTreeMap<TaskId, (OrderingKey, bool)>,
    /// Those of them that this owner has started.
    started: BTreeSet<TaskId>,
    /// Those that wait anew, behind what holds their key.
    redriven: BTreeSet<TaskId>,
    /// Those that someone wanted to run again.
    wanted_again: BTreeSet<TaskId>,
    /// Bulk cancels: the key that they are about, and their bound.
    bulk: Vec<(OrderingKey, Offset)>,
    /// Calls for them that have no answer yet.
    asked: Vec<(CallId, OrderingKey, Offset)>,
    n_bulk: u32,
    used: BTreeSet<CancelId>,
    /// Those that may have been.
    unsure: BTreeSet<TaskId>,
}

fn small() -> Config {
    Config {
        window_tasks_max: 40,
        straggler_after: 12,
        flush_tasks_max: 8,
        settled_max: 4,
        ..config()
    }
}

fn defaults() -> TaskOptions {
    TaskOptions {
        retry: Some(RetryPolicy {
            max_attempts: 100,
            initial: Duration::from_secs(1),
            factor: 1.5,
            max: Duration::from_secs(10),
            jitter: Jitter::Full,
        }),
        ..TaskOptions::default()
    }
}

fn gpu() -> BTreeSet<Label> {
    ["gpu".try_into().unwrap()].into()
}

fn failed_for_good() -> Outcome {
    let Outcome::Failed(mut failure) = failed("bug") else {
        unreachable!("it failed");
    };
    failure.retryable = false;
    Outcome::Failed(failure)
}

fn limit_groups(rig: &mut Rig) {
    rig.change(|pipeline| pipeline.spec.limits.group.concurrency = Some(2));
}

fn change_defaults(rig: &mut Rig, rng: &mut fastrand::Rng) {
    let (cost, labels) = (rng.u16(1..4), rng.bool());
    rig.change(|pipeline| {
        pipeline.spec.defaults.cost = Some(cost);
        pipeline.spec.defaults.labels = labels.then(gpu);
    });
}

impl World {
    fn step(&mut self, mut rig: Rig, rng: &mut fastrand::Rng) -> Rig {
        match rng.u32(0..130) {
            0..22 => self.submit(&mut rig, rng),
            22..45 => self.lease(&mut rig, rng),
            45..64 => self.report(&mut rig, rng),
            64..68 => self.repeat_report(&mut rig, rng),
            68..72 => {
                if let Some(id) = rng.choice(self.accepted.clone()) {
                    self.unwanted.insert(id);
                    let call = rig.call(Call::Cancel(id));
                    if rig.answer(call) == Some(&Answer::Cancelled(Ok(()))) {
                        self.cancelled.push(id);
                    }
                }
            }
            72..76 => {
                if let Some(held) = rng.choice(self.held.clone()) {
                    rig.call(Call::Renew(vec![(held, rng.bool(), Some("1".into()))]));
                }
            }
            76..84 => rig.pass(Duration::from_millis(rng.u64(0..40_000))),
            84..89 => rig.holds_flushes = true,
            89..92 => {
                // The flush happened, but its answer is lost.
                for (lane, parts) in std::mem::take(&mut rig.held) {
                    rig.durable.flush(&parts);
                    rig.event(Event::Flushed(lane, Err(FailureKind::Unknown)));
                }
            }
            92..96 => rig.release_flushes(),
            96..99 => rig.fails_reads = !rig.fails_reads,
            99..102 => rig.holds_reads = true,
            102..106 => rig.release_reads(),
            106..111 => self.submit_keyed(&mut rig, rng),
            111..113 => {
                // A gap of the log, or something that is no task.
                if rng.bool() {
                    rig.durable.records.push(None);
                } else {
                    self.accepted.push(rig.submit_malformed());
                }
            }
            120..123 => {
                if let Some(id) = rng.choice(self.accepted.clone()) {
                    self.wanted_again.insert(id);
                    let call = rig.call(Call::Redrive(id));
                    match rig.answer(call) {
                        Some(Answer::Redriven(Ok(()))) => {
                            self.redriven.insert(id);
                            self.started.remove(&id);
                        }
                        Some(_) => {}
                        // Whether it was will not be known.
                        None => drop(self.unsure.insert(id)),
                    }
                }
            }
            123..126 => change_defaults(&mut rig, rng),
            126..130 => self.cancel_many(&mut rig, rng),
            113..115 => {
                let slots = vec![SHARD.slot()];
                let lost = rng.bool();
                if lost {
                    self.started.clear();
                }
                let gone = if lost { Event::Lost } else { Event::Revoking };
                rig.event(gone(slots.clone()));
                rig.pass(Duration::from_millis(rng.u64(0..3_000)));
                rig.event(Event::Assigned(slots));
            }
            _ => {
                if rng.bool() {
                    rig.event(Event::Stop);
                    rig.pass(Duration::from_millis(rng.u64(0..3_000)));
                }
                self.look_at_keyed(&rig);
                self.keyed.clear();
                self.look_at_bulk(&rig);
                self.asked.clear();
                // A start that was not stored is known to nobody.
                self.started.clear();
                rig = rig.crash();
                limit_groups(&mut rig);
                if rng.bool() {
                    rig.poll_holding("w", 0, self.held.clone());
                }
            }
        }
        self.look_at_keyed(&rig);
        rig
    }

    fn cancel_many(&mut self, rig: &mut Rig, rng: &mut fastrand::Rng) {
        let key = ordering_key(rng.u32(0..4));
        // Sometimes an earlier one again.
        let n = if rng.bool() {
            self.n_bulk
        } else {
            rng.u32(0..=self.n_bulk)
        };
        self.n_bulk = self.n_bulk.max(n + 1);
        let below = Offset(rig.durable.records.len() as u64);
        let filter = CancelFilter {
            key: Some(key.clone()),
            ..CancelFilter::default()
        };
        let id: CancelId = format!("c{n}-{key}").as_str().try_into().unwrap();
        // Of a repeated one, the first bound counts.
        let is_new = self.used.insert(id.clone());
        for (id, (of, _)) in &self.ordered {
            if *of == key && id.offset < below {
                self.unwanted.insert(*id);
            }
        }
        let call = rig.call(Call::CancelMany(SHARD, CancelRequest { id, filter, below }));
        if is_new {
            self.asked.push((call, key, below));
        }
    }

    /// None of those that it is about starts any more.
    fn look_at_bulk(&mut self, rig: &Rig) {
        for (call, key, below) in std::mem::take(&mut self.asked) {
            match rig.answer(call) {
                Some(Answer::CancelledMany(Ok(_))) => self.bulk.push((key, below)),
                Some(_) => {}
                None => self.asked.push((call, key, below)),
            }
        }
    }

    fn submit(&mut self, rig: &mut Rig, rng: &mut fastrand::Rng) {
        let delay = [0, 0, 1, 30][rng.usize(0..4)];
        let seconds = |n| Some(Duration::from_secs(n));
        let options = TaskOptions {
            run_at: (delay > 0).then(|| rig.now + Duration::from_secs(delay)),
            retention: (rng.u32(0..4) == 0).then_some(Retention::None),
            timeout: seconds(40).filter(|_| rng.u32(0..8) == 0),
            heartbeat_timeout: seconds(20).filter(|_| rng.u32(0..8) == 0),
            total_timeout: seconds(60).filter(|_| rng.u32(0..8) == 0),
            expires_at: (rng.u32(0..8) == 0).then(|| rig.now + Duration::from_secs(90)),
            key: (rng.u32(0..2) == 0).then(|| ordering_key(rng.u32(0..4))),
            priority: Some(rng.u32(0..10).try_into().unwrap()),
            group: (rng.u32(0..3) == 0).then(|| "g".try_into().unwrap()),
            labels: (rng.u32(0..4) == 0).then(gpu),
            cost: (rng.u32(0..8) == 0).then(|| rng.u16(1..4)),
            ..TaskOptions::default()
        };
        let is_kept = options.retention.is_none();
        let has_deadline = options.total_timeout.is_some() || options.expires_at.is_some();
        let key = options.key.clone();
        let id = rig.submit(options);
        if let Some(key) = key {
            self.ordered.insert(id, (key, delay > 0));
        }
        self.accepted.push(id);
        if has_deadline {
            self.unwanted.insert(id);
        }
        if !is_kept {
            self.unkept.insert(id);
        }
    }

    /// One of a few keys, from a caller or from a plain producer.
    fn submit_keyed(&mut self, rig: &mut Rig, rng: &mut fastrand::Rng) {
        let key = rng.u32(0..6);
        let name: crate::IdempotencyKey = format!("k{key}").as_str().try_into().unwrap();
        let task = NewTask {
            data: format!("{key}").into(),
            options: Some(Arc::new(TaskOptions {
                idempotency_key: Some(name.clone()),
                ..TaskOptions::default()
            })),
            traceparent: None,
        };
        if rng.u32(0..3) == 0 {
            rig.submit_task(task);
        } else {
            let call = rig.call(Call::SubmitKeyed(SHARD, name, task));
            self.keyed.push((key, call));
        }
    }

    fn look_at_keyed(&mut self, rig: &Rig) {
        for (key, call) in std::mem::take(&mut self.keyed) {
            match rig.answer(call) {
                Some(Answer::Submitted(Ok((id, _)))) => {
                    let first = *self.answered.entry(key).or_insert(*id);
                    assert_eq!(first, *id, "key {key} stands for one task");
                    self.accepted.push(*id);
                }
                Some(_) => {}
                None => self.keyed.push((key, call)),
            }
        }
    }

    fn lease(&mut self, rig: &mut Rig, rng: &mut fastrand::Rng) {
        let labels = if rng.bool() { gpu() } else { BTreeSet::new() };
        self.look_at_bulk(rig);
        let tasks = if rng.u32(0..4) == 0 {
            rig.offer("w")
        } else {
            rig.lease_with("w", rng.usize(1..4), labels)
        };
        for task in &tasks {
            self.check_leased(task);
            self.check_order(rig, task.id);
        }
        if rng.u32(0..10) == 0 {
            rig.event(Event::Ungranted(tasks));
            return;
        }
        self.held.extend(tasks.iter().map(|task| Held {
            id: task.id,
            token: task.token,
        }));
    }

    fn check_leased(&mut self, task: &LeasedTask) {
        let id = task.id;
        let before = self.tokens.insert(id, task.token);
        assert!(before < Some(task.token), "tokens of {id} grow");
        assert!(!self.completed.contains(&id), "{id} ended and runs again");
        assert!(!self.cancelled.contains(&id), "{id} was cancelled and runs");
        let key = self.ordered.get(&id).map(|(key, _)| key);
        let is_about = |(of, below): &(OrderingKey, Offset)| Some(of) == key && id.offset < *below;
        let is_covered = self.bulk.iter().any(is_about) && !self.wanted_again.contains(&id);
        assert!(!is_covered, "{id} starts in spite of a bulk cancel");
        if let Ok(key) = std::str::from_utf8(&task.data).unwrap().parse::<u32>() {
            let first = *self.ran.entry(key).or_insert(id);
            assert_eq!(first, id, "a repetition of key {key} runs");
        }
    }

    /// Of its key, all that came before it have ended, and all that were started.
    fn check_order(&mut self, rig: &mut Rig, id: TaskId) {
        let Some((key, _)) = self.ordered.get(&id) else {
            return;
        };
        let others = self.ordered.iter().filter(|(other, _)| **other != id);
        let row = rig.durable.rows.get(&id.offset);
        let was_started = row.is_some_and(|row| row.started_at.is_some());
        let before = others.filter(|(other, (of, is_delayed))| {
            let goes_before = if self.redriven.contains(other) {
                **other < id && !was_started
            } else {
                **other < id && !is_delayed || self.started.contains(other)
            };
            of == key && goes_before && !self.unsure.contains(other)
        });
        for (before, _) in before {
            let state = rig.state(*before);
            let ended = ["completed", "cancelled", "discarded", "gone"];
            assert!(
                ended.contains(&state.as_str()),
                "{id} with key {key} starts while {before} is {state}"
            );
        }
        self.started.insert(id);
        self.redriven.remove(&id);
    }

    fn report(&mut self, rig: &mut Rig, rng: &mut fastrand::Rng) {
        if self.held.is_empty() {
            return;
        }
        let held = self.held.swap_remove(rng.usize(0..self.held.len()));
        let outcome = match rng.u32(0..12) {
            0..7 => completed(),
            7..9 => failed("x"),
            9 => failed_for_good(),
            10 => Outcome::Interrupted,
            _ => Outcome::Snoozed(Duration::from_secs(rng.u64(0..20))),
        };
        let call = rig.report(held, outcome.clone());
        if rig.answer(call) == Some(&Answer::Reported(Ok(()))) {
            if outcome == completed() {
                self.completed.push(held.id);
            }
            self.reported.push((held, outcome));
        }
    }

    /// The same report again gets the same answer, as long as nothing newer happened to the task.
    fn repeat_report(&mut self, rig: &mut Rig, rng: &mut fastrand::Rng) {
        let Some((held, outcome)) = rng.choice(self.reported.clone()) else {
            return;
        };
        let call = rig.report(held, outcome.clone());
        let is_newest = self.tokens.get(&held.id) == Some(&held.token);
        let is_forgotten = self.unkept.contains(&held.id);
        if let Some(Answer::Reported(Err(error))) = rig.answer(call)
            && is_newest
            && !is_forgotten
            && !self.unwanted.contains(&held.id)
        {
            let moves = matches!(error, crate::Error::Unavailable { .. });
            assert!(moves, "{outcome:?} of {held:?} again got {error:?}");
        }
    }

    /// Faults end; workers finish everything.
    fn heal(&mut self, mut rig: Rig) -> Rig {
        rig.release_flushes();
        rig.fails_reads = false;
        rig.release_reads();
        for _ in 0..400 {
            rig.pass(Duration::from_secs(11));
            self.look_at_bulk(&rig);
            loop {
                let tasks = rig.lease_with("w", 64, gpu());
                if tasks.is_empty() {
                    break;
                }
                for task in tasks {
                    self.check_leased(&task);
                    self.check_order(&mut rig, task.id);
                    let held = Held {
                        id: task.id,
                        token: task.token,
                    };
                    rig.report(held, completed());
                }
            }
            if rig.durable.watermark == rig.durable.records.len() as u64 {
                let ended = |row: &crate::port::store::StoredTask| {
                    matches!(row.state, StoredState::Ended { .. })
                };
                if rig.durable.rows.values().all(ended) {
                    break;
                }
            }
        }
        rig
    }

    fn check(&self, rig: &mut Rig, seed: u64) {
        for id in &self.accepted {
            let state = rig.state(*id);
            let is_gone = state == "gone" && self.unkept.contains(id);
            let ended =
                is_gone || ["completed", "cancelled", "discarded"].contains(&state.as_str());
            assert!(
                ended,
                "seed {seed}: {} is lost in state {state}",
                id.offset.0
            );
        }
        assert!(
            rig.durable
                .cancels
                .iter()
                .all(|rule| rule.over_at.is_some()),
            "seed {seed}: a bulk cancel has no end"
        );
        let mut check = |ids: &[TaskId], name| {
            for id in ids {
                let state = rig.state(*id);
                let is_gone = state == "gone" && self.unkept.contains(id);
                assert!(is_gone || state == name, "seed {seed}: {name} is unsaid");
            }
        };
        check(&self.completed, "completed");
        check(&self.cancelled, "cancelled");
        assert_eq!(
            rig.member.shards[&SHARD].n_window(),
            0,
            "seed {seed}: memory is empty"
        );
    }
}

#[test]
fn accepted_tasks_survive_any_life() {
    for seed in 0..300 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut world = World::default();
        let mut rig = Rig::new(small(), defaults());
        limit_groups(&mut rig);
        let mut watched = Watched::default();
        for _ in 0..N_STEPS {
            rig = world.step(rig, &mut rng);
            tally::check(&rig);
            watched.check(&mut rig);
        }
        let mut rig = world.heal(rig);
        world.check(&mut rig, seed);
    }
    // A life without one of them tries less than it seems to.
    edges::assert_all_taken();
}
