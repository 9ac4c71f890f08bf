//! Calls find the owners of shards: two members with half of the slots each, and fronts with none.
#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use scheduler_core::{
    Config, Error, FrontPorts, ListTasks, Outcome, PipelinePath, PipelineSpec, Poll, Ports, Report,
    Scheduler, Slot, StateName, Submit, TaskOptions, memory,
    owner::{Owner, Peers},
    port::{Placement, PortError, placement::PlacementEvent},
};

const SOON: Duration = Duration::from_secs(10);

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

    async fn leave(&self) -> Result<(), PortError> {
        Ok(())
    }

    async fn rejoin(&self) -> Result<(), PortError> {
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

struct Cluster {
    ports: Ports,
    network: Network,
    front: Scheduler,
    path: PipelinePath,
}

impl Cluster {
    async fn start() -> Self {
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
    async fn join(&self, address: &str, first: usize) {
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

    fn member(&self, address: &str) -> Scheduler {
        self.network.0.lock().unwrap()[address].clone()
    }

    async fn owns_shards(&self, address: &str) {
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
    async fn work(&self, n: usize) {
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
}

fn with_key(key: &str, data: &'static str) -> Submit {
    let mut submit = Submit::new(data);
    submit.options.idempotency_key = Some(key.try_into().unwrap());
    submit
}

#[tokio::test]
async fn a_front_and_every_member_reach_tasks_of_every_owner() {
    let cluster = Cluster::start().await;
    let (tenant, path) = (&cluster.path.tenant, &cluster.path);
    let mut ids = Vec::new();
    for n in 0..64 {
        let submit = Submit::new(format!(r#"{{"n":{n}}}"#));
        ids.push(cluster.front.submit(path, submit).await.unwrap().id);
    }
    let anyone = [
        cluster.front.clone(),
        cluster.member("even"),
        cluster.member("odd"),
    ];
    for handle in &anyone {
        let read = async {
            for id in &ids {
                // Until the owner has read it, it is in the backlog, which is to see as well.
                let task = handle.get(tenant, *id).await.unwrap();
                assert_eq!(task.state, StateName::Available);
            }
            while handle
                .list(path, ListTasks::default())
                .await
                .unwrap()
                .backlog
                > 0
            {
                tokio::task::yield_now().await;
            }
            let page = handle.list(path, ListTasks::default()).await.unwrap();
            assert_eq!(page.tasks.len(), 64);
        };
        tokio::time::timeout(SOON, read).await.unwrap();
    }
    for (n, handle) in anyone.iter().enumerate() {
        let cancelled = handle.cancel(tenant, ids[n]).await.unwrap();
        assert_eq!(cancelled.state, StateName::Cancelled);
    }
    let waiting = anyone.map(|handle| {
        let (tenant, ids) = (tenant.clone(), ids.clone());
        tokio::spawn(async move {
            for id in ids {
                let task = handle.wait(&tenant, id, SOON).await.unwrap();
                assert!(task.state.is_terminal(), "{:?}", task.state);
            }
        })
    });
    cluster.work(61).await;
    for waiting in waiting {
        waiting.await.unwrap();
    }
}

#[tokio::test]
async fn racing_submits_with_one_key_are_one_task_wherever_they_come_in() {
    let cluster = Cluster::start().await;
    let anyone = [
        cluster.front.clone(),
        cluster.member("even"),
        cluster.member("odd"),
    ];
    for key in ["a", "b", "c", "d"] {
        let racing: Vec<_> = (0..12)
            .map(|n| {
                let (handle, path) = (anyone[n % 3].clone(), cluster.path.clone());
                let submit = with_key(key, "{}");
                tokio::spawn(async move { handle.submit(&path, submit).await.unwrap() })
            })
            .collect();
        let mut submitted = Vec::new();
        for racing in racing {
            submitted.push(racing.await.unwrap());
        }
        let first = submitted.iter().filter(|submitted| !submitted.repeated);
        assert_eq!(first.count(), 1);
        assert!(submitted.iter().all(|other| other.id == submitted[0].id));
        let other = with_key(key, r#"{"other":1}"#);
        let refused = cluster.front.submit(&cluster.path, other).await;
        assert_eq!(refused, Err(Error::KeyReused(key.to_owned())));
    }
}

#[tokio::test]
async fn without_its_owner_a_task_that_ended_is_read_and_others_are_said_to_move() {
    let cluster = Cluster::start().await;
    let (tenant, path) = (&cluster.path.tenant, &cluster.path);
    let ended = cluster
        .front
        .submit(path, with_key("k", "{}"))
        .await
        .unwrap();
    cluster.work(1).await;
    let open = Submit::new("{}");
    let mut open_ids = Vec::new();
    for _ in 0..32 {
        open_ids.push(cluster.front.submit(path, open.clone()).await.unwrap().id);
    }
    for address in ["even", "odd"] {
        let member = take(&cluster, address);
        member.shutdown().await;
    }
    let task = cluster.front.get(tenant, ended.id).await.unwrap();
    assert_eq!(task.state, StateName::Completed);
    let again = cluster.front.submit(path, with_key("k", "{}")).await;
    assert!(matches!(again, Err(Error::Unavailable { .. })), "{again:?}");
    for id in open_ids {
        let moving = cluster.front.get(tenant, id).await;
        assert_eq!(moving, Err(Error::moved()));
    }
    // A submit without a key needs the log alone; a member that comes back elsewhere has it all.
    let late = cluster.front.submit(path, open).await.unwrap();
    cluster.join("even", 0).await;
    cluster.join("odd", 1).await;
    cluster.owns_shards("even").await;
    cluster.owns_shards("odd").await;
    cluster.work(33).await;
    let task = cluster.front.wait(tenant, late.id, SOON).await.unwrap();
    assert_eq!(task.state, StateName::Completed);
    let again = cluster
        .front
        .submit(path, with_key("k", "{}"))
        .await
        .unwrap();
    assert_eq!((again.id, again.repeated), (ended.id, true));
}

fn take(cluster: &Cluster, address: &str) -> Scheduler {
    cluster.network.0.lock().unwrap().remove(address).unwrap()
}
