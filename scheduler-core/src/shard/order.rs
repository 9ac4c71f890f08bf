//! Ordering keys: tasks with one key start one at a time, in the order in which they were accepted.
//!
//! A task that was started *holds* its key until its end is durable, across retries and snoozes. Where leases were
//! lost in a crash, several may hold it; these too go on one after the other. The others wait in the order of their
//! offsets: some in memory, the rest in the store, so that a long line of one key takes no room from other keys. None
//! starts before all that lie before it in the store are read back.
//!
//! A line is known for as long as a task of it is in memory. What the store has of a key that is met
//! anew is asked for before any task of it starts, unless it surely has nothing.

mod page;

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::{FxHashMap, FxHasher};

use self::page::{Need, Reading};
use super::{
    Shard,
    window::{Entry, Hold, SlotRef},
};
use crate::{Offset, Timestamp, action::Action, task::OrderingKey};

/// How many tasks of one key wait in memory.
const LINE_MAX: usize = 64;
/// Tasks that wait behind their keys take at most this part of the window.
const WINDOW_PART: usize = 8;

/// The tasks of one key.
#[derive(Debug, Default)]
struct Line {
    /// Tasks that run. More than one only where a worker goes on with a lease of which nobody knew.
    running: BTreeSet<Offset>,
    /// Tasks that were started, run no longer and have not ended: they hold the key. They may be parked.
    holding: BTreeSet<Offset>,
    /// Not started: in memory, or `None` if it was set aside and comes back to its place.
    waiting: BTreeMap<Offset, Option<SlotRef>>,
    /// From this offset on, tasks may wait in the store that are not in memory.
    rest: Option<Offset>,
    /// From this offset on, the store may have tasks that hold the key and are not known. A task that was delayed may
    /// have started after one that lies behind it.
    unsurveyed: Option<Offset>,
    reading: Option<Reading>,
}

/// All keys of a shard.
#[derive(Debug)]
pub(super) struct Order {
    lines: FxHashMap<OrderingKey, Line>,
    /// Lines whose next task may have changed.
    stirred: BTreeSet<OrderingKey>,
    /// Lines that could not be read.
    unread: BTreeSet<OrderingKey>,
    read_at: Timestamp,
    /// Lines that are read when other pages have come, since there is no room for more.
    delayed: BTreeSet<OrderingKey>,
    n_pages: usize,
    n_waiting: usize,
    stored: StoredKeys,
    /// All records below it were read from the log: a stored task at or above it may have others before it there.
    read_to: Offset,
    /// Lines that can go on once the log was read beyond an offset.
    beyond: BTreeSet<(Offset, OrderingKey)>,
}

/// Which keys the store may have unfinished tasks of: never says no wrongly.
#[derive(Debug)]
struct StoredKeys {
    /// An earlier owner may have stored some.
    is_unknown: bool,
    /// How many tasks this owner has stored, by a hash of their keys; made when it is needed.
    counts: Vec<u32>,
}

const N_COUNTS: usize = 4_096;

impl StoredKeys {
    fn may_have(&self, key: &OrderingKey) -> bool {
        let counted = || self.counts.get(index(key)).is_some_and(|n| *n > 0);
        self.is_unknown || counted()
    }

    fn add(&mut self, key: &OrderingKey) {
        if self.counts.is_empty() {
            self.counts = vec![0; N_COUNTS];
        }
        self.counts[index(key)] += 1;
    }

    fn remove(&mut self, key: &OrderingKey) {
        if let Some(n) = self.counts.get_mut(index(key)) {
            *n = n.saturating_sub(1);
        }
    }
}

fn index(key: &OrderingKey) -> usize {
    use std::hash::{Hash, Hasher};
    let mut hasher = FxHasher::default();
    key.hash(&mut hasher);
    #[expect(clippy::cast_possible_truncation, reason = "the remainder is small")]
    let index = (hasher.finish() % N_COUNTS as u64) as usize;
    index
}

impl Line {
    /// Whether no task holds the key.
    fn is_free(&self) -> bool {
        self.running.is_empty() && self.holding.is_empty()
    }

    /// Whether the task at `offset` is the one to start next; the log was read up to `read_to`.
    fn is_next(&self, offset: Offset, read_to: Offset) -> bool {
        let waits = self.is_front(offset, read_to) && self.unsurveyed.is_none();
        waits || self.running.is_empty() && self.holding.first() == Some(&offset)
    }

    /// Whether the task at `offset` goes next, unless a task that is not known holds the key.
    fn is_front(&self, offset: Offset, read_to: Offset) -> bool {
        let first = self.waiting.first_key_value().map(|(first, _)| first);
        let is_first = first == Some(&offset) && offset < read_to && self.is_known(offset);
        self.is_free() && is_first
    }

    /// Whether all tasks before `offset` that are not in memory have ended.
    fn is_known(&self, offset: Offset) -> bool {
        self.rest.is_none_or(|rest| offset < rest)
    }
}

/// What a task has to do with its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It can start.
    Now,
    /// It waits in memory.
    Later,
    /// It is to wait in the store.
    Away,
}

