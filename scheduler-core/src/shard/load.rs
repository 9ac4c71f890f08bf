//! Calls about tasks that are not in memory: the task is read first, then the call is done.

use std::time::Duration;

use bytes::Bytes;

use super::{
    Shard,
    ack::Ack,
    settled::Lapsed,
    window::{Entry, SlotRef},
};
use crate::{
    Error, LeaseLost, LeaseToken, Offset, Outcome, TaskId, Timestamp, WorkerId,
    action::{Action, Answer, CallId},
    call::Held,
    port::{
        log::{Record, RecordBody},
        store::{Ending, StoredState, StoredTask},
    },
    task::{
        event::Event,
        state::{State, Task},
    },
};

/// How long a caller should wait when a task could not be read.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What a read of one task found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loaded {
    /// A row of the store.
    Stored(Box<StoredTask>),
    /// No row, but a record of the log.
    Logged(Box<Record>),
    /// Neither.
    Missing,
    /// The read failed.
    Failed,
}

/// A call that waits for its task.
#[derive(Debug)]
pub(super) enum Op {
    Report {
        to: (CallId, u32),
        token: LeaseToken,
        outcome: Outcome,
    },
    Renew {
        to: (CallId, u32),
        token: LeaseToken,
        from_handler: bool,
        progress: Option<Bytes>,
    },
    Declare {
        token: LeaseToken,
        worker: WorkerId,
    },
    Cancel {
        to: CallId,
    },
    Redrive {
        to: CallId,
    },
}

/// A task that is being read.
#[derive(Debug, Default)]
pub(super) struct Loading {
    ops: Vec<Op>,
    /// The task left memory meanwhile, so the read may show it as it was before.
    is_stale: bool,
}

/// Why a task that was read cannot take a call.
#[derive(Debug, Clone)]
enum Absent {
    Ended(Box<StoredTask>),
    Gone,
    Unknown,
    Failed,
}

impl Shard {
    pub(super) fn load(&mut self, offset: Offset, op: Op, out: &mut Vec<Action>) {
        let loading = self.loading.entry(offset).or_default();
        if loading.ops.is_empty() {
            out.push(Action::Load(self.id, self.epoch, offset));
        }
        loading.ops.push(op);
    }

    /// Notes that a task left memory, so that what is being read of it now may be outdated.
    pub(super) fn left_memory(&mut self, offset: Offset) {
        if let Some(loading) = self.loading.get_mut(&offset) {
            loading.is_stale = true;
        }
        self.due.left_memory(offset);
        self.cancels.left_memory(offset);
    }

    /// Does the calls that waited for this task.
    pub fn loaded(
        &mut self,
        offset: Offset,
        loaded: Loaded,
        now: Timestamp,
        out: &mut Vec<Action>,
    ) {
        let Some(mut loading) = self.loading.remove(&offset) else {
            return;
        };
        if loading.is_stale && !self.window.contains(offset) {
            loading.is_stale = false;
            self.loading.insert(offset, loading);
            out.push(Action::Load(self.id, self.epoch, offset));
            return;
        }
        // Only a redrive brings back what has ended.
        let redrives = |op: &Op| matches!(op, Op::Redrive { .. });
        let is_redriven = loading.ops.iter().any(redrives);
        match self.bring_in(offset, loaded, is_redriven, now) {
            Ok(at) => {
                for op in loading.ops {
                    self.do_op(at, op, now, out);
                }
                self.leave_to_log(at, now);
            }
            Err(absent) => {
                for op in loading.ops {
                    self.answer_absent(offset, op, &absent, out);
                }
            }
        }
    }

    fn bring_in(
        &mut self,
        offset: Offset,
        loaded: Loaded,
        is_redriven: bool,
        now: Timestamp,
    ) -> Result<SlotRef, Absent> {
        if let Some(at) = self.window.find(offset) {
            return Ok(at);
        }
        match loaded {
            Loaded::Stored(stored)
                if matches!(stored.state, StoredState::Ended { .. }) && !is_redriven =>
            {
                Err(Absent::Ended(stored))
            }
            Loaded::Stored(stored) => Ok(self.insert_stored(*stored, now)),
            Loaded::Logged(record)
                if offset >= self.next_fetch && !self.watermark.is_done(offset) =>
            {
                let Record {
                    accepted_at, body, ..
                } = *record;
                match body {
                    RecordBody::Task(submitted) => {
                        let task = Task::accepted(offset, accepted_at, submitted, now);
                        Ok(self.insert(Entry::new(task), now))
                    }
                    // It becomes a dead letter when it is fetched, and can take no call before.
                    RecordBody::Malformed { .. } => Err(Absent::Gone),
                }
            }
            Loaded::Logged(_) => Err(Absent::Gone),
            Loaded::Missing if offset >= self.next_fetch => Err(Absent::Unknown),
            Loaded::Missing => Err(Absent::Gone),
            Loaded::Failed => Err(Absent::Failed),
        }
    }

    fn do_op(&mut self, at: SlotRef, op: Op, now: Timestamp, out: &mut Vec<Action>) {
        match op {
            Op::Report { to, token, outcome } => self.report_at(at, to, token, outcome, now, out),
            Op::Renew {
                to,
                token,
                from_handler,
                progress,
            } => {
                let renewed = self.renew_at(at, token, from_handler, progress, now, out);
                out.push(Action::Answer(to.0, to.1, Answer::Renewed(renewed)));
            }
            Op::Declare { token, worker } => self.declare_at(at, token, worker, now, out),
            Op::Cancel { to } => self.cancel_at(at, to, now, out),
            Op::Redrive { to } => self.redrive_at(at, to, now, out),
        }
    }

