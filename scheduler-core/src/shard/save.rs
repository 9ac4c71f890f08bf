//! What a shard saves with its next flush, and what follows once that is durable.

use std::{collections::VecDeque, time::Duration};

use super::{
    Shard,
    ack::Ack,
    cancel::Cancels,
    order::Order,
    window::{Entry, Hold, SlotRef},
};
use crate::{
    CancelRule, Offset, Retention, TaskId, Timestamp,
    action::Action,
    port::store::{Ending, KeyRow, Parked, ShardFlush, StoredState, StoredTask},
    task::state::{Rules, State, Task},
};

/// The most bytes of data in one part of a flush, but at least one task.
const PART_BYTES_MAX: usize = 4 << 20;
/// How long a dead letter of a pipeline that keeps no results is kept.
const DEAD_LETTER_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

#[derive(Debug)]
struct Save {
    at: SlotRef,
    ack: Option<Ack>,
}

/// What waits for the next flush, and what is in the one in flight.
#[derive(Debug)]
pub(super) struct Saves {
    /// Someone waits for these.
    urgent: VecDeque<Save>,
    /// Nobody does.
    lazy: VecDeque<Save>,
    pub(super) keys: Vec<KeyRow>,
    pub(super) key_acks: Vec<Ack>,
    in_flight: Option<InFlight>,
    number: u64,
    /// The watermark of the last part.
    told: Offset,
    last_full_at: Timestamp,
}

#[derive(Debug)]
struct InFlight {
    slots: Vec<SlotRef>,
    acks: Vec<Ack>,
    keys: Vec<KeyRow>,
    cancels: Option<Vec<CancelRule>>,
    watermark: Offset,
}

impl Saves {
    pub(super) fn new(watermark: Offset, now: Timestamp) -> Self {
        Self {
            urgent: VecDeque::new(),
            lazy: VecDeque::new(),
            keys: Vec::new(),
            key_acks: Vec::new(),
            in_flight: None,
            number: 0,
            told: watermark,
            last_full_at: now,
        }
    }
}

/// How urgently a shard wants to be flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Nothing to save.
    None,
    /// With the next interval.
    Later,
    /// Someone waits, or a limit is near.
    Now,
}

impl Shard {
    /// Saves a changed task with the next flush, which starts as soon as it can.
    pub(super) fn save_now(&mut self, at: SlotRef, ack: Option<Ack>) {
        if let Some(entry) = self.window.get_mut(at) {
            entry.dirty = true;
            self.saves.urgent.push_back(Save { at, ack });
        }
    }

    /// Tells someone as soon as the task's present state is durable.
    pub(super) fn tell_when_saved(&mut self, at: SlotRef, ack: Ack) {
        let ack = Some(ack);
        self.saves.urgent.push_back(Save { at, ack });
    }

    /// Saves a task with the next flush of the interval.
    pub(super) fn save_later(&mut self, at: SlotRef) {
        if let Some(entry) = self.window.get_mut(at)
            && !entry.dirty
        {
            entry.dirty = true;
            self.saves.lazy.push_back(Save { at, ack: None });
        }
    }

    /// How many changes wait for a flush that someone waits for.
    pub(super) fn n_urgent(&self) -> usize {
        self.saves.urgent.len()
    }

    /// Whether a flush of this shard is in flight.
    pub(super) fn is_saving(&self) -> bool {
        self.saves.in_flight.is_some()
    }

    /// How urgently this shard wants to be flushed; nothing while a flush of it is in flight.
    #[must_use]
    pub fn urgency(&self) -> Urgency {
        let saves = &self.saves;
        if saves.in_flight.is_some() {
            return Urgency::None;
        }
        let waits = !saves.urgent.is_empty()
            || !saves.keys.is_empty()
            || !saves.key_acks.is_empty()
            || self.cancels.is_awaited();
        if waits || saves.lazy.len() >= self.config.flush_tasks_max {
            Urgency::Now
        } else if !saves.lazy.is_empty()
            || !self.fresh.is_empty()
            || self.cancels.is_changed()
            || self.watermark.low() > saves.told
            || self.watermark.n_above() >= self.config.straggler_after
        {
            Urgency::Later
        } else {
            Urgency::None
        }
    }

