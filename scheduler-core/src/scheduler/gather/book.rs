//! Who waits, what is asked of whom for them, and who is woken: no I/O and no clock.

mod ask;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rustc_hash::FxHashMap;
use tokio::sync::mpsc;

use super::{
    line::{Address, Line},
    peer::{Anyway, Item, Pause, Peer, Stand},
};
use crate::{
    Label, LeaseLost, Pipeline, PipelineNumber, ShardId, Timestamp, WorkerId,
    call::{Held, Poll},
    member::Sought,
};

/// How long new questions are gathered.
const LINGER: Duration = Duration::from_millis(10);
/// How often it is looked where partitions are, while polls come.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A pipeline for which no polls came for so long is forgotten.
const UNUSED_MAX: Duration = Duration::from_secs(60);
/// The most polls that one "ready" wakes.
const WOKEN_MAX: usize = 256;

/// Why a poll that waits goes on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wake {
    /// This member may have tasks for it.
    Ready(Address),
    /// It has lost leases.
    Lost(Vec<(Held, LeaseLost)>),
}

/// What is to be done for the book.
#[derive(Debug, PartialEq)]
pub(super) enum Act {
    /// Ask a member, under this number; then `answered`.
    Ask(Address, u64, Vec<Sought>),
    /// Give a question up.
    Drop(u64),
    /// Find the owners of these shards; then `looked`.
    Look(Vec<ShardId>),
    /// These shards are not there any more.
    Forget(Vec<ShardId>, Address),
}

/// A poll that waits.
#[derive(Debug)]
struct Waiter {
    pipeline: PipelineNumber,
    /// `None` if it only listens.
    crowd: Option<u64>,
    worker: WorkerId,
    held: Vec<Held>,
    wake: mpsc::Sender<Wake>,
    /// Where it is looking.
    trying: Option<Address>,
}

/// What polls offer.
type Profile = (PipelineNumber, BTreeSet<Label>, usize);

/// Polls that offer the same.
#[derive(Debug)]
struct Crowd {
    profile: Profile,
    worker: WorkerId,
    /// Those that are not looking anywhere, in the order in which they came.
    idle: BTreeSet<u64>,
    n_waiters: usize,
    /// How many members are asked for them.
    n_items: usize,
    /// How fast they may look at each member.
    paces: FxHashMap<Address, Pace>,
}

/// How many polls to wake at once, and how long to wait after they looked in vain.
#[derive(Debug)]
struct Pace {
    n: usize,
    pause: Pause,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            n: 1,
            pause: Pause::default(),
        }
    }
}

/// All that is known of polls that wait in this process.
#[derive(Debug)]
pub(super) struct Book {
    lines: BTreeMap<PipelineNumber, Line>,
    crowds: FxHashMap<u64, Crowd>,
    crowd_of: FxHashMap<Profile, u64>,
    waiters: FxHashMap<u64, Waiter>,
    peers: BTreeMap<Address, Peer>,
    /// Owners are being looked up.
    is_looking: bool,
    acts: Vec<Act>,
    /// Something is to be done earlier than was said.
    is_stirred: bool,
    last: u64,
    rng: fastrand::Rng,
}

impl Book {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            lines: BTreeMap::new(),
            crowds: FxHashMap::default(),
            crowd_of: FxHashMap::default(),
            waiters: FxHashMap::default(),
            peers: BTreeMap::new(),
            is_looking: false,
            acts: Vec::new(),
            is_stirred: false,
            last: 0,
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// Whether [`wake_at`](Self::wake_at) may be earlier than when this was asked last.
    pub(super) fn take_stirred(&mut self) -> bool {
        std::mem::take(&mut self.is_stirred)
    }

    pub(super) fn n_waiters(&self) -> usize {
        self.waiters.len()
    }

    fn line(&mut self, pipeline: &Pipeline, now: Timestamp) -> &mut Line {
        let number = pipeline.number;
        let line = self.lines.entry(number);
        let line = line.or_insert_with(|| Line::new(number, now));
        line.resize(pipeline.spec.n_partitions, now);
        if now.since(line.used_at) > LOOK_EVERY {
            line.look_at = now;
        }
        self.is_stirred |= line.look_at <= now;
        line.used_at = now;
        line
    }

    /// Where a poll is to look first, other than here: the owner of a partition that is drawn, so that the partitions
    /// of all members get their share of workers that are never idle.
    pub(super) fn begin(
        &mut self,
        pipeline: &Pipeline,
        poll: &Poll,
        now: Timestamp,
    ) -> Option<Address> {
        let n = self.line(pipeline, now).n_partitions();
        let at = self.rng.usize(..n.max(1));
        let address = self.lines.get(&pipeline.number)?.owner(at)?.clone();
        let Some(peer) = self.peers.get(&address) else {
            return Some(address);
        };
        let profile = (pipeline.number, poll.labels.clone(), poll.credit);
        let crowd = self.crowd_of.get(&profile);
        let stand = crowd.and_then(|crowd| peer.stand(Item::Crowd(*crowd)));
        // What was asked there and is not answered, or what was looked for in vain just now, is not there.
        let may_have = match stand {
            None | Some(Stand::Trying(_)) => true,
            Some(Stand::Asked(_) | Stand::Due(..)) => false,
        };
        (may_have && peer.not_before <= now).then_some(address)
    }

