//! The world: everything that a seed makes, and the one loop that moves it through virtual time.

use std::{collections::BTreeMap, time::Duration};

use scheduler_core::{ShardId, Timestamp};

use crate::{
    Life,
    check::Truth,
    client::{self, Clients},
    fact::Fact,
    group::Group,
    log::Log,
    net::{End, Letter, Net},
    node::{self, Given, Node},
    plan::{Plan, START, Scenario},
    port::{Caller, Told, Visit, Waiter},
    queue::Queue,
    store::Store,
    task,
    watch::Watch,
    worker::Worker,
};

/// How often misfortune looks for someone.
const MISCHIEF_EVERY: Duration = Duration::from_millis(500);
/// How long after the faults all but the stuck tasks may take to end.
const REST_WITHIN: Duration = Duration::from_secs(900);
/// How long everything may take to end after that.
const END_WITHIN: Duration = Duration::from_secs(900);
/// How long all must have been well before new tasks must run at once.
const PROBE_AFTER: Duration = Duration::from_secs(60);
/// How long new tasks are watched at the end.
const PROBE_FOR: Duration = Duration::from_secs(4);
/// How many tasks each tenant of a pool has when they compete, and how long that takes at most.
const N_EVEN: usize = 120;
const COMPETE_FOR: Duration = Duration::from_secs(120);
/// How often a life looks whether all has come to rest.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Something that is to happen.
#[derive(Debug)]
pub(crate) enum What {
    Turn(usize, u32),
    Beat(usize, u32),
    Prove(usize, u32),
    GiveUp(usize, u32, Given),
    Probe(usize, u32, ShardId),
    Restart(usize),
    Visit(Box<Visit>),
    Told(Caller, u64, Told),
    FetchOver(u64),
    Letter(Letter),
    WorkerTick(usize, u32),
    Revive(usize),
    ClientsTick,
    OpOver(u64, u32),
    TryOp(u64),
    Mischief,
    Thaw(End),
    Outage(bool),
}

/// A cluster, its clients and its misfortunes.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) now: Timestamp,
    pub(crate) rng: fastrand::Rng,
    pub(crate) queue: Queue<What>,
    pub(crate) plan: Plan,
    pub(crate) net: Net,
    pub(crate) log: Log,
    pub(crate) store: Store,
    pub(crate) group: Group,
    pub(crate) waiters: Vec<Waiter>,
    pub(crate) members: Vec<Node>,
    pub(crate) workers: Vec<Worker>,
    pub(crate) clients: Clients,
    pub(crate) watch: Watch,
    /// Who takes no notice of anything, and what waits for it.
    frozen: BTreeMap<End, Vec<What>>,
    /// Faults are over.
    pub(crate) is_healed: bool,
    /// Tasks that ran on by intention may end.
    pub(crate) lets_stuck_go: bool,
}

