//! Workers that are connected to one process and are served by all members, on a clock that the test moves.
#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use scheduler_core::{
    Beat, CancelProgress, CancelRequest, Config, Error, FrontPorts, Heartbeat, Held,
    IdempotencyKey, LeaseLost, Leased, LeasedTask, Outcome, Partition, PipelineNumber,
    PipelinePath, PipelineSpec, Poll, Ports, Report, Scheduler, ShardId, Slot, StateName, Submit,
    TaskId, TaskOptions, Timestamp,
    action::{Counts, Seen},
    member::{AllNews, InMemory, Sought},
    memory::{self, ManualClock},
    owner::{Owner, Peers},
    port::{Clock, Placement, PortError, log::NewTask, placement::PlacementEvent},
    survey::{Ask, MemberState, Survey},
};
use tokio::{sync::mpsc, task::JoinHandle};

/// How far the clock goes at once.
const STEP: Duration = Duration::from_millis(5);
const N_PARTITIONS: u16 = 16;

/// Does what the test says.
#[derive(Debug)]
struct Told(tokio::sync::Mutex<mpsc::UnboundedReceiver<PlacementEvent>>);

#[async_trait]
impl Placement for Told {
    async fn next(&self) -> Result<PlacementEvent, PortError> {
        match self.0.lock().await.recv().await {
            Some(event) => Ok(event),
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

/// A member as others reach it, and how often they did.
#[derive(Debug)]
struct Counted {
    member: Arc<dyn Owner>,
    traffic: Arc<Traffic>,
}

#[derive(Debug, Default)]
struct Traffic {
    n_leases: AtomicUsize,
    n_questions: AtomicUsize,
    n_open: AtomicUsize,
}

/// Counts a question for as long as it is open.
struct Open<'a>(&'a Traffic);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.n_open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[async_trait]
impl Owner for Counted {
    async fn submit(
        &self,
        shard: ShardId,
        key: IdempotencyKey,
        task: NewTask,
    ) -> Result<(TaskId, bool), Error> {
        self.member.submit(shard, key, task).await
    }

    async fn cancel(&self, id: TaskId) -> Result<(), Error> {
        self.member.cancel(id).await
    }

    async fn cancel_many(
        &self,
        shard: ShardId,
        request: CancelRequest,
    ) -> Result<CancelProgress, Error> {
        self.member.cancel_many(shard, request).await
    }

    async fn redrive(&self, id: TaskId) -> Result<(), Error> {
        self.member.redrive(id).await
    }

    async fn see(&self, ids: Vec<TaskId>) -> Result<Vec<Seen>, Error> {
        self.member.see(ids).await
    }

    async fn count(&self, shards: Vec<ShardId>, listed: Option<InMemory>) -> Result<Counts, Error> {
        self.member.count(shards, listed).await
    }

    async fn lease(&self, pipeline: PipelineNumber, poll: Poll) -> Result<Leased, Error> {
        self.traffic.n_leases.fetch_add(1, Ordering::Relaxed);
        self.member.lease(pipeline, poll).await
    }

    async fn report(&self, reports: Vec<(Held, Outcome)>) -> Vec<Result<(), Error>> {
        self.member.report(reports).await
    }

    async fn renew(&self, beats: Vec<Beat>) -> Vec<Result<Duration, Error>> {
        self.member.renew(beats).await
    }

    async fn await_ready(&self, sought: Vec<Sought>, wait: Duration) -> Result<AllNews, Error> {
        self.traffic.n_questions.fetch_add(1, Ordering::Relaxed);
        self.traffic.n_open.fetch_add(1, Ordering::Relaxed);
        let _open = Open(&self.traffic);
        self.member.await_ready(sought, wait).await
    }

    async fn await_end(&self, id: TaskId, wait: Duration) -> Result<(), Error> {
        self.member.await_end(id, wait).await
    }

    async fn await_change(&self, id: TaskId, known: u64, wait: Duration) -> Result<(), Error> {
        self.member.await_change(id, known, wait).await
    }

    async fn survey(&self, ask: Ask) -> Result<Survey, Error> {
        self.member.survey(ask).await
    }

    async fn describe(&self) -> Result<MemberState, Error> {
        self.member.describe().await
    }
}

/// Members by address, as a network would reach them.
#[derive(Debug, Default, Clone)]
struct Network {
    members: Arc<Mutex<BTreeMap<String, Scheduler>>>,
    traffic: Arc<Traffic>,
}

impl Peers for Network {
    fn at(&self, address: &str) -> Result<Arc<dyn Owner>, Error> {
        let members = self.members.lock().unwrap();
        let member = members.get(address).and_then(Scheduler::member);
        let member = member.ok_or_else(Error::moved)?;
        let traffic = Arc::clone(&self.traffic);
        Ok(Arc::new(Counted { member, traffic }))
    }
}

struct Cluster {
    clock: ManualClock,
    ports: Ports,
    network: Network,
    placements: BTreeMap<&'static str, mpsc::UnboundedSender<PlacementEvent>>,
    path: PipelinePath,
    shards: Vec<ShardId>,
    n_groups: AtomicUsize,
}

/// The slots of which the number modulo two is this.
fn half(of: usize) -> Vec<Slot> {
    (0..=255).skip(of).step_by(2).map(Slot).collect()
}

impl Cluster {
    /// Members "a" and "b" with half of the slots each, and "c" with none.
    async fn start() -> Self {
        let clock = ManualClock::at(Timestamp::from_millis(1_700_000_000_000));
        let ports = memory::ports_on(Arc::new(clock.clone()));
        let mut cluster = Self {
            clock,
            ports,
            network: Network::default(),
            placements: BTreeMap::new(),
            path: scheduler_core::path("tenant", "app", "mail").unwrap(),
            shards: Vec::new(),
            n_groups: AtomicUsize::new(0),
        };
        cluster.join("a", half(0)).await;
        cluster.join("b", half(1)).await;
        cluster.join("c", Vec::new()).await;
        let spec = PipelineSpec {
            steps: [].into(),
            n_partitions: N_PARTITIONS,
            ..PipelineSpec::default()
        };
        let member = cluster.member("a");
        let created = member.create_pipeline(&cluster.path, spec).await.unwrap();
        let shard = |partition| ShardId {
            pipeline: created.number,
            partition: Partition(partition),
        };
        cluster.shards = (0..N_PARTITIONS).map(shard).collect();
        for address in ["a", "b"] {
            cluster.has_shards(address).await;
        }
        cluster
    }

    async fn join(&mut self, address: &'static str, slots: Vec<Slot>) {
        let (placement, told) = mpsc::unbounded_channel();
        placement.send(PlacementEvent::Assigned(slots)).unwrap();
        let ports = Ports {
            placement: Arc::new(Told(tokio::sync::Mutex::new(told))),
            ..self.ports.clone()
        };
        let config = Config {
            address: address.to_owned(),
            ..Config::default()
        };
        let peers = Arc::new(self.network.clone());
        let member = Scheduler::join(config, ports, peers).await.unwrap();
        self.placements.insert(address, placement);
        let mut members = self.network.members.lock().unwrap();
        members.insert(address.to_owned(), member);
    }

    async fn front(&self) -> Scheduler {
        let ports = FrontPorts::from(&self.ports);
        let peers = Arc::new(self.network.clone());
        Scheduler::front(Config::default(), ports, peers)
            .await
            .unwrap()
    }

    fn member(&self, address: &str) -> Scheduler {
        self.network.members.lock().unwrap()[address].clone()
    }

    /// Lets everything happen that can happen now, then moves the clock by a step.
    async fn step(&self) {
        for _ in 0..64 {
            tokio::task::yield_now().await;
        }
        self.clock.move_to(self.clock.now() + STEP);
    }

    async fn pass(&self, time: Duration) {
        let until = self.clock.now() + time;
        while self.clock.now() < until {
            self.step().await;
        }
    }

    /// Moves the clock until it is done; how long it took.
    async fn until<T>(&self, done: JoinHandle<T>) -> (T, Duration) {
        let start = self.clock.now();
        while !done.is_finished() {
            self.step().await;
            let passed = self.clock.now().since(start);
            assert!(passed < Duration::from_secs(60), "it does not come");
        }
        (done.await.unwrap(), self.clock.now().since(start))
    }

    async fn has_shards(&self, address: &str) {
        let member = self.member(address);
        while member.pipeline(&self.path).await.is_err() || member.ready().is_err() {
            self.step().await;
        }
    }

    /// Moves slots from one member to another, in good order.
    async fn hand_over(&self, from: &str, to: &str, slots: Vec<Slot>) {
        let revoking = PlacementEvent::Revoking(slots.clone());
        self.placements[from].send(revoking).unwrap();
        self.pass(Duration::from_millis(100)).await;
        let assigned = PlacementEvent::Assigned(slots);
        self.placements[to].send(assigned).unwrap();
        self.has_shards(to).await;
    }

    /// Submits a task to a shard of this half.
    async fn submit_to(&self, of: usize, options: TaskOptions) -> TaskId {
        let slots = half(of);
        loop {
            // A group decides on the partition, and these have no limits.
            let group = format!("g{}", self.n_groups.fetch_add(1, Ordering::Relaxed));
            let partition = Partition::of_key(group.as_bytes(), N_PARTITIONS);
            let shard = self.shards[usize::from(partition.0)];
            if slots.contains(&shard.slot()) {
                let mut submit = Submit::new("{}");
                submit.options = options.clone();
                submit.options.group = Some(group.as_str().try_into().unwrap());
                let member = self.member("a");
                return member.submit(&self.path, submit).await.unwrap().id;
            }
        }
    }

    fn lease(&self, at: &Scheduler, poll: Poll) -> JoinHandle<Leased> {
        let (at, path) = (at.clone(), self.path.clone());
        tokio::spawn(async move { at.lease(&path, poll).await.unwrap() })
    }

    fn report(&self, at: &Scheduler, task: &LeasedTask) -> JoinHandle<Result<(), Error>> {
        let report = Report {
            id: task.id,
            token: task.token,
            outcome: Outcome::Completed { result: "1".into() },
        };
        let (at, tenant) = (at.clone(), self.path.tenant.clone());
        tokio::spawn(async move { at.report(&tenant, report).await })
    }

    fn beat(&self, at: &Scheduler, held: Held) -> JoinHandle<Vec<Result<Duration, Error>>> {
        let beat = Heartbeat {
            id: held.id,
            token: held.token,
            from_handler: true,
            progress: None,
        };
        let (at, tenant) = (at.clone(), self.path.tenant.clone());
        tokio::spawn(async move { at.heartbeat(&tenant, vec![beat]).await })
    }

    async fn state(&self, id: TaskId) -> StateName {
        let task = self.member("a").get(&self.path.tenant, id).await;
        task.unwrap().state
    }

    fn n_questions(&self) -> usize {
        self.network.traffic.n_questions.load(Ordering::Relaxed)
    }

    fn n_leases(&self) -> usize {
        self.network.traffic.n_leases.load(Ordering::Relaxed)
    }
}

fn poll(credit: usize) -> Poll {
    Poll::new("worker".try_into().unwrap(), credit)
}

fn held(task: &LeasedTask) -> Held {
    Held {
        id: task.id,
        token: task.token,
    }
}

#[tokio::test]
async fn an_idle_worker_gets_tasks_of_another_member_at_once() {
    let cluster = Cluster::start().await;
    let a = cluster.member("a");
    for at in [a.clone(), cluster.front().await] {
        let leased = cluster.lease(&at, poll(2));
        cluster.pass(Duration::from_secs(3)).await;
        assert!(!leased.is_finished());
        let id = cluster.submit_to(1, TaskOptions::default()).await;
        let (leased, took) = cluster.until(leased).await;
        assert_eq!(leased.tasks[0].id, id);
        assert!(took < Duration::from_millis(100), "{took:?}");
        let token = held(&leased.tasks[0]);
        let (renewed, _) = cluster.until(cluster.beat(&at, token)).await;
        assert!(renewed[0].is_ok(), "{renewed:?}");
        let reported = cluster.report(&at, &leased.tasks[0]);
        assert_eq!(cluster.until(reported).await.0, Ok(()));
        assert_eq!(cluster.state(id).await, StateName::Completed);
    }
}

#[tokio::test]
async fn a_worker_gets_no_more_than_its_credit_and_all_shards_in_turn() {
    let cluster = Cluster::start().await;
    let a = cluster.member("a");
    let mut left = BTreeSet::new();
    for _ in 0..96 {
        let submitted = a.submit(&cluster.path, Submit::new("{}")).await.unwrap();
        left.insert(submitted.id);
    }
    cluster.pass(Duration::from_secs(1)).await;
    let mut halves = [0_usize, 0];
    while !left.is_empty() {
        let (leased, took) = cluster.until(cluster.lease(&a, poll(3))).await;
        assert!((1..=3).contains(&leased.tasks.len()), "{leased:?}");
        assert!(took < Duration::from_secs(1), "{took:?}");
        for task in &leased.tasks {
            assert!(left.remove(&task.id), "no task is leased twice");
            halves[usize::from(task.id.shard.slot().0 % 2)] += 1;
            let first = left.len() > 48;
            if first {
                // While both have enough, none is served before the other is through.
                assert!(halves[0].abs_diff(halves[1]) < 40, "{halves:?}");
            }
            let reported = cluster.report(&a, task);
            assert_eq!(cluster.until(reported).await.0, Ok(()));
        }
    }
}

#[tokio::test]
async fn many_idle_workers_are_few_questions_and_share_what_comes() {
    let cluster = Cluster::start().await;
    let a = cluster.member("a");
    // The first poll finds out who owns what.
    cluster.until(cluster.lease(&a, short(1))).await;
    let workers: Vec<_> = (0..200).map(|_| cluster.lease(&a, poll(1))).collect();
    cluster.pass(Duration::from_secs(15)).await;
    let n_asked = cluster.n_questions();
    assert!(n_asked <= 4, "{n_asked} questions");
    let n_open = cluster.network.traffic.n_open.load(Ordering::Relaxed);
    assert!(n_open <= 2, "{n_open} open");
    let before = cluster.n_leases();
    let mut ids = BTreeSet::new();
    for _ in 0..100 {
        ids.insert(cluster.submit_to(1, TaskOptions::default()).await);
    }
    cluster.pass(Duration::from_millis(995)).await;
    for worker in workers {
        if worker.is_finished() {
            let leased = worker.await.unwrap();
            assert_eq!(leased.tasks.len(), 1);
            assert!(ids.remove(&leased.tasks[0].id), "no task is leased twice");
        }
    }
    assert_eq!(ids, BTreeSet::new());
    let n_leases = cluster.n_leases() - before;
    assert!(n_leases <= 250, "{n_leases} looks for 100 tasks");
}

/// A poll that waits only a moment.
fn short(credit: usize) -> Poll {
    Poll {
        wait: Duration::from_millis(50),
        ..poll(credit)
    }
}

#[tokio::test]
async fn a_burst_at_another_member_starts_within_a_second_on_all_idle_workers() {
    let cluster = Cluster::start().await;
    let a = cluster.member("a");
    let workers: Vec<_> = (0..300).map(|_| cluster.lease(&a, poll(1))).collect();
    cluster.pass(Duration::from_secs(2)).await;
    let mut ids = BTreeSet::new();
    for _ in 0..300 {
        let submitted = a.submit(&cluster.path, Submit::new("{}")).await.unwrap();
        ids.insert(submitted.id);
    }
    cluster.pass(Duration::from_millis(995)).await;
    for worker in workers {
        assert!(worker.is_finished(), "a worker is idle");
        let leased = worker.await.unwrap();
        assert_eq!(leased.tasks.len(), 1);
        assert!(ids.remove(&leased.tasks[0].id), "no task is leased twice");
    }
}

#[tokio::test]
async fn labels_are_respected_and_looking_in_vain_is_no_hot_loop() {
    let cluster = Cluster::start().await;
    let a = cluster.member("a");
    let gpu = TaskOptions {
        labels: Some(["gpu".try_into().unwrap()].into()),
        ..TaskOptions::default()
    };
    let plain = cluster.lease(&a, poll(1));
    let able = Poll {
        labels: ["gpu".try_into().unwrap()].into(),
        ..poll(1)
    };
    let id = cluster.submit_to(1, gpu).await;
    cluster.pass(Duration::from_secs(10)).await;
    assert!(!plain.is_finished());
    let n_asked = cluster.n_questions();
    assert!(n_asked <= 4, "{n_asked} questions in 10 s");
    let (leased, took) = cluster.until(cluster.lease(&a, able)).await;
    assert_eq!(leased.tasks[0].id, id);
    assert!(took < Duration::from_millis(100), "{took:?}");
}

#[tokio::test]
async fn a_lost_lease_of_another_member_is_told_at_once() {
    let cluster = Cluster::start().await;
    let a = cluster.member("a");
    for credit in [0, 4] {
        let leased = cluster.lease(&a, poll(1));
        let id = cluster.submit_to(1, TaskOptions::default()).await;
        let (leased, _) = cluster.until(leased).await;
        let held = held(&leased.tasks[0]);
        let listening = Poll {
            held: vec![held],
            ..poll(credit)
        };
        let listening = cluster.lease(&a, listening);
        cluster.pass(Duration::from_secs(1)).await;
        assert!(!listening.is_finished());
        let (member, tenant) = (cluster.member("c"), cluster.path.tenant.clone());
        let cancelled = tokio::spawn(async move { member.cancel(&tenant, id).await });
        let (told, took) = cluster.until(listening).await;
        let lost = vec![(held, LeaseLost::Cancelled)];
        assert_eq!((told.tasks, told.lost), (vec![], lost));
        assert!(took < Duration::from_millis(100), "{took:?}");
        assert!(cluster.until(cancelled).await.0.is_ok());
    }
}

#[tokio::test]
async fn a_lease_outlives_the_move_of_its_shard_to_a_third_member() {
    let cluster = Cluster::start().await;
    let a = cluster.member("a");
    let leased = cluster.lease(&a, poll(1));
    let id = cluster.submit_to(1, TaskOptions::default()).await;
    let (leased, _) = cluster.until(leased).await;
    let task = &leased.tasks[0];
    // Another one waits for more all the time.
    let idle = cluster.lease(&a, poll(1));
    cluster.pass(Duration::from_secs(1)).await;
    cluster.hand_over("b", "c", half(1)).await;
    let (renewed, _) = cluster.until(cluster.beat(&a, held(task))).await;
    assert!(renewed[0].is_ok(), "{renewed:?}");
    cluster.pass(Duration::from_secs(5)).await;
    assert!(!idle.is_finished(), "no second run");
    let reported = cluster.report(&a, task);
    assert_eq!(cluster.until(reported).await.0, Ok(()));
    assert_eq!(cluster.state(id).await, StateName::Completed);
    // The worker that waited since before the move is served by the new owner.
    let next = cluster.submit_to(1, TaskOptions::default()).await;
    let (leased, took) = cluster.until(idle).await;
    assert_eq!(leased.tasks[0].id, next);
    assert!(took < Duration::from_millis(500), "{took:?}");
}

#[tokio::test]
async fn shards_that_move_away_from_the_workers_member_are_found_again() {
    let cluster = Cluster::start().await;
    let a = cluster.member("a");
    let idle = cluster.lease(&a, poll(1));
    cluster.pass(Duration::from_secs(1)).await;
    cluster.hand_over("a", "c", half(0)).await;
    cluster.pass(Duration::from_millis(600)).await;
    let id = cluster.submit_to(0, TaskOptions::default()).await;
    let (leased, took) = cluster.until(idle).await;
    assert_eq!(leased.tasks[0].id, id);
    assert!(took < Duration::from_millis(500), "{took:?}");
}

#[tokio::test]
async fn a_member_that_is_gone_holds_nobody_up() {
    let cluster = Cluster::start().await;
    let a = cluster.member("a");
    let idle = cluster.lease(&a, poll(1));
    cluster.pass(Duration::from_secs(1)).await;
    cluster.network.members.lock().unwrap().remove("b");
    cluster.pass(Duration::from_secs(3)).await;
    let id = cluster.submit_to(0, TaskOptions::default()).await;
    let (leased, took) = cluster.until(idle).await;
    assert_eq!(leased.tasks[0].id, id);
    assert!(took < Duration::from_millis(100), "{took:?}");
    // Its shards come back with another member.
    let idle = cluster.lease(&a, poll(1));
    cluster.placements["c"]
        .send(PlacementEvent::Assigned(half(1)))
        .unwrap();
    cluster.has_shards("c").await;
    cluster.pass(Duration::from_secs(1)).await;
    let id = cluster.submit_to(1, TaskOptions::default()).await;
    let (leased, took) = cluster.until(idle).await;
    assert_eq!(leased.tasks[0].id, id);
    assert!(took < Duration::from_secs(1), "{took:?}");
}
