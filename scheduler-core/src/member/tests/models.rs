//! A shard beside models that are too simple to be wrong: who of a key is next, who is due, who goes next at all.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use proptest::prelude::*;

use super::{
    Call, Event, SECOND,
    rig::{Rig, SHARD, completed, config, failed},
};
use crate::{
    Config, Label, Outcome, TaskId, TaskOptions, Timestamp,
    action::Answer,
    call::{Held, LeasedTask},
    pipeline::limits::{Limit, Limits},
    task::retry::{Jitter, RetryPolicy},
};

const BACKOFF: Duration = Duration::from_secs(5);

fn held(task: &LeasedTask) -> Held {
    let (id, token) = (task.id, task.token);
    Held { id, token }
}

fn ids(tasks: &[LeasedTask]) -> BTreeSet<TaskId> {
    tasks.iter().map(|task| task.id).collect()
}

#[derive(Debug, Clone)]
enum KeyStep {
    /// A key, and after how many seconds.
    Submit(usize, u64),
    /// All that can start does.
    Lease,
    /// One that runs ends so.
    Report(prop::sample::Index, Ends),
    Cancel(prop::sample::Index),
    Pass(u64),
}

#[derive(Debug, Clone, Copy)]
enum Ends {
    Completed,
    Failed,
    Interrupted,
    Snoozed(u64),
}

fn key_step() -> impl Strategy<Value = KeyStep> {
    let index = any::<prop::sample::Index>;
    let ends = prop_oneof![
        5 => Just(Ends::Completed),
        2 => Just(Ends::Failed),
        1 => Just(Ends::Interrupted),
        1 => (1u64..20).prop_map(Ends::Snoozed),
    ];
    prop_oneof![
        10 => (0..3usize, prop_oneof![4 => Just(0u64), 1 => 1u64..20]).prop_map(|(key, wait)| KeyStep::Submit(key, wait)),
        5 => Just(KeyStep::Lease),
        5 => (index(), ends).prop_map(|(which, ends)| KeyStep::Report(which, ends)),
        1 => index().prop_map(KeyStep::Cancel),
        2 => (0u64..8_000).prop_map(KeyStep::Pass),
    ]
}

/// One key: whoever was started holds it until it ends; of the others the first accepted goes next, once it is due.
#[derive(Debug, Default)]
struct Line {
    holder: Option<(TaskId, Option<Timestamp>)>,
    waiting: BTreeMap<TaskId, Timestamp>,
}

impl Line {
    fn next(&self, now: Timestamp) -> Option<TaskId> {
        match self.holder {
            Some((id, ready_at)) => ready_at.filter(|at| *at <= now).map(|_| id),
            None => {
                let mut due = self.waiting.iter().filter(|(_, due_at)| **due_at <= now);
                due.next().map(|(id, _)| *id)
            }
        }
    }

    fn is_running(&self, id: TaskId) -> bool {
        self.holder == Some((id, None))
    }

