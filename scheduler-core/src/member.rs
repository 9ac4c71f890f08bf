//! The machine of one member: which shards it works on, who gets their tasks, what is flushed when.
//!
//! Pure like the machines below it: an [`Event`] and `now` in, [`Action`]s out. The driver carries
//! actions to the ports and brings their results back as events.

mod call;
mod claim;
mod dispatch;
mod doubt;
mod flush;
mod look;
mod seek;
mod share;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use rustc_hash::FxHashMap;

use self::{claim::Ownership, dispatch::Dispatcher, flush::Lanes, seek::Seekers, share::Tenants};
pub use self::{
    dispatch::Fleet,
    look::{InMemory, Load},
    seek::{AllNews, News, Sought},
};
use crate::{
    CancelRequest, Config, Epoch, IdempotencyKey, Offset, OrderingKey, Outcome, Pipeline,
    PipelineNumber, ShardId, Slot, TaskId, Timestamp,
    action::{Action, CallId},
    call::{Beat, Held, LeasedTask, Poll},
    port::{
        FailureKind,
        log::{Appended, Bounds, Fetch, Fetched, NewTask},
        store::{Claimed, DueTasks, Flushed, KeyRow, KeyedTasks},
    },
    shard::{Loaded, Shard},
    survey::Ask,
};

/// What happens to a member.
#[derive(Debug)]
pub enum Event {
    /// These are all the pipelines there are now.
    Pipelines(Vec<Arc<Pipeline>>),
    /// These slots are the member's.
    Assigned(Vec<Slot>),
    /// These slots are to be given up in good order.
    Revoking(Vec<Slot>),
    /// These slots are gone.
    Lost(Vec<Slot>),
    /// Membership was proven at this time.
    Proven(Timestamp),
    /// A shard was claimed, and this is its log.
    Claimed(Claimed, Bounds),
    /// A shard could not be claimed.
    ClaimFailed(ShardId, FailureKind),
    /// These shards are given up, or it was tried.
    Released(Vec<ShardId>),
    /// What a fetch found, and from which offset each shard's was.
    Fetched(Vec<(Offset, Fetched)>),
    /// The log does not hold the offset any more that was to be read next, and why.
    LogLost(ShardId, Offset, String),
    /// What became of a lane's flush; `Err` if nothing is known.
    Flushed(u16, Result<Vec<Flushed>, FailureKind>),
    /// A task that was to be read.
    Loaded(ShardId, Epoch, Offset, Loaded),
    /// A page of parked tasks; `None` if it could not be read.
    DueRead(ShardId, Epoch, Option<DueTasks>),
    /// Tasks with an ordering key; `None` if they could not be read.
    KeyedRead(ShardId, Epoch, OrderingKey, Option<KeyedTasks>),
    /// What a key stands for.
    KeyFound(
        ShardId,
        Epoch,
        IdempotencyKey,
        Result<Option<KeyRow>, FailureKind>,
    ),
    /// What became of an append.
    KeyedAppended(
        ShardId,
        Epoch,
        IdempotencyKey,
        Result<Appended, FailureKind>,
    ),
    /// A call.
    Call(CallId, Call),
    /// Somebody waits for a change of a task of this shard.
    Watched(ShardId),
    /// The caller of a poll or a question has gone.
    PollGone(CallId),
    /// These leases never reached their worker.
    Ungranted(Vec<LeasedTask>),
    /// The member is to stop in good order.
    Stop,
    /// Time has passed.
    Tick,
}

/// What callers ask of a member.
#[derive(Debug)]
pub enum Call {
    /// Tasks for a worker.
    Poll(Fleet, Poll),
    /// News for workers that wait elsewhere, within a time.
    Seek(Vec<Sought>, Duration),
    /// What became of attempts: one part of the answer each.
    Report(Vec<(Held, Outcome)>),
    /// Signs of life: one part of the answer each.
    Renew(Vec<Beat>),
    /// The end of a task.
    Cancel(TaskId),
    /// The end of many tasks of a shard.
    CancelMany(ShardId, CancelRequest),
    /// A discarded task is to run again.
    Redrive(TaskId),
    /// A new task with an idempotency key.
    SubmitKeyed(ShardId, IdempotencyKey, NewTask),
    /// Where tasks are: one part of the answer each.
    See(Vec<TaskId>),
    /// How many tasks of these shards are where, and which are in memory.
    Count(Vec<ShardId>, Option<InMemory>),
    /// How shards stand, and what changed in them.
    Survey(Ask),
}

/// A call, or a part of one, for a shard that is being claimed.
#[derive(Debug)]
enum Deferred {
    Call(Call),
    Look(u32, TaskId),
}

