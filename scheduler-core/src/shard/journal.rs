//! What a shard notes of its past for people to see: totals, durations, failures, who works, what changed.
//!
//! Nothing is decided by it. What ends a task is noted once it is durable.

use std::collections::{BTreeMap, VecDeque};

use super::{
    Shard,
    window::{Changed, SlotRef},
};
use crate::{
    Offset, TaskId, Timestamp, WorkerId,
    action::Action,
    port::store::Ending,
    survey::{Change, Changes, Failures, Hand, Heard, Recent, ShardSurvey, Totals, Waits},
    task::state::State,
};

/// So many changes are kept for those who ask for them.
const CHANGES_MAX: usize = 256;
/// How long changes are noted after they were last asked for.
const WATCHED: std::time::Duration = std::time::Duration::from_secs(60);

/// What one worker has.
#[derive(Debug)]
struct Holding {
    n_leases: u64,
    n_slots: u64,
    since: Timestamp,
    seen_at: Timestamp,
}

/// What a shard notes of its past.
#[derive(Debug)]
pub(super) struct Journal {
    claimed_at: Timestamp,
    /// The watermark that is durable.
    pub(super) watermark: Offset,
    /// When the last record that was read was accepted.
    pub(super) read_at: Option<Timestamp>,
    totals: Totals,
    pub(super) waited: Recent,
    pub(super) ran: Recent,
    failures: Failures,
    hands: BTreeMap<WorkerId, Holding>,
    changes: VecDeque<Change>,
    n_changes: u64,
    watched_until: Timestamp,
}

impl Journal {
    pub(super) fn new(watermark: Offset, now: Timestamp) -> Self {
        Self {
            claimed_at: now,
            watermark,
            read_at: None,
            totals: Totals::default(),
            waited: Recent::default(),
            ran: Recent::default(),
            failures: Failures::default(),
            hands: BTreeMap::new(),
            changes: VecDeque::new(),
            n_changes: 0,
            watched_until: Timestamp::EPOCH,
        }
    }

    /// A worker has a task from now on.
    pub(super) fn took(&mut self, worker: &WorkerId, cost: u16, now: Timestamp) {
        let holding = self.hands.entry(worker.clone()).or_insert(Holding {
            n_leases: 0,
            n_slots: 0,
            since: now,
            seen_at: now,
        });
        holding.n_leases += 1;
        holding.n_slots += u64::from(cost);
        holding.seen_at = now;
    }

    /// A worker has a task no longer.
    pub(super) fn left(&mut self, worker: &WorkerId, cost: u16) {
        if let Some(holding) = self.hands.get_mut(worker) {
            holding.n_leases -= 1;
            holding.n_slots -= u64::from(cost);
            if holding.n_leases == 0 {
                self.hands.remove(worker);
            }
        }
    }

    /// A worker gave a sign of life for a task.
    pub(super) fn saw(&mut self, worker: &WorkerId, now: Timestamp) {
        if let Some(holding) = self.hands.get_mut(worker) {
            holding.seen_at = now;
        }
    }

    fn hands(&self) -> Vec<Hand> {
        let hands = self.hands.iter().map(|(worker, holding)| Hand {
            worker: worker.clone(),
            n_leases: holding.n_leases,
            n_slots: holding.n_slots,
            since: holding.since,
            seen_at: holding.seen_at,
        });
        hands.collect()
    }

    /// What changed after that place: all that is kept if it is of no use.
    fn changes_after(&self, n_heard: Option<u64>) -> Changes {
        let n_kept = self.changes.len() as u64;
        let n_first = self.n_changes - n_kept;
        let n_skipped = n_heard.map_or(0, |n| n.saturating_sub(n_first));
        let n_skipped = usize::try_from(n_skipped).unwrap_or(usize::MAX);
        Changes {
            list: self.changes.iter().skip(n_skipped).copied().collect(),
            n: self.n_changes,
        }
    }
}

impl Shard {
    /// Notes what has become of a task that is durable now, before it is shown.
    pub(super) fn note_saved(&mut self, at: SlotRef) {
        let Some(entry) = self.window.get_mut(at) else {
            return;
        };
        let was_running = entry.was_running();
        let id = TaskId {
            shard: self.id,
            offset: entry.task.offset,
        };
        if let Some(error) = entry.take_new_error() {
            self.journal.failures.note(&error.failure, id, error.at);
            self.journal.totals.n_failed += u64::from(was_running);
        }
        if let State::Ended { ending, .. } = &entry.task.state {
            let totals = &mut self.journal.totals;
            match ending {
                Ending::Completed { .. } => totals.n_completed += 1,
                Ending::Cancelled => totals.n_cancelled += 1,
                Ending::Discarded => totals.n_discarded += 1,
            }
        }
    }