    /// Whether nothing is unsaved.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.saves.in_flight.is_none()
            && self.urgency() < Urgency::Now
            && self.saves.lazy.is_empty()
            && self.fresh.is_empty()
            && !self.cancels.is_changed()
            && self.watermark.low() == self.saves.told
    }

    /// Takes what the next flush says of this shard. With `all` it says everything, otherwise only
    /// what someone waits for.
    ///
    /// Stored leases are those that are older than the flush of everything before this one, so a task
    /// that ends between two of them costs one row. `leases` stores the younger ones too.
    pub fn collect(&mut self, all: bool, leases: bool, now: Timestamp) -> Option<ShardFlush> {
        if self.saves.in_flight.is_some() {
            return None;
        }
        if all {
            self.collect_leases(if leases {
                Timestamp::NEVER
            } else {
                self.saves.last_full_at
            });
            self.saves.last_full_at = now;
        }
        let mut part = ShardFlush {
            shard: self.id,
            epoch: self.epoch,
            number: self.saves.number + 1,
            watermark: self.watermark.low(),
            seen_end: self.next_fetch,
            done: Vec::new(),
            tasks: Vec::new(),
            forgotten: Vec::new(),
            keys: std::mem::take(&mut self.saves.keys),
            cancels: None,
        };
        let mut in_flight = InFlight {
            slots: Vec::new(),
            acks: std::mem::take(&mut self.saves.key_acks),
            keys: part.keys.clone(),
            cancels: None,
            watermark: Offset::ZERO,
        };
        let lazy_is_long = self.saves.lazy.len() >= self.config.flush_tasks_max;
        let n_bytes = self.collect_tasks(all || lazy_is_long, &mut part, &mut in_flight);
        self.collect_stragglers(n_bytes, &mut part, &mut in_flight);
        // With what they have cancelled in this part.
        part.cancels = self.cancels.collect();
        in_flight.cancels.clone_from(&part.cancels);
        part.watermark = self.watermark.low();
        let first_chunk = part.watermark.0 / crate::watermark::CHUNK_BITS;
        part.done = self.watermark.take_changed();
        part.done.retain(|chunk| chunk.index >= first_chunk);
        let says_nothing = part.tasks.is_empty()
            && part.forgotten.is_empty()
            && part.keys.is_empty()
            && part.cancels.is_none()
            && in_flight.acks.is_empty()
            && in_flight.slots.is_empty()
            && part.done.is_empty()
            && part.watermark == self.saves.told;
        if says_nothing {
            return None;
        }
        in_flight.watermark = part.watermark;
        self.saves.told = part.watermark;
        self.saves.number = part.number;
        self.saves.in_flight = Some(in_flight);
        Some(part)
    }

    fn collect_leases(&mut self, leased_before: Timestamp) {
        while let Some((at, token)) = self.fresh.front().copied() {
            let entry = self.window.get(at);
            let lease = entry.and_then(|entry| match &entry.task.state {
                State::Running(lease) if entry.task.token == token => Some(lease),
                _ => None,
            });
            match lease {
                Some(lease) if lease.leased_at >= leased_before => return,
                Some(_) => self.save_later(at),
                None => {}
            }
            self.fresh.pop_front();
        }
    }

    /// Gives how many bytes it took.
    fn collect_tasks(
        &mut self,
        all: bool,
        part: &mut ShardFlush,
        in_flight: &mut InFlight,
    ) -> usize {
        let mut n_bytes = 0;
        loop {
            let n = part.tasks.len() + part.forgotten.len();
            if n >= self.config.flush_tasks_max || n_bytes >= PART_BYTES_MAX {
                return n_bytes;
            }
            let next = match self.saves.urgent.pop_front() {
                None if all => self.saves.lazy.pop_front(),
                next => next,
            };
            let Some(Save { at, ack }) = next else {
                return n_bytes;
            };
            in_flight.acks.extend(ack);
            if let Some(entry) = self.window.get_mut(at)
                && entry.dirty
            {
                n_bytes += entry.task.n_bytes();
                self.watermark.mark(entry.task.offset);
                let (order, cancels) = (&mut self.order, &mut self.cancels);
                write(entry, &self.rules, order, cancels, part);
                in_flight.slots.push(at);
            }
        }
    }

    /// Stores the tasks that hold the watermark below many done offsets, so that it can move on.
    fn collect_stragglers(
        &mut self,
        mut n_bytes: usize,
        part: &mut ShardFlush,
        in_flight: &mut InFlight,
    ) {
        while n_bytes < PART_BYTES_MAX
            && self.watermark.n_above() >= self.config.straggler_after
            && part.tasks.len() < 2 * self.config.flush_tasks_max
        {
            let low = self.watermark.low();
            let Some(at) = self.window.find(low).filter(|_| low < self.next_fetch) else {
                return;
            };
            let Some(entry) = self.window.get_mut(at) else {
                return;
            };
            // A record that may be a repetition must not be stored as a task.
            if entry.hold == Hold::Key || entry.saving {
                return;
            }
            n_bytes += entry.task.n_bytes();
            let (order, cancels) = (&mut self.order, &mut self.cancels);
            write(entry, &self.rules, order, cancels, part);
            in_flight.slots.push(at);
            self.watermark.mark(low);
        }
    }

    /// The part in flight is durable: tells who waited, and sends its tasks on.
    pub fn saved(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        let Some(in_flight) = self.saves.in_flight.take() else {
            return;
        };
        let mut ended = Vec::new();
        for at in in_flight.slots {
            let Some(entry) = self.window.get_mut(at) else {
                continue;
            };
            entry.saving = false;
            if entry.dirty {
                continue;
            }
            self.note_saved(at);
            let Some(entry) = self.window.get_mut(at) else {
                continue;
            };
            entry.shown = None;
            if matches!(entry.task.state, State::Ended { .. }) {
                self.forget(at, &mut ended);
            } else {
                self.window.stand(at);
                self.place(at, now);
            }
        }
        self.keys_saved(&in_flight.keys, now);
        for ack in in_flight.acks {
            out.push(ack.done());
        }
        let cancels = in_flight.cancels.unwrap_or_default();
        self.cancels.saved(&cancels, out);
        if !ended.is_empty() {
            out.push(Action::Ended(ended));
        }
        self.journal.watermark = in_flight.watermark;
        self.watermark_saved(in_flight.watermark, now, out);
    }

    fn forget(&mut self, at: SlotRef, ended: &mut Vec<TaskId>) {
        let Some(entry) = self.window.remove(at) else {
            return;
        };
        let offset = entry.task.offset;
        if let Some(options) = entry.task.options()
            && let Some(key) = &options.key
        {
            self.order.left(key, offset, true);
            if entry.key_stored {
                self.order.note_stored(key, false);
            }
        }
        let completed = matches!(
            &entry.task.state,
            State::Ended {
                ending: Ending::Completed { .. },
                ..
            }
        );
        if completed && keep_until(&entry.task, &self.rules).is_none() {
            self.settled.remember(offset, entry.task.token);
        }
        self.left_memory(offset);
        ended.push(TaskId {
            shard: self.id,
            offset,
        });
    }

    /// Another owner has the shard: tells everyone who waits that nothing is known.
    pub fn abandon(mut self, out: &mut Vec<Action>) {
        let in_flight = self.saves.in_flight.take();
        let urgent = std::mem::take(&mut self.saves.urgent);
        let acks = in_flight
            .into_iter()
            .flat_map(|in_flight| in_flight.acks)
            .chain(urgent.into_iter().filter_map(|save| save.ack))
            .chain(std::mem::take(&mut self.saves.key_acks));
        for ack in acks {
            out.extend(ack.abandoned());
        }
        self.abandon_loads(out);
        self.abandon_keys(out);
        self.cancels.abandon(out);
    }
}