    /// A poll that looked at a member first got nothing there.
    pub(super) fn found_nothing(
        &mut self,
        pipeline: PipelineNumber,
        poll: &Poll,
        address: &Address,
        now: Timestamp,
    ) {
        let crowd = self.crowd(pipeline, poll);
        let peer = self.peers.entry(address.clone()).or_default();
        let item = Item::Crowd(crowd);
        if peer.stand(item).is_none() {
            peer.set(item, Stand::Due(now + LINGER, Anyway::Yes));
            self.is_stirred = true;
            if let Some(crowd) = self.crowds.get_mut(&crowd) {
                crowd.n_items += 1;
            }
        }
    }

    fn crowd(&mut self, pipeline: PipelineNumber, poll: &Poll) -> u64 {
        let profile = (pipeline, poll.labels.clone(), poll.credit);
        if let Some(id) = self.crowd_of.get(&profile) {
            return *id;
        }
        self.last += 1;
        let id = self.last;
        self.crowd_of.insert(profile.clone(), id);
        if let Some(line) = self.lines.get_mut(&pipeline) {
            line.crowds.insert(id);
        }
        let crowd = Crowd {
            profile,
            worker: poll.worker.clone(),
            idle: BTreeSet::new(),
            n_waiters: 0,
            n_items: 0,
            paces: FxHashMap::default(),
        };
        self.crowds.insert(id, crowd);
        id
    }

    /// Lets a poll wait; its number.
    pub(super) fn join(
        &mut self,
        pipeline: &Pipeline,
        poll: &Poll,
        wake: mpsc::Sender<Wake>,
        now: Timestamp,
    ) -> u64 {
        self.line(pipeline, now);
        let crowd = (poll.credit > 0).then(|| self.crowd(pipeline.number, poll));
        self.last += 1;
        let id = self.last;
        let waiter = Waiter {
            pipeline: pipeline.number,
            crowd,
            worker: poll.worker.clone(),
            held: poll.held.clone(),
            wake,
            trying: None,
        };
        if !waiter.held.is_empty()
            && let Some(line) = self.lines.get_mut(&pipeline.number)
        {
            line.holders.insert(id);
        }
        self.waiters.insert(id, waiter);
        if let Some(crowd) = crowd.and_then(|crowd| self.crowds.get_mut(&crowd)) {
            crowd.n_waiters += 1;
            crowd.idle.insert(id);
        }
        let owners = self.lines.get(&pipeline.number).map(Line::owners);
        for address in owners.unwrap_or_default() {
            self.ask_for(crowd, Some(id), &address, now);
        }
        id
    }

    /// Sees to it that a member is asked for these.
    fn ask_for(
        &mut self,
        crowd: Option<u64>,
        holder: Option<u64>,
        address: &Address,
        now: Timestamp,
    ) {
        let due = Stand::Due(now + LINGER, Anyway::No);
        if let Some(id) = crowd
            && let Some(crowd) = self.crowds.get_mut(&id)
            && !crowd.idle.is_empty()
        {
            let peer = self.peers.entry(address.clone()).or_default();
            if peer.stand(Item::Crowd(id)).is_none() {
                peer.set(Item::Crowd(id), due);
                self.is_stirred = true;
                crowd.n_items += 1;
            }
        }
        if let Some(id) = holder
            && !self.held_at(id, address).is_empty()
        {
            let peer = self.peers.entry(address.clone()).or_default();
            if peer.stand(Item::Holder(id)).is_none() {
                peer.set(Item::Holder(id), due);
                self.is_stirred = true;
            }
        }
    }

    /// The leases of a poll whose shards a member owns.
    fn held_at(&self, waiter: u64, address: &Address) -> Vec<Held> {
        let Some(waiter) = self.waiters.get(&waiter) else {
            return Vec::new();
        };
        let Some(line) = self.lines.get(&waiter.pipeline) else {
            return Vec::new();
        };
        let there = |held: &&Held| line.owner(held.id.shard.partition.0.into()) == Some(address);
        waiter.held.iter().filter(there).copied().collect()
    }

    /// A poll waits no longer.
    pub(super) fn leave(&mut self, id: u64, now: Timestamp) {
        self.tried(id, None, now);
        let Some(waiter) = self.waiters.remove(&id) else {
            return;
        };
        if let Some(line) = self.lines.get_mut(&waiter.pipeline) {
            line.holders.remove(&id);
            if !waiter.held.is_empty() {
                for address in line.owners() {
                    if let Some(peer) = self.peers.get_mut(&address) {
                        peer.remove(Item::Holder(id));
                    }
                }
            }
        }
        if let Some(crowd) = waiter.crowd.and_then(|crowd| self.crowds.get_mut(&crowd)) {
            crowd.idle.remove(&id);
            crowd.n_waiters -= 1;
        }
        if let Some(crowd) = waiter.crowd {
            self.forget_if_unused(crowd);
        }
    }

