//! Handing tasks out, and what workers say about them.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;

use super::{
    Shard,
    ack::Ack,
    load::Op,
    ready::{First, Offer},
    settled::Lapsed,
    window::{Hold, SlotRef},
};
use crate::{
    Error, Label, LeaseLost, LeaseToken, Mode, Outcome, TaskId, Timestamp, WorkerId,
    action::{Action, Answer, CallId},
    call::{Held, LeasedTask},
    task::{
        event::{Event, Refusal},
        state::State,
    },
};

/// Who asks for tasks.
#[derive(Debug, Clone, Copy)]
pub struct Taker<'a> {
    /// Its name.
    pub worker: &'a WorkerId,
    /// What it has.
    pub labels: &'a BTreeSet<Label>,
    /// Whether tasks are only offered to it.
    pub offers: bool,
}

/// What a worker may still take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credit {
    /// Slots.
    pub n: usize,
    /// Tasks.
    pub n_tasks: usize,
    /// Bytes of data; a first task is given whatever its size.
    pub n_bytes: usize,
}

impl Shard {
    /// Whether a worker has business here: a task could be handed out now to one that has all it needs, or memory is
    /// full of tasks that cannot start, of which some make room when a worker comes in vain.
    pub fn has_ready(&mut self, now: Timestamp) -> bool {
        self.is_open(now)
            && (self.ready.has_any(&mut self.window)
                || self.is_full && self.n_aside == 0 && self.ready.has_stuck())
    }

    /// The same for a worker with these labels and so many free slots, about: what keeps a single task back is found
    /// only when it is to be granted.
    pub fn has_ready_for(
        &mut self,
        labels: &BTreeSet<Label>,
        n_slots: usize,
        now: Timestamp,
    ) -> bool {
        let offer = Offer { labels, n_slots };
        self.is_open(now)
            && (self.ready.first(offer, &mut self.window).is_some()
                || self.is_full && self.n_aside == 0 && self.ready.has_stuck())
    }

    /// Whether tasks of this shard may start at all.
    fn is_open(&self, now: Timestamp) -> bool {
        let is_paused = matches!(self.mode, Mode::Paused { .. });
        let closed = self.gauge.closed(&self.limits.all, now);
        !is_paused && closed.is_none() && self.outage.is_open(now)
    }

    /// Hands out one task after the other, in their order, as long as the credit lasts. A credit that nothing more is
    /// to be taken under comes back with no slots.
    pub fn grant(
        &mut self,
        taker: Taker<'_>,
        credit: &mut Credit,
        now: Timestamp,
        granted: &mut Vec<LeasedTask>,
        out: &mut Vec<Action>,
    ) {
        while credit.n > 0 && credit.n_tasks > 0 && self.is_open(now) {
            let offer = Offer {
                labels: taker.labels,
                n_slots: credit.n,
            };
            let Some(first) = self.ready.first(offer, &mut self.window) else {
                if granted.is_empty() {
                    self.set_aside(offer, now);
                }
                return;
            };
            let Some(entry) = self.window.get(first.at) else {
                return;
            };
            let task = &entry.task;
            if task.options().is_some_and(|options| options.key.is_some())
                && !self.is_its_turn(first.at)
            {
                // One that was accepted earlier has joined the key since.
                self.unqueue(first);
                continue;
            }
            let Some(entry) = self.window.get(first.at) else {
                return;
            };
            let task = &entry.task;
            if task.deadline(&self.rules) <= now {
                self.unqueue(first);
                // Its deadline has passed, so this is not refused.
                self.fire(first.at, now, out).ok();
                continue;
            }
            let n_bytes = task.submitted.data.len();
            // What may kill its worker does so alone, and takes no others with it.
            let is_alone = task.is_on_last_attempt(&self.rules);
            if (n_bytes > credit.n_bytes || is_alone) && !granted.is_empty() {
                credit.n = 0;
                return;
            }
            let Some(token) = self.last_token.next() else {
                out.push(Action::Refused(
                    self.id,
                    "all lease tokens of this epoch are used; restart the member to claim a new one".to_owned(),
                ));
                return;
            };
            credit.n = credit.n.saturating_sub(task.cost(&self.rules).into());
            credit.n_tasks -= 1;
            if is_alone {
                credit.n = 0;
            }
            self.ready.take(first);
            self.last_token = token;
            credit.n_bytes = credit.n_bytes.saturating_sub(n_bytes);
            granted.extend(self.start(first.at, token, taker, now, out));
        }
    }

    fn unqueue(&mut self, first: First) {
        self.ready.take(first);
        if let Some(entry) = self.window.get_mut(first.at) {
            entry.queued = false;
        }
    }

