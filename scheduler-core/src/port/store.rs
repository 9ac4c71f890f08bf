//! The port of the store: the durable state of shards and of those tasks that cannot stay in the log.

use std::{fmt::Debug, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    CancelRule, Epoch, IdempotencyKey, LeaseToken, Offset, PipelineNumber, ShardId, Timestamp,
    WorkerId,
    port::{PortError, log::NewTask},
    task::{AttemptError, OrderingKey},
    watermark::DoneChunk,
};

/// A task as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTask {
    /// Its place in the log of its shard.
    pub offset: Offset,
    /// When the log took it.
    pub accepted_at: Timestamp,
    /// What was submitted.
    pub task: NewTask,
    /// Where it stands.
    pub state: StoredState,
    /// Attempts that were begun and counted.
    pub attempt: u32,
    /// The newest token granted for it, or [`LeaseToken::NONE`].
    pub token: LeaseToken,
    /// When its first attempt began.
    pub started_at: Option<Timestamp>,
    /// What went wrong in each failed attempt, oldest first.
    pub errors: Vec<AttemptError>,
}

/// Where a stored task stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredState {
    /// Cannot run before `due_at`, or could and nobody took it. Found by [`TaskStore::due`].
    Parked {
        /// When it can run, or is worth another look; [`Timestamp::EPOCH`] for one that waits behind its key.
        due_at: Timestamp,
        /// What it waits for.
        kind: Parked,
    },
    /// A worker has it under the task's token. Found by [`TaskStore::claim`].
    Running {
        /// Who has it.
        worker: WorkerId,
        /// When this attempt began.
        leased_at: Timestamp,
    },
    /// Ended. Kept until `keep_until`, then the store removes it by itself.
    Ended {
        /// How.
        ending: Ending,
        /// When.
        ended_at: Timestamp,
        /// When it may be forgotten; [`Timestamp::NEVER`] for never.
        keep_until: Timestamp,
    },
}

/// Why a parked task does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Parked {
    /// It was asked to run later.
    Scheduled,
    /// It waits for its turn; it is stored so that it holds back no watermark.
    Available,
    /// It failed and will be tried again.
    Retryable,
}

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// With a result: a JSON value.
    Completed {
        /// The result.
        result: Bytes,
    },
    /// By request.
    Cancelled,
    /// By its errors: a dead letter.
    Discarded,
}

/// The states by which tasks are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StateName {
    /// Not before a time.
    Scheduled,
    /// Can run.
    Available,
    /// A worker has it.
    Running,
    /// Failed, and will be tried again.
    Retryable,
    /// Ended with a result.
    Completed,
    /// Ended by request.
    Cancelled,
    /// Ended by its errors.
    Discarded,
}

impl StateName {
    /// All of them, in the order of a task's life.
    pub const ALL: [Self; 7] = [
        Self::Scheduled,
        Self::Available,
        Self::Running,
        Self::Retryable,
        Self::Completed,
        Self::Cancelled,
        Self::Discarded,
    ];

    /// As it is spelled everywhere.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Available => "available",
            Self::Running => "running",
            Self::Retryable => "retryable",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::Discarded => "discarded",
        }
    }

    /// Whether a task in it has ended.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Cancelled | Self::Discarded)
    }
}

impl StoredState {
    /// The state's name.
    #[must_use]
    pub const fn name(&self) -> StateName {
        match self {
            Self::Parked { kind, .. } => match kind {
                Parked::Scheduled => StateName::Scheduled,
                Parked::Available => StateName::Available,
                Parked::Retryable => StateName::Retryable,
            },
            Self::Running { .. } => StateName::Running,
            Self::Ended { ending, .. } => match ending {
                Ending::Completed { .. } => StateName::Completed,
                Ending::Cancelled => StateName::Cancelled,
                Ending::Discarded => StateName::Discarded,
            },
        }
    }
}

/// What an idempotency key stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRow {
    /// The key.
    pub key: IdempotencyKey,
    /// The first task that was submitted with it.
    pub offset: Offset,
    /// Tells whether another submit asks for the same: a hash of data and options.
    pub fingerprint: u64,
    /// When the key may be used again.
    pub keep_until: Timestamp,
}

/// A wish to own a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The shard.
    pub shard: ShardId,
    /// Where the claiming member can be reached: a hint for others, written beside the epoch.
    pub address: Arc<str>,
    /// The log that the member sees, so that a log that was deleted and made again is noticed.
    pub incarnation: Arc<str>,
}

