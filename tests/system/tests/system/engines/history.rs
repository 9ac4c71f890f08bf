//! What clients and workers saw of a cluster under faults, and whether that breaks a promise.
//!
//! These are the promises of `docs/guarantees.md` as far as they show from outside; times are of one machine's clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use scheduler_core::{LeaseToken, ShardId, TaskId};

/// How long a lease that was granted may take to its worker.
const ON_ITS_WAY: Duration = Duration::from_secs(2);

/// Milliseconds since 1970, by the machine's clock.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap()
}

/// A run of a task, as its worker noted it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) id: TaskId,
    pub(crate) token: LeaseToken,
    pub(crate) began_at: u64,
}

impl Run {
    /// From a line of a worker's notes, unless the line is cut off.
    pub(crate) fn read(line: &str) -> Option<Self> {
        let mut fields = line.split(' ');
        let id = fields.next()?.parse().ok()?;
        let token = fields.nth(1)?.parse().ok()?;
        let began_at = fields.nth(1)?.parse().ok()?;
        Some(Self {
            id,
            token: LeaseToken::from_u64(token),
            began_at,
        })
    }
}

/// Something that was done to the cluster, from when till when.
#[derive(Debug, Clone)]
pub(crate) struct Harm {
    pub(crate) what: String,
    pub(crate) from: u64,
    pub(crate) till: u64,
}

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// Tasks whose submit was answered, and when.
    pub(crate) accepted: BTreeMap<TaskId, u64>,
    /// Submits that may have been done.
    pub(crate) n_unknown: usize,
    /// Submits that were refused.
    pub(crate) n_refused: usize,
    /// Tasks that were shown as completed, and when first.
    pub(crate) completed: BTreeMap<TaskId, u64>,
    /// Tasks that were shown as something else after they were shown as completed.
    pub(crate) unsaid: BTreeSet<TaskId>,
    pub(crate) harms: Vec<Harm>,
    pub(crate) runs: Vec<Run>,
}

/// What became of a history without a broken promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) n_accepted: usize,
    /// Runs of tasks that had begun before.
    pub(crate) n_again: usize,
}

impl History {
    /// Finds broken promises. A second run is excused by a harm that began before it and was over at most `reach`
    /// before the first.
    pub(crate) fn judge(&self, reach: Duration) -> Result<Verdict, Vec<String>> {
        let mut broken = Vec::new();
        let by_task = self.by_task();
        for id in self.accepted.keys() {
            if !by_task.contains_key(id) {
                broken.push(format!("no loss: {id} was accepted and never ran"));
            }
        }
        let n_extra = by_task.len().saturating_sub(self.accepted.len());
        if n_extra > self.n_unknown {
            let n_unknown = self.n_unknown;
            broken.push(format!(
                "no invention: {n_extra} tasks ran that nobody was told of, {n_unknown} submits are unknown"
            ));
        }
        let mut n_again = 0;
        for (id, runs) in &by_task {
            self.judge_task(*id, runs, reach, &mut broken);
            n_again += runs.len() - 1;
        }
        let unsaid = self.unsaid.iter();
        broken
            .extend(unsaid.map(|id| format!("durable reply: {id} was completed and then was not")));
        self.judge_epochs(&mut broken);
        if broken.is_empty() {
            let n_accepted = self.accepted.len();
            Ok(Verdict {
                n_accepted,
                n_again,
            })
        } else {
            Err(broken)
        }
    }

    /// All runs of each task, in the order in which they began.
    pub(crate) fn by_task(&self) -> BTreeMap<TaskId, Vec<&Run>> {
        let mut by_task: BTreeMap<TaskId, Vec<&Run>> = BTreeMap::new();
        for run in &self.runs {
            by_task.entry(run.id).or_default().push(run);
        }
        for runs in by_task.values_mut() {
            runs.sort_by_key(|run| run.began_at);
        }
        by_task
    }

