//! A turn of a member's driver: what came in, one decision for all of it, what goes out.

use std::{sync::Arc, time::Duration};

use scheduler_core::{
    Held, LeasedTask, Timestamp, WorkerId,
    action::{Action, Answer, CallId, Seen},
    member::{Call, Event, Fleet},
    port::store::StoredState,
};

use super::{Life, calls::Pending, jobs::Job};
use crate::{
    fact::{Fact, Grant},
    net::{Body, End, Letter, Request},
    port::Ask,
    task,
    world::World,
};

/// How often polls whose callers have gone are looked for.
const SWEEP_EVERY: Duration = Duration::from_millis(250);

impl World {
    pub(crate) fn turn(&mut self, member: usize) {
        let node = &mut self.members[member];
        if node.turn_at != Some(self.now) || node.life == Life::Down {
            return;
        }
        node.turn_at = None;
        let now = node.local(self.now);
        let mut actions = Vec::new();
        // Results first: they make room for what callers want.
        for event in std::mem::take(&mut node.events) {
            let node = &mut self.members[member];
            if matches!(event, Event::Fetched(..))
                && let Some(fetch) = node.fetch.take()
            {
                // It is over, unless the event is of an earlier one: then two would go on side by side.
                node.jobs.remove(&fetch);
            }
            self.take_event(member, event, now, &mut actions);
        }
        for letter in std::mem::take(&mut self.members[member].inputs) {
            self.take_input(member, letter, now, &mut actions);
        }
        let node = &mut self.members[member];
        if now.since(node.swept_at) >= SWEEP_EVERY {
            node.swept_at = now;
            for call in node.calls.gone_polls() {
                node.member.handle(Event::PollGone(call), now, &mut actions);
            }
        }
        node.member.settle(now, &mut actions);
        self.watch.hash_actions(&actions);
        let is_stopped = actions.contains(&Action::Stopped);
        self.act(member, actions);
        if is_stopped {
            self.member_stopped(member);
            return;
        }
        self.fetch(member);
        self.note(Fact::Loaded(member, self.members[member].member.load()));
        self.next_turn(member, now);
    }

    fn take_event(
        &mut self,
        member: usize,
        event: Event,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        let claimed = match &event {
            Event::Claimed(claimed, _) => Some(Box::new(claimed.clone())),
            _ => None,
        };
        if let Event::Ungranted(tasks) = &event {
            for LeasedTask { id, token, .. } in tasks {
                let (id, token) = (*id, *token);
                self.note(Fact::Ungranted(Held { id, token }));
            }
        }
        let machine = &mut self.members[member].member;
        let n_shards = machine.load().n_shards;
        machine.handle(event, now, actions);
        // The answer to a claim of slots that were lost meanwhile starts nothing.
        let has_started = machine.load().n_shards > n_shards;
        if let Some(claimed) = claimed.filter(|_| has_started) {
            self.note(Fact::Started(member, claimed));
        }
    }

    fn next_turn(&mut self, member: usize, now: Timestamp) {
        let node = &self.members[member];
        let sweep_at = (!node.calls.is_empty()).then(|| node.swept_at + SWEEP_EVERY);
        let wake_at = node.member.wake_at(now).into_iter().chain(sweep_at).min();
        if let Some(at) = wake_at {
            let soon = self.now + Duration::from_millis(1);
            let at = node.clock.when(at).max(soon);
            self.turn_at(member, at);
        }
    }

    fn take_input(
        &mut self,
        member: usize,
        letter: Letter,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        let Body::Request(request) = letter.body else {
            return;
        };
        match &request {
            Request::Report(reports) => {
                for (held, outcome) in reports {
                    self.note(Fact::Heard(member, *held, outcome.clone()));
                }
            }
            Request::Cancel(id) => self.note(Fact::CancelAsked(*id)),
            Request::CancelMany(shard, request) => {
                for id in self.log.covered(*shard, request) {
                    self.note(Fact::CancelAsked(id));
                }
            }
            _ => {}
        }
        let node = &mut self.members[member];
        let mut handle = |id: CallId, call: Call| {
            node.member.handle(Event::Call(id, call), now, actions);
        };
        let id = node.calls.add(letter.from, letter.id, request.clone());
        let held = match &request {
            Request::Poll(_, poll) => poll.held.clone(),
            _ => Vec::new(),
        };
        handle(id, request.into_call());
        // What the member makes of the leases that a poll names has no answer, so it is looked at.
        for held in held {
            let (id, task) = node.calls.look(held);
            handle(id, Call::See(vec![task]));
        }
    }