    /// A poll that was woken has looked: whether it got something, or `None` if it did not look.
    pub(super) fn tried(&mut self, id: u64, got: Option<bool>, now: Timestamp) {
        let Some(waiter) = self.waiters.get_mut(&id) else {
            return;
        };
        let (Some(address), Some(crowd_id)) = (waiter.trying.take(), waiter.crowd) else {
            return;
        };
        let pipeline = waiter.pipeline;
        let Some(crowd) = self.crowds.get_mut(&crowd_id) else {
            return;
        };
        crowd.idle.insert(id);
        let Some(peer) = self.peers.get_mut(&address) else {
            return;
        };
        let item = Item::Crowd(crowd_id);
        let Some(Stand::Trying(mut trial)) = peer.stand(item) else {
            return;
        };
        trial.n_open -= 1;
        trial.n_got += usize::from(got == Some(true));
        trial.n_vain += usize::from(got == Some(false));
        if trial.n_open > 0 {
            peer.set(item, Stand::Trying(trial));
            return;
        }
        let pace = crowd.paces.entry(address).or_default();
        let at = if trial.n_vain == 0 {
            if trial.n_got > 0 {
                pace.n = (pace.n * 2).min(WOKEN_MAX);
                pace.pause.reset();
            }
            now
        } else {
            pace.n = trial.n_got.max(1);
            if trial.n_got > 0 {
                pace.pause.reset();
            }
            now + pace.pause.next()
        };
        peer.set(item, Stand::Due(at, Anyway::No));
        self.is_stirred = true;
        if got == Some(false) {
            // While nobody waited here, other members may have answered.
            let owners = self.lines.get(&pipeline).map(Line::owners);
            for address in owners.unwrap_or_default() {
                self.ask_for(Some(crowd_id), None, &address, now);
            }
        }
    }

    /// What is to be done now.
    pub(super) fn step(&mut self, now: Timestamp, is_here: impl Fn(ShardId) -> bool) -> Vec<Act> {
        self.look(now, is_here);
        self.ask(now);
        std::mem::take(&mut self.acts)
    }

    /// When [`step`](Self::step) has something to do next.
    pub(super) fn wake_at(&self) -> Option<Timestamp> {
        let looks = self.lines.values().map(|line| line.look_at);
        let asks = self.peers.values().filter_map(Peer::due_at);
        looks.filter(|_| !self.is_looking).chain(asks).min()
    }

    fn look(&mut self, now: Timestamp, is_here: impl Fn(ShardId) -> bool) {
        if self.is_looking {
            return;
        }
        let is_used = |line: &Line| {
            !line.crowds.is_empty()
                || !line.holders.is_empty()
                || now.since(line.used_at) < UNUSED_MAX
        };
        self.lines.retain(|_, line| is_used(line));
        let mut elsewhere = Vec::new();
        for line in self.lines.values_mut() {
            if line.look_at > now {
                continue;
            }
            let is_active = !line.crowds.is_empty()
                || !line.holders.is_empty()
                || now.since(line.used_at) <= LOOK_EVERY;
            if is_active {
                line.look_at = now + LOOK_EVERY;
                elsewhere.extend(line.look_here(&is_here));
            } else {
                line.look_at = line.used_at + UNUSED_MAX;
            }
        }
        if !elsewhere.is_empty() {
            self.is_looking = true;
            self.acts.push(Act::Look(elsewhere));
        }
    }

    /// Takes who owns what; what nobody owns, or could not be found, is looked up again later.
    pub(super) fn looked(
        &mut self,
        shards: &[ShardId],
        owners: Option<&BTreeMap<ShardId, Address>>,
        now: Timestamp,
    ) {
        self.is_looking = false;
        let Some(owners) = owners else {
            return;
        };
        let mut news: BTreeSet<(PipelineNumber, Address)> = BTreeSet::new();
        for shard in shards {
            let owner = owners.get(shard);
            if let Some(line) = self.lines.get_mut(&shard.pipeline)
                && line.found(*shard, owner)
            {
                news.extend(owner.map(|owner| (shard.pipeline, owner.clone())));
            }
        }
        for (pipeline, address) in news {
            let Some(line) = self.lines.get(&pipeline) else {
                continue;
            };
            let (crowds, holders) = (line.crowds.clone(), line.holders.clone());
            for crowd in crowds {
                // What is open there does not name the new partition.
                self.ask_again(Item::Crowd(crowd), &address, now);
                self.ask_for(Some(crowd), None, &address, now);
            }
            for holder in holders {
                self.ask_again(Item::Holder(holder), &address, now);
                self.ask_for(None, Some(holder), &address, now);
            }
        }
    }

    fn ask_again(&mut self, item: Item, address: &Address, now: Timestamp) {
        if let Some(peer) = self.peers.get_mut(address)
            && let Some(Stand::Asked(_)) = peer.stand(item)
        {
            peer.set(item, Stand::Due(now, Anyway::No));
        }
    }
}

#[cfg(test)]
mod tests;
