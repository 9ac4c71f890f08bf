//! Where a task in memory goes next, and how tasks that cannot run leave memory and come back.

use std::time::Duration;

use rustc_hash::FxHashSet;

use super::{
    Shard,
    order::Turn,
    ready::Offer,
    window::{Entry, Hold, SlotRef},
};
use crate::{
    Offset, Timestamp,
    action::Action,
    port::store::{DuePage, DueTasks, Parked, StoredState, StoredTask},
    task::{
        event::Event,
        state::{Lease, Rare, State, Task},
    },
};

/// The most parked tasks and bytes of one page.
const PAGE_TASKS_MAX: usize = 1_024;
const PAGE_BYTES_MAX: usize = 4 << 20;
/// How long a task is set aside at least and at most.
const ASIDE_FIRST: Duration = Duration::from_secs(30);
const ASIDE_LAST: Duration = Duration::from_secs(600);
/// How long to wait after a page could not be read.
const PAGE_RETRY: Duration = Duration::from_secs(1);

/// What a shard knows of its parked tasks: where it reads on, and when.
///
/// No due task is ever missed: the cursor never passes the time of the page's reading, and a task
/// leaves memory only if it is due later than that.
#[derive(Debug)]
pub(super) struct Due {
    cursor: (Timestamp, Offset),
    /// When the first parked task behind the cursor is due, or earlier.
    next_at: Option<Timestamp>,
    reading: Option<Reading>,
    not_before: Timestamp,
}

/// A page that is being read, and what happens meanwhile.
#[derive(Debug, Default)]
struct Reading {
    /// At most so many tasks and bytes come.
    coming: (usize, usize),
    /// The earliest task that was parked meanwhile.
    parked_at: Option<Timestamp>,
    /// Tasks that left memory meanwhile: the page may show them as they were before.
    left: FxHashSet<Offset>,
}

impl Due {
    /// How many tasks and bytes may come with the page that is being read.
    pub(super) fn coming(&self) -> (usize, usize) {
        let reading = self.reading.as_ref();
        reading.map_or((0, 0), |reading| reading.coming)
    }

    pub(super) fn new(next_at: Option<Timestamp>) -> Self {
        let mut due = Self {
            cursor: (Timestamp::EPOCH, Offset::ZERO),
            next_at,
            reading: None,
            not_before: Timestamp::EPOCH,
        };
        if next_at.is_none_or(|at| at > Timestamp::EPOCH) {
            due.pass_keyed();
        }
        due
    }

    /// Tasks that wait behind their keys are due at the epoch. Those of earlier owners are read once; those that this
    /// one sends away are called back by their keys.
    fn pass_keyed(&mut self) {
        let behind = (Timestamp::from_millis(1), Offset::ZERO);
        self.cursor = self.cursor.max(behind);
    }

    pub(super) fn has_parked(&self) -> bool {
        self.next_at.is_some() || self.reading.is_some()
    }

    pub(super) fn is_reading(&self) -> bool {
        self.reading.is_some()
    }

    pub(super) fn wake_at(&self, has_room: bool) -> Option<Timestamp> {
        let idle = self.reading.is_none() && has_room;
        self.next_at
            .filter(|_| idle)
            .map(|at| at.max(self.not_before))
    }

    fn parked(&mut self, due_at: Timestamp) {
        let earliest =
            |at: &mut Option<Timestamp>| *at = Some(at.map_or(due_at, |at| at.min(due_at)));
        earliest(&mut self.next_at);
        if let Some(reading) = &mut self.reading {
            earliest(&mut reading.parked_at);
        }
    }

    pub(super) fn left_memory(&mut self, offset: Offset) {
        if let Some(reading) = &mut self.reading {
            reading.left.insert(offset);
        }
    }
}

impl Shard {
    /// Sends a task on to where its state belongs: the ready queue, a timer, or out of memory.
    pub(super) fn place(&mut self, at: SlotRef, now: Timestamp) {
        let is_taken = self.take_for_cancel(at);
        let Some(entry) = self.window.get_mut(at) else {
            return;
        };
        if let State::Running(lease) = &entry.task.state {
            let deadline = lease.deadline();
            self.timers.arm(at.slot, deadline);
            return;
        }
        if is_taken || entry.is_unsaved() {
            return;
        }
        match (entry.hold, &entry.task.state) {
            (Hold::Key | Hold::Adoption | Hold::Cancel, _)
            | (_, State::Running(_) | State::Ended { .. })
            | (Hold::Behind, State::Scheduled { .. } | State::Retryable { .. }) => {}
            (Hold::Aside(until), _) => self.leave_aside(at, until, now),
            (Hold::None | Hold::Behind, State::Available) => self.line_up(at),
            (Hold::None, State::Scheduled { due_at } | State::Retryable { due_at }) => {
                let due_at = *due_at;
                self.wait(at, due_at, now);
            }
        }
    }

