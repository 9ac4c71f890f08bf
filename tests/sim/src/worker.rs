//! Workers: they poll every member, hold leases, renew and report them, and keep reports until answered.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use scheduler_core::{
    Error, Held, LeasedTask, Outcome, Poll, TaskId, Timestamp, WorkerId, action::Answer,
    member::Fleet,
};

use crate::{
    fact::Fact,
    net::{Body, End, Letter, Request},
    task::{Kind, Weather, name_of},
    world::{What, World},
};

/// How often a worker looks what there is to do.
const TICK: Duration = Duration::from_millis(150);
/// How long it waits for an answer to anything but a poll.
const PATIENCE: Duration = Duration::from_secs(3);
/// A worker that reaches nobody for so long gives its tasks up.
const ORPHANED: Duration = Duration::from_secs(120);
/// With so many reports unanswered it takes no more tasks.
const OUTBOX_MAX: usize = 20;

/// One worker process.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) n_lives: u32,
    pub(crate) is_up: bool,
    name: WorkerId,
    fleet: Fleet,
    n_slots: usize,
    runs: BTreeMap<TaskId, Run>,
    outbox: Vec<Unanswered>,
    polls: BTreeMap<usize, OpenPoll>,
    asked: BTreeMap<u64, Asked>,
}

/// A task in work.
#[derive(Debug)]
struct Run {
    held: Held,
    kind: Kind,
    ends_at: Timestamp,
    outcome: Outcome,
    owner: usize,
    renew_every: Duration,
    renew_at: Timestamp,
    heard_at: Timestamp,
}

/// A report that was not answered yet.
#[derive(Debug)]
struct Unanswered {
    held: Held,
    outcome: Outcome,
    owner: usize,
    try_at: Timestamp,
}

#[derive(Debug)]
struct OpenPoll {
    id: u64,
    credit: usize,
    until: Timestamp,
}

/// Reports or heartbeats in flight.
#[derive(Debug)]
struct Asked {
    held: Vec<Held>,
    is_report: bool,
    until: Timestamp,
}

impl Worker {
    pub(crate) fn absent(fleet: Fleet, n_slots: usize) -> Self {
        Self {
            n_lives: 0,
            is_up: false,
            name: WorkerId::nobody(),
            fleet,
            n_slots,
            runs: BTreeMap::new(),
            outbox: Vec::new(),
            polls: BTreeMap::new(),
            asked: BTreeMap::new(),
        }
    }

    /// Leases that it names in its polls.
    fn held(&self) -> Vec<Held> {
        let runs = self.runs.values().map(|run| run.held);
        let outbox = self.outbox.iter().map(|report| report.held);
        runs.chain(outbox).collect()
    }

    fn drop_lease(&mut self, held: Held) {
        if self.runs.get(&held.id).is_some_and(|run| run.held == held) {
            self.runs.remove(&held.id);
        }
        self.outbox.retain(|report| report.held != held);
    }

    /// What could not be answered goes to another member next.
    fn turn_elsewhere(&mut self, held: Held, n_members: usize, at: Timestamp) {
        if let Some(run) = self.runs.get_mut(&held.id) {
            run.owner = (run.owner + 1) % n_members;
            run.renew_at = at;
        }
        let same = |report: &&mut Unanswered| report.held == held;
        for report in self.outbox.iter_mut().filter(same) {
            report.owner = (report.owner + 1) % n_members;
            report.try_at = at;
        }
    }
}

impl World {
    /// Starts a worker under a new name.
    pub(crate) fn start_worker(&mut self, worker: usize) {
        let old = &self.workers[worker];
        let n_lives = old.n_lives + 1;
        let mut new = Worker::absent(old.fleet.clone(), old.n_slots);
        let name = format!("w{worker}-{n_lives}");
        new.name = WorkerId::try_from(name.as_str()).unwrap_or_else(|_| WorkerId::nobody());
        new.n_lives = n_lives;
        new.is_up = true;
        self.workers[worker] = new;
        self.note(Fact::Fate("(worker) starts", worker));
        self.queue.push(self.now, What::WorkerTick(worker, n_lives));
    }

    pub(crate) fn crash_worker(&mut self, worker: usize) {
        if !self.workers[worker].is_up {
            return;
        }
        self.thaw(End::Worker(worker));
        self.workers[worker].is_up = false;
        self.note(Fact::Fate("(worker) crashes", worker));
        // Its broken connections are noticed, or they are not.
        let polls = std::mem::take(&mut self.workers[worker].polls);
        for (member, poll) in polls {
            if self.rng.bool() {
                self.say_gone(worker, member, poll.id);
            }
        }
        let wait = Duration::from_millis(self.rng.u64(100..10_000));
        self.queue.push(self.now + wait, What::Revive(worker));
    }