    fn end(&mut self, id: TaskId) {
        self.waiting.remove(&id);
        self.holder = self.holder.filter(|(holder, _)| *holder != id);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Each time, exactly those start that the model says: nothing out of turn, and nothing kept back. Lines are longer
    /// than what of them stays in memory.
    #[test]
    fn of_each_key_exactly_the_next_task_starts(steps in prop::collection::vec(key_step(), 1..400)) {
        let mut rig = Rig::new(config(), TaskOptions {
            retry: Some(RetryPolicy {
                max_attempts: 10_000,
                initial: BACKOFF,
                factor: 1.0,
                max: BACKOFF,
                jitter: Jitter::None,
            }),
            ..TaskOptions::default()
        });
        let mut lines: [Line; 3] = Default::default();
        let mut running: Vec<(usize, Held)> = Vec::new();
        let mut all = Vec::new();
        for step in steps {
            match step {
                KeyStep::Submit(key, wait) => {
                    let due_at = rig.now + SECOND * u32::try_from(wait).unwrap();
                    let id = rig.submit(TaskOptions {
                        key: Some(format!("k{key}").as_str().try_into().unwrap()),
                        run_at: (wait > 0).then_some(due_at),
                        ..TaskOptions::default()
                    });
                    lines[key].waiting.insert(id, due_at);
                    all.push((key, id));
                }
                KeyStep::Lease => {
                    let tasks = rig.lease("w", 256);
                    let now = rig.now;
                    let next: BTreeSet<_> = lines.iter().filter_map(|line| line.next(now)).collect();
                    prop_assert_eq!(ids(&tasks), next);
                    for task in &tasks {
                        let at = lines.iter().position(|line| line.next(now) == Some(task.id));
                        let key = at.unwrap();
                        lines[key].waiting.remove(&task.id);
                        lines[key].holder = Some((task.id, None));
                        running.push((key, held(task)));
                    }
                }
                KeyStep::Report(which, ends) if !running.is_empty() => {
                    let (key, held) = running.swap_remove(which.index(running.len()));
                    // Its lease may have expired, or it was cancelled.
                    if !lines[key].is_running(held.id) {
                        continue;
                    }
                    let (outcome, ready_at) = match ends {
                        Ends::Completed => (completed(), None),
                        Ends::Failed => (failed("x"), Some(rig.now + BACKOFF)),
                        Ends::Interrupted => (Outcome::Interrupted, Some(rig.now)),
                        Ends::Snoozed(seconds) => {
                            let wait = Duration::from_secs(seconds);
                            (Outcome::Snoozed(wait), Some(rig.now + wait))
                        }
                    };
                    let call = rig.report(held, outcome);
                    prop_assert_eq!(rig.answer(call), Some(&Answer::Reported(Ok(()))));
                    match ready_at {
                        Some(_) => lines[key].holder = Some((held.id, ready_at)),
                        None => lines[key].end(held.id),
                    }
                }
                KeyStep::Cancel(which) if !all.is_empty() => {
                    let (key, id) = all[which.index(all.len())];
                    rig.call(Call::Cancel(id));
                    lines[key].end(id);
                }
                KeyStep::Pass(millis) => {
                    let beats = running.iter().map(|(_, held)| (*held, true, None)).collect();
                    rig.call(Call::Renew(beats));
                    rig.pass(Duration::from_millis(millis));
                }
                KeyStep::Report(..) | KeyStep::Cancel(_) => {}
            }
        }
    }
}

#[derive(Debug, Clone)]
enum ParkStep {
    /// So many tasks, after so many milliseconds.
    Submit(usize, u64),
    Pass(u64),
    /// All that can run does.
    Work,
    /// The member stops in good order, and another one takes over.
    Restart,
}

fn park_step() -> impl Strategy<Value = ParkStep> {
    let wait = prop_oneof![1 => Just(0u64), 2 => 1u64..3_000, 4 => 3_000u64..100_000];
    prop_oneof![
        6 => (1..12usize, wait).prop_map(|(n, wait)| ParkStep::Submit(n, wait)),
        4 => (0u64..30_000).prop_map(ParkStep::Pass),
        4 => Just(ParkStep::Work),
        1 => Just(ParkStep::Restart),
    ]
}

/// Runs everything that can run; what that was. A window that is full of tasks for later is read on after the flush
/// that stores them, and of tasks for soon when these have run: that may have to happen some times.
fn work(rig: &mut Rig) -> BTreeSet<TaskId> {
    let mut ran = BTreeSet::new();
    let mut n_in_vain = 0;
    loop {
        let tasks = rig.lease("w", 8);
        n_in_vain += 1;
        if !tasks.is_empty() {
            n_in_vain = 0;
        } else if n_in_vain > 20 {
            return ran;
        } else {
            rig.pass(Config::default().flush_interval);
        }
        for task in &tasks {
            assert!(ran.insert(task.id), "{} runs twice", task.id);
            rig.report(held(task), completed());
        }
        // The window has room again, so that more of what is due can be read.
        rig.pass(Duration::from_millis(1));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Exactly what is due runs, however small the window is and whoever owns the shard; what is not due for a while
    /// takes no memory.
    #[test]
    fn parked_tasks_come_back_exactly_when_they_are_due(steps in prop::collection::vec(park_step(), 1..120)) {
        let small = Config { window_tasks_max: 16, ..config() };
        let park_over = small.park_over;
        let mut rig = Rig::new(small, TaskOptions::default());
        let mut parked: BTreeMap<TaskId, Timestamp> = BTreeMap::new();
        for step in steps {
            match step {
                ParkStep::Submit(n, wait) => {
                    for _ in 0..n {
                        let due_at = rig.now + Duration::from_millis(wait);
                        let options = TaskOptions { run_at: Some(due_at), ..TaskOptions::default() };
                        parked.insert(rig.submit(options), due_at);
                    }
                }
                ParkStep::Pass(millis) => {
                    rig.pass(Duration::from_millis(millis));
                    // Each flush stores what was read, and lets more be read: some of it for later, too.
                    let is_small = |rig: &Rig| {
                        let near = rig.now + park_over;
                        let near = parked.values().filter(|due_at| **due_at <= near);
                        rig.member.shards[&SHARD].n_window() <= near.count()
                    };
                    let n_flushes = (0..=parked.len()).find(|_| {
                        rig.pass(SECOND);
                        is_small(&rig)
                    });
                    prop_assert!(n_flushes.is_some(), "what is not due for a while stays in memory");
                }
                ParkStep::Work => {
                    let due_before = rig.now;
                    let ran = work(&mut rig);
                    let due = |until| parked.iter().filter(move |(_, due_at)| **due_at <= until);
                    // While that went on, some time passed.
                    let must: BTreeSet<_> = due(due_before).map(|(id, _)| *id).collect();
                    let may: BTreeSet<_> = due(rig.now).map(|(id, _)| *id).collect();
                    prop_assert!(must.is_subset(&ran), "{:?} were missed", must.difference(&ran));
                    prop_assert!(ran.is_subset(&may), "{:?} were early", ran.difference(&may));
                    parked.retain(|id, _| !ran.contains(id));
                }
                ParkStep::Restart => {
                    rig.event(Event::Stop);
                    rig.pass(SECOND);
                    rig = rig.crash();
                }
            }
        }
        rig.pass(SECOND * 200);
        let rest: BTreeSet<_> = parked.into_keys().collect();
        prop_assert_eq!(work(&mut rig), rest);
    }
}

#[derive(Debug, Clone)]
enum TurnStep {
    /// Priority, group, whether it needs a label, cost.
    Submit(u32, Option<usize>, bool, u16),
    /// A worker with or without the label, and so many slots, takes one task.
    Lease(bool, usize),
    Complete(prop::sample::Index),
    Pass(u64),
}

fn turn_step() -> impl Strategy<Value = TurnStep> {
    let group = prop::option::of(0..3usize);
    prop_oneof![
        6 => (0u32..10, group, any::<bool>(), 1u16..4)
            .prop_map(|(priority, group, label, cost)| TurnStep::Submit(priority, group, label, cost)),
        6 => (any::<bool>(), 1usize..4).prop_map(|(label, slots)| TurnStep::Lease(label, slots)),
        4 => any::<prop::sample::Index>().prop_map(TurnStep::Complete),
        2 => (0u64..40_000).prop_map(TurnStep::Pass),
    ]
}

/// A task that waits or runs, and what it asks for.
#[derive(Debug, Clone)]
struct Asks {
    id: TaskId,
    rank: (Reverse<u64>, TaskId),
    group: Option<usize>,
    label: bool,
    cost: u16,
}

fn gpu() -> BTreeSet<Label> {
    ["gpu".try_into().unwrap()].into()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// The model looks at every task that waits: the first by rank that the worker can take and that no limit keeps
    /// back.
    #[test]
    fn who_goes_next_is_whom_a_look_at_everyone_finds(
        steps in prop::collection::vec(turn_step(), 1..200), all in 3usize..12, each in 1usize..4,
    ) {
        let limit = |n: usize| Limit { concurrency: u32::try_from(n).ok(), rate: None };
        let wait_max = Config { priority_wait_max: Duration::from_secs(90), ..config() };
        let mut rig = Rig::new(wait_max, TaskOptions::default());
        rig.change(|pipeline| pipeline.spec.limits = Limits { all: limit(all), group: limit(each) });
        let mut waiting: Vec<Asks> = Vec::new();
        let mut running: Vec<(Asks, Held)> = Vec::new();
        for step in steps {
            match step {
                TurnStep::Submit(priority, group, label, cost) => {
                    let id = rig.submit(TaskOptions {
                        priority: Some(priority.try_into().unwrap()),
                        group: group.map(|group| format!("g{group}").as_str().try_into().unwrap()),
                        labels: label.then(gpu),
                        cost: Some(cost),
                        ..TaskOptions::default()
                    });
                    // Ten seconds for each step of priority. The later, the worse.
                    let head_start = u64::from(priority) * 10_000;
                    let at = Reverse(u64::MAX - (rig.now.as_millis() - head_start));
                    waiting.push(Asks { id, rank: (at, id), group, label, cost });
                }
                TurnStep::Lease(label, slots) => {
                    let n_of = |group| running.iter().filter(|(task, _)| task.group == Some(group)).count();
                    let can = |task: &&Asks| {
                        let is_open = task.group.is_none_or(|group| n_of(group) < each);
                        is_open && running.len() < all && (label || !task.label) && usize::from(task.cost) <= slots
                    };
                    let next = waiting.iter().filter(can).min_by_key(|task| task.rank).cloned();
                    let labels = if label { gpu() } else { BTreeSet::new() };
                    let mut tasks = rig.lease_with("w", slots, labels);
                    // A poll takes as many as it has slots for; the model looks for the first.
                    let rest = tasks.split_off(tasks.len().min(1));
                    prop_assert_eq!(tasks.first().map(|task| task.id), next.as_ref().map(|next| next.id));
                    rig.event(Event::Ungranted(rest));
                    if let (Some(next), Some(task)) = (next, tasks.first()) {
                        waiting.retain(|task| task.id != next.id);
                        running.push((next, held(task)));
                    }
                }
                TurnStep::Complete(which) if !running.is_empty() => {
                    let (_, held) = running.swap_remove(which.index(running.len()));
                    rig.report(held, completed());
                }
                TurnStep::Complete(_) => {}
                TurnStep::Pass(millis) => {
                    // A second before a lease would end.
                    for _ in 0..=millis / 20_000 {
                        let beats = running.iter().map(|(_, held)| (*held, true, None)).collect();
                        rig.call(Call::Renew(beats));
                        rig.pass(Duration::from_millis(millis.min(20_000)));
                    }
                }
            }
        }
    }
}
