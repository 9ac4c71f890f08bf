//! What happened, as the checkers and the history see it.

use std::{sync::Arc, time::Duration};

use scheduler_core::{
    CancelRequest, Error, Held, LeaseToken, Offset, Outcome, ShardId, StateName, TaskId, Timestamp,
    WorkerId,
    explain::Waiting,
    member::{Fleet, Load},
    port::{
        placement::PlacementEvent,
        store::{Claimed, ShardFlush, StoredTask},
    },
};

use crate::store::Applied;

/// Something that happened in the cluster.
#[derive(Debug)]
pub(crate) enum Fact {
    /// A record went into the log.
    Appended(TaskId),
    /// A submitter was told that the task is accepted.
    Accepted(TaskId),
    /// A submitter with a key was told so: the key, what it submitted, the task.
    AcceptedKeyed(ShardId, Arc<str>, Arc<str>, TaskId),
    /// A member answered a submit with a key so.
    AnsweredKeyed(ShardId, Arc<str>, TaskId),
    /// A member began to work on a shard.
    Started(usize, Box<Claimed>),
    /// A member handed a task out.
    Granted(Grant),
    /// A grant never left its member, which takes it back.
    Ungranted(Held),
    /// A member was given a report.
    Heard(usize, Held, Outcome),
    /// A member answered a report.
    Reported(usize, Held, Outcome, Result<(), Error>),
    /// A member answered a heartbeat.
    Renewed(usize, Held, bool),
    /// A poll that names the lease came to the owner of its shard, who now shows it as running.
    Declared(usize, Held),
    /// The same, and whoever it came to shows nothing of the task.
    Named(usize, Held),
    /// A member was asked to cancel a task.
    CancelAsked(TaskId),
    /// A member said that a task is cancelled.
    Cancelled(TaskId),
    /// A member said that no task of a bulk cancel starts any more.
    CancelledMany(ShardId, CancelRequest),
    /// A part of a flush was written.
    Saved(Arc<[ShardFlush]>, usize, Applied),
    /// A member told those who wait for these tasks.
    Ended(usize, Vec<TaskId>),
    /// A member showed that all below is done.
    Watermark(ShardId, Offset),
    /// The log was trimmed.
    Trimmed(ShardId, Offset),
    /// A reader who began at this time saw the task so; `None` if it is no longer kept. A reader who finds
    /// no owner may see an end in the store that the owner does not know to be saved yet.
    Shown(TaskId, Timestamp, Option<StateName>, By),
    /// What a reader is about to be shown, as its reply leaves, and what it is told of why the task waits.
    Seen(Box<StoredTask>, ShardId, Option<Box<Waiting>>),
    /// A reader was told how many tasks of a shard are in memory, and from where it reads on.
    Counted(ShardId, u64, Option<Offset>),
    /// A member has so much in memory.
    Loaded(usize, Load),
    /// A worker began a task.
    Began(usize, Held),
    /// Something happened to a member or worker as a whole.
    Fate(&'static str, usize),
    /// A member heard of a change of its slots.
    Placed(usize, PlacementEvent),
    /// A member refused a shard.
    Refused(ShardId, String),
    /// Long after all faults a member with slots is not ready.
    NotReady(usize),
    /// All is well and idle; the next record of this shard, at this offset or above, must run at once.
    Probing(ShardId, Offset),
    /// No more such records come.
    Probed,
    /// From here on, or no longer, whatever runs fails.
    Outage(bool),
    /// Every tenant of the pool has so many tasks waiting for it that none runs out of them before
    /// [`Competed`](Self::Competed), or before it has started so many.
    Competing(usize),
    /// The competition is over.
    Competed,
}

/// Whose word a reader takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Owner,
    Store,
}

/// A task handed out.
#[derive(Debug, Clone)]
pub(crate) struct Grant {
    pub(crate) member: usize,
    pub(crate) held: Held,
    pub(crate) worker: WorkerId,
    pub(crate) attempt: u32,
    pub(crate) max_attempts: u32,
    /// How many tasks were handed out together with it.
    pub(crate) n_mates: usize,
    /// How long it lasts unless its worker gives a sign.
    pub(crate) lasts: Duration,
    /// What its worker asked for.
    pub(crate) fleet: Fleet,
    /// Whom the task is for, by its data.
    pub(crate) name: Arc<str>,
}

impl Fact {
    /// The task that it is about, if it is about one.
    pub(crate) fn task(&self) -> Option<TaskId> {
        match self {
            Self::Appended(id)
            | Self::Accepted(id)
            | Self::AcceptedKeyed(.., id)
            | Self::AnsweredKeyed(.., id)
            | Self::CancelAsked(id)
            | Self::Cancelled(id)
            | Self::Shown(id, ..) => Some(*id),
            Self::Granted(grant) => Some(grant.held.id),
            Self::Ungranted(held)
            | Self::Heard(_, held, _)
            | Self::Reported(_, held, ..)
            | Self::Renewed(_, held, _)
            | Self::Declared(_, held)
            | Self::Named(_, held)
            | Self::Began(_, held) => Some(held.id),
            Self::Seen(task, shard, _) => Some(TaskId {
                shard: *shard,
                offset: task.offset,
            }),
            Self::Started(..)
            | Self::CancelledMany(..)
            | Self::Saved(..)
            | Self::Ended(..)
            | Self::Watermark(..)
            | Self::Trimmed(..)
            | Self::Loaded(..)
            | Self::Counted(..)
            | Self::Fate(..)
            | Self::Refused(..)
            | Self::Placed(..)
            | Self::NotReady(_)
            | Self::Probing(..)
            | Self::Probed
            | Self::Outage(_)
            | Self::Competing(_)
            | Self::Competed => None,
        }
    }
}

/// A lease as people read it: its epoch and number.
pub(crate) fn token_name(token: LeaseToken) -> String {
    let epoch = token.epoch();
    let first = LeaseToken::before_first(epoch).to_u64();
    format!("{}.{}", epoch.0, token.to_u64() - first)
}
