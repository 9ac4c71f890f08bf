//! One event for one task, and all that follows from it: what is counted, saved and told.

use super::{
    Shard,
    ack::Ack,
    view,
    window::{Hold, Shown, SlotRef},
};
use crate::{
    LeaseLost, Outcome, Timestamp,
    action::Action,
    port::store::Ending,
    task::{
        event::{Effect, Event, Refusal},
        state::State,
    },
};

impl Shard {
    /// Applies one event to one task and follows it up.
    pub(super) fn transition(
        &mut self,
        at: SlotRef,
        event: Event,
        ack: Option<Ack>,
        now: Timestamp,
        out: &mut Vec<Action>,
    ) -> Result<(), Refusal> {
        let Some(entry) = self.window.get_mut(at) else {
            return Err(Refusal::WrongState);
        };
        let leased_at = match &entry.task.state {
            State::Running(lease) => Some(lease.leased_at),
            _ => None,
        };
        let was_running = leased_at.is_some();
        let is_told = matches!(
            &event,
            Event::Reported { outcome, .. } if *outcome != Outcome::Interrupted
        );
        let shown = match event {
            Event::Leased { .. } | Event::Adopted { .. } | Event::Renewed { .. } => None,
            Event::Reported { .. }
            | Event::TimerFired
            | Event::CancelRequested
            | Event::Redriven => Some(view::shown(&entry.task)),
        };
        let effect = entry.task.apply(event, now, &self.rules, &mut self.rng)?;
        let is_running = matches!(entry.task.state, State::Running(_));
        let is_completed = matches!(
            entry.task.state,
            State::Ended {
                ending: Ending::Completed { .. },
                ..
            }
        );
        match entry.hold {
            Hold::Aside(_) => {
                entry.hold = Hold::None;
                self.n_aside -= 1;
            }
            Hold::Behind if is_running => entry.hold = Hold::None,
            Hold::None | Hold::Key | Hold::Adoption | Hold::Behind | Hold::Cancel => {}
        }
        match (was_running, is_running) {
            (false, true) => self.note_started(at, now),
            (true, false) => {
                self.note_stopped(at, now);
                self.wait_for_adoption(at, now);
                if let Some(leased_at) = leased_at.filter(|_| is_told) {
                    self.journal.ran.record(now.since(leased_at), now);
                }
            }
            (true, true) => self.note_renewed(at, now),
            (false, false) => {}
        }
        if is_completed {
            // Also one that comes late, from a lease that had expired.
            self.outage.succeeded();
            self.rules.may_discard = self.outage.may_discard();
        }
        match effect {
            Effect::GoOn => {
                self.window.recount(at);
                self.place(at, now);
            }
            Effect::SaveFirst => self.save_changed(at, shown, ack),
            Effect::SaveAndTell(why) => {
                self.save_changed(at, shown, ack);
                self.tell_lost(at, why, out);
            }
        }
        Ok(())
    }

    /// A lease of an earlier owner has ended that a worker re-claimed. While adoption lasts, another worker may still
    /// come with a newer one.
    fn wait_for_adoption(&mut self, at: SlotRef, now: Timestamp) {
        let Some(entry) = self.window.get_mut(at) else {
            return;
        };
        let is_old = entry.task.token.epoch() < self.epoch;
        let has_ended = matches!(entry.task.state, State::Ended { .. });
        let is_free = entry.hold != Hold::Cancel;
        if is_old && is_free && !has_ended && now < self.adopt_until {
            entry.hold = Hold::Adoption;
            self.adopting.push_back(at);
        }
    }

    fn save_changed(&mut self, at: SlotRef, shown: Option<Shown>, ack: Option<Ack>) {
        if let Some(entry) = self.window.get_mut(at)
            && entry.shown.is_none()
        {
            entry.shown = shown;
        }
        self.window.recount(at);
        self.timers.disarm(at.slot);
        self.save_now(at, ack);
    }

    /// Tells the worker of a task that it lost its lease.
    fn tell_lost(&mut self, at: SlotRef, why: LeaseLost, out: &mut Vec<Action>) {
        let Some(entry) = self.window.get(at) else {
            return;
        };
        let held = crate::call::Held {
            id: crate::TaskId {
                shard: self.id,
                offset: entry.task.offset,
            },
            token: entry.task.token,
        };
        if matches!(entry.task.state, State::Ended { .. }) {
            // How it ended must not show before it is durable.
            self.tell_when_saved(at, Ack::Lost(held, why));
        } else {
            out.push(Action::LeaseEnded(held, why));
        }
    }

    /// Counts a task that runs from now on.
    pub(super) fn note_started(&mut self, at: SlotRef, now: Timestamp) {
        self.n_running += 1;
        self.gauge.started(&self.limits.all, now);
        let Some(entry) = self.window.get_mut(at) else {
            return;
        };
        entry.cost = entry.task.cost(&self.rules);
        self.service.started(entry.cost, now);
        if let State::Running(lease) = &entry.task.state {
            self.journal.took(&lease.worker, entry.cost, now);
            entry.worker = Some(lease.worker.clone());
        }
        let offset = entry.task.offset;
        self.outage.started(offset, now);
        entry.counted_in = entry.task.group(&self.rules).cloned();
        self.gauge.note_holder(&self.limits.all, offset);
        if let Some(group) = &entry.counted_in {
            let limit = &self.limits.group;
            self.ready.group_started(group, offset, limit, now);
        }
        if let Some(key) = self.key_of(at) {
            self.order.started(&key, offset);
        }
    }

    /// Counts a sign of life of a task that runs on, maybe under another lease.
    fn note_renewed(&mut self, at: SlotRef, now: Timestamp) {
        let Some(entry) = self.window.get_mut(at) else {
            return;
        };
        let State::Running(lease) = &entry.task.state else {
            return;
        };
        if entry.worker.as_ref() == Some(&lease.worker) {
            self.journal.saw(&lease.worker, now);
        } else if let Some(before) = entry.worker.replace(lease.worker.clone()) {
            self.journal.left(&before, entry.cost);
            self.journal.took(&lease.worker, entry.cost, now);
        }
    }

    /// Counts a task that runs no longer, and what became of it.
    pub(super) fn note_stopped(&mut self, at: SlotRef, now: Timestamp) {
        self.n_running -= 1;
        self.gauge.stopped();
        let Some(entry) = self.window.get_mut(at) else {
            return;
        };
        self.service.stopped(entry.cost, now);
        entry.stopped_at = now;
        if let Some(worker) = entry.worker.take() {
            self.journal.left(&worker, entry.cost);
        }
        let offset = entry.task.offset;
        self.gauge.forget_holder(offset);
        if let Some(group) = entry.counted_in.take() {
            let limit = &self.limits.group;
            self.ready.group_stopped(&group, offset, limit, now);
        }
        let task = &entry.task;
        self.outage.stopped(offset, now);
        if let Some(options) = task.options()
            && let Some(key) = &options.key
        {
            self.order.stopped(key, offset);
        }
        match &task.state {
            State::Ended {
                ending: Ending::Discarded,
                ..
            } if task.is_exhausted(&self.rules) => {
                self.outage.discarded();
            }
            State::Retryable { .. } => {
                if let Some(error) = task.errors().last()
                    && error.attempt > task.attempt
                {
                    self.outage.denied(&error.failure, now);
                }
            }
            _ => {}
        }
        self.rules.may_discard = self.outage.may_discard();
    }
}
