//! Why a task in memory does not run: looked up in what decides it, never computed anew.

use super::{
    Shard,
    limit::Closed,
    ready::{Needs, Rank},
    window::{Entry, Hold},
};
use crate::{
    Mode, Offset, Priority, TaskId, Timestamp,
    explain::{Blocker, Scope, Waits},
    task::state::State,
};

impl Shard {
    /// Why the task at this offset does not run; `None` if it runs or has ended, or is not in memory.
    #[must_use]
    pub fn explain(&self, offset: Offset, now: Timestamp) -> Option<Waits> {
        let entry = self.window.get(self.window.find(offset)?)?;
        // What is shown of it is what is durable.
        if entry.shown.is_some() {
            return Some(Blocker::Saving.into());
        }
        let blocker = match &entry.task.state {
            State::Running(_) | State::Ended { .. } => return None,
            State::Scheduled { due_at } => Blocker::Scheduled { until: *due_at },
            State::Retryable { due_at } => Blocker::Backoff { until: *due_at },
            State::Available => match self.blocker(entry, now) {
                Some(blocker) => blocker,
                None => {
                    let ahead = self.ready.ahead_of(self.rank_of(entry));
                    let blocker = Blocker::Turn;
                    return Some(Waits {
                        blocker,
                        ahead: Some(ahead),
                    });
                }
            },
        };
        Some(blocker.into())
    }

    fn blocker(&self, entry: &Entry, now: Timestamp) -> Option<Blocker> {
        match entry.hold {
            Hold::Key => return Some(Blocker::Repetition),
            Hold::Adoption => {
                let until = self.adopt_until;
                return Some(Blocker::Adoption { until });
            }
            Hold::Cancel => return Some(Blocker::Saving),
            Hold::Aside(until) => return Some(Blocker::Aside { until }),
            Hold::None | Hold::Behind => {}
        }
        if let Mode::Paused { by, reason, at } = &self.mode {
            return Some(Blocker::Paused {
                by: by.clone(),
                reason: reason.clone(),
                since: *at,
            });
        }
        let task = &entry.task;
        if entry.hold == Hold::Behind
            && let Some(key) = task.options().and_then(|options| options.key.clone())
        {
            let behind = self.order.before(&key, task.offset);
            return Some(Blocker::Key {
                key,
                behind: behind.map(|offset| self.id_of(offset)),
            });
        }
        if let Some(probing) = self.outage.probing() {
            return Some(Blocker::Failing {
                since: probing.since,
                code: probing.code.clone(),
                message: probing.message.clone(),
                probe_at: probing.probe_at,
            });
        }
        let limits = &self.limits;
        if let Some(closed) = self.gauge.closed(&limits.all, now) {
            let holders = self.gauge.holders();
            return Some(self.limited(Scope::Pipeline, closed, holders));
        }
        let group = task.group(&self.rules)?;
        let (closed, holders) = self.ready.closed_group(group, &limits.group, now)?;
        Some(self.limited(Scope::Group(group.clone()), closed, holders))
    }

    fn limited(&self, scope: Scope, closed: Closed, holders: Vec<Offset>) -> Blocker {
        match closed {
            Closed::Until(until) => Blocker::Rate { scope, until },
            Closed::Full(max) => Blocker::Concurrency {
                scope,
                max,
                holders: holders
                    .into_iter()
                    .map(|offset| self.id_of(offset))
                    .collect(),
            },
        }
    }

    fn id_of(&self, offset: Offset) -> TaskId {
        TaskId {
            shard: self.id,
            offset,
        }
    }

    /// What a task that waits for its turn asks of a worker: `None` if nothing special.
    pub(super) fn needs_of(&self, entry: &Entry) -> Option<Needs> {
        let task = &entry.task;
        let (labels, cost) = (task.labels(&self.rules), task.cost(&self.rules));
        (labels.is_some() || cost != 1).then(|| Needs {
            labels: labels.cloned().unwrap_or_default(),
            cost,
        })
    }

    /// Its place among tasks that can run.
    pub(super) fn rank_of(&self, entry: &Entry) -> Rank {
        let step = self.config.priority_wait_max / u32::from(Priority::HIGHEST.get());
        let head_start = step * u32::from(entry.task.priority(&self.rules).get());
        Rank {
            at: (entry.since - head_start).as_millis(),
            offset: entry.task.offset,
        }
    }

    /// What the task at this offset asks of a worker, if it waits for one.
    #[must_use]
    pub fn needs(&self, offset: Offset) -> Option<(std::collections::BTreeSet<crate::Label>, u16)> {
        let entry = self.window.get(self.window.find(offset)?)?;
        let needs = self.needs_of(entry);
        Some(
            needs.map_or((std::collections::BTreeSet::new(), 1), |needs| {
                (needs.labels, needs.cost)
            }),
        )
    }
}
