//! The whole way on real Kafka and TiDB, beside what those two do alone, all in one run.
//!
//! `cargo run --release -p bench --bin engines [N]` starts both, prints a table and stops them;
//! `bench/README.md` explains it and keeps the figures.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints its figures, and fails by a panic"
)]
#![expect(clippy::cast_precision_loss, reason = "rates need no last digit")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use rdkafka::{
    ClientConfig, Offset as KafkaOffset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseRecord, Producer as _, ThreadedProducer},
};
use scheduler_core::{
    Config, Epoch, Outcome, PipelineNumber, PipelinePath, PipelineSpec, Poll, Ports, Report,
    Retention, Scheduler, ShardId, Submit, TaskOptions,
    driver::SystemClock,
    port::{
        PortError, TaskStore,
        store::{
            Claim, Claimed, DuePage, DueTasks, Flushed, Found, KeyedPage, KeyedTasks, ListPage,
            Lookup, ShardFlush, StoredTask,
        },
    },
};
use scheduler_grpc::{
    client::{Client, MemberClients, connect},
    server::{Access, Limits, Services},
};
use sqlx::{Connection as _, Executor as _, MySqlConnection};
use test_servers::{Kafka, Tidb};
use tokio::net::TcpListener;

const N: usize = 200_000;
const N_PARTITIONS: u16 = 8;
const N_SUBMITTERS: usize = 4;
const N_WORKERS: usize = 4;
const SUBMIT_BATCH: usize = 500;
/// Batches that one submitter has on their way.
const N_BATCHES: usize = 8;
const CREDIT: usize = 256;
const LONG: Duration = Duration::from_secs(60);

fn payload() -> String {
    format!(r#"{{"url":"{}"}}"#, "x".repeat(190))
}

#[tokio::main]
async fn main() {
    let n = std::env::args().nth(1).map_or(N, |n| n.parse().unwrap());
    println!("starting Kafka and TiDB");
    let (kafka, tidb) = (Kafka::start().unwrap(), Tidb::start().unwrap());
    println!(
        "{n} tasks of {} bytes, {N_PARTITIONS} partitions",
        payload().len()
    );
    let servers = kafka.bootstrap_servers().to_owned();
    let log_floor = tokio::task::spawn_blocking(move || kafka_alone(&servers, n));
    let log_floor = log_floor.await.unwrap();
    println!("Kafka alone, produce and consume   {log_floor:>9.0} records/s");
    let row_floor = tidb_alone(tidb.url(), n).await;
    println!("TiDB alone, upserts of 1,000 rows  {row_floor:>9.0} rows/s");
    for (name, retention) in [
        ("results not kept", Retention::None),
        ("results kept", Retention::For(Duration::from_secs(86_400))),
    ] {
        let run = whole(&kafka, &tidb, n, retention).await;
        println!(
            "the whole way, {name:<18} {:>9.0} tasks/s  {:.2} of Kafka alone  {:.2} of TiDB alone  {:.2} rows written a task",
            run.rate,
            run.rate / log_floor,
            run.rate / row_floor,
            run.rows_per_task,
        );
        for (what, waits) in &run.waits {
            println!("    {}", waits.summary(what));
        }
    }
}

/// Produces `n` records with the settings that a log needs, and consumes them meanwhile.
fn kafka_alone(servers: &str, n: usize) -> f64 {
    let topic = "floor";
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", servers)
        .create()
        .unwrap();
    let new = NewTopic::new(topic, N_PARTITIONS.into(), TopicReplication::Fixed(1));
    let made = admin.create_topics([&new], &AdminOptions::new().operation_timeout(Some(LONG)));
    let runtime = tokio::runtime::Handle::current();
    runtime.block_on(made).unwrap()[0].as_ref().unwrap();
    let producer: ThreadedProducer<_> = ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("linger.ms", "2")
        .create()
        .unwrap();
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("group.id", "floor")
        .set("enable.auto.commit", "false")
        .create()
        .unwrap();
    let mut all = TopicPartitionList::new();
    for partition in 0..N_PARTITIONS {
        all.add_partition_offset(topic, partition.into(), KafkaOffset::Beginning)
            .unwrap();
    }
    consumer.assign(&all).unwrap();
    let start = Instant::now();
    let producing = std::thread::spawn(move || {
        let payload = payload();
        for i in 0..n {
            let partition = i32::try_from(i % usize::from(N_PARTITIONS)).unwrap();
            let mut record = BaseRecord::<(), str>::to(topic)
                .partition(partition)
                .payload(&payload);
            while let Err((err, back)) = producer.send(record) {
                let full = KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull);
                assert_eq!(err, full);
                std::thread::sleep(Duration::from_millis(1));
                record = back;
            }
        }
        producer.flush(LONG).unwrap();
    });
    let mut n_read = 0;
    while n_read < n {
        let record = consumer.poll(LONG).unwrap().unwrap();
        drop(record);
        n_read += 1;
    }
    producing.join().unwrap();
    n as f64 / start.elapsed().as_secs_f64()
}