    fn start(
        &mut self,
        at: SlotRef,
        token: LeaseToken,
        taker: Taker<'_>,
        now: Timestamp,
        out: &mut Vec<Action>,
    ) -> Option<LeasedTask> {
        let entry = self.window.get_mut(at)?;
        entry.queued = false;
        let waits_since = entry.since.max(entry.stopped_at);
        let event = Event::Leased {
            token,
            worker: taker.worker.clone(),
            is_offer: taker.offers,
        };
        self.transition(at, event, None, now, out).ok()?;
        self.journal.waited.record(now.since(waits_since), now);
        self.note_fresh(at, token);
        let task = &self.window.get(at)?.task;
        let is_offer = matches!(&task.state, State::Running(lease) if lease.is_offer);
        Some(LeasedTask {
            id: TaskId {
                shard: self.id,
                offset: task.offset,
            },
            token,
            attempt: task.attempt,
            max_attempts: task.retry(&self.rules).max_attempts,
            data: task.submitted.data.clone(),
            options: task.submitted.options.clone(),
            traceparent: task.submitted.traceparent.clone(),
            lease: if is_offer {
                self.rules.offer
            } else {
                self.rules.lease
            },
            timeout: task.timeout(&self.rules),
            heartbeat_timeout: task.heartbeat_timeout(&self.rules),
            revision: self.revision,
        })
    }

    fn note_fresh(&mut self, at: SlotRef, token: LeaseToken) {
        self.fresh.push_back((at, token));
        if self.fresh.len() > 2 * self.n_running + 64 {
            let window = &self.window;
            self.fresh.retain(|(at, token)| {
                window.get(*at).is_some_and(|entry| {
                    entry.task.token == *token && matches!(entry.task.state, State::Running(_))
                })
            });
        }
    }

    /// Takes back a lease whose grant never reached its worker: it costs no attempt.
    pub fn ungrant(&mut self, held: Held, now: Timestamp, out: &mut Vec<Action>) {
        if let Some(at) = self.window.find(held.id.offset) {
            let (token, outcome) = (held.token, Outcome::Interrupted);
            // A refusal means that the lease was settled already, and then nothing is to take back.
            self.transition(at, Event::Reported { token, outcome }, None, now, out)
                .ok();
        }
    }

    /// Takes a report; it is answered when its effect is durable.
    pub fn report(
        &mut self,
        to: (CallId, u32),
        held: Held,
        outcome: Outcome,
        now: Timestamp,
        out: &mut Vec<Action>,
    ) {
        let (offset, token) = (held.id.offset, held.token);
        if let Some(at) = self.window.find(offset) {
            self.report_at(at, to, token, outcome, now, out);
        } else if self.settled.is_by(offset, token, &outcome) {
            out.push(Action::Answer(to.0, to.1, Answer::Reported(Ok(()))));
        } else {
            self.load(offset, Op::Report { to, token, outcome }, out);
        }
    }

    pub(super) fn report_at(
        &mut self,
        at: SlotRef,
        to: (CallId, u32),
        token: LeaseToken,
        outcome: Outcome,
        now: Timestamp,
        out: &mut Vec<Action>,
    ) {
        let Some(entry) = self.window.get(at) else {
            return;
        };
        if Lapsed::of(&entry.task).is_by(token, &outcome) {
            if entry.is_unsaved() {
                self.tell_when_saved(at, Ack::Report(to));
            } else {
                out.push(Action::Answer(to.0, to.1, Answer::Reported(Ok(()))));
            }
            return;
        }
        // Something is being saved, so there will be room.
        if self.is_overfull() && self.is_saving() {
            let what = "window_bytes_max".into();
            let retry_after = Duration::from_secs(1);
            let error = Error::Overloaded { what, retry_after };
            out.push(Action::Answer(to.0, to.1, Answer::Reported(Err(error))));
            return;
        }
        if self.can_adopt(at, token) {
            let worker = WorkerId::nobody();
            // A refusal shows again in the report itself.
            self.adopt_at(at, token, worker, now, out).ok();
        }
        let event = Event::Reported { token, outcome };
        if let Err(refusal) = self.transition(at, event, Some(Ack::Report(to)), now, out) {
            let error = self.refused(at, refusal);
            out.push(Action::Answer(to.0, to.1, Answer::Reported(Err(error))));
        }
    }

    /// Takes a sign of life; answered at once, or when the task was read.
    pub fn renew(
        &mut self,
        to: (CallId, u32),
        held: Held,
        from_handler: bool,
        progress: Option<Bytes>,
        now: Timestamp,
        out: &mut Vec<Action>,
    ) {
        let token = held.token;
        match self.window.find(held.id.offset) {
            Some(at) => {
                let renewed = self.renew_at(at, token, from_handler, progress, now, out);
                out.push(Action::Answer(to.0, to.1, Answer::Renewed(renewed)));
            }
            None => {
                let op = Op::Renew {
                    to,
                    token,
                    from_handler,
                    progress,
                };
                self.load(held.id.offset, op, out);
            }
        }
    }

