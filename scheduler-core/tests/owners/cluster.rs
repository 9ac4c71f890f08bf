//! Two members and a front in one process, on ports in memory.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use scheduler_core::{
    Config, Error, FrontPorts, Outcome, PipelinePath, PipelineSpec, Poll, Ports, Report, Scheduler,
    Slot, TaskOptions, memory,
    owner::{Owner, Peers},
    port::{Placement, PortError, placement::PlacementEvent},
};

pub(crate) const SOON: Duration = Duration::from_secs(10);

/// Owns these slots from the start.
#[derive(Debug)]
struct Fixed(Mutex<Option<Vec<Slot>>>);

#[async_trait]
impl Placement for Fixed {
    async fn next(&self) -> Result<PlacementEvent, PortError> {
        let slots = self.0.lock().unwrap().take();
        match slots {
            Some(slots) => Ok(PlacementEvent::Assigned(slots)),
            None => std::future::pending().await,
        }
    }

    async fn released(&self, _slots: &[Slot]) -> Result<(), PortError> {
        Ok(())
    }

    async fn prove(&self) -> Result<(), PortError> {
        Ok(())
    }
}

/// Members by address, as a network would reach them.
#[derive(Debug, Default, Clone)]
struct Network(Arc<Mutex<HashMap<String, Scheduler>>>);

impl Peers for Network {
    fn at(&self, address: &str) -> Result<Arc<dyn Owner>, Error> {
        let members = self.0.lock().unwrap();
        let away = || Error::Unavailable {
            what: format!("{address} cannot be reached"),
            retry_after: Duration::from_secs(1),
        };
        members
            .get(address)
            .and_then(Scheduler::member)
            .ok_or_else(away)
    }
}

/// Two members with half of the slots each, and a front with none.
pub(crate) struct Cluster {
    ports: Ports,
    network: Network,
    pub(crate) front: Scheduler,
    pub(crate) path: PipelinePath,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let (ports, network) = (memory::ports(), Network::default());
        let front_ports = FrontPorts::from(&ports);
        let peers = Arc::new(network.clone());
        let front = Scheduler::front(Config::default(), front_ports, peers).await;
        let cluster = Self {
            ports,
            network,
            front: front.unwrap(),
            path: scheduler_core::path("tenant", "app", "mail").unwrap(),
        };
        cluster.join("even", 0).await;
        cluster.join("odd", 1).await;
        let spec = PipelineSpec {
            steps: [].into(),
            defaults: TaskOptions::default(),
            n_partitions: 32,
            ..PipelineSpec::default()
        };
        let created = cluster.front.create_pipeline(&cluster.path, spec).await;
        created.unwrap();
        for address in ["even", "odd"] {
            cluster.owns_shards(address).await;
        }
        cluster
    }

    /// A member that owns each second slot.
    pub(crate) async fn join(&self, address: &str, first: usize) {
        let slots = (0..=255).skip(first).step_by(2).map(Slot).collect();
        let ports = Ports {
            placement: Arc::new(Fixed(Mutex::new(Some(slots)))),
            ..self.ports.clone()
        };
        let config = Config {
            address: address.to_owned(),
            ..Config::default()
        };
        let peers = Arc::new(self.network.clone());
        let member = Scheduler::join(config, ports, peers).await.unwrap();
        let mut members = self.network.0.lock().unwrap();
        members.insert(address.to_owned(), member);
    }

    pub(crate) fn member(&self, address: &str) -> Scheduler {
        self.network.0.lock().unwrap()[address].clone()
    }

    pub(crate) async fn owns_shards(&self, address: &str) {
        let member = self.member(address);
        let claimed = async {
            // The catalogue may reach it a moment later than the front.
            while member.pipeline(&self.path).await.is_err() || member.ready().is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(SOON, claimed).await.unwrap();
    }

    /// Runs what each member has to give.
    pub(crate) async fn work(&self, n: usize) {
        let mut n_done = 0;
        while n_done < n {
            for address in ["even", "odd"] {
                let member = self.member(address);
                let poll = Poll {
                    wait: Duration::from_millis(50),
                    ..Poll::new("worker".try_into().unwrap(), 256)
                };
                for task in member.lease(&self.path, poll).await.unwrap().tasks {
                    let outcome = Outcome::Completed {
                        result: task.data.clone(),
                    };
                    let report = Report {
                        id: task.id,
                        token: task.token,
                        outcome,
                    };
                    member.report(&self.path.tenant, report).await.unwrap();
                    n_done += 1;
                }
            }
        }
    }

    /// The member leaves.
    pub(crate) fn take(&self, address: &str) -> Scheduler {
        self.network.0.lock().unwrap().remove(address).unwrap()
    }

    /// A second front.
    pub(crate) async fn other_front(&self, config: Config) -> Scheduler {
        let ports = FrontPorts::from(&self.ports);
        let peers = Arc::new(self.network.clone());
        Scheduler::front(config, ports, peers).await.unwrap()
    }
}
