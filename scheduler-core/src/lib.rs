//! A multi-tenant scheduler of pipeline tasks, to be linked into your own service.
//!
//! [`task`], [`shard`] and [`member`] hold the pure machines that decide everything; [`port`] holds the
//! five seams to the world.

pub mod action;
mod call;
mod config;
mod error;
mod id;
pub mod member;
mod name;
pub mod pipeline;
pub mod port;
pub mod shard;
pub mod task;
mod time;
pub mod watermark;

pub use self::{
    call::{
        Heartbeat, Held, Leased, LeasedTask, ListTasks, Poll, Report, Submit, Submitted, TaskPage,
        TaskView,
    },
    config::Config,
    error::{Error, Invalid, LeaseLost},
    id::{
        Epoch, LeaseToken, N_SLOTS, Offset, Partition, PipelineNumber, ShardId, Slot, TaskId,
        WorkerId, murmur2,
    },
    name::{
        ApplicationName, ApplicationPath, ExecutorName, NAME_LEN_MAX, PipelineName, PipelinePath,
        TenantName, path,
    },
    pipeline::{Pipeline, PipelineSpec, Revision, Step},
    port::store::StateName,
    task::{ErrorCode, Failure, IdempotencyKey, Outcome, Retention, TaskOptions},
    time::Timestamp,
};