/// What a claim found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The shard.
    pub shard: ShardId,
    /// The new epoch: greater than any before, durable, and fencing every older one.
    pub epoch: Epoch,
    /// The log incarnation of the first claim: not the claimer's if the log was made again.
    pub incarnation: Arc<str>,
    /// The offset below which every task is ended or stored.
    pub watermark: Offset,
    /// Tasks ended or stored at or above the watermark.
    pub done: Vec<DoneChunk>,
    /// The log's end as its owner last saw it: a log that ends before it was shortened.
    pub seen_end: Offset,
    /// Tasks that were running when they were last stored.
    pub running: Vec<StoredTask>,
    /// When the first parked task is due, if any.
    pub next_due_at: Option<Timestamp>,
    /// Whether tasks with an ordering key may be stored that have not ended. MAY be true without any.
    pub has_keyed: bool,
    /// The bulk cancels as they were saved last.
    pub cancels: Vec<CancelRule>,
    /// Whether the owner before released the shard, so that no lease exists that is not stored.
    pub released: bool,
}

/// All that one shard writes at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardFlush {
    /// The shard.
    pub shard: ShardId,
    /// The owner's epoch: the part is refused if it is not the newest.
    pub epoch: Epoch,
    /// Counts the parts of this epoch from 1, so that a repeated one is recognised and not applied twice.
    pub number: u64,
    /// The offset below which every task is ended or stored, this part included.
    pub watermark: Offset,
    /// The log's end as the owner sees it.
    pub seen_end: Offset,
    /// Chunks above the watermark that changed, whole. Chunks wholly below the watermark are forgotten.
    pub done: Vec<DoneChunk>,
    /// Tasks to save, each whole, in place of what was saved of them before.
    pub tasks: Vec<StoredTask>,
    /// Tasks to forget: they ended and their results are not kept.
    pub forgotten: Vec<Offset>,
    /// Idempotency keys to save.
    pub keys: Vec<KeyRow>,
    /// All bulk cancels of the shard, in place of those saved before, if anything of them changed.
    pub cancels: Option<Vec<CancelRule>>,
}

/// What became of one part of a flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flushed {
    /// Durable, whole.
    Saved,
    /// A newer epoch owns the shard; nothing of the part was written.
    Fenced,
}

/// Which parked tasks of a shard to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DuePage {
    /// The shard.
    pub shard: ShardId,
    /// Only tasks from this one on in the order of (due time, offset).
    pub from: (Timestamp, Offset),
    /// Only tasks due at or before this time.
    pub until: Timestamp,
    /// At most so many tasks.
    pub n_max: usize,
    /// At most so many bytes of data, but at least one task.
    pub bytes_max: usize,
}

/// A page of parked tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueTasks {
    /// Parked tasks in the order of (due time, offset).
    pub tasks: Vec<StoredTask>,
    /// When the first parked task after the last of `tasks` (or from the page's `from` on, if there is none) is due.
    pub next_due_at: Option<Timestamp>,
}

/// Which tasks with an ordering key to read: those of which [`StoredTask::ordering_key`] is the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyedPage {
    /// The shard.
    pub shard: ShardId,
    /// The key.
    pub key: OrderingKey,
    /// Only tasks at or above this offset.
    pub from: Offset,
    /// At most so many tasks.
    pub n_max: usize,
    /// At most so many bytes of data, but at least one task.
    pub bytes_max: usize,
}

/// A page of tasks with one ordering key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyedTasks {
    /// The tasks, by offset.
    pub tasks: Vec<StoredTask>,
    /// From where to read on, if there may be more.
    pub next: Option<Offset>,
}

/// One thing to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// A task by its place.
    Task(ShardId, Offset),
    /// An idempotency key of a shard; keys that are past their time are not found.
    Key(ShardId, IdempotencyKey),
}

/// What a [`Lookup`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The task.
    Task(Box<StoredTask>),
    /// The key.
    Key(KeyRow),
}

/// Which stored tasks of a shard to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListPage {
    /// The shard.
    pub shard: ShardId,
    /// Only tasks in one of these states; empty means all.
    pub states: Vec<StateName>,
    /// Only tasks accepted at or after this time.
    pub since: Timestamp,
    /// Only tasks below this offset; `None` starts at the newest.
    pub below: Option<Offset>,
    /// At most so many.
    pub n_max: usize,
    /// At most so many bytes of data, results and errors, but at least one task.
    pub bytes_max: usize,
}