/// Upserts `n` rows of about what a task with its result takes, over as many connections as a member has lanes.
async fn tidb_alone(url: &str, n: usize) -> f64 {
    let mut db = MySqlConnection::connect(url).await.unwrap();
    db.execute("CREATE DATABASE floor").await.unwrap();
    let table = "CREATE TABLE floor.row (shard BIGINT, position BIGINT, state VARCHAR(16), body VARBINARY(1024), PRIMARY KEY (shard, position) CLUSTERED)";
    db.execute(table).await.unwrap();
    let n_lanes = usize::from(Config::default().n_lanes).max(4);
    let start = Instant::now();
    let lanes = (0..n_lanes).map(|lane| {
        let url = url.to_owned();
        tokio::spawn(async move {
            let mut db = MySqlConnection::connect(&url).await.unwrap();
            let body = payload();
            for first in (0..n / n_lanes).step_by(1_000) {
                let rows: Vec<_> = (first..first + 1_000)
                    .map(|position| format!("({lane},{position},'completed','{body}')"))
                    .collect();
                let sql = format!("REPLACE INTO floor.row VALUES {}", rows.join(","));
                db.execute(sqlx::AssertSqlSafe(sql)).await.unwrap();
            }
        })
    });
    for lane in lanes.collect::<Vec<_>>() {
        lane.await.unwrap();
    }
    n as f64 / start.elapsed().as_secs_f64()
}

struct Run {
    rate: f64,
    rows_per_task: f64,
    waits: Vec<(&'static str, Waits)>,
}

/// How long calls of one kind took, and how many tasks each was for.
#[derive(Debug, Default, Clone)]
struct Waits(Arc<Mutex<Vec<(Duration, usize)>>>);

impl Waits {
    fn note(&self, since: Instant, n_tasks: usize) {
        self.0.lock().unwrap().push((since.elapsed(), n_tasks));
    }

