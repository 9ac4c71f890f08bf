//! Where the partitions of one pipeline are.

use std::{collections::BTreeSet, sync::Arc};

use super::peer::Pause;
use crate::{Partition, PipelineNumber, ShardId, Timestamp};

/// Where a member is reached.
pub(super) type Address = Arc<str>;

/// Who owns a partition, as far as is known.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Unknown,
    Here,
    At(Address),
}

/// A pipeline for which polls come.
#[derive(Debug)]
pub(super) struct Line {
    number: PipelineNumber,
    places: Vec<Place>,
    /// When to look again where they are.
    pub(super) look_at: Timestamp,
    /// After a partition turned out to be elsewhere.
    pause: Pause,
    /// One did since the last look.
    has_moved: bool,
    pub(super) used_at: Timestamp,
    /// Polls of this pipeline that wait for tasks, and those that hold leases of it.
    pub(super) crowds: BTreeSet<u64>,
    pub(super) holders: BTreeSet<u64>,
}

impl Line {
    pub(super) fn new(number: PipelineNumber, now: Timestamp) -> Self {
        Self {
            number,
            places: Vec::new(),
            look_at: now,
            pause: Pause::default(),
            has_moved: false,
            used_at: now,
            crowds: BTreeSet::new(),
            holders: BTreeSet::new(),
        }
    }

    /// Notes how many partitions there are.
    pub(super) fn resize(&mut self, n_partitions: u16, now: Timestamp) {
        if self.places.len() < usize::from(n_partitions) {
            self.places.resize(n_partitions.into(), Place::Unknown);
            self.look_at = now;
        }
    }

    pub(super) fn shard(&self, at: usize) -> ShardId {
        ShardId {
            pipeline: self.number,
            partition: Partition(u16::try_from(at).unwrap_or(u16::MAX)),
        }
    }

    pub(super) fn n_partitions(&self) -> usize {
        self.places.len()
    }

    /// The other member that owns a partition.
    pub(super) fn owner(&self, at: usize) -> Option<&Address> {
        match self.places.get(at)? {
            Place::At(address) => Some(address),
            Place::Here | Place::Unknown => None,
        }
    }

    /// Other members that own some of it.
    pub(super) fn owners(&self) -> BTreeSet<Address> {
        let owners = (0..self.places.len()).filter_map(|at| self.owner(at));
        owners.cloned().collect()
    }

    /// The partitions that a member is taken to own.
    pub(super) fn partitions_at(&self, address: &Address) -> Vec<Partition> {
        let all = 0..self.places.len();
        let there = all.filter(|at| self.owner(*at) == Some(address));
        there.map(|at| self.shard(at).partition).collect()
    }

    /// Notes which partitions are this member's; those of which others must be asked who owns them.
    pub(super) fn look_here(&mut self, is_here: impl Fn(ShardId) -> bool) -> Vec<ShardId> {
        let mut elsewhere = Vec::new();
        for at in 0..self.places.len() {
            let shard = self.shard(at);
            if is_here(shard) {
                self.places[at] = Place::Here;
            } else {
                if self.places[at] == Place::Here {
                    self.places[at] = Place::Unknown;
                }
                elsewhere.push(shard);
            }
        }
        if !std::mem::take(&mut self.has_moved) {
            self.pause.reset();
        }
        elsewhere
    }

    /// Notes who owns a partition; whether that is news of another member.
    pub(super) fn found(&mut self, shard: ShardId, owner: Option<&Address>) -> bool {
        let Some(place) = self.places.get_mut(usize::from(shard.partition.0)) else {
            return false;
        };
        let found = owner.map_or(Place::Unknown, |owner| Place::At(Arc::clone(owner)));
        let is_news = *place != found && owner.is_some();
        *place = found;
        is_news
    }

    /// A partition is not where it was taken to be.
    pub(super) fn moved(&mut self, partition: Partition, from: &Address, now: Timestamp) {
        if let Some(place) = self.places.get_mut(usize::from(partition.0))
            && matches!(place, Place::At(address) if address == from)
        {
            *place = Place::Unknown;
            if !std::mem::replace(&mut self.has_moved, true) {
                self.look_at = self.look_at.min(now + self.pause.next());
            }
        }
    }

    /// A member cannot be reached: where its partitions are is to be asked again. These they were.
    pub(super) fn lost(&mut self, address: &Address, now: Timestamp) -> Vec<ShardId> {
        let partitions = self.partitions_at(address);
        for partition in &partitions {
            self.moved(*partition, address, now);
        }
        let shards = partitions.into_iter();
        shards
            .map(|partition| self.shard(partition.0.into()))
            .collect()
    }
}
