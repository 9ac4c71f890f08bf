//! Lending the credit of workers to the shards of their pipeline.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rustc_hash::FxHashMap;

use super::{Member, share::Shares};
use crate::{
    Config, Error, Label, LeaseLost, Pipeline, PipelineNumber, PoolName, ShardId, TenantName,
    Timestamp, WorkerId,
    action::{Action, Answer, CallId},
    call::{Held, Leased, Poll},
    shard::{Credit, Taker},
};

/// What a worker works for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fleet {
    /// One pipeline.
    Pipeline(PipelineNumber),
    /// All pipelines of a pool, whoever owns them.
    Pool(PoolName),
}

/// A poll that waits.
#[derive(Debug)]
struct Waiting {
    fleet: Fleet,
    poll: Poll,
    until: Timestamp,
}

/// What polls have to offer: those that offer the same are served alike.
type Profile = (BTreeSet<Label>, usize);

/// The polls of one fleet, and the tasks that they compete for.
#[derive(Debug, Default)]
struct Queue {
    /// In the order in which they came; those that are gone are skipped.
    polls: BTreeMap<Profile, VecDeque<CallId>>,
    n_waiting: usize,
    /// With those that only listen.
    n_all: usize,
    shares: Shares,
}

impl Queue {
    /// Drops polls that are gone from the front of a profile; the first that waits.
    fn first(&mut self, profile: &Profile, waiting: &FxHashMap<CallId, Waiting>) -> Option<CallId> {
        let polls = self.polls.get_mut(profile)?;
        while let Some(call) = polls.front() {
            if waiting.contains_key(call) {
                return Some(*call);
            }
            polls.pop_front();
        }
        self.polls.remove(profile);
        None
    }
}

/// Polls that wait, and who is told of lost leases.
#[derive(Debug, Default)]
pub(super) struct Dispatcher {
    waiting: FxHashMap<CallId, Waiting>,
    queues: FxHashMap<Fleet, Queue>,
    /// Fleets in which a poll may meet a task since one of them is new.
    stirred: BTreeSet<Fleet>,
    deadlines: BTreeSet<(Timestamp, CallId)>,
    /// Which poll named a lease as held.
    listeners: FxHashMap<Held, CallId>,
}

impl Dispatcher {
    pub(super) fn wake_at(&self) -> Option<Timestamp> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Whether tasks wait for which workers would be there.
    pub(super) fn is_contended(&self) -> bool {
        let waits = |queue: &Queue| queue.n_waiting > 0 && queue.shares.has_ready();
        self.queues.values().any(waits)
    }

    /// Looks at all fleets again.
    pub(super) fn stir_all(&mut self) {
        self.stirred.extend(self.queues.keys().cloned());
    }

    /// Takes a poll out, whoever answers it.
    fn take(&mut self, call: CallId) -> Option<Waiting> {
        let waiting = self.waiting.remove(&call)?;
        self.deadlines.remove(&(waiting.until, call));
        for held in &waiting.poll.held {
            if self.listeners.get(held) == Some(&call) {
                self.listeners.remove(held);
            }
        }
        if let Some(queue) = self.queues.get_mut(&waiting.fleet) {
            queue.n_all -= 1;
            queue.n_waiting -= usize::from(waiting.poll.credit > 0);
            let profile = (waiting.poll.labels.clone(), waiting.poll.credit);
            if let Some(polls) = queue.polls.get_mut(&profile)
                && polls.len() > 2 * queue.n_waiting + 64
            {
                let waiting = &self.waiting;
                polls.retain(|call| waiting.contains_key(call));
            }
        }
        Some(waiting)
    }

    pub(super) fn gone(&mut self, call: CallId) {
        self.take(call);
    }

    fn add(&mut self, call: CallId, waiting: Waiting) {
        self.deadlines.insert((waiting.until, call));
        for held in &waiting.poll.held {
            self.listeners.insert(*held, call);
        }
        let queue = self.queues.entry(waiting.fleet.clone()).or_default();
        queue.n_all += 1;
        if waiting.poll.credit > 0 {
            let profile = (waiting.poll.labels.clone(), waiting.poll.credit);
            queue.polls.entry(profile).or_default().push_back(call);
            queue.n_waiting += 1;
            self.stirred.insert(waiting.fleet.clone());
        }
        self.waiting.insert(call, waiting);
    }

    pub(super) fn shares(&mut self, fleet: &Fleet) -> &mut Shares {
        &mut self.queues.entry(fleet.clone()).or_default().shares
    }

    /// Whether a worker waits for tasks that has these labels and so many free slots.
    pub(super) fn has_worker(&self, fleet: &Fleet, labels: &BTreeSet<Label>, cost: u16) -> bool {
        let meets = |(has, credit): &Profile| usize::from(cost) <= *credit && labels.is_subset(has);
        let queue = self.queues.get(fleet);
        queue.is_some_and(|queue| queue.polls.keys().any(meets))
    }

