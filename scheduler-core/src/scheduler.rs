//! The one handle over everything, of which HTTP, gRPC and in-process workers are skins.

mod cancel;
mod deletion;
mod directory;
mod follow;
mod gather;
mod operate;
mod pipelines;
mod read;
mod redrive;
pub(crate) mod roster;
mod route;
mod submit;
mod survey;
mod work;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, atomic::AtomicU64},
    time::Duration,
};

use tokio::sync::{Semaphore, watch};

pub use self::{
    cancel::{BulkCancel, CancelMany, CancelPreview},
    deletion::Deleted,
    follow::{PipelineEvent, PipelineWatch, TaskChanges, TaskWatch},
    redrive::{Halted, Redrive, RedriveMany, Redriving},
    survey::{MemberStanding, PipelineStats, ShardStanding, WorkerStanding, Workers},
};
use self::{
    directory::{Directory, Logs},
    follow::Hubs,
    gather::Gather,
    roster::Roster,
    route::Route,
};
use crate::{
    Config, Error, Pipeline, PipelineNumber, PipelinePath, TaskId, TenantName,
    driver::Handle,
    explain::Tally,
    member::Load,
    owner::{Owner, Peers},
    port::{Catalog, Clock, Placement, TaskLog, TaskStore, log::Bounds},
};

/// The ports that a scheduler works on.
#[derive(Debug, Clone)]
pub struct Ports {
    /// Where submitted tasks land.
    pub log: Arc<dyn TaskLog>,
    /// Where shards and their tasks are kept.
    pub store: Arc<dyn TaskStore>,
    /// Where applications and pipelines are kept.
    pub catalog: Arc<dyn Catalog>,
    /// Who owns what.
    pub placement: Arc<dyn Placement>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// The ports of a process without a member.
#[derive(Debug, Clone)]
pub struct FrontPorts {
    /// Where submitted tasks land.
    pub log: Arc<dyn TaskLog>,
    /// Where shards and their tasks are kept.
    pub store: Arc<dyn TaskStore>,
    /// Where applications and pipelines are kept.
    pub catalog: Arc<dyn Catalog>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl From<&Ports> for FrontPorts {
    fn from(ports: &Ports) -> Self {
        Self {
            log: Arc::clone(&ports.log),
            store: Arc::clone(&ports.store),
            catalog: Arc::clone(&ports.catalog),
            clock: Arc::clone(&ports.clock),
        }
    }
}

/// The handle to a scheduler; clones are the same one. In the process of a member
/// ([`start`](Self::start), [`join`](Self::join)) or in one that asks members ([`front`](Self::front)).
///
/// When the last handle is dropped, the member stops in good order; [`shutdown`](Self::shutdown) waits
/// for that.
#[derive(Debug, Clone)]
pub struct Scheduler {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: Arc<Config>,
    ports: FrontPorts,
    /// The member in this process, if there is one.
    driver: Option<Handle>,
    route: Route,
    /// Serves workers from all members, if there can be others.
    gather: Option<Gather>,
    directory: watch::Sender<Arc<Directory>>,
    /// Which logs are made, and which are not yet.
    logs: Mutex<Logs>,
    /// Where the logs end that this process has closed.
    closed: Mutex<BTreeMap<PipelineNumber, Vec<Bounds>>>,
    /// Spreads tasks without a key evenly over partitions.
    next_partition: AtomicU64,
    /// Workers that are connected to this process.
    roster: Arc<Mutex<Roster>>,
    /// Places of those who follow tasks and pipelines.
    watches: Arc<Semaphore>,
    hubs: Hubs,
}

impl Scheduler {
    /// Starts a member that is alone on these ports. It claims its shards in the background;
    /// [`ready`](Self::ready) tells when it has them.
    ///
    /// # Errors
    /// A config out of range, or a catalogue that cannot be read.
    pub async fn start(config: Config, ports: Ports) -> Result<Self, Error> {
        let config = checked(config)?;
        let driver = Handle::start(Arc::clone(&config), ports.clone());
        let route = Route::here(driver.clone());
        Self::open(config, FrontPorts::from(&ports), Some(driver), route).await
    }

    /// Starts a member among others, to which calls for their shards go on.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn join(config: Config, ports: Ports, peers: Arc<dyn Peers>) -> Result<Self, Error> {
        let config = checked(config)?;
        let driver = Handle::start(Arc::clone(&config), ports.clone());
        let (store, address) = (Arc::clone(&ports.store), config.address.as_str().into());
        let route = Route::among(Some(driver.clone()), Some(address), store, peers);
        Self::open(config, FrontPorts::from(&ports), Some(driver), route).await
    }

    /// Opens a handle without a member: it submits and reads, and asks members for the rest. Workers lease through
    /// it, but not from a pool.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn front(
        config: Config,
        ports: FrontPorts,
        peers: Arc<dyn Peers>,
    ) -> Result<Self, Error> {
        let config = checked(config)?;
        let route = Route::among(None, None, Arc::clone(&ports.store), peers);
        Self::open(config, ports, None, route).await
    }