    fn summary(&self, what: &str) -> String {
        let mut waits = self.0.lock().unwrap();
        waits.sort_unstable();
        let n_tasks: usize = waits.iter().map(|(_, n)| n).sum();
        let at = |percent: usize| {
            let place = waits.len() * percent / 100;
            waits
                .get(place)
                .map_or(0.0, |(wait, _)| wait.as_secs_f64() * 1e3)
        };
        format!(
            "{what:<16} {:>7} calls of {:>5.0} tasks  p50 {:>6.1} ms  p99 {:>6.1} ms",
            waits.len(),
            n_tasks as f64 / waits.len().max(1) as f64,
            at(50),
            at(99),
        )
    }
}

/// Submits over gRPC, through Kafka, leases and reports over gRPC, until every report is durable.
async fn whole(kafka: &Kafka, tidb: &Tidb, n: usize, retention: Retention) -> Run {
    let name = format!("b{:x}", std::process::id())
        + if retention == Retention::None {
            "n"
        } else {
            "k"
        };
    let mut db = MySqlConnection::connect(tidb.url()).await.unwrap();
    let create = format!("CREATE DATABASE {name}");
    db.execute(sqlx::AssertSqlSafe(create)).await.unwrap();
    let log_config = scheduler_kafka::Config {
        topic_prefix: name.clone(),
        group: format!("{name}-members"),
        slots_topic: format!("{name}-slots"),
        progress_group: format!("{name}-progress"),
        ..scheduler_kafka::Config::new(kafka.bootstrap_servers())
    };
    let log = scheduler_kafka::Kafka::open(log_config).unwrap();
    let url = format!("{}/{name}", tidb.url());
    let store = scheduler_tidb::Tidb::open(scheduler_tidb::Config::new(url)).await;
    let store = store.unwrap();
    let counting = Arc::new(Counting {
        store: store.store(),
        n_rows: AtomicUsize::new(0),
        flushes: Waits::default(),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let config = Config {
        address: address.clone(),
        flush_linger: Duration::from_millis(5),
        n_lanes: 4,
        ..Config::default()
    };
    let ports = Ports {
        log: log.log(),
        store: Arc::clone(&counting) as Arc<dyn TaskStore>,
        catalog: store.catalog(),
        placement: log.placement(),
        clock: Arc::new(SystemClock::new()),
    };
    let scheduler = Scheduler::join(config, ports, Arc::new(MemberClients::new()))
        .await
        .unwrap();
    let path = scheduler_core::path("default", "bench", "whole").unwrap();
    let spec = PipelineSpec {
        steps: [].into(),
        defaults: TaskOptions {
            retention: Some(retention),
            ..TaskOptions::default()
        },
        n_partitions: N_PARTITIONS,
        ..PipelineSpec::default()
    };
    scheduler.create_pipeline(&path, spec).await.unwrap();
    while scheduler.ready().is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let services = Services::new(scheduler.clone(), Access::Open, Limits::default()).unwrap();
    let serving = tokio::spawn(services.serve(listener, std::future::pending()));
    let n_done = Arc::new(AtomicUsize::new(0));
    let start = Instant::now();
    let client = || Client::new(connect(&address).unwrap(), path.tenant.clone());
    let [submits, polls, reports] = [(); 3].map(|()| Waits::default());
    let submitting: Vec<_> = (0..N_SUBMITTERS)
        .map(|_| {
            let n = n / N_SUBMITTERS;
            tokio::spawn(submit(client(), path.clone(), n, submits.clone()))
        })
        .collect();
    let working: Vec<_> = (0..N_WORKERS)
        .map(|i| {
            let (n_done, waits) = (Arc::clone(&n_done), [polls.clone(), reports.clone()]);
            tokio::spawn(work(client(), path.clone(), i, n, n_done, waits))
        })
        .collect();
    for task in submitting.into_iter().chain(working) {
        task.await.unwrap();
    }
    let rate = n as f64 / start.elapsed().as_secs_f64();
    serving.abort();
    scheduler.shutdown().await;
    let n_rows = counting.n_rows.load(Ordering::Relaxed);
    Run {
        rate,
        rows_per_task: n_rows as f64 / n as f64,
        waits: vec![
            ("submit, batch", submits),
            ("poll", polls),
            ("report, batch", reports),
            ("flush in TiDB", counting.flushes.clone()),
        ],
    }
}

/// Submits with a few batches on their way at a time, as a producer does.
async fn submit(client: Client, path: PipelinePath, n: usize, waits: Waits) {
    let task = Submit::new(payload());
    let mut submitting = tokio::task::JoinSet::new();
    for first in (0..n).step_by(SUBMIT_BATCH) {
        let batch = vec![task.clone(); SUBMIT_BATCH.min(n - first)];
        let (client, path, waits) = (client.clone(), path.clone(), waits.clone());
        submitting.spawn(async move {
            let start = Instant::now();
            let answers = client.submit_batch(&path, batch).await.unwrap();
            waits.note(start, answers.len());
            assert!(answers.iter().all(Result::is_ok));
        });
        while submitting.len() >= N_BATCHES {
            submitting.join_next().await.unwrap().unwrap();
        }
    }
    while let Some(submitted) = submitting.join_next().await {
        submitted.unwrap();
    }
}

/// Polls and reports side by side, so that a report that waits for its flush holds up no poll.
async fn work(
    client: Client,
    path: PipelinePath,
    i: usize,
    n: usize,
    n_done: Arc<AtomicUsize>,
    [polls, reported]: [Waits; 2],
) {
    let mut reporting = tokio::task::JoinSet::new();
    while n_done.load(Ordering::Relaxed) < n {
        let poll = Poll {
            wait: Duration::from_millis(500),
            ..Poll::new(format!("worker-{i}").as_str().try_into().unwrap(), CREDIT)
        };
        let start = Instant::now();
        let leased = client.lease(&path, poll).await.unwrap();
        polls.note(start, leased.tasks.len());
        let reports: Vec<_> = leased
            .tasks
            .into_iter()
            .map(|task| Report {
                id: task.id,
                token: task.token,
                outcome: Outcome::Completed {
                    result: r#"{"done":true}"#.into(),
                },
            })
            .collect();
        if reports.is_empty() {
            continue;
        }
        let (client, n_done) = (client.clone(), Arc::clone(&n_done));
        let reported = reported.clone();
        reporting.spawn(async move {
            let start = Instant::now();
            let answers = client.report_batch(reports).await.unwrap();
            reported.note(start, answers.len());
            assert!(answers.iter().all(Result::is_ok));
            n_done.fetch_add(answers.len(), Ordering::Relaxed);
        });
        while reporting.len() >= 16 {
            reporting.join_next().await.unwrap().unwrap();
        }
    }
    reporting.join_all().await;
}

/// Counts the rows that flushes write: tasks, chunks of done offsets, keys, and one of each shard.
#[derive(Debug)]
struct Counting {
    store: Arc<dyn TaskStore>,
    n_rows: AtomicUsize,
    flushes: Waits,
}

#[async_trait]
impl TaskStore for Counting {
    async fn claim(&self, claims: &[Claim]) -> Result<Vec<Claimed>, PortError> {
        self.store.claim(claims).await
    }

    async fn flush(&self, parts: &[ShardFlush]) -> Result<Vec<Flushed>, PortError> {
        let rows = |part: &ShardFlush| 1 + part.tasks.len() + part.done.len() + part.keys.len();
        let n_rows = parts.iter().map(rows).sum();
        self.n_rows.fetch_add(n_rows, Ordering::Relaxed);
        let start = Instant::now();
        let flushed = self.store.flush(parts).await;
        self.flushes.note(start, n_rows);
        flushed
    }

    async fn release(&self, shards: &[(ShardId, Epoch)]) -> Result<(), PortError> {
        self.store.release(shards).await
    }

    async fn due(&self, pages: &[DuePage]) -> Result<Vec<DueTasks>, PortError> {
        self.store.due(pages).await
    }

    async fn keyed(&self, pages: &[KeyedPage]) -> Result<Vec<KeyedTasks>, PortError> {
        self.store.keyed(pages).await
    }

    async fn get(&self, lookups: &[Lookup]) -> Result<Vec<Option<Found>>, PortError> {
        self.store.get(lookups).await
    }

    async fn list(&self, pages: &[ListPage]) -> Result<Vec<Vec<StoredTask>>, PortError> {
        self.store.list(pages).await
    }

    async fn owners(&self, shards: &[ShardId]) -> Result<Vec<Option<Arc<str>>>, PortError> {
        self.store.owners(shards).await
    }

    async fn forget(&self, pipeline: PipelineNumber) -> Result<(), PortError> {
        self.store.forget(pipeline).await
    }
}
