//! The port of the log: where a submitted task lands first, and from where its shard reads it.

use std::{fmt::Debug, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Offset, Pipeline, ShardId, TaskId, TaskOptions, Timestamp, port::PortError};

/// A task as it goes into the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTask {
    /// A JSON object: its fields fill the placeholders of the steps.
    pub data: Bytes,
    /// What was asked for it; `None` means nothing.
    pub options: Option<Arc<TaskOptions>>,
    /// W3C `traceparent` of the submit, if it had one.
    pub traceparent: Option<Arc<str>>,
}

/// One task for one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRecord {
    /// Where it goes.
    pub shard: ShardId,
    /// The task.
    pub task: NewTask,
}

/// Where an appended record is and when the log took it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Its place, which is the task's id.
    pub offset: Offset,
    /// When the log took it.
    pub accepted_at: Timestamp,
}

/// A record as it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its place.
    pub offset: Offset,
    /// When the log took it.
    pub accepted_at: Timestamp,
    /// The task, or why it is none.
    pub body: RecordBody,
}

/// What a record holds. Anyone may produce to a log, so it may hold anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordBody {
    /// A task.
    Task(NewTask),
    /// Something that cannot be a task: it becomes a dead letter and never stops the partition.
    Malformed {
        /// Why it cannot be a task.
        reason: String,
        /// Its first 64 KiB.
        head: Bytes,
    },
}

/// From where to read one partition, and how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetch {
    /// The partition.
    pub shard: ShardId,
    /// The first offset wanted.
    pub from: Offset,
    /// At most so many records.
    pub n_max: usize,
    /// At most so many bytes of data, but at least one record.
    pub bytes_max: usize,
}

/// What one partition gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The partition.
    pub shard: ShardId,
    /// Records by ascending offset, all of them at or above the wanted one.
    pub records: Vec<Record>,
    /// Read on from here. Offsets below it that are not in `records` are absent from the log.
    pub next: Offset,
}

/// What a fetch found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fetches {
    /// What there was to read.
    pub read: Vec<Fetched>,
    /// Partitions that do not hold the wanted place any more (its records were deleted, or the log was
    /// made again), and why: such a shard must be claimed anew, which tells whether it can go on.
    pub lost: Vec<(ShardId, String)>,
}

/// What a partition holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    /// The first offset that can still be read.
    pub start: Offset,
    /// The offset that the next record will get.
    pub end: Offset,
    /// Names this log among all that ever had its name: another value means that it was deleted and made again.
    pub incarnation: Arc<str>,
}

/// Durable, ordered home of submitted tasks: one log per pipeline, split into partitions.
///
/// # Contract (checked by `task_log_conformance!`)
/// - A record answered `Ok` MUST be read by every later fetch from at or below its offset, from any
///   process, whatever crashes, until it is trimmed.
/// - Offsets of a partition MUST grow in the order in which records are read. They MAY have gaps.
/// - A record refused (any kind but [`Unknown`](crate::port::FailureKind::Unknown)) MUST NOT appear later.
/// - An appended record MUST be fetched without delay by a fetch that waits for it.
/// - After [`close`](Self::close) was answered, no append of any process MUST succeed any more: whatever was
///   ever answered `Ok` is below the ends that it told.
/// - A fetch from a place that was deleted MUST NOT read on elsewhere; it is answered as lost.
#[cfg_attr(feature = "mocks", mockall::automock)]
#[async_trait]
pub trait TaskLog: Debug + Send + Sync {
    /// Makes the log of each pipeline with its partitions, or finds it made, and knows it from now on:
    /// one answer per pipeline, in their order. Makes none for one that is being deleted.
    async fn ensure(&self, pipelines: &[Arc<Pipeline>]) -> Vec<Result<(), PortError>>;

    /// Closes the log of a pipeline for good, durably and for every process: appends are refused as
    /// [`Closed`](crate::port::FailureKind::Closed), everything else goes on. Tells what each partition holds, or `None` if
    /// there is no log any more. Closing again is no fault.
    async fn close(&self, pipeline: &Pipeline) -> Result<Option<Vec<Bounds>>, PortError>;

    /// Removes the log of a pipeline and all its records.
    async fn remove(&self, pipeline: &Pipeline) -> Result<(), PortError>;

    /// Appends records, each on its own: one answer per record, in their order.
    ///
    /// # Cancel safety
    /// Dropping it leaves each record appended or not.
    async fn append(&self, records: Vec<NewRecord>) -> Vec<Result<Appended, PortError>>;

    /// Reads on in many partitions at once. Answers as soon as one of them has something, at the latest
    /// after `wait`, then with nothing. Partitions without news are left out.
    ///
    /// # Cancel safety
    /// Dropping it has no effect.
    async fn fetch(&self, wanted: &[Fetch], wait: Duration) -> Result<Fetches, PortError>;

    /// Reads single records, thousands if need be: one answer each, in their order, and `None` where there is no record.
    async fn read_at(&self, wanted: &[TaskId]) -> Vec<Result<Option<Record>, PortError>>;

    /// What each partition holds, in the order asked.
    async fn bounds(&self, shards: &[ShardId]) -> Vec<Result<Bounds, PortError>>;

    /// Forgets all records below the offset given for each partition. Forgetting again is no fault.
    async fn trim(&self, below: &[(ShardId, Offset)]) -> Result<(), PortError>;

    /// Shows to the log's own tools how far each partition is worked off. The scheduler never reads it back.
    async fn publish_watermarks(&self, watermarks: &[(ShardId, Offset)]) -> Result<(), PortError>;
}
