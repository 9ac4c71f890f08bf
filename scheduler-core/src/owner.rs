//! A member as other processes reach it, and how they find it.

use std::{fmt::Debug, sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{
    CancelProgress, CancelRequest, Error, IdempotencyKey, Outcome, PipelineNumber, ShardId,
    StateName, TaskId,
    action::{Counts, Seen},
    call::{Beat, Held, Leased, Poll},
    member::{AllNews, InMemory, Sought},
    port::log::NewTask,
    survey::{Ask, MemberState, Survey},
    task::fnv1a,
};

/// A member as others reach it: it answers for the shards that it owns, and forwards nothing.
///
/// # Contract
/// - A call for a shard that is not there MUST be answered `Unavailable`, [`Seen::Nowhere`] or as absent, and
///   change nothing.
/// - A call that may have been done, of which nobody knows, MUST be answered `UnknownOutcome`.
#[async_trait]
pub trait Owner: Debug + Send + Sync {
    /// Submits a task with an idempotency key: the first task with that key, and whether this is a repetition.
    async fn submit(
        &self,
        shard: ShardId,
        key: IdempotencyKey,
        task: NewTask,
    ) -> Result<(TaskId, bool), Error>;

    /// Cancels a task; answered when that is durable.
    async fn cancel(&self, id: TaskId) -> Result<(), Error>;

    /// Cancels many tasks of a shard; answered when that is durable.
    async fn cancel_many(
        &self,
        shard: ShardId,
        request: CancelRequest,
    ) -> Result<CancelProgress, Error>;

    /// Lets a discarded task run again; answered when that is durable.
    async fn redrive(&self, id: TaskId) -> Result<(), Error>;

    /// Where tasks are, in the order asked.
    async fn see(&self, ids: Vec<TaskId>) -> Result<Vec<Seen>, Error>;

    /// How many tasks of these shards are where, and which are in memory.
    async fn count(&self, shards: Vec<ShardId>, listed: Option<InMemory>) -> Result<Counts, Error>;

    /// Leases tasks of one pipeline to a worker, as [`Scheduler::lease`](crate::Scheduler::lease) does, but of this
    /// member alone.
    ///
    /// # Cancel safety
    /// Tasks that were granted to a dropped call are taken back at once and cost no attempt.
    async fn lease(&self, pipeline: PipelineNumber, poll: Poll) -> Result<Leased, Error>;

    /// Takes reports, each answered when it is durable: one answer each, in their order.
    async fn report(&self, reports: Vec<(Held, Outcome)>) -> Vec<Result<(), Error>>;

    /// Renews leases: for how long from now, one answer each, in their order.
    async fn renew(&self, beats: Vec<Beat>) -> Vec<Result<Duration, Error>>;

    /// Waits until there are news for workers that wait elsewhere, or the time is over: then there are none. It is
    /// answered at once, again and again, while what it tells is still so; so do not ask again without a pause.
    ///
    /// # Cancel safety
    /// Dropping it has no effect.
    async fn await_ready(&self, sought: Vec<Sought>, wait: Duration) -> Result<AllNews, Error>;

    /// Waits until a task ends or the time is over; which of them, a look at the task tells.
    ///
    /// # Cancel safety
    /// Dropping it has no effect.
    async fn await_end(&self, id: TaskId, wait: Duration) -> Result<(), Error>;

    /// Waits until a task in memory shows another [shape](shape_of) than `known`, or leaves or enters memory, or the
    /// time is over; which of them, a look at the task tells. It may be answered early.
    ///
    /// # Cancel safety
    /// Dropping it has no effect.
    async fn await_change(&self, id: TaskId, known: u64, wait: Duration) -> Result<(), Error>;

    /// How shards stand, and which workers are connected.
    async fn survey(&self, ask: Ask) -> Result<Survey, Error>;

    /// What it says of itself.
    async fn describe(&self) -> Result<MemberState, Error>;
}

/// What of a task changes often and is shown to those who watch it, in short: its state, attempt and progress.
#[must_use]
pub fn shape_of(state: StateName, attempt: u32, progress: Option<&[u8]>) -> u64 {
    let head = state.as_str().bytes().chain(attempt.to_be_bytes());
    fnv1a(head.chain(progress.unwrap_or_default().iter().copied()))
}

/// Reaches other members by the address that they gave with their claims.
pub trait Peers: Debug + Send + Sync {
    /// The member at an address. Connects no sooner than at the first call.
    ///
    /// # Errors
    /// `Internal`: the address is none.
    fn at(&self, address: &str) -> Result<Arc<dyn Owner>, Error>;
}
