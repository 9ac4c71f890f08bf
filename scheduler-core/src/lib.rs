//! A multi-tenant scheduler of pipeline tasks, to be linked into your own service.
//!
//! A task is appended to a durable [log](port::TaskLog), leased to a worker that asks for work, tried
//! until it ends, and its end is saved to a [store](port::TaskStore) before anyone is told. Delivery is
//! at least once; nothing that was accepted is lost.
//!
//! - [`Scheduler`] is the one handle: submit, lease, report, cancel, get.
//! - [`task`], [`shard`] and [`member`] hold the pure machines that decide everything: event and `now`
//!   in, actions out, no I/O and no clock.
//! - [`port`] holds the five seams to the world; `memory` (a feature) implements them without any.
//! - `testing` (a feature) runs all of it in virtual time; `mocks` (a feature) has mocks of the ports.
//! - [`driver`] (a feature, on by default) carries the machines' actions to the ports.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//!
//! use scheduler_core::{
//!     Config, Outcome, PipelineSpec, Poll, Report, Scheduler, Submit, TaskOptions, memory,
//! };
//!
//! let scheduler = Scheduler::start(Config::default(), memory::ports()).await?;
//! let path = scheduler_core::path("default", "shop", "mail")?;
//! let spec = PipelineSpec { n_partitions: 1, ..PipelineSpec::default() };
//! scheduler.create_pipeline(&path, spec).await?;
//! let submitted = scheduler.submit(&path, Submit::new(r#"{"to":"you"}"#)).await?;
//!
//! let leased = scheduler.lease(&path, Poll::new("worker-1".try_into()?, 1)).await?;
//! let task = &leased.tasks[0];
//! let outcome = Outcome::Completed { result: r#"{"sent":true}"#.into() };
//! scheduler.report(&path.tenant, Report { id: task.id, token: task.token, outcome }).await?;
//!
//! let task = scheduler.wait(&path.tenant, submitted.id, Duration::from_secs(5)).await?;
//! assert_eq!(task.state.as_str(), "completed");
//! # Ok(())
//! # }
//! ```
#![cfg_attr(
    not(feature = "driver"),
    allow(
        rustdoc::broken_intra_doc_links,
        reason = "the driver's items are absent"
    )
)]

pub mod action;
mod call;
mod cancel;
mod config;
#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "driver")]
pub mod driver;
mod error;
pub mod explain;
mod id;
pub mod member;
#[cfg(feature = "memory")]
pub mod memory;
mod name;
#[cfg(feature = "driver")]
pub mod owner;
pub mod pipeline;
pub mod port;
#[cfg(feature = "driver")]
mod scheduler;
pub mod shard;
pub mod survey;
pub mod task;
#[cfg(feature = "testing")]
pub mod testing;
mod time;
pub mod watermark;

#[cfg(feature = "driver")]
pub use self::scheduler::{
    BulkCancel, CancelMany, CancelPreview, Deleted, FrontPorts, Halted, MemberStanding,
    PipelineEvent, PipelineStats, PipelineWatch, Ports, Redrive, RedriveMany, Redriving, Scheduler,
    ShardStanding, TaskChanges, TaskWatch, WorkerStanding, Workers,
};
pub use self::{
    call::{
        Beat, Heartbeat, Held, Leased, LeasedTask, ListTasks, Poll, Report, Submit, Submitted,
        TaskPage, TaskView,
    },
    cancel::{CancelFilter, CancelProgress, CancelRequest, CancelRule},
    config::Config,
    error::{Error, Invalid, LeaseLost},
    id::{
        Epoch, LeaseToken, N_SLOTS, Offset, Partition, PipelineNumber, ShardId, Slot, TaskId,
        WorkerId, murmur2,
    },
    name::{
        ApplicationName, ApplicationPath, ExecutorName, NAME_LEN_MAX, PipelineName, PipelinePath,
        PoolName, TenantName, path,
    },
    pipeline::{Mode, Pipeline, PipelineSpec, Revision, Step},
    port::store::StateName,
    task::{
        CancelId, ErrorCode, Failure, GroupName, IdempotencyKey, Label, OrderingKey, Outcome,
        Priority, Retention, TaskOptions,
    },
    time::Timestamp,
};