    /// A task that no call has changed goes back where it came from, so that it jumps no queue.
    fn leave_to_log(&mut self, at: SlotRef, now: Timestamp) {
        let Some(entry) = self.window.get(at) else {
            return;
        };
        let is_ended = matches!(entry.task.state, State::Ended { .. });
        if is_ended && !entry.is_unsaved() {
            // It was brought back for a redrive that was refused.
            self.window.remove(at);
            return;
        }
        let waits = !is_ended && !matches!(entry.task.state, State::Running(_));
        let untouched = waits && !entry.is_unsaved() && !entry.saved;
        if untouched && entry.task.offset >= self.next_fetch {
            self.window.remove(at);
        } else {
            self.place(at, now);
        }
    }

    fn answer_absent(&self, offset: Offset, op: Op, absent: &Absent, out: &mut Vec<Action>) {
        let id = TaskId {
            shard: self.id,
            offset,
        };
        let lost = match absent {
            Absent::Ended(stored) => match &stored.state {
                StoredState::Ended {
                    ending: Ending::Cancelled,
                    ..
                } => LeaseLost::Cancelled,
                _ => LeaseLost::Ended,
            },
            Absent::Gone | Absent::Unknown | Absent::Failed => LeaseLost::Ended,
        };
        let error = match absent {
            Absent::Ended(_) => Error::LeaseLost(lost),
            Absent::Gone if !matches!(op, Op::Cancel { .. } | Op::Redrive { .. }) => {
                Error::LeaseLost(lost)
            }
            Absent::Gone => Error::Gone(id.to_string()),
            Absent::Unknown => Error::not_found("task", id),
            Absent::Failed => Error::Unavailable {
                what: "the task could not be read".to_owned(),
                retry_after: RETRY_AFTER,
            },
        };
        match op {
            Op::Report { to, token, outcome } => {
                let same = matches!(absent, Absent::Ended(stored) if Lapsed::of_stored(stored).is_by(token, &outcome));
                let answer = if same { Ok(()) } else { Err(error) };
                out.push(Action::Answer(to.0, to.1, Answer::Reported(answer)));
            }
            Op::Renew { to, .. } => {
                out.push(Action::Answer(to.0, to.1, Answer::Renewed(Err(error))));
            }
            Op::Declare { token, .. } => {
                let settled = matches!(absent, Absent::Ended(stored) if Lapsed::of_stored(stored).is_settled(token));
                if !settled && !matches!(absent, Absent::Failed) {
                    out.push(Action::LeaseEnded(Held { id, token }, lost));
                }
            }
            Op::Redrive { to } => {
                out.push(Action::Answer(to, 0, Answer::Redriven(Err(error))));
            }
            Op::Cancel { to } => {
                let answer = match absent {
                    Absent::Ended(_) if lost == LeaseLost::Cancelled => Ok(()),
                    Absent::Ended(_) => Err(has_ended()),
                    Absent::Gone | Absent::Unknown | Absent::Failed => Err(error),
                };
                out.push(Action::Answer(to, 0, Answer::Cancelled(answer)));
            }
        }
    }

    /// Cancels a task wherever it is; answered when that is durable.
    pub fn cancel(&mut self, to: CallId, offset: Offset, now: Timestamp, out: &mut Vec<Action>) {
        match self.window.find(offset) {
            Some(at) => self.cancel_at(at, to, now, out),
            None => self.load(offset, Op::Cancel { to }, out),
        }
    }

    fn cancel_at(&mut self, at: SlotRef, to: CallId, now: Timestamp, out: &mut Vec<Action>) {
        let Some(entry) = self.window.get(at) else {
            return;
        };
        // An ending that is not durable yet must not show, so the refusal waits for its flush.
        let ack = match &entry.task.state {
            State::Ended {
                ending: Ending::Cancelled,
                ..
            } => Ack::Cancel(to),
            State::Ended { .. } => Ack::CancelRefused(to),
            _ => {
                // No state but an ended one refuses a cancel.
                self.transition(at, Event::CancelRequested, Some(Ack::Cancel(to)), now, out)
                    .ok();
                return;
            }
        };
        self.tell_when_saved(at, ack);
    }

    /// Lets a discarded task run again, with all its attempts; answered when that is durable.
    pub fn redrive(&mut self, to: CallId, offset: Offset, now: Timestamp, out: &mut Vec<Action>) {
        match self.window.find(offset) {
            Some(at) => self.redrive_at(at, to, now, out),
            None => self.load(offset, Op::Redrive { to }, out),
        }
    }

    fn redrive_at(&mut self, at: SlotRef, to: CallId, now: Timestamp, out: &mut Vec<Action>) {
        if self.is_being_cancelled(at) {
            let what = "a bulk cancel that covers the task is not over; redrive it when that is";
            let refused = Err(Error::WrongState(what.to_owned()));
            out.push(Action::Answer(to, 0, Answer::Redriven(refused)));
            return;
        }
        let redriven = Event::Redriven;
        if self
            .transition(at, redriven, Some(Ack::Redrive(to)), now, out)
            .is_err()
        {
            let what = "only a discarded task that is no malformed record can be redriven";
            let refused = Err(Error::WrongState(what.to_owned()));
            out.push(Action::Answer(to, 0, Answer::Redriven(refused)));
        } else if let Some(entry) = self.window.get_mut(at) {
            entry.since = now;
        }
    }

    /// Gives up all calls that wait for a task.
    pub(super) fn abandon_loads(&mut self, out: &mut Vec<Action>) {
        for (offset, loading) in std::mem::take(&mut self.loading) {
            for op in loading.ops {
                self.answer_absent(offset, op, &Absent::Failed, out);
            }
        }
    }
}

pub(super) fn has_ended() -> Error {
    Error::WrongState("the task has ended; only a task that has not can be cancelled".to_owned())
}
