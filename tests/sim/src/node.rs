//! One member process: the machine under test, its clock, its calls, and how it lives and dies.

mod calls;
mod clock;
mod jobs;
mod turn;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use scheduler_core::{
    Config, Slot, Timestamp,
    member::{Event, Member},
};

pub(crate) use self::jobs::Given;
use self::{calls::Calls, clock::Clock, jobs::Job};
use crate::{
    fact::Fact,
    net::{Body, End, Letter, Request},
    port::{Ask, Caller},
    world::{What, World},
};

/// Whether a process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    Up,
    /// It drains, and will start again.
    Stopping,
    Down,
}

/// One member process.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) member: Member,
    /// Counts its lives: what was meant for an earlier one is nothing to this.
    pub(crate) n_lives: u32,
    pub(crate) life: Life,
    clock: Clock,
    calls: Calls,
    jobs: BTreeMap<u64, Job>,
    /// Results and calls that came in since the last turn.
    events: Vec<Event>,
    inputs: Vec<Letter>,
    turn_at: Option<Timestamp>,
    fetch: Option<u64>,
    fetched_appetite: u64,
    swept_at: Timestamp,
    session: Option<u64>,
    /// It has left the group, since the store did not answer.
    is_away: bool,
    n_heard: u64,
    slots: BTreeSet<Slot>,
    /// The batches that are collected within a turn.
    batch: jobs::Batch,
}

impl Node {
    fn new(config: &Config, n_lives: u32, clock: Clock) -> Self {
        Self {
            member: Member::new(Arc::new(config.clone())),
            n_lives,
            life: Life::Up,
            clock,
            calls: Calls::default(),
            jobs: BTreeMap::new(),
            events: Vec::new(),
            inputs: Vec::new(),
            turn_at: None,
            fetch: None,
            fetched_appetite: 0,
            swept_at: Timestamp::EPOCH,
            session: None,
            is_away: false,
            n_heard: 0,
            slots: BTreeSet::new(),
            batch: jobs::Batch::default(),
        }
    }

    pub(crate) fn is_ready(&self, now: Timestamp) -> bool {
        self.member.is_ready(self.local(now))
    }

    /// A process that was not started yet.
    pub(crate) fn absent(config: &Config) -> Self {
        let mut node = Self::new(config, 0, Clock::new(Timestamp::EPOCH, 0, 0));
        node.life = Life::Down;
        node
    }

    /// The time by its own clock.
    pub(crate) fn local(&self, now: Timestamp) -> Timestamp {
        self.clock.local(now)
    }

    /// The turn that was planned is not taken.
    pub(crate) fn forget_turn(&mut self) {
        self.turn_at = None;
    }

    pub(crate) fn slew(&mut self, now: Timestamp, drift: i64) {
        self.clock.slew(now, drift);
    }
}

impl World {
    /// Starts a member with an empty memory.
    pub(crate) fn start_member(&mut self, member: usize) {
        let n_lives = self.members[member].n_lives + 1;
        let (ahead, drift) = if self.plan.faults.n_slews > 0 {
            (self.rng.i64(-1_500..1_500), self.rng.i64(-4..5))
        } else {
            (0, 0)
        };
        let clock = Clock::new(self.now, ahead, drift);
        let mut config = self.plan.config.clone();
        config.address = format!("m{member}");
        config.seed = self.rng.u64(..);
        let mut node = Node::new(&config, n_lives, clock);
        let pipelines = Event::Pipelines(self.plan.pipelines.clone());
        node.events.push(pipelines);
        self.members[member] = node;
        self.note(Fact::Fate("starts", member));
        self.queue.push(self.now, What::Beat(member, n_lives));
        self.queue.push(self.now, What::Prove(member, n_lives));
        self.wake(member);
    }

    /// A member dies at once and forgets everything.
    pub(crate) fn crash_member(&mut self, member: usize) {
        if self.members[member].life == Life::Down {
            return;
        }
        self.note(Fact::Fate("crashes", member));
        self.end_member(member);
    }

    fn end_member(&mut self, member: usize) {
        self.thaw(End::Member(member));
        let node = &mut self.members[member];
        node.life = Life::Down;
        node.jobs.clear();
        let callers = node.calls.callers();
        node.inputs.clear();
        node.events.clear();
        for (to, id) in callers {
            // The broken connection is noticed, or it is not.
            if self.rng.bool() {
                let (from, body) = (End::Member(member), Body::Gone);
                let letter = Letter { from, to, id, body };
                self.refuse(&Letter {
                    from: letter.to,
                    to: letter.from,
                    ..letter
                });
            }
        }
        let wait = std::time::Duration::from_millis(self.rng.u64(200..12_000));
        self.queue.push(self.now + wait, What::Restart(member));
    }

    /// A member is asked to stop in good order, and to start again then.
    pub(crate) fn stop_member(&mut self, member: usize) {
        let node = &mut self.members[member];
        if node.life == Life::Up {
            node.life = Life::Stopping;
            node.events.push(Event::Stop);
            self.note(Fact::Fate("is asked to stop", member));
            self.wake(member);
        }
    }

    /// The driver has stopped: the process leaves the group and ends.
    fn member_stopped(&mut self, member: usize) {
        let node = &self.members[member];
        if let Some(session) = node.session {
            let caller = Caller::Member(member, node.n_lives);
            self.ask(caller, Ask::Leave(session));
        }
        self.note(Fact::Fate("has stopped", member));
        self.end_member(member);
    }

    /// A letter comes to a member.
    pub(crate) fn take_letter(&mut self, member: usize, letter: Letter) {
        let node = &mut self.members[member];
        if node.life == Life::Down {
            if matches!(letter.body, Body::Request(_)) && self.rng.bool() {
                self.refuse(&letter);
            }
            return;
        }
        match letter.body {
            Body::Request(_) => {
                node.inputs.push(letter);
                self.wake(member);
            }
            Body::Gone => {
                let is_it = |input: &Letter| input.id == letter.id && input.from == letter.from;
                let is_poll =
                    |input: &Letter| matches!(input.body, Body::Request(Request::Poll(..)));
                node.inputs
                    .retain(|input| !(is_it(input) && is_poll(input)));
                node.calls.gone(letter.from, letter.id);
            }
            Body::Answer(_) => {}
        }
    }

    /// Makes a member take a turn now, or as soon as it is thawed.
    pub(crate) fn wake(&mut self, member: usize) {
        self.turn_at(member, self.now);
    }

    fn turn_at(&mut self, member: usize, at: Timestamp) {
        let node = &mut self.members[member];
        if node.turn_at.is_none_or(|known| known > at) {
            node.turn_at = Some(at);
            let n_lives = node.n_lives;
            self.queue.push(at, What::Turn(member, n_lives));
        }
    }
}