/// One scheduler process.
#[derive(Debug)]
pub struct Member {
    config: Arc<Config>,
    pipelines: BTreeMap<PipelineNumber, Arc<Pipeline>>,
    /// The catalogue was read: before that, nothing is known to be missing.
    knows_pipelines: bool,
    shards: FxHashMap<ShardId, Shard>,
    ownership: Ownership,
    dispatcher: Dispatcher,
    seekers: Seekers,
    tenants: Tenants,
    /// When a tenant may start tasks again.
    tenants_at: Option<Timestamp>,
    lanes: Lanes,
    /// When each shard has something to do next.
    wakes: BTreeSet<(Timestamp, ShardId)>,
    wake_of: FxHashMap<ShardId, Timestamp>,
    /// Shards that were touched in this turn.
    touched: BTreeSet<ShardId>,
    /// Shards that want more from their log.
    hungry: BTreeSet<ShardId>,
    appetite: u64,
    /// Calls for shards that are being claimed: done once these are here.
    deferred: BTreeMap<ShardId, Vec<(CallId, Deferred)>>,
    proven_at: Option<Timestamp>,
    n_bytes: usize,
    n_tasks: usize,
    stopping: bool,
    stopped: bool,
}

impl Member {
    /// A member that owns nothing yet.
    #[must_use]
    pub fn new(config: Arc<Config>) -> Self {
        Self {
            lanes: Lanes::new(config.n_lanes),
            pipelines: BTreeMap::new(),
            knows_pipelines: false,
            shards: FxHashMap::default(),
            ownership: Ownership::default(),
            dispatcher: Dispatcher::default(),
            seekers: Seekers::default(),
            tenants: Tenants::default(),
            tenants_at: None,
            wakes: BTreeSet::new(),
            wake_of: FxHashMap::default(),
            touched: BTreeSet::new(),
            hungry: BTreeSet::new(),
            appetite: 0,
            deferred: BTreeMap::new(),
            proven_at: None,
            n_bytes: 0,
            n_tasks: 0,
            stopping: false,
            stopped: false,
            config,
        }
    }

    /// Applies one event and pushes onto `out` what the driver must now do. Follow a batch of events
    /// with one [`settle`](Self::settle).
    pub fn handle(&mut self, event: Event, now: Timestamp, out: &mut Vec<Action>) {
        match event {
            Event::Pipelines(pipelines) => self.set_pipelines(pipelines, now, out),
            Event::Assigned(slots) => self.assigned(&slots, now, out),
            Event::Revoking(slots) => self.revoking(&slots, out),
            Event::Lost(slots) => self.lost(&slots, out),
            Event::Proven(at) => self.proven_at = Some(at),
            Event::Claimed(claimed, bounds) => self.claimed(claimed, &bounds, now, out),
            Event::ClaimFailed(shard, kind) => self.claim_failed(shard, kind, now, out),
            Event::Released(shards) => self.released(&shards),
            Event::Fetched(all) => {
                for (from, fetched) in all {
                    self.with_shard(fetched.shard, now, |shard| {
                        shard.fetched(from, fetched, now, out)
                    });
                }
            }
            Event::LogLost(id, from, why) => self.log_lost(id, from, &why, now, out),
            Event::Flushed(lane, answers) => self.flushed(lane, answers, now, out),
            Event::Loaded(id, epoch, offset, loaded) => {
                // What is in the store may be of an owner who does not know yet that it is saved.
                let is_doubtful = !self.is_proven(now);
                let loaded = if is_doubtful { Loaded::Failed } else { loaded };
                self.with_epoch(id, epoch, now, |shard| {
                    shard.loaded(offset, loaded, now, out)
                });
            }
            Event::DueRead(id, epoch, page) => {
                self.with_epoch(id, epoch, now, |shard| shard.due_read(page, now));
            }
            Event::KeyedRead(id, epoch, key, page) => {
                self.with_epoch(id, epoch, now, |shard| shard.keyed_read(&key, page, now));
            }
            Event::KeyFound(id, epoch, key, found) => {
                self.with_epoch(id, epoch, now, |shard| {
                    shard.key_found(&key, found, now, out)
                });
            }
            Event::KeyedAppended(id, epoch, key, appended) => {
                self.with_epoch(id, epoch, now, |shard| {
                    shard.keyed_appended(&key, appended, now, out);
                });
            }
            Event::Call(id, call) => self.call(id, call, now, out),
            Event::Watched(id) => self.with_shard(id, now, |shard| shard.watch(now)),
            Event::PollGone(call) => {
                self.dispatcher.gone(call);
                self.seekers.take(call);
            }
            Event::Ungranted(tasks) => {
                for task in tasks {
                    let held = Held {
                        id: task.id,
                        token: task.token,
                    };
                    self.with_shard(task.id.shard, now, |shard| shard.ungrant(held, now, out));
                }
            }
            Event::Stop => self.stopping = true,
            Event::Tick => {}
        }
    }

    /// Does all that follows from the events since the last call: timers, grants, flushes, claims.
    pub fn settle(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        let proven = self.is_proven(now);
        self.run_timers(now, proven, out);
        self.dispatch(now, proven, out);
        if !proven {
            doubt::doubt(out);
        }
        self.tell_lost_leases(out);
        self.run_flushes(now, out);
        self.run_claims(now, out);
        self.run_releases(now, out);
        self.answer_seekers(now, proven, out);
        self.note_touched(now, out);
    }