impl World {
    pub(crate) fn new(seed: u64, n_tasks: u64, scenario: Scenario, watch: Watch) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let plan = Plan::of(&mut rng, n_tasks, scenario);
        let members = (0..plan.n_members).map(|_| Node::absent(&plan.config));
        let members: Vec<_> = members.collect();
        let workers = (0..plan.n_workers)
            .map(|n| Worker::absent(plan.fleet(n), plan.n_members + rng.usize(0..6)))
            .collect();
        Self {
            now: START,
            rng,
            queue: Queue::new(),
            net: Net::default(),
            log: Log::new(&plan.shards),
            store: Store::default(),
            group: Group::new(&plan.shards),
            waiters: Vec::new(),
            members,
            workers,
            clients: Clients::default(),
            watch,
            frozen: BTreeMap::new(),
            is_healed: false,
            lets_stuck_go: false,
            plan,
        }
    }

    /// Lives through faults, heals, and looks whether every promise was kept.
    pub(crate) fn live(&mut self) -> Life {
        for member in 0..self.members.len() {
            self.start_member(member);
        }
        for worker in 0..self.workers.len() {
            self.start_worker(worker);
        }
        self.queue.push(self.now, What::ClientsTick);
        self.queue.push(self.now, What::Mischief);
        if let Some((from, until)) = self.plan.outage {
            self.queue.push(from, What::Outage(true));
            self.queue.push(until, What::Outage(false));
        }
        self.run_for(self.plan.storm);
        self.heal();
        // Long lives have more to do.
        let within = REST_WITHIN + Duration::from_secs(4 * self.plan.n_tasks);
        self.run_until_rest(within, Self::is_at_rest);
        self.watch
            .at_rest(truth(self.now, &self.plan, &self.log, &self.store));
        self.lets_stuck_go = true;
        self.run_until_rest(END_WITHIN, Self::is_at_end);
        self.look_at_end();
        self.probe();
        self.compete();
        Life {
            broken: self.watch.broken.clone(),
            hash: self.watch.hash(),
            took: self.now.since(START),
            n_begun: self.watch.n_begun(),
            n_again: self.watch.n_again,
            n_claims: self.watch.n_claims,
        }
    }

    pub(crate) fn note(&mut self, fact: Fact) {
        let truth = truth(self.now, &self.plan, &self.log, &self.store);
        self.watch.note(&fact, truth);
    }

    fn run_for(&mut self, time: Duration) {
        let until = self.now + time;
        while self.watch.broken.is_none()
            && let Some((at, what)) = self.queue.pop(until)
        {
            self.now = self.now.max(at);
            self.happen(what);
        }
        if self.watch.broken.is_none() {
            self.now = until;
        }
    }

    fn run_until_rest(&mut self, within: Duration, is_over: fn(&Self) -> bool) {
        let until = self.now + within;
        while self.now < until && self.watch.broken.is_none() && !is_over(self) {
            self.run_for(LOOK_EVERY);
        }
    }

    fn happen(&mut self, what: What) {
        if let Some(end) = addressee(&what)
            && let Some(waiting) = self.frozen.get_mut(&end)
        {
            waiting.push(what);
            return;
        }
        match what {
            What::Turn(member, n) if self.is_life(member, n) => self.turn(member),
            What::Beat(member, n) if self.is_life(member, n) => self.beat(member),
            What::Prove(member, n) if self.is_life(member, n) => self.prove(member),
            What::GiveUp(member, n, given) if self.is_life(member, n) => {
                self.give_up(member, given);
            }
            What::Probe(member, n, shard) if self.is_life(member, n) => {
                self.probe_store(member, shard)
            }
            What::Turn(..)
            | What::Beat(..)
            | What::Prove(..)
            | What::GiveUp(..)
            | What::Probe(..) => {}
            What::Restart(member) => self.start_member(member),
            What::Visit(visit) => self.serve(*visit),
            What::Told(Caller::Member(member, n), job, told) => {
                if self.is_life(member, n) {
                    self.told(member, job, told);
                }
            }
            What::Told(Caller::Clients, job, told) => self.clients_told(job, told),
            What::FetchOver(job) => self.fetch_over(job),
            What::Letter(letter) => self.deliver(letter),
            What::WorkerTick(worker, n) => {
                let this = &self.workers[worker];
                if this.is_up && this.n_lives == n {
                    self.worker_tick(worker);
                }
            }
            What::Revive(worker) => self.start_worker(worker),
            What::ClientsTick => {
                if !self.is_healed {
                    self.clients_tick();
                    self.queue.push(self.now + client::TICK, What::ClientsTick);
                }
            }
            What::OpOver(op, n_tries) => self.op_over(op, n_tries),
            What::TryOp(op) => self.try_op(op),
            What::Mischief => self.mischief(),
            What::Thaw(end) => self.thaw(end),
            What::Outage(is_on) => self.note(Fact::Outage(is_on)),
        }
    }

    fn is_life(&self, member: usize, n: u32) -> bool {
        let node = &self.members[member];
        node.n_lives == n && node.life != node::Life::Down
    }

    /// Something goes wrong somewhere, or nothing does.
    fn mischief(&mut self) {
        if self.is_healed {
            return;
        }
        self.queue.push(self.now + MISCHIEF_EVERY, What::Mischief);
        let faults = self.plan.faults.clone();
        let member = self.rng.usize(0..self.members.len());
        let worker = self.rng.usize(0..self.workers.len());
        let millis = Duration::from_millis;
        if self.strikes(faults.n_crashes) {
            self.crash_member(member);
        }
        if self.strikes(faults.n_restarts) {
            self.stop_member(member);
        }
        if self.strikes(faults.n_freezes) {
            let time = millis(self.rng.u64(100..25_000));
            self.freeze(End::Member(member), time);
        }
        if self.strikes(faults.n_moves) {
            self.group.move_one(&mut self.rng);
        }
        if self.strikes(faults.n_slews) {
            let drift = self.rng.i64(-5..6);
            self.members[member].slew(self.now, drift);
        }
        if self.strikes(faults.n_worker_crashes) {
            self.crash_worker(worker);
        }
        if self.strikes(faults.n_worker_freezes) {
            let time = millis(self.rng.u64(100..60_000));
            self.freeze(End::Worker(worker), time);
        }
        if self.strikes(faults.n_cuts) {
            let others = [
                End::Log,
                End::Store,
                End::Group,
                End::Clients,
                End::Worker(worker),
            ];
            let other = others[self.rng.usize(0..others.len())];
            let until = self.now + millis(self.rng.u64(500..30_000));
            self.net.cut(End::Member(member), other, until);
            self.note(Fact::Fate(cut_name(other), member));
        }
    }

    fn freeze(&mut self, end: End, time: Duration) {
        if self.frozen.contains_key(&end) {
            return;
        }
        let (what, n) = match end {
            End::Member(n) => ("freezes", n),
            End::Worker(n) => ("(worker) freezes", n),
            _ => return,
        };
        self.note(Fact::Fate(what, n));
        self.frozen.insert(end, Vec::new());
        self.queue.push(self.now + time, What::Thaw(end));
    }

    /// Whoever was frozen goes on with all that waited for it.
    pub(crate) fn thaw(&mut self, end: End) {
        for what in self.frozen.remove(&end).unwrap_or_default() {
            if let What::Turn(member, n) = what {
                // It was to be before now.
                if self.is_life(member, n) {
                    self.members[member].forget_turn();
                    self.wake(member);
                }
            } else {
                self.queue.push(self.now, what);
            }
        }
    }

    /// Ends all faults, and starts whoever is down.
    fn heal(&mut self) {
        self.is_healed = true;
        self.net.heal();
        for end in self.frozen.keys().copied().collect::<Vec<_>>() {
            self.thaw(end);
        }
        self.note(Fact::Fate("and all others are healed", 0));
    }

    /// Whether only tasks that are stuck by intention are left.
    fn is_at_rest(&self) -> bool {
        let records = self.log.records();
        let mut open = records.filter(|(id, _)| {
            let row = self.store.row(*id);
            !self.store.is_done(*id) || row.is_some_and(|row| !row.state.name().is_terminal())
        });
        self.clients.are_idle() && open.all(|(_, body)| task::is_stuck(body))
    }

    fn is_at_end(&self) -> bool {
        let shards = self.plan.shards.iter();
        let mut shards = shards.map(|id| (self.store.watermark(*id), self.log.end(*id)));
        shards.all(|(watermark, end)| watermark == end)
            && self.store.live_rows().next().is_none()
            && self.held_anywhere().is_empty()
            && self.members.iter().all(|node| node.is_ready(self.now))
    }

    fn look_at_end(&mut self) {
        let ready: Vec<_> = self
            .members
            .iter()
            .map(|node| node.is_ready(self.now))
            .collect();
        for (member, is_ready) in ready.into_iter().enumerate() {
            // A member without slots has nothing to be ready for.
            if self.group.has_slots(member) && !is_ready {
                self.note(Fact::NotReady(member));
            }
        }
        let truth = truth(self.now, &self.plan, &self.log, &self.store);
        if self.watch.broken.is_none() {
            self.watch.at_end(truth);
        }
    }

    /// New tasks must run at once when everything is well and idle.
    fn probe(&mut self) {
        // Workers notice late that a member which was away is back.
        self.run_for(PROBE_AFTER);
        for (n, shard) in self.plan.shards.clone().into_iter().enumerate() {
            if self.watch.broken.is_none() {
                self.note(Fact::Probing(shard, self.log.end(shard)));
                self.submit_probe(shard, n);
                self.run_for(PROBE_FOR);
            }
        }
        self.note(Fact::Probed);
    }

    /// Tenants of a pool that all want more than there is are served by weight.
    fn compete(&mut self) {
        if self.plan.pool.is_none() || self.members.len() > 1 || self.watch.broken.is_some() {
            return;
        }
        self.submit_even(N_EVEN);
        self.note(Fact::Competing(N_EVEN));
        self.run_for(COMPETE_FOR);
        self.note(Fact::Competed);
    }
}

/// Who takes notice of it, if it is somebody who can be frozen.
fn addressee(what: &What) -> Option<End> {
    match what {
        What::Turn(member, _)
        | What::Beat(member, _)
        | What::Prove(member, _)
        | What::GiveUp(member, ..)
        | What::Probe(member, ..)
        | What::Told(Caller::Member(member, _), ..) => Some(End::Member(*member)),
        What::Letter(letter) => Some(letter.to),
        What::WorkerTick(worker, _) => Some(End::Worker(*worker)),
        _ => None,
    }
}

fn cut_name(other: End) -> &'static str {
    match other {
        End::Log => "is cut off from the log",
        End::Store => "is cut off from the store",
        End::Group => "is cut off from the group",
        End::Clients => "is cut off from the clients",
        End::Worker(_) | End::Member(_) => "is cut off from a worker",
    }
}

fn truth<'a>(now: Timestamp, plan: &'a Plan, log: &'a Log, store: &'a Store) -> Truth<'a> {
    let config = &plan.config;
    Truth {
        now,
        config,
        log,
        store,
        pipelines: &plan.pipelines,
    }
}
