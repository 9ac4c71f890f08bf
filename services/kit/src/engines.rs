//! The engines under the ports: Kafka for the log and the placement, TiDB for the store and the catalogue.

mod kafka;
mod tidb;

use std::{sync::Arc, time::Duration};

use scheduler_core::port::{Catalog, Placement, TaskLog, TaskStore};

use crate::{Key, Reader};

/// How much earlier a proof of membership must be too old than the group forgets its member.
const PROOF_MARGIN: Duration = Duration::from_secs(1);

/// The settings of both.
#[must_use]
pub fn keys() -> Vec<Key> {
    let mut keys = kafka::keys();
    keys.extend(tidb::keys());
    keys
}

/// Engines as the settings name them.
#[derive(Debug)]
pub struct Engines {
    kafka: scheduler_kafka::Config,
    tidb: scheduler_tidb::Config,
}

impl Engines {
    /// Reads how they are reached; faults go to the reader. Needs the settings of the scheduler too.
    #[must_use]
    pub fn configure(reader: &mut Reader<'_>) -> Self {
        let (session, proof) = (
            reader.duration("kafka.session_timeout"),
            reader.duration("scheduler.proof_age_max"),
        );
        if proof + PROOF_MARGIN > session {
            reader.fault("scheduler.proof_age_max must be a second shorter than kafka.session_timeout, or a member that lost its slots could still hand out tasks");
        }
        Self {
            kafka: kafka::config(reader),
            tidb: tidb::config(reader),
        }
    }

    /// Connects.
    ///
    /// # Errors
    /// One of them cannot be used; says which and why.
    pub async fn open(self) -> anyhow::Result<OpenEngines> {
        Ok(OpenEngines {
            kafka: scheduler_kafka::Kafka::open(self.kafka)?,
            tidb: scheduler_tidb::Tidb::open(self.tidb).await?,
        })
    }
}

/// Engines that are open.
#[derive(Debug)]
pub struct OpenEngines {
    kafka: scheduler_kafka::Kafka,
    tidb: scheduler_tidb::Tidb,
}

impl OpenEngines {
    /// Where submitted tasks land.
    #[must_use]
    pub fn log(&self) -> Arc<dyn TaskLog> {
        self.kafka.log()
    }

    /// Where shards and their tasks are kept.
    #[must_use]
    pub fn store(&self) -> Arc<dyn TaskStore> {
        self.tidb.store()
    }

    /// Where applications and pipelines are kept.
    #[must_use]
    pub fn catalog(&self) -> Arc<dyn Catalog> {
        self.tidb.catalog()
    }

    /// A member of the group; it leaves when it is dropped.
    #[must_use]
    pub fn placement(&self) -> Arc<dyn Placement> {
        self.kafka.placement()
    }
}