    /// When [`settle`](Self::settle) has something to do next, if no event comes before.
    #[must_use]
    pub fn wake_at(&self, now: Timestamp) -> Option<Timestamp> {
        // Without a proof no timer can be run and nothing be claimed, so only its arrival can wake those.
        let proven = self.is_proven(now);
        let timers = self.wakes.first().map(|(at, _)| *at).filter(|_| proven);
        let polls = self.dispatcher.wake_at();
        let seekers = self.seekers.wake_at();
        let is_contended = self.dispatcher.is_contended() || !self.seekers.is_empty();
        let tenants = self.tenants_at.filter(|_| is_contended);
        let flushes = self.lanes.wake_at(&self.config);
        let claims = self.ownership.wake_at().filter(|_| proven);
        [timers, polls, seekers, tenants, flushes, claims]
            .into_iter()
            .flatten()
            .min()
    }

    /// Grows whenever another set of shards has room for more of its log: look at
    /// [`wanted`](Self::wanted) again.
    #[must_use]
    pub fn appetite(&self) -> u64 {
        self.appetite
    }

    /// What to read next from the log, for every shard that has room.
    pub fn wanted(&self) -> Vec<Fetch> {
        if self.stopping {
            return Vec::new();
        }
        // A part of memory is kept in equal shares, so that full shards on which nobody works do not
        // starve the others.
        let reserved = self.config.member_bytes_max / 8;
        let share = reserved / self.shards.len().max(1);
        let free = (self.config.member_bytes_max - reserved).saturating_sub(self.n_bytes);
        let free_each = free / self.hungry.len().max(1);
        let hungry = self.hungry.iter().filter_map(|id| self.shards.get(id));
        hungry
            .filter_map(|shard| {
                let n_bytes = free_each.max(share.saturating_sub(shard.n_bytes()));
                (n_bytes > 0).then(|| shard.wanted(n_bytes))
            })
            .collect()
    }

    /// Whether every shard of the member's slots is claimed.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.stopping && self.knows_pipelines && self.ownership.is_settled()
    }

    /// The slots that are the member's and are not to be given up.
    pub fn slots(&self) -> impl Iterator<Item = Slot> {
        self.ownership.slots()
    }

    /// Why shards that the member should own cannot be scheduled.
    pub fn refused(&self) -> impl Iterator<Item = (ShardId, &str)> {
        self.ownership.refused()
    }

    fn is_proven(&self, now: Timestamp) -> bool {
        self.proven_at
            .is_some_and(|at| now.since(at) <= self.config.proof_age_max)
    }

    fn with_shard(&mut self, id: ShardId, now: Timestamp, act: impl FnOnce(&mut Shard)) {
        if let Some(shard) = self.shards.get_mut(&id) {
            let before = (shard.n_bytes(), shard.n_window(), shard.service());
            act(shard);
            self.n_bytes = self.n_bytes - before.0 + shard.n_bytes();
            self.n_tasks = self.n_tasks - before.1 + shard.n_window();
            self.touched.insert(id);
            let after = shard.service();
            if before.2 != after {
                self.count_service(id, before.2, after, now);
            }
        }
    }

    /// Ignores what an earlier epoch of the shard asked for.
    fn with_epoch(
        &mut self,
        id: ShardId,
        epoch: Epoch,
        now: Timestamp,
        act: impl FnOnce(&mut Shard),
    ) {
        if self.epoch_of(id) == Some(epoch) {
            self.with_shard(id, now, act);
        }
    }

    fn run_timers(&mut self, now: Timestamp, proven: bool, out: &mut Vec<Action>) {
        if !proven {
            return;
        }
        while let Some(&(at, id)) = self.wakes.first() {
            if at > now {
                return;
            }
            self.wakes.pop_first();
            self.wake_of.remove(&id);
            self.with_shard(id, now, |shard| shard.tick(now, proven, out));
        }
    }

    /// Notes for each touched shard when it wants to be woken, and whether it wants more from its log; and tells what has
    /// changed in it.
    fn note_touched(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        while let Some(id) = self.touched.pop_first() {
            let mut is_hungry = false;
            if let Some(shard) = self.shards.get_mut(&id) {
                is_hungry = shard.has_appetite();
                shard.tell_changes(now, out);
            }
            let changed = if is_hungry {
                self.hungry.insert(id)
            } else {
                self.hungry.remove(&id)
            };
            self.appetite += u64::from(changed);
            let wake_at = self.shards.get(&id).and_then(Shard::wake_at);
            let known = match wake_at {
                Some(at) => self.wake_of.insert(id, at),
                None => self.wake_of.remove(&id),
            };
            if known != wake_at {
                if let Some(at) = known {
                    self.wakes.remove(&(at, id));
                }
                if let Some(at) = wake_at {
                    self.wakes.insert((at, id));
                }
            }
        }
    }

    fn epoch_of(&self, id: ShardId) -> Option<Epoch> {
        self.shards.get(&id).map(Shard::epoch)
    }
}

/// All shards of a pipeline.
pub fn shards_of(pipeline: &Pipeline) -> impl Iterator<Item = ShardId> {
    let number = pipeline.number;
    (0..pipeline.spec.n_partitions).map(move |partition| ShardId {
        pipeline: number,
        partition: crate::Partition(partition),
    })
}

#[cfg(test)]
mod tests;