    /// Lets a task wait for its time: in memory, or in the store if that is long.
    fn wait(&mut self, at: SlotRef, due_at: Timestamp, now: Timestamp) {
        let Some(entry) = self.window.get_mut(at) else {
            return;
        };
        let wake_at = due_at.min(entry.task.deadline(&self.rules));
        if due_at <= now && entry.task.deadline(&self.rules) > now {
            entry.since = due_at;
            // Its time has come, so this is not refused.
            let fired = Event::TimerFired;
            entry
                .task
                .apply(fired, now, &self.rules, &mut self.rng)
                .ok();
            self.window.stand(at);
            self.line_up(at);
        } else if wake_at.since(now) <= self.config.park_over {
            self.timers.arm(at.slot, wake_at);
        } else if entry.saved {
            self.leave(at, due_at);
        } else {
            self.save_later(at);
        }
    }

    /// A task that is stored leaves memory until it is due.
    fn leave(&mut self, at: SlotRef, due_at: Timestamp) {
        self.timers.disarm(at.slot);
        let key = self.key_of(at);
        if let Some(entry) = self.window.remove(at) {
            let offset = entry.task.offset;
            if let Some(key) = &key {
                self.order.left(key, offset, false);
            }
            self.left_memory(offset);
            self.due.parked(due_at);
        }
    }

    /// Lets a task wait for its turn.
    fn line_up(&mut self, at: SlotRef) {
        let waits = |entry: &Entry| entry.queued && entry.hold == Hold::None;
        if self.window.get(at).is_some_and(waits) {
            // It was only stored meanwhile.
            return;
        }
        if self.key_of(at).is_some() && !self.is_its_turn(at) {
            return;
        }
        let Some(entry) = self.window.get_mut(at) else {
            return;
        };
        self.timers.arm(at.slot, entry.task.deadline(&self.rules));
        if entry.queued {
            return;
        }
        entry.queued = true;
        let Some(entry) = self.window.get(at) else {
            return;
        };
        let (needs, rank) = (self.needs_of(entry), self.rank_of(entry));
        let group = entry.task.group(&self.rules).cloned();
        self.ready.push(needs, group, rank, at);
        if self.ready.len() > 2 * self.window.len() + 64 {
            self.ready.forget_gone(&self.window);
        }
    }

    /// Whether a task with an ordering key may start. If not, it waits behind the others, here or in the store.
    pub(super) fn is_its_turn(&mut self, at: SlotRef) -> bool {
        // One that was to wait for its time joins its key only now.
        self.join_key(at);
        let (Some(key), Some(entry)) = (self.key_of(at), self.window.get(at)) else {
            return true;
        };
        let (offset, saved_available) = (entry.task.offset, entry.saved_available);
        let deadline = entry.task.deadline(&self.rules);
        let turn = self.order.turn(&key, offset, self.config.window_tasks_max);
        match turn {
            Turn::Now => self.window.set_hold(at, Hold::None),
            Turn::Later | Turn::Away => {
                self.window.set_hold(at, Hold::Behind);
                self.timers.arm(at.slot, deadline);
            }
        }
        if turn == Turn::Away {
            // As scheduled or retryable its key would not find it.
            if saved_available {
                self.timers.disarm(at.slot);
                self.window.remove(at);
                self.left_memory(offset);
                self.order.sent_away(&key, offset);
            } else {
                self.save_later(at);
            }
        }
        turn == Turn::Now
    }

    /// A worker came for whom there is nothing here, since memory is full of tasks that others must take: some of them
    /// go to the store for a while, so that the log can be read on.
    pub(super) fn set_aside(&mut self, offer: Offer<'_>, now: Timestamp) {
        if !self.is_full || self.n_aside > 0 {
            return;
        }
        for at in self.ready.shed(offer, self.config.flush_tasks_max) {
            let Some(entry) = self.window.get_mut(at) else {
                continue;
            };
            entry.queued = false;
            // Only what is next of its key may hold it while it is away.
            if !entry.is_ready() || self.key_of(at).is_some() && !self.is_its_turn(at) {
                continue;
            }
            let Some(entry) = self.window.get(at) else {
                continue;
            };
            // The longer it has waited the longer it stays away, so that those who wait for hours cost little.
            let age = now.since(entry.task.accepted_at) / 2;
            let until = now + age.clamp(ASIDE_FIRST, ASIDE_LAST);
            self.window.set_hold(at, Hold::Aside(until));
            self.n_aside += 1;
            self.save_later(at);
        }
    }

