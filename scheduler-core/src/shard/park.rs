//! Where a task in memory goes next, and how tasks that cannot run leave memory and come back.

use std::time::Duration;

use rustc_hash::FxHashSet;

use super::{
    Shard,
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
    /// The earliest task that was parked meanwhile.
    parked_at: Option<Timestamp>,
    /// Tasks that left memory meanwhile: the page may show them as they were before.
    left: FxHashSet<Offset>,
}

impl Due {
    pub(super) fn new(next_at: Option<Timestamp>) -> Self {
        Self {
            cursor: (Timestamp::EPOCH, Offset::ZERO),
            next_at,
            reading: None,
            not_before: Timestamp::EPOCH,
        }
    }

    pub(super) fn has_parked(&self) -> bool {
        self.next_at.is_some() || self.reading.is_some()
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
        let Some(entry) = self.window.get_mut(at) else {
            return;
        };
        if let State::Running(lease) = &entry.task.state {
            let deadline = lease.deadline();
            self.timers.arm(at.slot, deadline);
            return;
        }
        if entry.is_unsaved() || entry.hold != Hold::None {
            return;
        }
        match entry.task.state {
            State::Available => self.enqueue(at),
            State::Scheduled { due_at } | State::Retryable { due_at } => {
                if due_at <= now {
                    // Its time has come, so this is not refused.
                    entry
                        .task
                        .apply(Event::TimerFired, now, &self.rules, &mut self.rng)
                        .ok();
                    self.enqueue(at);
                } else if due_at.since(now) <= self.config.park_over {
                    self.timers.arm(at.slot, due_at);
                } else if entry.saved {
                    let offset = entry.task.offset;
                    self.timers.disarm(at.slot);
                    self.window.remove(at);
                    self.left_memory(offset);
                    self.due.parked(due_at);
                } else {
                    self.save_later(at);
                }
            }
            State::Running(_) | State::Ended { .. } => {}
        }
    }

    fn enqueue(&mut self, at: SlotRef) {
        if let Some(entry) = self.window.get_mut(at)
            && !entry.queued
        {
            entry.queued = true;
            self.ready.push_back(at);
            // Tasks that were cancelled while they waited leave outdated references behind.
            if self.ready.len() > 2 * self.window.len() + 64 {
                let window = &self.window;
                self.ready.retain(|at| window.get(*at).is_some());
            }
        }
    }

    /// Asks for parked tasks that are due, if there is room for them.
    pub(super) fn read_due(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        if self.due.wake_at(!self.is_full).is_none_or(|at| at > now) {
            return;
        }
        self.due.reading = Some(Reading::default());
        let (n_free, bytes_free) = self.room();
        let page = DuePage {
            shard: self.id,
            after: self.due.cursor,
            until: now,
            n_max: n_free.clamp(1, PAGE_TASKS_MAX),
            bytes_max: bytes_free.clamp(1, PAGE_BYTES_MAX),
        };
        out.push(Action::ReadDue(self.epoch, page));
    }

    /// Takes a page of parked tasks, or notes that it could not be read.
    pub fn due_read(&mut self, page: Option<DueTasks>, now: Timestamp) {
        let Some(reading) = self.due.reading.take() else {
            return;
        };
        let Some(page) = page else {
            self.due.not_before = now + PAGE_RETRY;
            return;
        };
        self.due.next_at = page.next_due_at.into_iter().chain(reading.parked_at).min();
        for stored in page.tasks {
            if let StoredState::Parked { due_at, .. } = stored.state {
                self.due.cursor = (due_at, stored.offset);
            }
            if !self.window.contains(stored.offset) && !reading.left.contains(&stored.offset) {
                let at = self.insert_stored(stored, now);
                self.place(at, now);
            }
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
                    progress: None,
                })
            }),
        };
        let timeout = task.timeout(&self.rules);
        let silence = task.heartbeat_timeout(&self.rules);
        if let State::Running(lease) = &mut task.state {
            self.n_running += 1;
            lease.times_out_at = timeout.map_or(Timestamp::NEVER, |wait| lease.leased_at + wait);
            lease.silent_at = silence.map_or(Timestamp::NEVER, |wait| now + wait);
        }
        let mut entry = Entry::new(task);
        entry.saved = true;
        self.insert(entry, now)
    }
}
