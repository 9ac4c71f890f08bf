//! The loop: what came in, one decision for all of it, what goes out.

use std::{sync::Arc, sync::atomic::Ordering, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use super::{
    Health, Input,
    calls::{Calls, Watched},
    perform::Performer,
};
use crate::{
    Config, Timestamp,
    action::Action,
    member::{Call, Event, Load, Member},
    scheduler::Ports,
};

/// The most inputs and events of one turn.
const TURN_MAX: usize = 1_024;
/// How often polls and questions whose callers have gone are looked for.
const SWEEP_EVERY: Duration = Duration::from_millis(250);
/// How long after a change it is counted what tasks wait for, so that many turns share one count.
const TALLY_AFTER: Duration = Duration::from_secs(1);

type Sources = (mpsc::Receiver<Input>, mpsc::UnboundedReceiver<Event>);

/// The one task that owns the member.
#[derive(Debug)]
pub(super) struct Turns {
    config: Arc<Config>,
    member: Member,
    calls: Calls,
    /// Who waits for tasks to end, and who for them to change.
    watched: Watched,
    watched_changes: Watched,
    sources: Sources,
    performer: Performer,
    fetch: Option<JoinHandle<()>>,
    fetched_appetite: u64,
    swept_at: Timestamp,
    /// Something may have changed since it was counted what tasks wait for.
    tally_at: Option<Timestamp>,
    health: Arc<Health>,
    is_stopped: bool,
}

impl Turns {
    pub(super) fn new(
        config: Arc<Config>,
        ports: Ports,
        sources: Sources,
        events: mpsc::UnboundedSender<Event>,
        health: Arc<Health>,
    ) -> Self {
        Self {
            member: Member::new(Arc::clone(&config)),
            calls: Calls::default(),
            watched: Watched::default(),
            watched_changes: Watched::default(),
            sources,
            swept_at: Timestamp::EPOCH,
            tally_at: None,
            fetch: None,
            fetched_appetite: 0,
            performer: Performer::new(Arc::clone(&config), ports, events),
            config,
            health,
            is_stopped: false,
        }
    }

    pub(super) async fn run(mut self, stopped: watch::Sender<bool>) {
        let guards = self.performer.start_guards();
        let mut inputs = Vec::new();
        let mut events = Vec::new();
        let mut actions = Vec::new();
        while !self.is_stopped {
            self.gather(&mut inputs, &mut events).await;
            let now = self.performer.now();
            // Results first: they make room for what callers want.
            for event in events.drain(..) {
                if matches!(event, Event::Fetched(..))
                    && let Some(fetch) = self.fetch.take()
                {
                    // It is over, unless the event is of an earlier one: then two would go on side by side.
                    fetch.abort();
                }
                let moves_slots = matches!(
                    event,
                    Event::Assigned(_) | Event::Revoking(_) | Event::Lost(_)
                );
                self.member.handle(event, now, &mut actions);
                if moves_slots {
                    self.note_slots();
                }
            }
            for input in inputs.drain(..) {
                self.take(input, now, &mut actions);
            }
            if self.sources.0.is_closed() {
                // The last handle is gone, so nobody can stop it any more.
                self.member.handle(Event::Stop, now, &mut actions);
            }
            self.sweep(now, &mut actions);
            self.member.settle(now, &mut actions);
            self.act(&mut actions);
            self.fetch();
            self.note_health(now);
            self.note_tally(now);
        }
        if let Some(fetch) = self.fetch.take() {
            fetch.abort();
        }
        drop(guards);
        self.performer.publish_watermarks().await;
        // Nobody listens any more if this fails.
        stopped.send(true).ok();
    }

    /// Waits until there is something to do, then takes all of it, up to a limit.
    async fn gather(&mut self, inputs: &mut Vec<Input>, events: &mut Vec<Event>) {
        let now = self.performer.now();
        let sweep_at = (self.calls.len() > 0).then(|| self.swept_at + SWEEP_EVERY);
        let wakes = [self.member.wake_at(now), sweep_at, self.tally_at];
        let wake_at = wakes.into_iter().flatten().min();
        let clock = self.performer.clock();
        let (from_callers, from_ports) = &mut self.sources;
        tokio::select! {
            biased;
            _ = from_ports.recv_many(events, TURN_MAX) => {}
            _ = from_callers.recv_many(inputs, TURN_MAX), if !from_callers.is_closed() => {}
            () = clock.sleep_until(wake_at.unwrap_or(Timestamp::NEVER)), if wake_at.is_some() => {}
        }
        while inputs.len() < TURN_MAX
            && let Ok(input) = from_callers.try_recv()
        {
            inputs.push(input);
        }
        while events.len() < TURN_MAX
            && let Ok(event) = from_ports.try_recv()
        {
            events.push(event);
        }
    }

    fn take(&mut self, input: Input, now: Timestamp, actions: &mut Vec<Action>) {
        match input {
            Input::Call(call, n_parts, reply) => {
                // Whoever waits for such a call may go, and then nothing is left of it.
                let can_go = matches!(call, Call::Poll(..) | Call::Seek(..));
                if reply.is_closed() && can_go {
                    return;
                }
                if self.calls.len() >= self.config.calls_max {
                    // A caller that has gone needs no answer.
                    reply.send(Err(super::overloaded())).ok();
                    return;
                }
                let id = self.calls.add(n_parts, can_go, reply);
                self.member.handle(Event::Call(id, call), now, actions);
            }
            Input::Watch(id, wake) => {
                self.watched.add(id, wake, self.config.calls_max);
            }
            Input::WatchChange(id, wake) => {
                let watched = &mut self.watched_changes;
                watched.add(id, wake, self.config.calls_max);
                let event = Event::Watched(id.shard);
                self.member.handle(event, now, actions);
            }
        }
    }

    fn sweep(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        if now.since(self.swept_at) < SWEEP_EVERY {
            return;
        }
        self.swept_at = now;
        for id in self.calls.gone() {
            self.member.handle(Event::PollGone(id), now, actions);
        }
    }

    fn act(&mut self, actions: &mut Vec<Action>) {
        for action in actions.drain(..) {
            match action {
                Action::Answer(id, part, answer) => {
                    if let Some(ungranted) = self.calls.answer(id, part, answer) {
                        self.performer.tell(ungranted);
                    }
                }
                Action::Ended(ids) => self.watched.wake(&ids),
                Action::Changed(ids) => self.watched_changes.wake(&ids),
                Action::Leave(shard) => {
                    // One that is away already comes back once the store answers, however often it lets go meanwhile.
                    if !self.health.is_away.send_replace(true) {
                        self.performer.leave(shard, Arc::clone(&self.health));
                    }
                }
                Action::Stopped => self.is_stopped = true,
                action => self.performer.add(action),
            }
        }
        self.performer.start();
    }

    /// Keeps one fetch going over all shards that have room.
    fn fetch(&mut self) {
        let appetite = self.member.appetite();
        if self.fetch.is_some() && appetite == self.fetched_appetite {
            return;
        }
        if let Some(outdated) = self.fetch.take() {
            outdated.abort();
        }
        self.fetched_appetite = appetite;
        let wanted = self.member.wanted();
        if !wanted.is_empty() {
            self.fetch = Some(self.performer.fetch(wanted));
        }
    }

    fn note_slots(&self) {
        let slots = self.health.slots.lock();
        *slots.unwrap_or_else(std::sync::PoisonError::into_inner) = self.member.slots().collect();
    }

    /// A turn that counts leaves nothing to count, so that a member without work sleeps.
    fn note_tally(&mut self, now: Timestamp) {
        let tally_at = *self.tally_at.get_or_insert(now + TALLY_AFTER);
        if tally_at <= now {
            self.tally_at = None;
            let tally = self.health.tally.lock();
            *tally.unwrap_or_else(std::sync::PoisonError::into_inner) = self.member.tally(now);
        }
    }

    fn note_health(&self, now: Timestamp) {
        let load = Load {
            n_calls: self.calls.len(),
            ..self.member.load()
        };
        *self
            .health
            .load
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = load;
        let is_ready = self.member.is_ready(now) && self.member.refused().next().is_none();
        if self.health.is_ready.swap(is_ready, Ordering::Relaxed) != is_ready || !is_ready {
            let refused = self.member.refused();
            let refused =
                refused.map(|(id, why)| format!("a shard cannot be scheduled: {id}: {why}"));
            let unreached = self.member.unreached_for(now);
            let unreached = (!unreached.is_zero())
                .then(|| format!("the store was not reached for {} s", unreached.as_secs()));
            *self
                .health
                .faults
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner) =
                unreached.into_iter().chain(refused).collect();
        }
    }
}