    pub(super) fn renew_at(
        &mut self,
        at: SlotRef,
        token: LeaseToken,
        from_handler: bool,
        progress: Option<Bytes>,
        now: Timestamp,
        out: &mut Vec<Action>,
    ) -> Result<Duration, Error> {
        let progress = progress.filter(|_| !self.is_overfull());
        let kept = self.keep(
            at,
            token,
            WorkerId::nobody(),
            from_handler,
            progress,
            now,
            out,
        );
        match kept {
            Ok(()) => Ok(self.rules.lease),
            Err(refusal) => Err(self.refused(at, refusal)),
        }
    }

    /// Renews a lease; one of an earlier owner is adopted first, and one that merely expired goes on.
    #[expect(
        clippy::too_many_arguments,
        reason = "a lease, its sign of life, and where things go"
    )]
    fn keep(
        &mut self,
        at: SlotRef,
        token: LeaseToken,
        worker: WorkerId,
        from_handler: bool,
        progress: Option<Bytes>,
        now: Timestamp,
        out: &mut Vec<Action>,
    ) -> Result<(), Refusal> {
        if self.can_adopt(at, token) {
            self.adopt_at(at, token, worker, now, out)?;
        }
        let was_running = self.is_running(at);
        let has_progress = progress.is_some();
        let event = Event::Renewed {
            token,
            from_handler,
            progress,
        };
        self.transition(at, event, None, now, out)?;
        if has_progress {
            self.window.note_changed(at, false);
        }
        if !was_running {
            self.note_resumed(at, token);
        }
        Ok(())
    }

    fn is_running(&self, at: SlotRef) -> bool {
        let entry = self.window.get(at);
        entry.is_some_and(|entry| matches!(entry.task.state, State::Running(_)))
    }

    /// A worker says with its poll what it holds: its lease is renewed, or the worker is told that it lost it.
    pub fn declare(&mut self, held: Held, worker: WorkerId, now: Timestamp, out: &mut Vec<Action>) {
        match self.window.find(held.id.offset) {
            Some(at) => self.declare_at(at, held.token, worker, now, out),
            // Its own report has settled it, so there is nothing to tell.
            None if self.settled.has(held.id.offset, held.token) => {}
            None => {
                let token = held.token;
                self.load(held.id.offset, Op::Declare { token, worker }, out);
            }
        }
    }

    pub(super) fn declare_at(
        &mut self,
        at: SlotRef,
        token: LeaseToken,
        worker: WorkerId,
        now: Timestamp,
        out: &mut Vec<Action>,
    ) {
        let done = self.keep(at, token, worker, false, None, now, out);
        let Some(entry) = self.window.get(at) else {
            return;
        };
        let settles = Lapsed::of(&entry.task).is_settled(token);
        if let Err(Refusal::Lost(why)) = done
            && !settles
        {
            let id = TaskId {
                shard: self.id,
                offset: entry.task.offset,
            };
            let why = if entry.is_unsaved() {
                LeaseLost::Stale
            } else {
                why
            };
            out.push(Action::LeaseEnded(Held { id, token }, why));
        }
    }

    /// A lease of an earlier owner can go on as long as this owner has granted none for the task.
    fn can_adopt(&self, at: SlotRef, token: LeaseToken) -> bool {
        self.window
            .get(at)
            .is_some_and(|entry| token.epoch() < self.epoch && token > entry.task.token)
    }

    fn adopt_at(
        &mut self,
        at: SlotRef,
        token: LeaseToken,
        worker: WorkerId,
        now: Timestamp,
        out: &mut Vec<Action>,
    ) -> Result<(), Refusal> {
        self.transition(at, Event::Adopted { token, worker }, None, now, out)?;
        self.note_resumed(at, token);
        Ok(())
    }

    /// A lease that this owner did not grant just now is running again.
    fn note_resumed(&mut self, at: SlotRef, token: LeaseToken) {
        if let Some(entry) = self.window.get(at)
            && entry.hold == Hold::Adoption
        {
            self.window.set_hold(at, Hold::None);
        }
        self.note_fresh(at, token);
    }

    /// What a refusal tells the caller: never an ending that is not durable yet.
    pub(super) fn refused(&self, at: SlotRef, refusal: Refusal) -> Error {
        let unsaved = self
            .window
            .get(at)
            .is_some_and(super::window::Entry::is_unsaved);
        match refusal {
            Refusal::Lost(LeaseLost::Ended | LeaseLost::Cancelled) if unsaved => {
                Error::LeaseLost(LeaseLost::Stale)
            }
            Refusal::Lost(why) => Error::LeaseLost(why),
            Refusal::WrongState => Error::WrongState("the task does not allow this now".to_owned()),
        }
    }
}