    /// The leases of a shard that waiting polls named, and who holds them, in no order.
    pub(super) fn held_in(&self, id: ShardId) -> Vec<(Held, WorkerId)> {
        let here = self.listeners.iter();
        here.filter(|(held, _)| held.id.shard == id)
            .filter_map(|(held, call)| {
                let waiting = self.waiting.get(call)?;
                Some((*held, waiting.poll.worker.clone()))
            })
            .collect()
    }

    pub(super) fn drop_pipeline(&mut self, pipeline: PipelineNumber) -> Vec<CallId> {
        let fleet = Fleet::Pipeline(pipeline);
        self.queues.remove(&fleet);
        self.stirred.remove(&fleet);
        let calls: Vec<_> = self
            .waiting
            .iter()
            .filter(|(_, waiting)| waiting.fleet == fleet)
            .map(|(call, _)| *call)
            .collect();
        for call in &calls {
            self.take(*call);
        }
        calls
    }
}

impl Member {
    /// Takes a poll; it is answered in this turn's dispatch, or later.
    pub(super) fn poll(
        &mut self,
        call: CallId,
        fleet: Fleet,
        poll: Poll,
        now: Timestamp,
        out: &mut Vec<Action>,
    ) {
        let refuse = |error: Error| Answer::Leased(Err(error));
        if let Fleet::Pipeline(pipeline) = &fleet
            && !self.pipelines.contains_key(pipeline)
        {
            let error = Error::not_found("pipeline", pipeline.0);
            out.push(Action::Answer(call, 0, refuse(error)));
            return;
        }
        let queue = self.dispatcher.queues.get(&fleet);
        if queue.is_some_and(|queue| queue.n_all >= self.config.pollers_max) {
            let error = Error::Overloaded {
                what: "pollers_max".into(),
                retry_after: std::time::Duration::from_secs(1),
            };
            out.push(Action::Answer(call, 0, refuse(error)));
            return;
        }
        let until = now + poll.wait.min(self.config.poll_wait_max);
        let (held, worker) = (poll.held.clone(), poll.worker.clone());
        let waiting = Waiting { fleet, poll, until };
        self.dispatcher.add(call, waiting);
        for held in held {
            if self.shards.contains_key(&held.id.shard) {
                let worker = worker.clone();
                self.with_shard(held.id.shard, now, |shard| {
                    shard.declare(held, worker, now, out)
                });
            }
        }
    }

    /// Lets polls meet tasks, and ends those whose time has come.
    pub(super) fn dispatch(&mut self, now: Timestamp, proven: bool, out: &mut Vec<Action>) {
        let touched = std::mem::take(&mut self.touched);
        for &id in &touched {
            let mut is_ready = false;
            self.with_shard(id, now, |shard| {
                shard.stir(now, out);
                is_ready = shard.has_ready(now);
            });
            if is_ready {
                self.note_ready(id, now);
            }
        }
        self.touched.extend(touched);
        if self.tenants_at.is_some_and(|at| at <= now) {
            self.tenants_at = self.tenants.wake_at(&self.config, now);
            self.dispatcher.stir_all();
        }
        if proven && !self.stopping {
            for fleet in std::mem::take(&mut self.dispatcher.stirred) {
                self.serve(&fleet, now, out);
                self.seekers.stir(&fleet);
            }
        }
        self.end_polls(now, out);
    }

    /// A shard may have something ready: for workers of its pipeline, and for those of its pool.
    fn note_ready(&mut self, id: ShardId, now: Timestamp) {
        let Some(pipeline) = self.pipelines.get(&id.pipeline) else {
            return;
        };
        let tenant = &pipeline.path.tenant;
        let weight = weight_of(&self.config, tenant);
        for fleet in fleets_of(pipeline) {
            let shares = self.dispatcher.shares(&fleet);
            shares.note_ready(tenant, id, weight, now);
            self.dispatcher.stirred.insert(fleet);
        }
    }

    /// A shard is here no longer.
    pub(super) fn forget_ready(&mut self, id: ShardId) {
        if let Some(pipeline) = self.pipelines.get(&id.pipeline) {
            for fleet in fleets_of(pipeline) {
                self.dispatcher
                    .shares(&fleet)
                    .forget(&pipeline.path.tenant, id);
            }
        }
    }

    /// Serves the polls of a fleet, the oldest first. When one gets nothing, those that offer the same get nothing.
    fn serve(&mut self, fleet: &Fleet, now: Timestamp, out: &mut Vec<Action>) {
        let Some(queue) = self.dispatcher.queues.get(fleet) else {
            return;
        };
        let mut profiles: BTreeSet<Profile> = queue.polls.keys().cloned().collect();
        loop {
            let Some(queue) = self.dispatcher.queues.get_mut(fleet) else {
                return;
            };
            if !queue.shares.has_ready() {
                return;
            }
            let waiting = &self.dispatcher.waiting;
            let firsts = profiles.iter().filter_map(|profile| {
                let call = queue.first(profile, waiting)?;
                Some((call, profile))
            });
            let Some((call, profile)) = firsts.min().map(|(call, profile)| (call, profile.clone()))
            else {
                return;
            };
            if !self.serve_poll(fleet, call, now, out) {
                profiles.remove(&profile);
            }
        }
    }