    /// A task that is to be set aside is stored. If that took too long it stays: what is due is read on from where it
    /// was, and would not be found.
    fn leave_aside(&mut self, at: SlotRef, until: Timestamp, now: Timestamp) {
        self.n_aside -= 1;
        self.window.set_hold(at, Hold::None);
        if until > now {
            self.leave(at, until);
        } else {
            self.line_up(at);
        }
    }

    /// Asks for parked tasks that are due, if there is room for them.
    pub(super) fn read_due(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        // One page is read at a time, so that it is clear whose it is.
        let wake_at = self.due.wake_at(!self.is_full);
        if self.cancels.is_reading() || wake_at.is_none_or(|at| at > now) {
            return;
        }
        let (n_free, bytes_free) = self.room();
        let page = DuePage {
            shard: self.id,
            from: self.due.cursor,
            until: now,
            n_max: n_free.clamp(1, PAGE_TASKS_MAX),
            bytes_max: bytes_free.clamp(1, PAGE_BYTES_MAX),
        };
        self.due.reading = Some(Reading {
            coming: (page.n_max, page.bytes_max),
            ..Reading::default()
        });
        out.push(Action::ReadDue(self.epoch, page));
    }

    /// Takes a page of parked tasks, or notes that it could not be read.
    pub fn due_read(&mut self, page: Option<DueTasks>, now: Timestamp) {
        if self.cancels.is_reading() {
            self.swept(page, now);
            return;
        }
        let Some(reading) = self.due.reading.take() else {
            return;
        };
        let Some(page) = page else {
            self.due.not_before = now + PAGE_RETRY;
            return;
        };
        self.due.next_at = page.next_due_at.into_iter().chain(reading.parked_at).min();
        let is_past_keyed = page.next_due_at.is_none_or(|at| at > Timestamp::EPOCH);
        for stored in page.tasks {
            if let StoredState::Parked { due_at, .. } = stored.state {
                self.due.cursor = (due_at, stored.offset.next());
            }
            if !self.window.contains(stored.offset) && !reading.left.contains(&stored.offset) {
                let at = self.insert_stored(stored, now);
                self.place(at, now);
            }
        }
        if is_past_keyed {
            self.due.pass_keyed();
        }
    }

    /// Puts a task from the store into memory; it must not have ended.
    pub(super) fn insert_stored(&mut self, stored: StoredTask, now: Timestamp) -> SlotRef {
        let state = match stored.state {
            StoredState::Parked { due_at, kind } => match kind {
                Parked::Scheduled => State::Scheduled { due_at },
                Parked::Retryable => State::Retryable { due_at },
                Parked::Available => State::Available,
            },
            StoredState::Running { worker, leased_at } => State::Running(Lease {
                worker,
                leased_at,
                expires_at: now + self.rules.lease,
                times_out_at: Timestamp::NEVER,
                silent_at: Timestamp::NEVER,
                // Its worker gets the time to find the new owner, whatever it was before.
                is_offer: false,
            }),
            StoredState::Ended {
                ending, ended_at, ..
            } => State::Ended { ending, ended_at },
        };
        let mut task = Task {
            offset: stored.offset,
            accepted_at: stored.accepted_at,
            submitted: stored.task,
            state,
            attempt: stored.attempt,
            token: stored.token,
            started_at: stored.started_at.unwrap_or(Timestamp::NEVER),
            rare: (!stored.errors.is_empty()).then(|| {
                Box::new(Rare {
                    errors: stored.errors,
                    ..Rare::default()
                })
            }),
        };
        let timeout = task.timeout(&self.rules);
        let silence = task.heartbeat_timeout(&self.rules);
        let deadline = task.deadline(&self.rules);
        if let State::Running(lease) = &mut task.state {
            let timed_out = timeout.map_or(Timestamp::NEVER, |wait| lease.leased_at + wait);
            lease.times_out_at = timed_out.min(deadline);
            lease.silent_at = silence.map_or(Timestamp::NEVER, |wait| now + wait);
        }
        let is_running = matches!(task.state, State::Running(_));
        let mut entry = Entry::new(task);
        entry.saved = true;
        entry.saved_available = matches!(entry.task.state, State::Available);
        entry.key_stored = self.order.counts_stored() && entry.task.is_in_line();
        let at = self.insert(entry, now);
        if is_running {
            self.note_started(at, now);
        }
        self.join_key(at);
        at
    }
}