impl StoredTask {
    /// The ordering key by which [`TaskStore::keyed`] finds it: of a task that has not ended, unless it was asked to
    /// run later and never was leased, since such a one joins its key only when it is due.
    #[must_use]
    pub fn ordering_key(&self) -> Option<&OrderingKey> {
        let is_found = match self.state {
            StoredState::Parked {
                kind: Parked::Scheduled,
                ..
            } => self.token != LeaseToken::NONE,
            StoredState::Parked { .. } | StoredState::Running { .. } => true,
            StoredState::Ended { .. } => false,
        };
        let options = self.task.options.as_ref().filter(|_| is_found)?;
        options.key.as_ref()
    }

    /// Bytes of its data, result and errors.
    #[must_use]
    pub fn n_bytes(&self) -> usize {
        let errors = self.errors.iter().map(|error| &error.failure);
        let errors: usize = errors
            .map(|failure| failure.message.len() + failure.detail.len())
            .sum();
        let result = match &self.state {
            StoredState::Ended {
                ending: Ending::Completed { result },
                ..
            } => result.len(),
            _ => 0,
        };
        self.task.data.len() + errors + result
    }
}

/// Cuts a page where `n_max` tasks or `bytes_max` bytes are reached, after at least one task.
pub fn cut_page(tasks: &mut Vec<StoredTask>, n_max: usize, bytes_max: usize) {
    let mut n_bytes = 0;
    let fit = tasks.iter().take(n_max).take_while(|task| {
        let fits = n_bytes < bytes_max;
        n_bytes += task.n_bytes();
        fits
    });
    let n = fit.count().max(1);
    tasks.truncate(n);
}

/// Durable home of shards and their tasks.
///
/// # Contract (checked by `task_store_conformance!`)
/// - A part answered `Saved` MUST be seen by every later read, from any process, whatever crashes.
/// - A part whose epoch is not the newest MUST be answered `Fenced` and change nothing; the other parts go on.
/// - A part with a number that was saved already in its epoch MUST be answered `Saved` and change nothing more.
/// - A failed or dropped call MAY have saved each part whole or not at all, never some of a part.
/// - Ended tasks MUST be found until their `keep_until` and MUST NOT be found for long after.
#[cfg_attr(feature = "mocks", mockall::automock)]
#[async_trait]
pub trait TaskStore: Debug + Send + Sync {
    /// Raises the epoch of each shard, durably, and reads what the new owner needs: in the order asked.
    /// A shard that was never claimed starts at epoch 1 with watermark 0.
    async fn claim(&self, claims: &[Claim]) -> Result<Vec<Claimed>, PortError>;

    /// Saves each shard's part whole or not at all: one answer per part, in their order.
    async fn flush(&self, parts: &[ShardFlush]) -> Result<Vec<Flushed>, PortError>;

    /// Notes that these owners have stored all their leases and will write no more. A stale epoch is ignored.
    async fn release(&self, shards: &[(ShardId, Epoch)]) -> Result<(), PortError>;

    /// Reads parked tasks that are due, a page per shard, in the order asked.
    async fn due(&self, pages: &[DuePage]) -> Result<Vec<DueTasks>, PortError>;

    /// Reads tasks that have an ordering key, a page per key, in the order asked.
    async fn keyed(&self, pages: &[KeyedPage]) -> Result<Vec<KeyedTasks>, PortError>;

    /// Reads tasks and keys, in the order asked.
    async fn get(&self, lookups: &[Lookup]) -> Result<Vec<Option<Found>>, PortError>;

    /// Lists stored tasks, newest offset first, a page per shard, in the order asked.
    async fn list(&self, pages: &[ListPage]) -> Result<Vec<Vec<StoredTask>>, PortError>;

    /// Where the newest owner of each shard said that it can be reached; `None` if it was never claimed. In the
    /// order asked. A hint: only the epoch decides who owns a shard.
    async fn owners(&self, shards: &[ShardId]) -> Result<Vec<Option<Arc<str>>>, PortError>;

    /// Forgets all shards and tasks of a deleted pipeline.
    async fn forget(&self, pipeline: PipelineNumber) -> Result<(), PortError>;
}
