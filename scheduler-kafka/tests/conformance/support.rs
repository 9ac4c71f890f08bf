//! A cluster with topics of one test's own.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use rdkafka::{ClientConfig, admin::AdminClient, client::DefaultClientContext};
use scheduler_core::{
    Offset, Partition, Pipeline, PipelineNumber, PipelineSpec, Revision, ShardId, TaskId,
    TaskOptions, Timestamp,
    conformance::Home,
    port::{
        TaskLog,
        log::{Appended, Bounds, Fetch, Fetched, Fetches, NewRecord, NewTask, Record, RecordBody},
    },
};
use scheduler_kafka::{Config, Kafka};

/// Longer than anything takes, so that a test that hangs fails.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// A prefix of topics, and where they are.
#[derive(Clone)]
pub(crate) struct Prefix {
    pub(crate) config: Config,
}

impl Prefix {
    /// Nobody's yet, on these servers.
    pub(crate) fn on(servers: &str) -> Self {
        static N: AtomicU32 = AtomicU32::new(0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let (run, n) = (now.as_micros(), N.fetch_add(1, Ordering::Relaxed));
        let name = format!("test-{run}-{n}");
        let config = Config {
            topic_prefix: name.clone(),
            progress_group: format!("{name}-progress"),
            group: format!("{name}-members"),
            slots_topic: format!("{name}-slots"),
            fetch_wait: Duration::from_millis(100),
            ..Config::new(servers)
        };
        Self { config }
    }

    /// On the broker that all tests share.
    pub(crate) fn shared() -> Self {
        Self::on(test_servers::kafka().bootstrap_servers())
    }

    pub(crate) fn kafka(&self) -> Kafka {
        Kafka::open(self.config.clone()).unwrap()
    }

    /// The log, with one pipeline.
    pub(crate) async fn log(&self, n_partitions: u16) -> Arc<dyn TaskLog> {
        let log = self.kafka().log();
        ensure(&*log, 1, n_partitions).await;
        log
    }

    /// The topic of that pipeline.
    pub(crate) fn topic(&self) -> String {
        format!("{}.tenant.app.pipeline", self.config.topic_prefix)
    }

    /// A client of Kafka that is not ours.
    pub(crate) fn foreign(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.config.bootstrap_servers);
        config
    }

    pub(crate) fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.foreign().create().unwrap()
    }
}

#[async_trait]
impl Home<dyn TaskLog> for Prefix {
    async fn open(&self) -> Arc<dyn TaskLog> {
        self.kafka().log()
    }
}

/// For the suite.
pub(crate) async fn empty() -> Prefix {
    Prefix::shared()
}

pub(crate) fn pipeline(number: u32, n_partitions: u16) -> Pipeline {
    Pipeline {
        number: PipelineNumber(number),
        path: scheduler_core::path("tenant", "app", "pipeline").unwrap(),
        revision: Revision(1),
        spec: PipelineSpec {
            steps: [].into(),
            defaults: TaskOptions::default(),
            n_partitions,
            ..PipelineSpec::default()
        },
        mode: scheduler_core::Mode::Active,
        created_at: Timestamp::EPOCH,
    }
}

pub(crate) async fn ensure(log: &dyn TaskLog, number: u32, n_partitions: u16) {
    let pipeline = Arc::new(pipeline(number, n_partitions));
    let answers = in_time(log.ensure(&[pipeline])).await;
    assert!(matches!(answers[..], [Ok(())]), "{answers:?}");
}

pub(crate) fn shard(partition: u16) -> ShardId {
    ShardId {
        pipeline: PipelineNumber(1),
        partition: Partition(partition),
    }
}

pub(crate) fn record(data: impl Into<String>) -> NewRecord {
    NewRecord {
        shard: shard(0),
        task: NewTask {
            data: data.into().into(),
            options: None,
            traceparent: None,
        },
    }
}

pub(crate) async fn append(log: &dyn TaskLog, data: &str) -> Appended {
    in_time(log.append(vec![record(data)]))
        .await
        .remove(0)
        .unwrap()
}

pub(crate) async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, future)
        .await
        .expect("it must not take so long")
}

/// The record of the first partition at an offset.
pub(crate) async fn read_one(log: &dyn TaskLog, offset: u64) -> Option<Record> {
    let id = TaskId {
        shard: shard(0),
        offset: Offset(offset),
    };
    let read = in_time(log.read_at(&[id])).await;
    let [answer] = <[_; 1]>::try_from(read).unwrap();
    answer.unwrap()
}

pub(crate) fn wanted(from: u64) -> Fetch {
    Fetch {
        shard: shard(0),
        from: Offset(from),
        n_max: 100_000,
        bytes_max: 64 << 20,
    }
}

pub(crate) async fn fetch(log: &dyn TaskLog, from: u64) -> Fetches {
    in_time(log.fetch(&[wanted(from)], LONG)).await.unwrap()
}

/// Reads the first partition up to its end.
pub(crate) async fn read_to_end(log: &dyn TaskLog, from: u64) -> Vec<Record> {
    let end = bounds(log).await.end;
    let (mut next, mut records) = (Offset(from), Vec::new());
    while next < end {
        let fetches = fetch(log, next.0).await;
        assert_eq!(fetches.lost, []);
        let [fetched]: [Fetched; 1] = fetches.read.try_into().unwrap();
        assert!(fetched.next > next);
        next = fetched.next;
        records.extend(fetched.records);
    }
    assert_eq!(next, end);
    records
}

pub(crate) async fn bounds(log: &dyn TaskLog) -> Bounds {
    in_time(log.bounds(&[shard(0)])).await.remove(0).unwrap()
}

/// The data of a task, or why it is none.
pub(crate) fn text(record: &Record) -> Result<String, String> {
    match &record.body {
        RecordBody::Task(task) => Ok(String::from_utf8(task.data.to_vec()).unwrap()),
        RecordBody::Malformed { reason, .. } => Err(reason.clone()),
    }
}
