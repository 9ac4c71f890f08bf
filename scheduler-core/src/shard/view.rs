//! What a shard shows of its tasks: never more than what is durable.

use super::{
    Shard,
    save::stored,
    window::{Entry, Shown},
};
use crate::{
    Offset, StateName,
    action::Seen,
    port::store::{Parked, StoredState, StoredTask},
    task::state::{State, Task},
};

/// What to show of a task while its coming change is not durable.
pub(super) fn shown(task: &Task) -> Shown {
    Shown {
        name: task.state.name(),
        attempt: task.attempt,
        worker: match &task.state {
            State::Running(lease) => Some(lease.worker.clone()),
            _ => None,
        },
    }
}

impl Shard {
    /// Where a task is, and how it stands if it is here.
    #[must_use]
    pub fn see(&self, offset: Offset) -> Seen {
        if let Some(entry) = self.window.find(offset).and_then(|at| self.window.get(at)) {
            return Seen::Here {
                task: Box::new(self.snapshot(entry)),
                progress: entry
                    .task
                    .rare
                    .as_ref()
                    .and_then(|rare| rare.progress.clone()),
                waits: None,
            };
        }
        if offset < self.next_fetch || self.watermark.is_done(offset) {
            Seen::Left
        } else {
            Seen::Backlog(offset.0 - self.next_fetch.0)
        }
    }

    /// Whether parked tasks wait in the store.
    #[must_use]
    pub fn has_parked(&self) -> bool {
        self.due.has_parked() || self.order.is_reading()
    }

    /// Tasks in memory, newest offset first: below `below`, in one of `states` (empty: all), at most `n_max`.
    #[must_use]
    pub fn list(
        &self,
        states: &[StateName],
        below: Option<Offset>,
        n_max: usize,
    ) -> Vec<StoredTask> {
        let mut found: Vec<_> = self
            .window
            .entries()
            .filter(|entry| below.is_none_or(|below| entry.task.offset < below))
            .filter(|entry| states.is_empty() || states.contains(&entry.seen_as().0))
            .collect();
        if found.len() > n_max {
            found.select_nth_unstable_by_key(n_max, |entry| std::cmp::Reverse(entry.task.offset));
            found.truncate(n_max);
        }
        found.sort_unstable_by_key(|entry| std::cmp::Reverse(entry.task.offset));
        found
            .into_iter()
            .map(|entry| self.snapshot(entry))
            .collect()
    }

    fn snapshot(&self, entry: &Entry) -> StoredTask {
        let mut snapshot = stored(&entry.task, &self.rules);
        let Some(shown) = &entry.shown else {
            return snapshot;
        };
        snapshot.attempt = shown.attempt;
        if shown.name == StateName::Running {
            snapshot
                .errors
                .retain(|error| error.token != entry.task.token);
        }
        let due_at = entry.task.accepted_at;
        let parked = |kind| StoredState::Parked { due_at, kind };
        snapshot.state = match (&shown.worker, shown.name) {
            (Some(worker), _) => StoredState::Running {
                worker: worker.clone(),
                leased_at: snapshot.started_at.unwrap_or(due_at),
            },
            (None, StateName::Scheduled) => parked(Parked::Scheduled),
            (None, StateName::Retryable) => parked(Parked::Retryable),
            (None, _) => parked(Parked::Available),
        };
        snapshot
    }
}