impl Order {
    pub(super) fn new(is_unknown: bool, read_to: Offset, now: Timestamp) -> Self {
        Self {
            lines: FxHashMap::default(),
            stirred: BTreeSet::new(),
            unread: BTreeSet::new(),
            read_at: now,
            delayed: BTreeSet::new(),
            n_pages: 0,
            n_waiting: 0,
            stored: StoredKeys {
                is_unknown,
                counts: Vec::new(),
            },
            read_to,
            beyond: BTreeSet::new(),
        }
    }

    /// All records below `read_to` are here, have ended or are stored.
    pub(super) fn read_past(&mut self, read_to: Offset) {
        self.read_to = self.read_to.max(read_to);
        while let Some((offset, _)) = self.beyond.first()
            && *offset < self.read_to
            && let Some((_, key)) = self.beyond.pop_first()
        {
            self.stirred.insert(key);
        }
    }

    fn line(&mut self, key: &OrderingKey) -> &mut Line {
        let Self { lines, stored, .. } = self;
        if !lines.contains_key(key) {
            let rest = stored.may_have(key).then_some(Offset::ZERO);
            let new = Line {
                rest,
                unsurveyed: rest,
                ..Line::default()
            };
            lines.insert(key.clone(), new);
        }
        lines.get_mut(key).expect("a line was just made of the key")
    }

    /// A task joins its key: it waits, or holds the key if it was started before.
    pub(super) fn join(&mut self, key: &OrderingKey, offset: Offset, at: SlotRef, started: bool) {
        if offset >= self.read_to {
            self.beyond.insert((offset, key.clone()));
        }
        let line = self.line(key);
        let is_known = !started && line.waiting.get(&offset) == Some(&Some(at));
        if is_known || line.running.contains(&offset) {
            return;
        }
        if started {
            line.holding.insert(offset);
        } else {
            let known = line.waiting.insert(offset, Some(at));
            self.n_waiting += usize::from(known.flatten().is_none());
        }
        self.stirred.insert(key.clone());
    }

    /// A task starts, or goes on after its shard has moved.
    pub(super) fn started(&mut self, key: &OrderingKey, offset: Offset) {
        let line = self.line(key);
        line.holding.remove(&offset);
        line.running.insert(offset);
        let waited = line.waiting.remove(&offset);
        self.n_waiting -= usize::from(waited.flatten().is_some());
    }

    /// A task runs no longer, and holds its key until it has ended.
    pub(super) fn stopped(&mut self, key: &OrderingKey, offset: Offset) {
        if let Some(line) = self.lines.get_mut(key)
            && line.running.remove(&offset)
        {
            line.holding.insert(offset);
        }
    }

    /// When a task in memory may start.
    pub(super) fn turn(&mut self, key: &OrderingKey, offset: Offset, window_max: usize) -> Turn {
        let is_crowded = self.is_crowded(window_max);
        let read_to = self.read_to;
        let Some(line) = self.lines.get(key) else {
            return Turn::Now;
        };
        if line.is_next(offset, read_to) {
            return Turn::Now;
        }
        // The store is read again only for those that wait, and only once nothing holds the key. What goes next stays
        // while it is asked who holds the key, since it would be read again at once.
        if line.holding.contains(&offset) || line.is_front(offset, read_to) {
            return Turn::Later;
        }
        let lies_behind = !line.is_known(offset) && line.rest > Some(Offset::ZERO);
        if lies_behind || is_crowded || line.waiting.len() > LINE_MAX {
            Turn::Away
        } else {
            Turn::Later
        }
    }

    /// Whether tasks that wait behind their keys take too much room.
    fn is_crowded(&self, window_max: usize) -> bool {
        self.n_waiting > window_max / WINDOW_PART
    }

    /// A task that waited leaves memory for the store.
    pub(super) fn sent_away(&mut self, key: &OrderingKey, offset: Offset) {
        if let Some(line) = self.lines.get_mut(key) {
            let waited = line.waiting.remove(&offset);
            self.n_waiting -= usize::from(waited.flatten().is_some());
            line.rest = Some(line.rest.map_or(offset, |rest| rest.min(offset)));
            if let Some(reading) = &mut line.reading {
                reading.parked = Some(reading.parked.map_or(offset, |first| first.min(offset)));
            }
            self.stirred.insert(key.clone());
        }
    }

    /// A task leaves memory. If it has ended, or never was one, its key is free; otherwise it comes back when it is
    /// due, and nothing of its key goes before it.
    pub(super) fn left(&mut self, key: &OrderingKey, offset: Offset, has_ended: bool) {
        if let Some(line) = self.lines.get_mut(key) {
            let waited = line.waiting.get_mut(&offset).map(Option::take);
            self.n_waiting -= usize::from(waited.flatten().is_some());
            if has_ended {
                line.running.remove(&offset);
                line.holding.remove(&offset);
                line.waiting.remove(&offset);
            }
            if let Some(reading) = &mut line.reading {
                reading.is_stale = true;
            }
            self.stirred.insert(key.clone());
        }
    }

