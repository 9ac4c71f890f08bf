//! A multi-tenant scheduler of pipeline tasks, to be linked into your own service.
//!
//! The model, and the five [ports](port) to the world.

mod call;
mod config;
mod error;
mod id;
mod name;
pub mod pipeline;
pub mod port;
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
