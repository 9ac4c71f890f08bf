//! The store and the catalogue of `scheduler-core` on TiDB.
//!
//! [`Tidb::open`] connects, makes the tables, and gives the two ports.
//!
//! ```no_run
//! use scheduler_core::{PipelineSpec, TaskOptions, Timestamp, port::catalog::Change};
//! use scheduler_tidb::{Config, Tidb};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let tidb = Tidb::open(Config::new("mysql://scheduler:secret@tidb:4000/workload")).await?;
//! let path = scheduler_core::path("default", "shop", "mail")?;
//! let spec = PipelineSpec { n_partitions: 8, ..PipelineSpec::default() };
//! tidb.catalog().change(Change::CreatePipeline { path, spec, at: Timestamp::EPOCH }).await?;
//! let store = tidb.store(); // for the members' shards
//! # Ok(())
//! # }
//! ```
//!
//! # What is in the database
//! Tables and views for people, with comments: `docs/tables.md` has queries to begin with. Ended tasks
//! and idempotency keys are hidden as soon as their time is over, and removed later by TiDB's TTL, which
//! must not be switched off for the cluster (`tidb_ttl_job_enable`).
//!
//! # When TiDB cannot be reached
//! Every call ends within [`Config::call_timeout`], by its `FailureKind`: `Unavailable` if surely nothing
//! has changed, `Unknown` if the commit was on its way. Only forgetting a pipeline may take longer, step
//! by step. Conflicts, lost connections and regions that move are tried again inside a call. A connection
//! that failed is closed, and with it all that are idle, so an end of the outage is found at the next call.

mod call;
mod catalog;
mod config;
mod error;
mod key;
mod migrate;
mod open;
mod row;
mod session;
mod store;

pub use self::{
    config::{Config, ConfigError},
    error::OpenError,
    open::Tidb,
};