    /// The store has an unfinished task of this key, or has it no longer.
    pub(super) fn note_stored(&mut self, key: &OrderingKey, is_stored: bool) {
        if is_stored {
            self.stored.add(key);
        } else {
            self.stored.remove(key);
        }
    }

    /// Whether every stored task with a key was counted by this owner.
    pub(super) fn counts_stored(&self) -> bool {
        !self.stored.is_unknown
    }

    /// Whether tasks may wait in the store that nobody else knows of.
    pub(super) fn is_reading(&self) -> bool {
        self.n_pages > 0
    }

    pub(super) fn wake_at(&self) -> Option<Timestamp> {
        (!self.unread.is_empty()).then_some(self.read_at)
    }

    /// Which task a key waits for: the one that holds it, or the first of those that wait.
    pub(super) fn before(&self, key: &OrderingKey, offset: Offset) -> Option<Offset> {
        let line = self.lines.get(key)?;
        let waiting = line.waiting.keys();
        let others = line.running.iter().chain(&line.holding).chain(waiting);
        others.copied().find(|other| *other != offset)
    }
}

impl Shard {
    /// Lets the next task of each key go on whose line has changed.
    pub fn stir(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        self.run_cancels(now, out);
        if now >= self.order.read_at {
            let mut unread = std::mem::take(&mut self.order.unread);
            self.order.stirred.append(&mut unread);
        }
        while let Some(key) = self.order.stirred.pop_first() {
            self.stir_line(&key, now, out);
        }
    }

    fn stir_line(&mut self, key: &OrderingKey, now: Timestamp, out: &mut Vec<Action>) {
        self.make_room_in_line(key, now);
        let read_to = self.order.read_to;
        let Some(line) = self.order.lines.get_mut(key) else {
            return;
        };
        let held = line
            .holding
            .first()
            .and_then(|offset| self.window.find(*offset));
        let first = line
            .waiting
            .first_key_value()
            .map(|(first, at)| (*first, *at));
        let next = match held {
            Some(at) if line.running.is_empty() => Some(at),
            _ => first
                .filter(|(offset, _)| line.is_next(*offset, read_to))
                .and_then(|(_, at)| at),
        };
        if let Some(at) = next {
            if let Some(entry) = self.window.get(at)
                && entry.hold == Hold::Behind
            {
                self.window.set_hold(at, Hold::None);
                self.place(at, now);
            }
            return;
        }
        match line.need(read_to) {
            Need::Page(from) => self.read_line(key, from, false, out),
            Need::Survey(from) => self.read_line(key, from, true, out),
            Need::Log(from) => {
                self.order.beyond.insert((from, key.clone()));
            }
            // All that may wait is found in the store again, when the task that goes first comes back.
            Need::Nothing => {
                let is_here = |offset: &Offset| self.window.contains(*offset);
                let is_idle = line.running.is_empty() && line.reading.is_none();
                let waits_here = line.waiting.values().any(Option::is_some);
                if is_idle && !waits_here && !line.holding.iter().any(is_here) {
                    self.order.lines.remove(key);
                }
            }
        }
    }

    /// Sends tasks of a line to the store if too many wait in memory.
    fn make_room_in_line(&mut self, key: &OrderingKey, now: Timestamp) {
        if !self.order.is_crowded(self.config.window_tasks_max) {
            return;
        }
        let Some(line) = self.order.lines.get(key) else {
            return;
        };
        let waiting: Vec<_> = line.waiting.values().flatten().copied().collect();
        for at in waiting {
            let is_behind = |entry: &Entry| entry.hold == Hold::Behind && !entry.is_unsaved();
            if self.window.get(at).is_some_and(is_behind) {
                self.place(at, now);
            }
        }
    }

    /// The task's ordering key, if it has one.
    pub(super) fn key_of(&self, at: SlotRef) -> Option<OrderingKey> {
        let task = &self.window.get(at)?.task;
        task.options()?.key.clone()
    }

    /// The log is read past a task that is here already, since a call has brought it in. If it was started or has
    /// ended, it holds its key until its end is durable.
    pub(super) fn enter_line(&mut self, at: SlotRef) {
        let Some(entry) = self.window.get(at) else {
            return;
        };
        let (offset, task) = (entry.task.offset, &entry.task);
        let holds = task.started_at != Timestamp::NEVER || task.state.name().is_terminal();
        if let Some(key) = self.key_of(at).filter(|_| holds) {
            let line = self.order.line(&key);
            if !line.running.contains(&offset) && !line.waiting.contains_key(&offset) {
                line.holding.insert(offset);
            }
        }
    }

    /// Lets a task join its key as soon as it is in memory, unless it is still to wait for its time.
    pub(super) fn join_key(&mut self, at: SlotRef) {
        let Some(entry) = self.window.get(at) else {
            return;
        };
        let task = &entry.task;
        // One that was redriven waits again.
        let started = task.started_at != Timestamp::NEVER;
        if let Some(options) = task.options()
            && let Some(key) = &options.key
            && task.is_in_line()
        {
            let (key, offset) = (key.clone(), task.offset);
            self.order.join(&key, offset, at, started);
        }
    }
}