    fn judge_task(&self, id: TaskId, runs: &[&Run], reach: Duration, broken: &mut Vec<String>) {
        let shown_at = self.completed.get(&id).copied().unwrap_or(u64::MAX);
        for run in runs {
            if run.began_at > shown_at {
                let late = run.began_at - shown_at;
                broken.push(format!(
                    "durable reply: {id} ran {late} ms after it was shown as completed"
                ));
            }
        }
        for pair in runs.windows(2) {
            let (first, second) = (pair[0], pair[1]);
            if first.token == second.token {
                broken.push(format!("one lease: {id} ran twice under one lease"));
            }
            let excuses = |harm: &&Harm| {
                harm.from <= second.began_at && harm.till + millis(reach) >= first.began_at
            };
            if !self.harms.iter().any(|harm| excuses(&harm)) {
                let apart = second.began_at - first.began_at;
                broken.push(format!(
                    "no needless rerun: {id} ran again after {apart} ms, and nothing had happened"
                ));
            }
        }
    }

    /// Once an owner has handed out a task of a shard, no earlier owner does any more.
    fn judge_epochs(&self, broken: &mut Vec<String>) {
        let mut runs: Vec<_> = self.runs.iter().collect();
        runs.sort_by_key(|run| run.began_at);
        let mut newest: BTreeMap<ShardId, (u32, u64)> = BTreeMap::new();
        for run in runs {
            let epoch = run.token.epoch().0;
            let known = newest.entry(run.id.shard).or_insert((epoch, run.began_at));
            if epoch > known.0 {
                *known = (epoch, run.began_at);
            } else if epoch < known.0 && run.began_at > known.1 + millis(ON_ITS_WAY) {
                let late = run.began_at - known.1;
                broken.push(format!(
                    "a zombie grants nothing: {} began {late} ms after a newer owner of its shard worked",
                    run.id
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use scheduler_core::{Epoch, Offset, Partition, PipelineNumber};

    use super::*;

    const REACH: Duration = Duration::from_secs(1);

    fn id(n: u64) -> TaskId {
        TaskId {
            shard: ShardId {
                pipeline: PipelineNumber(1),
                partition: Partition(0),
            },
            offset: Offset(n),
        }
    }

    fn run(n: u64, epoch: u32, n_lease: u64, began_at: u64) -> Run {
        let before = LeaseToken::before_first(Epoch(epoch)).to_u64();
        Run {
            id: id(n),
            token: LeaseToken::from_u64(before + n_lease),
            began_at,
        }
    }

    fn history(runs: Vec<Run>) -> History {
        History {
            accepted: BTreeMap::from([(id(1), 5)]),
            runs,
            ..History::default()
        }
    }

    fn only_fault(history: &History, promise: &str) {
        let broken = history.judge(REACH).unwrap_err();
        assert!(
            broken.len() == 1 && broken[0].starts_with(promise),
            "{broken:?}"
        );
    }

    #[test]
    fn each_broken_promise_is_found() {
        let good = history(vec![run(1, 1, 1, 10)]);
        let verdict = Verdict {
            n_accepted: 1,
            n_again: 0,
        };
        assert_eq!(good.judge(REACH), Ok(verdict));
        only_fault(&history(Vec::new()), "no loss");
        let invented = vec![run(1, 1, 1, 10), run(2, 1, 2, 10)];
        only_fault(&history(invented.clone()), "no invention");
        let unknown = History {
            n_unknown: 1,
            ..history(invented)
        };
        assert!(unknown.judge(REACH).is_ok());
        let mut rerun = history(vec![run(1, 1, 1, 10), run(1, 1, 2, 5_000)]);
        only_fault(&rerun, "no needless rerun");
        rerun.harms = vec![Harm {
            what: "a kill".to_owned(),
            from: 100,
            till: 200,
        }];
        assert_eq!(rerun.judge(REACH).unwrap().n_again, 1);
        rerun.completed = BTreeMap::from([(id(1), 4_000)]);
        only_fault(&rerun, "durable reply");
        let zombie = vec![run(1, 1, 1, 10), run(3, 2, 1, 20), run(4, 1, 2, 9_000)];
        let zombie = History {
            n_unknown: 2,
            ..history(zombie)
        };
        only_fault(&zombie, "a zombie grants nothing");
    }

    #[test]
    fn a_note_that_was_cut_off_is_no_run() {
        let line = format!("{} 1 4294967297 99 1700000000000", id(7));
        let run = Run::read(&line).unwrap();
        assert_eq!((run.id, run.began_at), (id(7), 1_700_000_000_000));
        assert_eq!(Run::read(&line[..line.len() - 20]), None);
    }
}