    async fn open(
        config: Arc<Config>,
        ports: FrontPorts,
        driver: Option<Handle>,
        route: Route,
    ) -> Result<Self, Error> {
        let gather = route.there().map(|there| {
            let (here, clock) = (driver.clone(), Arc::clone(&ports.clock));
            Gather::new(&config, here, Arc::clone(there), clock)
        });
        let roster = driver.as_ref().map(|driver| Arc::clone(driver.roster()));
        let shared = Arc::new(Shared {
            watches: Arc::new(Semaphore::new(config.watches_max)),
            roster: roster.unwrap_or_default(),
            hubs: Hubs::default(),
            config,
            ports,
            driver,
            route,
            gather,
            directory: watch::Sender::new(Arc::new(Directory::default())),
            logs: Mutex::default(),
            closed: Mutex::default(),
            next_partition: AtomicU64::new(0),
        });
        shared
            .refresh()
            .await
            .map_err(|err| unreachable_port("the catalogue", &err))?;
        tokio::spawn(directory::follow(Arc::downgrade(&shared)));
        if shared.driver.is_some() {
            tokio::spawn(deletion::carry_on(Arc::downgrade(&shared)));
        }
        Ok(Self { shared })
    }

    /// The member in this process as others reach it, if there is one.
    #[must_use]
    pub fn member(&self) -> Option<Arc<dyn Owner>> {
        let driver = self.shared.driver.clone()?;
        Some(Arc::new(driver))
    }

    fn driver(&self) -> Result<&Handle, Error> {
        let driver = self.shared.driver.as_ref();
        driver.ok_or_else(|| {
            Error::WrongState("there is no member here, and a pool is served by members".to_owned())
        })
    }

    /// The configuration it runs with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// Whether it works on all its shards; without a member, it always does.
    ///
    /// # Errors
    /// Says what is missing.
    pub fn ready(&self) -> Result<(), Error> {
        let driver = self.shared.driver.as_ref();
        driver.map_or(Ok(()), Handle::ready)
    }

    /// How much the member in this process has to do, if there is one.
    #[must_use]
    pub fn load(&self) -> Option<Load> {
        self.shared.driver.as_ref().map(Handle::load)
    }

    /// What the tasks wait for that the member in this process has in memory, if there is one. It is counted at most
    /// once a second.
    #[must_use]
    pub fn tally(&self) -> Option<Tally> {
        self.shared.driver.as_ref().map(Handle::tally)
    }

    /// Stops in good order: answers waiting polls, saves what is unsaved, gives up its shards, and
    /// waits until all that is done. Calls made afterwards fail.
    pub async fn shutdown(&self) {
        if let Some(driver) = &self.shared.driver {
            driver.stop().await;
        }
    }

    fn find_pipeline(&self, path: &PipelinePath) -> Result<Arc<Pipeline>, Error> {
        let directory = self.shared.directory.borrow();
        let found = directory.pipelines.get(path).cloned();
        found.ok_or_else(|| Error::not_found("pipeline", &path.pipeline))
    }

    /// Where the pipeline of a task is; the task itself is not read, and may not exist.
    ///
    /// # Errors
    /// `NotFound`: the id is of no pipeline of the tenant.
    pub fn path_of(&self, tenant: &TenantName, id: TaskId) -> Result<PipelinePath, Error> {
        let pipeline = self.pipeline_of(tenant, id)?;
        Ok(pipeline.path.clone())
    }

    /// Where the pipeline of a task is, whoever asks: for workers that serve several tenants, see
    /// [`lease_from_pool`](Self::lease_from_pool). Never pass it on to a tenant.
    ///
    /// # Errors
    /// `NotFound`: the id is of no pipeline.
    pub fn owner_of(&self, id: TaskId) -> Result<PipelinePath, Error> {
        let directory = self.shared.directory.borrow();
        let found = directory.by_number.get(&id.shard.pipeline);
        let found = found.map(|pipeline| pipeline.path.clone());
        found.ok_or_else(|| Error::not_found("task", id))
    }

    /// The pipeline of a task, if it is the tenant's: to everyone else the task does not exist.
    fn pipeline_of(&self, tenant: &TenantName, id: TaskId) -> Result<Arc<Pipeline>, Error> {
        let directory = self.shared.directory.borrow();
        let found = directory.by_number.get(&id.shard.pipeline);
        found
            .filter(|pipeline| pipeline.path.tenant == *tenant)
            .filter(|pipeline| id.shard.partition.0 < pipeline.spec.n_partitions)
            .cloned()
            .ok_or_else(|| Error::not_found("task", id))
    }
}

fn checked(config: Config) -> Result<Arc<Config>, Error> {
    config.validate()?;
    Ok(Arc::new(config))
}

/// The driver answered another question, which it never does.
pub(crate) fn misfit() -> Error {
    Error::Internal("the answer does not fit the call".to_owned())
}

pub(crate) fn unreachable_port(what: &str, err: &crate::port::PortError) -> Error {
    tracing::warn!(%err, source = ?std::error::Error::source(err), what, "port failed");
    match err.kind() {
        crate::port::FailureKind::Damaged => Error::Internal(format!("{what} is damaged")),
        _ => Error::Unavailable {
            what: format!("{what} cannot be reached"),
            retry_after: Duration::from_secs(1),
        },
    }
}
