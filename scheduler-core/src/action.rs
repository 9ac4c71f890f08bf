//! What the machines ask of whoever drives them, and the answers they give to calls.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{
    CancelProgress, Epoch, Error, IdempotencyKey, LeaseLost, Offset, ShardId, Slot, TaskId,
    call::{Held, Leased},
    explain::Waiting,
    member::AllNews,
    port::{
        log::NewTask,
        store::{DuePage, KeyedPage, ShardFlush, StoredTask},
    },
    survey::Survey,
};

/// Names a call that waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// What the driver must now do. Results come back as [`Event`](crate::member::Event)s, with the epoch
/// that asked: another owner may have written since, so a later epoch must not take them.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Answer one part of a call: parts are counted from 0 in the order in which they were asked.
    Answer(CallId, u32, Answer),
    /// Save these parts, again and again until they are saved or fenced; then `Event::Flushed`.
    Flush(u16, Arc<[ShardFlush]>),
    /// Wake who waits for these tasks: they ended, durably.
    Ended(Vec<TaskId>),
    /// Wake who waits for a change of these tasks: they are shown otherwise than before.
    Changed(Vec<TaskId>),
    /// Claim these shards, then find the bounds of their logs, in this order: a record that an earlier
    /// owner may have leased must lie below the end that is found. Then `Event::Claimed` for each.
    Claim(Vec<ShardId>),
    /// Note that these shards are given up; then `Event::Released`.
    Release(Vec<(ShardId, Epoch)>),
    /// Read a task from the store or else from the log; then `Event::Loaded`.
    Load(ShardId, Epoch, Offset),
    /// Read parked tasks; then `Event::DueRead`.
    ReadDue(Epoch, DuePage),
    /// Read tasks with an ordering key; then `Event::KeyedRead`.
    ReadKeyed(Epoch, KeyedPage),
    /// Find what a key stands for; then `Event::KeyFound`.
    FindKey(ShardId, Epoch, IdempotencyKey),
    /// Append a task that was submitted with a key; then `Event::KeyedAppended`.
    AppendKeyed(ShardId, Epoch, IdempotencyKey, NewTask),
    /// Tell the worker that this lease is lost. The member takes it and answers the poll that names the
    /// lease; a driver never sees it.
    LeaseEnded(Held, LeaseLost),
    /// Show that everything below this offset is durably ended or stored.
    Watermark(ShardId, Offset),
    /// Trim the log.
    Trim(ShardId, Offset),
    /// Say that a shard cannot be scheduled, and why: people must look.
    Refused(ShardId, String),
    /// Say that a shard lost its place in the log, and why; it is claimed anew.
    LogLost(ShardId, String),
    /// Tell the placement that these slots are given up.
    GiveUp(Vec<Slot>),
    /// Everything is saved and released; the member can stop.
    Stopped,
}

/// The answer to one part of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// To a poll.
    Leased(Result<Leased, Error>),
    /// To a question of workers that wait elsewhere: empty if its time is over.
    News(Result<AllNews, Error>),
    /// To a report: it is durable.
    Reported(Result<(), Error>),
    /// To a heartbeat: how long the lease lasts from now.
    Renewed(Result<Duration, Error>),
    /// To a cancel: it is durable.
    Cancelled(Result<(), Error>),
    /// To a bulk cancel: it is durable, and so far.
    CancelledMany(Result<CancelProgress, Error>),
    /// To a redrive: it is durable.
    Redriven(Result<(), Error>),
    /// To a submit with an idempotency key: the first task with that key, and whether this is a repetition.
    Submitted(Result<(TaskId, bool), Error>),
    /// To a look at a task.
    Seen(Seen),
    /// To a question about shards.
    Counted(Counts),
    /// To a look at shards and workers.
    Surveyed(Survey),
}

/// Where a task was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// In memory: as far as it is durable.
    Here {
        /// The task.
        task: Box<StoredTask>,
        /// What its handler last said of its progress.
        progress: Option<Bytes>,
        /// Why it does not run, if it waits.
        waits: Option<Box<Waiting>>,
    },
    /// Not read yet from the log: so many offsets are read before it.
    Backlog(u64),
    /// Left memory: the store knows it, or it is no longer kept.
    Left,
    /// No shard here schedules it now.
    Nowhere,
}

/// How many tasks of some shards are where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// In memory.
    pub n_window: u64,
    /// Parked in the store and due at some time; only whether there are any.
    pub has_parked: bool,
    /// From which offset each shard reads on.
    pub next_offsets: Vec<(ShardId, Offset)>,
    /// What is in memory of the shards, when asked for: newest offset first.
    pub tasks: Vec<(ShardId, StoredTask)>,
    /// Shards that are not here, not working yet or cannot work.
    pub absent: Vec<ShardId>,
}

impl Counts {
    /// Adds what another owner counted.
    pub fn add(&mut self, other: Self) {
        self.n_window += other.n_window;
        self.has_parked |= other.has_parked;
        self.next_offsets.extend(other.next_offsets);
        self.tasks.extend(other.tasks);
        self.absent.extend(other.absent);
    }
}
