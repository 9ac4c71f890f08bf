//! What `workload dev` works on: its directory, or Kafka and TiDB where they are named.

use std::{path::Path, sync::Arc};

use scheduler_core::{
    Config, Ports, Scheduler,
    driver::SystemClock,
    port::{Catalog, Placement, TaskLog, TaskStore, placement::SoleMember},
};
use scheduler_local::Local;

use super::{service, with_sources};
use crate::failure::Failure;

/// The engines beside the directory; those that this program was built with can be named.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Engines {
    /// Keeps tasks that wait in Kafka: HOST:PORT, with commas between.
    #[cfg(feature = "kafka")]
    #[arg(long, env = "WORKLOAD_KAFKA", value_name = "SERVERS")]
    kafka: Option<String>,
    /// Keeps states and results in TiDB: mysql://USER:PASSWORD@HOST:PORT/DATABASE.
    #[cfg(feature = "tidb")]
    #[arg(long, env = "WORKLOAD_TIDB", value_name = "URL")]
    tidb: Option<String>,
}

/// Engines that are open.
pub(super) struct Opened {
    ports: Ports,
    local: Option<Local>,
}

type LogAndPlacement = (Arc<dyn TaskLog>, Arc<dyn Placement>);
type StoreAndCatalog = (Arc<dyn TaskStore>, Arc<dyn Catalog>);

impl Engines {
    pub(super) async fn open(self, data: &Path) -> Result<Opened, Failure> {
        #[cfg(feature = "kafka")]
        let kafka = match &self.kafka {
            Some(servers) => Some(open_kafka(servers)?),
            None => None,
        };
        #[cfg(feature = "tidb")]
        let tidb = match &self.tidb {
            Some(url) => Some(open_tidb(url).await?),
            None => None,
        };
        let log: Option<LogAndPlacement> = None;
        #[cfg(feature = "kafka")]
        let log = log.or_else(|| {
            let kafka = kafka.as_ref()?;
            Some((kafka.log(), kafka.placement()))
        });
        let store: Option<StoreAndCatalog> = None;
        #[cfg(feature = "tidb")]
        let store = store.or_else(|| {
            let tidb = tidb.as_ref()?;
            Some((tidb.store(), tidb.catalog()))
        });
        let local = match (&log, &store) {
            (Some(_), Some(_)) => None,
            _ => {
                let local = scheduler_local::open(scheduler_local::Config::new(data)).await;
                Some(local.map_err(|err| Failure::Service(with_sources(&err)))?)
            }
        };
        let in_directory = || {
            let what = "the directory is not open";
            local
                .as_ref()
                .ok_or_else(|| Failure::Service(what.to_owned()))
        };
        // With a part of the state in a directory of its own there can be no other member.
        let alone = || Arc::new(SoleMember::new());
        let (log, placement) = match log {
            Some((log, placement)) if local.is_none() => (log, placement),
            Some((log, _)) => (log, alone() as Arc<dyn Placement>),
            None => (in_directory()?.log(), alone() as Arc<dyn Placement>),
        };
        let (store, catalog) = match store {
            Some(store) => store,
            None => (in_directory()?.store(), in_directory()?.catalog()),
        };
        Ok(Opened {
            ports: Ports {
                log,
                store,
                catalog,
                placement,
                clock: Arc::new(SystemClock::new()),
            },
            local,
        })
    }

    /// Where everything is kept, for people.
    pub(super) fn places(&self, data: &Path) -> String {
        let mut places = vec![data.display().to_string()];
        #[cfg(feature = "kafka")]
        places.extend(self.kafka.as_ref().map(|at| format!("Kafka at {at}")));
        #[cfg(feature = "tidb")]
        places.extend(self.tidb.as_ref().map(|_| "TiDB".to_owned()));
        // With both, only what runs lies in the directory.
        let first = usize::from(places.len() > 2);
        places.split_off(first).join(" and ")
    }
}

impl Opened {
    /// Starts the member of this process.
    pub(super) async fn start(&self, config: Config) -> Result<Scheduler, Failure> {
        let ports = self.ports.clone();
        let started = match &self.local {
            Some(_) => Scheduler::start(config, ports).await,
            None => {
                let peers = Arc::new(scheduler_grpc::client::MemberClients::new());
                Scheduler::join(config, ports, peers).await
            }
        };
        started.map_err(service("the scheduler"))
    }

    /// Closes them once the scheduler has stopped.
    pub(super) async fn close(self) {
        drop(self.ports);
        if let Some(local) = self.local {
            local.close().await;
        }
    }
}

#[cfg(feature = "kafka")]
fn open_kafka(servers: &str) -> Result<scheduler_kafka::Kafka, Failure> {
    let config = scheduler_kafka::Config::new(servers);
    let opened = scheduler_kafka::Kafka::open(config);
    opened.map_err(|err| Failure::Service(with_sources(&err)))
}

#[cfg(feature = "tidb")]
async fn open_tidb(url: &str) -> Result<scheduler_tidb::Tidb, Failure> {
    let config = scheduler_tidb::Config::new(url);
    let opened = scheduler_tidb::Tidb::open(config).await;
    opened.map_err(|err| Failure::Service(with_sources(&err)))
}
