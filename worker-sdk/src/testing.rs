//! Tests handlers without a server.

use std::sync::Arc;

use scheduler_core::{
    LeaseToken, LeasedTask, Offset, Partition, PipelineNumber, Revision, ShardId, TaskId,
};
use serde::Serialize;
use tokio::sync::Notify;

use crate::{
    Failure, Handler, Outcome, TaskContext,
    context::Link,
    worker::{LEASE_DEFAULT, panicked},
};

/// Runs a handler on one payload as the first attempt of a task, and answers its outcome. A panic
/// is the failure that a worker would report.
///
/// ```
/// use worker_sdk::{Failure, Outcome, TaskContext, testing};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let double = |ctx: TaskContext| async move { Ok::<_, Failure>(ctx.data::<i64>()? * 2) };
/// assert_eq!(testing::run_once(double, &21).await, Outcome::completed(&42));
/// # }
/// ```
pub async fn run_once<H: Handler, T: Serialize + ?Sized>(handler: H, payload: &T) -> Outcome {
    let data = match serde_json::to_vec(payload) {
        Ok(data) => data,
        Err(err) => return Outcome::Failed(Failure::new("payload_not_json", err)),
    };
    let ctx = context(data);
    match tokio::spawn(async move { handler.run(ctx).await }).await {
        Ok(outcome) => outcome,
        Err(err) => panicked(err),
    }
}

/// The context of the first attempt of a task with these data, without a worker behind it.
#[must_use]
pub fn context(data: impl Into<Vec<u8>>) -> TaskContext {
    let task = leased(0, 1, data.into());
    TaskContext::new(task, None, Arc::new(Link::new(Arc::new(Notify::new()))))
}

/// A task at an offset of the one shard, on its first and only attempt.
pub(crate) fn leased(offset: u64, token: u64, data: Vec<u8>) -> LeasedTask {
    let shard = ShardId {
        pipeline: PipelineNumber(1),
        partition: Partition(0),
    };
    LeasedTask {
        id: TaskId {
            shard,
            offset: Offset(offset),
        },
        token: LeaseToken::from_u64(token),
        attempt: 1,
        max_attempts: 1,
        data: data.into(),
        options: None,
        traceparent: None,
        lease: LEASE_DEFAULT,
        timeout: None,
        heartbeat_timeout: None,
        revision: Revision(1),
    }
}
