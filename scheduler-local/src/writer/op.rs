//! What can be written, already encoded by who asks for it, and what is answered.

use std::sync::Arc;

use scheduler_core::{
    Epoch, Offset, PipelineNumber, ShardId,
    port::{
        FailureKind,
        catalog::{Change, Changed},
        log::{Appended, NewTask},
        store::{Claim, Flushed},
    },
};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// One call that waits to be written.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) op: Op,
    /// Its share of the queue's bytes, given back when the call is answered.
    pub(crate) permit: Option<OwnedSemaphorePermit>,
    pub(crate) n_bytes: usize,
    pub(crate) reply: oneshot::Sender<Result<Outcome, Failed>>,
}

/// What is to be written.
#[derive(Debug)]
pub(crate) enum Op {
    Append(Vec<RecordRow>),
    Flush(Vec<PartRows>),
    Claim(Vec<Claim>),
    Release(Vec<(ShardId, Epoch)>),
    Ensure {
        pipeline: PipelineNumber,
        n_partitions: u16,
    },
    /// A log takes nothing more.
    CloseLog(PipelineNumber),
    /// One step of removing a log.
    Remove(PipelineNumber),
    Trim(Vec<(ShardId, Offset)>),
    /// One step of forgetting the tasks of a pipeline.
    Forget(PipelineNumber),
    Change(Box<Change>),
    /// One step of deleting what is past its time.
    Sweep,
    /// Everything before it is written; then the writer ends.
    Close,
}

/// What became of an [`Op`] that was written.
#[derive(Debug)]
pub(crate) enum Outcome {
    Appended(Vec<Result<Appended, Refused>>),
    Flushed(Vec<Flushed>),
    Claimed(Vec<ClaimedShard>),
    Changed(Changed),
    /// How the log that was closed stands.
    LogClosed(Standing),
    /// Done, or to be asked again: the rest was left for another transaction.
    Step {
        more: bool,
    },
    Done,
}

/// How a log stands that takes nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// There is none.
    Gone,
    /// Its removal was cut short.
    Removed,
    /// It is read on.
    Closed,
}

/// Why a record is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    NoLog(ShardId),
    Closed,
    Full,
}

/// Why nothing of a transaction was written.
#[derive(Debug, Clone)]
pub(crate) struct Failed {
    pub(crate) kind: FailureKind,
    pub(crate) message: Arc<str>,
}

/// A record to append.
#[derive(Debug)]
pub(crate) struct RecordRow {
    pub(crate) shard: ShardId,
    pub(crate) task: NewTask,
    pub(crate) fields: Vec<u8>,
}

/// A shard's part of a flush.
#[derive(Debug)]
pub(crate) struct PartRows {
    pub(crate) shard: ShardId,
    pub(crate) epoch: Epoch,
    pub(crate) number: u64,
    pub(crate) watermark: Offset,
    pub(crate) seen_end: Offset,
    pub(crate) done: Vec<DoneRow>,
    pub(crate) tasks: Vec<TaskRow>,
    pub(crate) forgotten: Vec<i64>,
    pub(crate) keys: Vec<IdempotencyRow>,
    /// All bulk cancels, if they changed.
    pub(crate) cancels: Option<Arc<str>>,
}

#[derive(Debug)]
pub(crate) struct DoneRow {
    pub(crate) chunk: i64,
    pub(crate) bits: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct TaskRow {
    pub(crate) offset: i64,
    pub(crate) state: i64,
    pub(crate) accepted_at: i64,
    pub(crate) due_at: Option<i64>,
    pub(crate) keep_until: Option<i64>,
    /// Only of a task that is to be found by it.
    pub(crate) ordering_key: Option<Arc<str>>,
    pub(crate) body: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct IdempotencyRow {
    pub(crate) key: Arc<str>,
    pub(crate) offset: i64,
    pub(crate) fingerprint: i64,
    pub(crate) keep_until: i64,
}

/// A shard as its new owner finds it.
#[derive(Debug)]
pub(crate) struct ClaimedShard {
    pub(crate) shard: ShardId,
    pub(crate) epoch: Epoch,
    pub(crate) incarnation: Arc<str>,
    pub(crate) watermark: Offset,
    pub(crate) seen_end: Offset,
    pub(crate) cancels: Arc<str>,
    pub(crate) released: bool,
}