    fn say_gone(&mut self, worker: usize, member: usize, id: u64) {
        self.send(Letter {
            from: End::Worker(worker),
            to: End::Member(member),
            id,
            body: Body::Gone,
        });
    }

    pub(crate) fn worker_tick(&mut self, worker: usize) {
        self.finish_runs(worker);
        self.lose_patience(worker);
        self.send_renewals(worker);
        self.send_reports(worker);
        self.send_polls(worker);
        let n_lives = self.workers[worker].n_lives;
        let at = self.now + TICK;
        self.queue.push(at, What::WorkerTick(worker, n_lives));
    }

    fn finish_runs(&mut self, worker: usize) {
        let (now, lets_go) = (self.now, self.lets_stuck_go);
        let this = &mut self.workers[worker];
        this.runs
            .retain(|_, run| now.since(run.heard_at) < ORPHANED);
        let is_over =
            |_: &TaskId, run: &mut Run| run.ends_at <= now && (run.kind != Kind::Stuck || lets_go);
        let over: Vec<_> = this.runs.extract_if(.., is_over).collect();
        for (_, run) in over {
            this.outbox.push(Unanswered {
                held: run.held,
                outcome: run.outcome,
                owner: run.owner,
                try_at: now,
            });
        }
    }

    /// Gives up requests that were not answered in time.
    fn lose_patience(&mut self, worker: usize) {
        let (now, n_members) = (self.now, self.members.len());
        let this = &mut self.workers[worker];
        let late = |_: &u64, asked: &mut Asked| asked.until <= now;
        let late: Vec<_> = this.asked.extract_if(.., late).collect();
        for (_, asked) in late {
            for held in asked.held {
                this.turn_elsewhere(held, n_members, now);
            }
        }
        let mut over: Vec<_> = Vec::new();
        for (member, poll) in &this.polls {
            if poll.until <= now {
                over.push((*member, poll.id));
            }
        }
        // Some callers leave before their time.
        if self.rng.u32(0..200) == 0 && !self.is_healed {
            let open = self.workers[worker].polls.iter();
            let open: Vec<_> = open.map(|(member, poll)| (*member, poll.id)).collect();
            over.extend(self.rng.choice(open));
        }
        for (member, id) in over {
            if self.workers[worker].polls.remove(&member).is_some() {
                self.say_gone(worker, member, id);
            }
        }
    }

    fn send_renewals(&mut self, worker: usize) {
        let now = self.now;
        let mut by_owner: BTreeMap<usize, Vec<Held>> = BTreeMap::new();
        for run in self.workers[worker].runs.values_mut() {
            if run.renew_at <= now {
                run.renew_at = now + run.renew_every;
                by_owner.entry(run.owner).or_default().push(run.held);
            }
        }
        for (owner, held) in by_owner {
            let beats = held.iter().map(|held| (*held, true)).collect();
            self.send_asked(worker, owner, Request::Renew(beats), held);
        }
    }

    fn send_reports(&mut self, worker: usize) {
        let now = self.now;
        let mut by_owner: BTreeMap<usize, Vec<(Held, Outcome)>> = BTreeMap::new();
        for report in &mut self.workers[worker].outbox {
            if report.try_at <= now {
                report.try_at = now + PATIENCE * 2;
                let report = (report.held, report.outcome.clone(), report.owner);
                by_owner
                    .entry(report.2)
                    .or_default()
                    .push((report.0, report.1));
            }
        }
        for (owner, reports) in by_owner {
            let held = reports.iter().map(|(held, _)| *held).collect();
            self.send_asked(worker, owner, Request::Report(reports), held);
        }
    }

    fn send_asked(&mut self, worker: usize, owner: usize, request: Request, held: Vec<Held>) {
        let is_report = matches!(request, Request::Report(_));
        let until = self.now + PATIENCE;
        let id = self.request(End::Worker(worker), End::Member(owner), request);
        let asked = Asked {
            held,
            is_report,
            until,
        };
        self.workers[worker].asked.insert(id, asked);
    }