    /// Notes from now on what changes.
    pub fn watch(&mut self, now: Timestamp) {
        self.journal.watched_until = now + WATCHED;
        self.window.watch(true);
    }

    /// Tells whoever waits for them which tasks have changed.
    pub fn tell_changes(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        let changed = self.window.take_changed();
        if changed.is_empty() {
            return;
        }
        let journal = &mut self.journal;
        let mut ids = Vec::with_capacity(changed.len());
        for Changed { offset, to } in changed {
            let id = TaskId {
                shard: self.id,
                offset,
            };
            ids.push(id);
            let Some((state, attempt)) = to else {
                continue;
            };
            journal.n_changes += 1;
            if journal.changes.len() >= CHANGES_MAX {
                journal.changes.pop_front();
            }
            let at = now;
            journal.changes.push_back(Change {
                id,
                state,
                attempt,
                at,
            });
        }
        if now > journal.watched_until {
            journal.changes = VecDeque::new();
            self.window.watch(false);
        }
        out.push(Action::Changed(ids));
    }

    /// How it stands, and what changed after a place if that is asked.
    #[must_use]
    pub fn survey(
        &self,
        waits: Waits,
        hands: bool,
        heard: Option<Option<Heard>>,
        now: Timestamp,
    ) -> ShardSurvey {
        let journal = &self.journal;
        let own = |heard: Option<Heard>| {
            let heard = heard.filter(|heard| heard.epoch == self.epoch);
            journal.changes_after(heard.map(|heard| heard.n))
        };
        ShardSurvey {
            shard: self.id,
            epoch: self.epoch,
            claimed_at: journal.claimed_at,
            claimed_end: self.claimed_end,
            next_offset: self.next_fetch,
            watermark: journal.watermark,
            read_at: journal.read_at,
            n_bytes: self.window.n_bytes() as u64,
            states: self.window.states(),
            waits,
            has_parked: self.has_parked(),
            totals: journal.totals,
            waited: journal.waited.read(now),
            ran: journal.ran.read(now),
            failures: journal.failures.read(now),
            hands: if hands { journal.hands() } else { Vec::new() },
            changes: heard.map(own).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Partition, PipelineNumber, ShardId, StateName};

    fn journal_of(n: u64) -> Journal {
        let mut journal = Journal::new(Offset::ZERO, Timestamp::EPOCH);
        for offset in 0..n {
            let id = TaskId {
                shard: ShardId {
                    pipeline: PipelineNumber(1),
                    partition: Partition(0),
                },
                offset: Offset(offset),
            };
            let (state, attempt, at) = (StateName::Running, 1, Timestamp::EPOCH);
            let change = Change {
                id,
                state,
                attempt,
                at,
            };
            journal.changes.push_back(change);
        }
        // Three more have been forgotten.
        journal.n_changes = n + 3;
        journal
    }

    #[test]
    fn changes_go_on_after_the_place_that_was_heard() {
        let journal = journal_of(4);
        let after = |heard: Option<u64>| {
            let changes = journal.changes_after(heard);
            let offsets: Vec<_> = changes
                .list
                .iter()
                .map(|change| change.id.offset.0)
                .collect();
            (offsets, changes.n)
        };
        assert_eq!(after(None), (vec![0, 1, 2, 3], 7));
        assert_eq!(after(Some(1)), (vec![0, 1, 2, 3], 7));
        assert_eq!(after(Some(5)), (vec![2, 3], 7));
        assert_eq!(after(Some(7)), (vec![], 7));
        assert_eq!(after(Some(u64::MAX)), (vec![], 7));
    }

    #[test]
    fn a_worker_is_known_as_long_as_it_holds_something() {
        let at = Timestamp::from_millis;
        let worker: WorkerId = "w".try_into().unwrap();
        let mut journal = journal_of(0);
        journal.took(&worker, 2, at(1));
        journal.took(&worker, 1, at(2));
        journal.saw(&worker, at(5));
        journal.left(&worker, 2);
        let hands = journal.hands();
        let hand = &hands[0];
        assert_eq!((hand.n_leases, hand.n_slots), (1, 1));
        assert_eq!((hand.since, hand.seen_at), (at(1), at(5)));
        journal.left(&worker, 1);
        journal.saw(&worker, at(6));
        assert_eq!(journal.hands(), []);
    }
}