/// Until when an ended task is kept, or `None` if it is not.
fn keep_until(task: &Task, rules: &Rules) -> Option<Timestamp> {
    let State::Ended { ending, ended_at } = &task.state else {
        return None;
    };
    let kept = match (task.retention(rules), ending) {
        (Retention::For(kept), _) => Some(kept),
        (Retention::Failures(kept), Ending::Cancelled | Ending::Discarded) => Some(kept),
        (Retention::None, Ending::Discarded) => Some(DEAD_LETTER_KEPT),
        (Retention::Failures(_), Ending::Completed { .. })
        | (Retention::None, Ending::Completed { .. } | Ending::Cancelled) => None,
    };
    kept.map(|kept| *ended_at + kept)
}

/// Writes a task into a part, as it stands.
fn write(
    entry: &mut Entry,
    rules: &Rules,
    order: &mut Order,
    cancels: &mut Cancels,
    part: &mut ShardFlush,
) {
    entry.dirty = false;
    entry.saving = true;
    if let Some(number) = entry.cancelled_by.take() {
        cancels.note_written(number);
    }
    let ended = matches!(entry.task.state, State::Ended { .. });
    if ended && keep_until(&entry.task, rules).is_none() {
        if entry.saved {
            part.forgotten.push(entry.task.offset);
        }
    } else {
        if let Some(options) = entry.task.options()
            && let Some(key) = &options.key
            && entry.task.is_in_line()
            && !entry.key_stored
        {
            order.note_stored(key, true);
            entry.key_stored = true;
        }
        entry.saved = true;
        entry.saved_available = matches!(entry.task.state, State::Available);
        let mut row = stored(&entry.task, rules);
        if let StoredState::Parked {
            due_at,
            kind: Parked::Available,
        } = &mut row.state
        {
            match entry.hold {
                Hold::Behind => *due_at = Timestamp::EPOCH,
                Hold::Aside(until) => *due_at = until,
                Hold::None | Hold::Key | Hold::Adoption | Hold::Cancel => {}
            }
        }
        part.tasks.push(row);
    }
}

/// A task as the store keeps it.
pub(super) fn stored(task: &Task, rules: &Rules) -> StoredTask {
    let state = match &task.state {
        State::Scheduled { due_at } => StoredState::Parked {
            due_at: *due_at,
            kind: Parked::Scheduled,
        },
        State::Available => StoredState::Parked {
            due_at: task.accepted_at,
            kind: Parked::Available,
        },
        State::Retryable { due_at } => StoredState::Parked {
            due_at: *due_at,
            kind: Parked::Retryable,
        },
        State::Running(lease) => StoredState::Running {
            worker: lease.worker.clone(),
            leased_at: lease.leased_at,
        },
        State::Ended { ending, ended_at } => StoredState::Ended {
            ending: ending.clone(),
            ended_at: *ended_at,
            keep_until: keep_until(task, rules).unwrap_or(*ended_at),
        },
    };
    StoredTask {
        offset: task.offset,
        accepted_at: task.accepted_at,
        task: task.submitted.clone(),
        state,
        attempt: task.attempt,
        token: task.token,
        started_at: (task.started_at != Timestamp::NEVER).then_some(task.started_at),
        errors: task.errors().to_vec(),
    }
}