    fn send_polls(&mut self, worker: usize) {
        let n_members = self.members.len();
        let this = &self.workers[worker];
        // Stuck tasks shall hold up nobody by taking all slots.
        let n_runs = this.runs.values().filter(|run| run.kind != Kind::Stuck);
        let mut free = this.n_slots.saturating_sub(n_runs.count());
        if this.outbox.len() >= OUTBOX_MAX {
            free = 0;
        }
        // A little more than there is, since nobody knows which member has something.
        let credit = free.div_ceil(n_members);
        // A poll that only listens makes way as soon as there is room.
        let listens = |_: &usize, poll: &mut OpenPoll| poll.credit == 0 && credit > 0;
        let outdated: Vec<_> = self.workers[worker].polls.extract_if(.., listens).collect();
        for (member, poll) in outdated {
            self.say_gone(worker, member, poll.id);
        }
        let this = &self.workers[worker];
        let missing = (0..n_members).filter(|member| !this.polls.contains_key(member));
        let missing: Vec<_> = missing.collect();
        let held = this.held();
        let (fleet, name) = (this.fleet.clone(), this.name.clone());
        for member in missing {
            if credit == 0 && held.is_empty() {
                continue;
            }
            let mut poll = Poll::new(name.clone(), credit);
            poll.wait = Duration::from_millis(self.rng.u64(1_000..8_000));
            poll.held.clone_from(&held);
            poll.offers = self.plan.offers;
            let until = self.now + poll.wait + PATIENCE;
            let request = Request::Poll(fleet.clone(), poll);
            let id = self.request(End::Worker(worker), End::Member(member), request);
            let open = OpenPoll { id, credit, until };
            self.workers[worker].polls.insert(member, open);
        }
    }

    /// An answer comes to a worker.
    pub(crate) fn worker_answered(&mut self, worker: usize, letter: Letter) {
        let (End::Member(member), Body::Answer(answer)) = (letter.from, letter.body) else {
            return;
        };
        let this = &mut self.workers[worker];
        if !this.is_up {
            return;
        }
        if this
            .polls
            .get(&member)
            .is_some_and(|poll| poll.id == letter.id)
        {
            this.polls.remove(&member);
            if let Ok([Answer::Leased(Ok(leased))]) = answer.as_deref() {
                for (held, _) in &leased.lost {
                    this.drop_lease(*held);
                }
                for task in leased.tasks.clone() {
                    self.begin(worker, member, &task);
                }
            }
            return;
        }
        let Some(asked) = this.asked.remove(&letter.id) else {
            return;
        };
        let mut answers = answer.unwrap_or_default().into_iter();
        for held in asked.held {
            let answer = match answers.next() {
                Some(Answer::Renewed(answer)) => answer.map(|_| ()),
                Some(Answer::Reported(answer)) => answer,
                _ => Err(Error::moved()),
            };
            self.settle(worker, held, asked.is_report, answer);
        }
    }

    fn settle(&mut self, worker: usize, held: Held, is_report: bool, answer: Result<(), Error>) {
        let (now, n_members) = (self.now, self.members.len());
        let this = &mut self.workers[worker];
        match answer {
            Ok(()) if is_report => this.drop_lease(held),
            Ok(()) => {
                if let Some(run) = this.runs.get_mut(&held.id).filter(|run| run.held == held) {
                    run.heard_at = now;
                }
            }
            Err(Error::Unavailable { .. } | Error::UnknownOutcome { .. }) => {
                let at = now + Duration::from_millis(300);
                this.turn_elsewhere(held, n_members, at);
            }
            Err(Error::Overloaded { retry_after, .. }) => {
                for report in &mut this.outbox {
                    if report.held == held {
                        report.try_at = now + retry_after;
                    }
                }
            }
            Err(_) => this.drop_lease(held),
        }
    }

    fn begin(&mut self, worker: usize, member: usize, task: &LeasedTask) {
        let this = &mut self.workers[worker];
        let held = Held {
            id: task.id,
            token: task.token,
        };
        let known = this.runs.get(&task.id);
        if known.is_some_and(|run| run.held.token >= held.token) {
            return;
        }
        let kind = Kind::of(name_of(&task.data));
        let weather = Weather {
            is_healed: self.is_healed,
            is_outage: self.plan.is_outage(self.now),
            has_few_credits: self.plan.outage.is_some(),
        };
        let (took, outcome) = kind.work(&mut self.rng, weather);
        let renew_every = self.plan.config.lease / 3;
        // Most touch an offer at once, and some when it is nearly over or has run out.
        let touches_after = match self.rng.u32(0..4) {
            _ if !self.plan.offers => renew_every,
            0 => Duration::from_millis(self.rng.u64(0..6_000)),
            _ => Duration::ZERO,
        };
        let run = Run {
            held,
            kind,
            ends_at: self.now + took,
            outcome,
            owner: member,
            renew_every,
            renew_at: self.now + touches_after,
            heard_at: self.now,
        };
        this.runs.insert(task.id, run);
        self.note(Fact::Began(worker, held));
    }

    /// The leases that workers hold now, by their own account.
    pub(crate) fn held_anywhere(&self) -> BTreeSet<TaskId> {
        let runs = self.workers.iter().filter(|worker| worker.is_up);
        runs.flat_map(|worker| worker.runs.keys().copied())
            .collect()
    }
}