    /// Gives one poll what there is for it, and answers it unless that is nothing.
    fn serve_poll(
        &mut self,
        fleet: &Fleet,
        call: CallId,
        now: Timestamp,
        out: &mut Vec<Action>,
    ) -> bool {
        let Some(waiting) = self.dispatcher.waiting.get(&call) else {
            return false;
        };
        let (worker, labels) = (waiting.poll.worker.clone(), waiting.poll.labels.clone());
        let mut credit = Credit {
            n: waiting.poll.credit,
            n_tasks: usize::MAX,
            n_bytes: waiting.poll.bytes_max,
        };
        let taker = Taker {
            worker: &worker,
            labels: &labels,
            offers: waiting.poll.offers,
        };
        let mut granted = Vec::new();
        let mut passed = Vec::new();
        while credit.n > 0
            && let Some((tenant, id, n_tasks)) = self.next_shard(fleet, now)
        {
            if self.ownership.is_releasing(id) {
                continue;
            }
            credit.n_tasks = n_tasks;
            let n_granted = granted.len();
            let mut still_ready = false;
            self.with_shard(id, now, |shard| {
                shard.grant(taker, &mut credit, now, &mut granted, out);
                still_ready = shard.has_ready(now);
            });
            if !still_ready {
                continue;
            }
            if granted.len() == n_granted && credit.n > 0 {
                // What it has is for others: it is not asked again by this poll.
                passed.push((tenant, id));
            } else {
                let weight = weight_of(&self.config, &tenant);
                let shares = self.dispatcher.shares(fleet);
                shares.note_ready(&tenant, id, weight, now);
            }
        }
        for (tenant, id) in passed {
            let weight = weight_of(&self.config, &tenant);
            let shares = self.dispatcher.shares(fleet);
            shares.note_ready(&tenant, id, weight, now);
        }
        if granted.is_empty() {
            return false;
        }
        self.dispatcher.take(call);
        let leased = Leased {
            tasks: granted,
            lost: Vec::new(),
        };
        out.push(Action::Answer(call, 0, Answer::Leased(Ok(leased))));
        true
    }

    /// The shard that goes next in a fleet, and how many tasks it may hand out.
    fn next_shard(
        &mut self,
        fleet: &Fleet,
        now: Timestamp,
    ) -> Option<(TenantName, ShardId, usize)> {
        let Self {
            dispatcher,
            tenants,
            config,
            ..
        } = self;
        let shares = &mut dispatcher.queues.get_mut(fleet)?.shares;
        let is_contended = shares.is_contended();
        let (tenant, id) = shares.next(
            now,
            |tenant| weight_of(config, tenant),
            |tenant| tenants.room(config, tenant, now) > 0,
        )?;
        let room = tenants.room(config, &tenant, now);
        let n_tasks = if is_contended { 1 } else { room };
        Some((tenant, id, n_tasks))
    }

    fn end_polls(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        while let Some(&(until, call)) = self.dispatcher.deadlines.first() {
            if until > now && !self.stopping {
                return;
            }
            self.dispatcher.take(call);
            out.push(Action::Answer(
                call,
                0,
                Answer::Leased(Ok(Leased::default())),
            ));
        }
    }

    /// Answers the polls that named leases which were lost in this turn.
    pub(super) fn tell_lost_leases(&mut self, out: &mut Vec<Action>) {
        let mut lost: FxHashMap<CallId, Vec<(Held, LeaseLost)>> = FxHashMap::default();
        out.retain(|action| match action {
            Action::LeaseEnded(held, why) => {
                if let Some(call) = self.dispatcher.listeners.get(held) {
                    lost.entry(*call).or_default().push((*held, *why));
                }
                self.seekers.note_lost(*held, *why);
                false
            }
            _ => true,
        });
        let mut lost: Vec<_> = lost.into_iter().collect();
        lost.sort_unstable_by_key(|(call, _)| *call);
        for (call, lost) in lost {
            self.dispatcher.take(call);
            let leased = Leased {
                tasks: Vec::new(),
                lost,
            };
            out.push(Action::Answer(call, 0, Answer::Leased(Ok(leased))));
        }
    }
}

/// Whose workers may take tasks of a pipeline.
pub(super) fn fleets_of(pipeline: &Pipeline) -> impl Iterator<Item = Fleet> {
    let pool = pipeline.spec.pool.clone().map(Fleet::Pool);
    pool.into_iter().chain([Fleet::Pipeline(pipeline.number)])
}

fn weight_of(config: &Config, tenant: &TenantName) -> u32 {
    config.tenant_weights.get(tenant).copied().unwrap_or(1)
}