    fn act(&mut self, member: usize, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Answer(call, part, answer) => self.act_answer(member, call, part, answer),
                Action::Ended(ids) => self.note(Fact::Ended(member, ids)),
                Action::Watermark(shard, watermark) => {
                    self.note(Fact::Watermark(shard, watermark));
                }
                Action::Refused(shard, why) => self.note(Fact::Refused(shard, why)),
                action => self.perform(member, action),
            }
        }
        self.start_batch(member);
    }

    fn act_answer(&mut self, member: usize, call: CallId, part: u32, answer: Answer) {
        let node = &mut self.members[member];
        if let Some(held) = node.calls.looked(call) {
            match answer {
                Answer::Seen(Seen::Here { task, .. })
                    if matches!(task.state, StoredState::Running { .. })
                        && task.token == held.token =>
                {
                    self.note(Fact::Declared(member, held));
                }
                // Without a proof it shows nothing, whatever it has made of it.
                Answer::Seen(Seen::Nowhere) => self.note(Fact::Named(member, held)),
                _ => {}
            }
            return;
        }
        let facts = node
            .calls
            .get(call)
            .map(|pending| facts_of(member, pending, part, &answer));
        for fact in facts.into_iter().flatten() {
            self.note(fact);
        }
        let node = &mut self.members[member];
        let Some(whole) = node.calls.answer(call, part, answer) else {
            return;
        };
        if whole.is_unsent() {
            let tasks: Vec<_> = whole.answers.into_iter().flat_map(leased_of).collect();
            if !tasks.is_empty() {
                node.events.push(Event::Ungranted(tasks));
                self.wake(member);
            }
            return;
        }
        self.send(Letter {
            from: End::Member(member),
            to: whole.call.from,
            id: whole.call.id,
            body: Body::Answer(Ok(whole.answers)),
        });
    }

    /// Keeps one fetch going over all shards that have room.
    fn fetch(&mut self, member: usize) {
        let node = &mut self.members[member];
        let appetite = node.member.appetite();
        if node.fetch.is_some() && appetite == node.fetched_appetite {
            return;
        }
        if let Some(outdated) = node.fetch.take() {
            node.jobs.remove(&outdated);
        }
        node.fetched_appetite = appetite;
        let wanted = node.member.wanted();
        if !wanted.is_empty() {
            let job = self.start(member, Ask::Fetch(wanted.clone()), Job::Fetch(wanted));
            self.members[member].fetch = Some(job);
        }
    }
}

fn leased_of(answer: Answer) -> Vec<LeasedTask> {
    match answer {
        Answer::Leased(Ok(leased)) => leased.tasks,
        _ => Vec::new(),
    }
}

/// What a part of an answer says to the checkers, as it leaves the machine.
fn facts_of(member: usize, pending: &Pending, part: u32, answer: &Answer) -> Vec<Fact> {
    let at = part as usize;
    match (&pending.request, answer) {
        (Request::Poll(fleet, poll), Answer::Leased(Ok(leased))) => {
            let n_mates = leased.tasks.len().saturating_sub(1);
            let tasks = leased.tasks.iter();
            tasks
                .map(|task| Fact::Granted(grant(member, fleet, &poll.worker, task, n_mates)))
                .collect()
        }
        (Request::Report(reports), Answer::Reported(answer)) => {
            let (held, outcome) = &reports[at];
            vec![Fact::Reported(
                member,
                *held,
                outcome.clone(),
                answer.clone(),
            )]
        }
        (Request::Renew(held), Answer::Renewed(answer)) => {
            vec![Fact::Renewed(member, held[at].0, answer.is_ok())]
        }
        (Request::Cancel(id), Answer::Cancelled(Ok(()))) => vec![Fact::Cancelled(*id)],
        (Request::CancelMany(shard, request), Answer::CancelledMany(Ok(_))) => {
            vec![Fact::CancelledMany(*shard, request.clone())]
        }
        (Request::Submit(shard, key, _), Answer::Submitted(Ok((id, _)))) => {
            vec![Fact::AnsweredKeyed(*shard, key.as_str().into(), *id)]
        }
        (Request::See(ids), Answer::Seen(Seen::Here { task, waits, .. })) => {
            vec![Fact::Seen(task.clone(), ids[at].shard, waits.clone())]
        }
        _ => Vec::new(),
    }
}

fn grant(
    member: usize,
    fleet: &Fleet,
    worker: &WorkerId,
    leased: &LeasedTask,
    n_mates: usize,
) -> Grant {
    Grant {
        member,
        held: Held {
            id: leased.id,
            token: leased.token,
        },
        worker: worker.clone(),
        attempt: leased.attempt,
        max_attempts: leased.max_attempts,
        n_mates,
        lasts: leased.lease,
        fleet: fleet.clone(),
        name: Arc::from(task::name_of(&leased.data)),
    }
}
