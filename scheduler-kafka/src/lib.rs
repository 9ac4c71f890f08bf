//! The log and the placement of members on Apache Kafka.
//!
//! [`Kafka::open`] gives a [`Kafka`], and that gives the ports [`TaskLog`] and [`Placement`] of
//! `scheduler-core`. A process that only submits uses the log; a member uses both.
//!
//! ```no_run
//! use std::{sync::Arc, time::Duration};
//!
//! use scheduler_core::{
//!     Offset, Partition, Pipeline, ShardId,
//!     port::log::{Fetch, NewRecord, NewTask},
//! };
//! use scheduler_kafka::{Config, Kafka};
//!
//! # async fn example(pipeline: Arc<Pipeline>) -> Result<(), Box<dyn std::error::Error>> {
//! let kafka = Kafka::open(Config {
//!     replication_factor: 3,
//!     min_insync_replicas: 2,
//!     ..Config::new("kafka-0:9092,kafka-1:9092")
//! })?;
//! let log = kafka.log();
//! for made in log.ensure(&[Arc::clone(&pipeline)]).await {
//!     made?; // the pipeline's topic is there
//! }
//! let shard = ShardId { pipeline: pipeline.number, partition: Partition(0) };
//! let task = NewTask { data: r#"{"to":"you"}"#.into(), options: None, traceparent: None };
//! for appended in log.append(vec![NewRecord { shard, task }]).await {
//!     appended?; // it is on min_insync_replicas brokers
//! }
//! let fetch = Fetch { shard, from: Offset::ZERO, n_max: 10, bytes_max: 1 << 20 };
//! let fetched = log.fetch(&[fetch], Duration::from_secs(1)).await?;
//! assert_eq!(fetched.read[0].records.len(), 1);
//! # Ok(())
//! # }
//! ```
//!
//! # Failures
//! Every call ends in time, whatever the cluster does: an append after [`Config::produce_timeout`], any
//! other after about [`Config::request_timeout`]. Nothing needs to be opened again when the cluster is back.
//! A record that is answered as unavailable was not written and never will be; one that may have
//! been is answered as unknown.
//!
//! # What a fetch never does
//! It never reads on where the wanted place is gone. A partition whose records were deleted, whose topic
//! was deleted or made again, or whose records cannot be read, is told as lost. That a topic was made again is
//! looked for every 5 s: within these, records of the new one can be given if there are as many as the
//! old one had.
//!
//! # A member that was stopped
//! A member that was stopped and goes on (`SIGSTOP`, a paused machine) believes that it owns its slots
//! until its next heartbeat or proof, which both fail: the group has given its slots away after
//! [`Config::session_timeout`]. Then all of them are told as lost and it joins anew. In between it
//! must act on nothing that needs a fresh proof, and the store's epochs refuse what it writes.
//!
//! The guide `docs/kafka.md` says what is in the topics and how Kafka's tools show progress.

mod client;
mod codec;
mod config;
mod consumer;
mod error;
mod log;
mod native;
mod placement;
mod producer;
mod topic;

use std::sync::Arc;

use scheduler_core::port::{Placement, TaskLog};

pub use self::{
    config::{Config, ScramMechanism, Secret, Security},
    error::OpenError,
};
use self::{log::KafkaLog, placement::GroupPlacement, topic::Cluster};

/// A Kafka cluster. What it gave lives on without it; each thread ends with the port that needs it.
#[derive(Debug)]
pub struct Kafka {
    cluster: Arc<Cluster>,
    log: Arc<KafkaLog>,
}

impl Kafka {
    /// Checks the configuration and prepares to connect. The cluster is not needed yet: calls fail as
    /// unavailable until it is there.
    ///
    /// # Errors
    /// [`OpenError`] if the configuration has faults, or the client cannot be made.
    pub fn open(config: Config) -> Result<Self, OpenError> {
        config.validate()?;
        let cluster = Arc::new(Cluster::open(Arc::new(config))?);
        let log = Arc::new(KafkaLog::open(&cluster)?);
        Ok(Self { cluster, log })
    }

    /// The log; each call gives the same.
    #[must_use]
    pub fn log(&self) -> Arc<dyn TaskLog> {
        Arc::clone(&self.log) as _
    }

    /// A new member of the group. It joins with its first call, and leaves when it is dropped.
    #[must_use]
    pub fn placement(&self) -> Arc<dyn Placement> {
        Arc::new(GroupPlacement::new(&self.cluster))
    }
}
