//! Which shards are flushed together, and when.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::Member;
use crate::{
    Config, ShardId, Timestamp,
    action::Action,
    port::{
        FailureKind,
        store::{Flushed, ShardFlush},
    },
    shard::Urgency,
};

/// How long to wait before a failed flush is tried again: doubles from the first to the last.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LAST: Duration = Duration::from_secs(2);

/// One lane: at most one transaction in flight.
#[derive(Debug)]
struct Lane {
    /// Shards that someone waits for, since when.
    urgent: BTreeSet<ShardId>,
    urgent_since: Option<Timestamp>,
    /// Shards that can wait for the interval.
    later: BTreeSet<ShardId>,
    in_flight: Option<Arc<[ShardFlush]>>,
    /// Parts of a flush that could not be saved as a whole: they go out in smaller ones.
    split: VecDeque<Arc<[ShardFlush]>>,
    /// When the parts in flight, which failed, go out again.
    retry_at: Option<Timestamp>,
    retry_wait: Duration,
    next_full_at: Timestamp,
}

/// All lanes; a shard always uses the same one.
#[derive(Debug)]
pub(super) struct Lanes(Vec<Lane>);

impl Lanes {
    pub(super) fn new(n: u16) -> Self {
        let lane = |_| Lane {
            urgent: BTreeSet::new(),
            urgent_since: None,
            later: BTreeSet::new(),
            in_flight: None,
            split: VecDeque::new(),
            retry_at: None,
            retry_wait: RETRY_FIRST,
            next_full_at: Timestamp::EPOCH,
        };
        Self((0..n.max(1)).map(lane).collect())
    }

    fn of(&mut self, id: ShardId) -> &mut Lane {
        let n = self.0.len();
        let spread = id.pipeline.0 as usize + usize::from(id.partition.0);
        &mut self.0[spread % n]
    }

    pub(super) fn wake_at(&self, config: &Config) -> Option<Timestamp> {
        self.0.iter().filter_map(|lane| lane.wake_at(config)).min()
    }

    /// Whether a flush is in flight or about to be tried again.
    pub(super) fn are_saving(&self) -> bool {
        self.0.iter().any(|lane| lane.in_flight.is_some())
    }

    pub(super) fn note(&mut self, id: ShardId, urgency: Urgency, now: Timestamp) {
        let lane = self.of(id);
        match urgency {
            Urgency::Now => {
                lane.urgent.insert(id);
                lane.urgent_since.get_or_insert(now);
            }
            Urgency::Later => {
                lane.later.insert(id);
            }
            Urgency::None => {}
        }
    }
}

impl Lane {
    fn wake_at(&self, config: &Config) -> Option<Timestamp> {
        if self.in_flight.is_some() {
            return self.retry_at;
        }
        let urgent = self.urgent_since.map(|since| since + config.flush_linger);
        let later = (!self.later.is_empty()).then_some(self.next_full_at);
        [urgent, later].into_iter().flatten().min()
    }
}

impl Member {
    pub(super) fn run_flushes(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        for id in &self.touched {
            if let Some(shard) = self.shards.get(id) {
                self.lanes.note(*id, shard.urgency(), now);
            }
        }
        for index in 0..self.lanes.0.len() {
            let n_lane = u16::try_from(index).unwrap_or(u16::MAX);
            let lane = &mut self.lanes.0[index];
            if let Some(in_flight) = &lane.in_flight {
                if lane.retry_at.take_if(|at| *at <= now).is_some() {
                    out.push(Action::Flush(n_lane, Arc::clone(in_flight)));
                }
                continue;
            }
            if let Some(parts) = lane.split.pop_front() {
                lane.in_flight = Some(Arc::clone(&parts));
                out.push(Action::Flush(n_lane, parts));
                continue;
            }
            if lane.wake_at(&self.config).is_none_or(|at| at > now) {
                continue;
            }
            let full = now >= lane.next_full_at;
            let parts = self.collect(index, full, now);
            let lane = &mut self.lanes.0[index];
            if full {
                lane.next_full_at = now + self.config.flush_interval;
            }
            if !parts.is_empty() {
                let parts: Arc<[ShardFlush]> = parts.into();
                lane.in_flight = Some(Arc::clone(&parts));
                out.push(Action::Flush(n_lane, parts));
            }
        }
    }

    fn collect(&mut self, index: usize, full: bool, now: Timestamp) -> Vec<ShardFlush> {
        let lane = &mut self.lanes.0[index];
        lane.urgent_since = None;
        let mut ids = std::mem::take(&mut lane.urgent);
        if full {
            ids.append(&mut lane.later);
        }
        let mut parts = Vec::with_capacity(ids.len());
        for id in ids {
            let leaving = self.ownership.is_releasing(id);
            if let Some(shard) = self.shards.get_mut(&id) {
                parts.extend(shard.collect(full || leaving, leaving, now));
                // What is too young for this flush comes with the next.
                self.lanes.note(id, shard.urgency(), now);
            }
        }
        parts
    }

    pub(super) fn flushed(
        &mut self,
        lane: u16,
        answers: Result<Vec<Flushed>, FailureKind>,
        now: Timestamp,
        out: &mut Vec<Action>,
    ) {
        let n_lane = usize::from(lane);
        self.store_answered(answers.as_ref().map(drop).map_err(|kind| *kind), now, out);
        let Some(lane) = self.lanes.0.get_mut(n_lane) else {
            return;
        };
        let answers = match answers {
            Ok(answers) => answers,
            Err(FailureKind::Damaged) => {
                let Some(parts) = lane.in_flight.take() else {
                    return;
                };
                match parts.split_at(parts.len() / 2) {
                    ([], _) => self.unsavable(&parts[0], out),
                    // One of them cannot be saved: it is found by halves, so that it holds up no other.
                    (first, second) => {
                        lane.split.push_front(second.into());
                        lane.split.push_front(first.into());
                    }
                }
                return;
            }
            Err(
                FailureKind::Unavailable
                | FailureKind::Full
                | FailureKind::Closed
                | FailureKind::Unknown,
            ) => {
                // The same parts again, whatever became of them: their numbers make that safe.
                lane.retry_at = Some(now + lane.retry_wait);
                lane.retry_wait = (lane.retry_wait * 2).min(RETRY_LAST);
                return;
            }
        };
        lane.retry_wait = RETRY_FIRST;
        let Some(parts) = lane.in_flight.take() else {
            return;
        };
        for (part, answer) in parts.iter().zip(answers) {
            if self.epoch_of(part.shard) != Some(part.epoch) {
                continue;
            }
            match answer {
                Flushed::Saved => {
                    self.with_shard(part.shard, now, |shard| shard.saved(now, out));
                }
                Flushed::Fenced => self.fenced(part.shard, now, out),
            }
        }
    }

    /// What the shard has to save can never be saved: people must look, and nobody is told that it was.
    fn unsavable(&mut self, part: &ShardFlush, out: &mut Vec<Action>) {
        let id = part.shard;
        if self.epoch_of(id) != Some(part.epoch) {
            return;
        }
        self.drop_shard(id, out);
        let why = "its state cannot be saved; the log of this process says why";
        self.refuse(id, why.to_owned(), out);
    }
}
