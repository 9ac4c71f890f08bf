//! Measures the log on a real Kafka: `KAFKA_BOOTSTRAP_SERVERS=… cargo run --release -p scheduler-kafka
//! --example measure_log`. The topics stay there, so take a cluster that is thrown away.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement fails by a panic and prints what it found"
)]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig,
    producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer},
};
use scheduler_core::{
    Offset, Partition, Pipeline, PipelineNumber, PipelineSpec, Revision, ShardId, TaskOptions,
    Timestamp,
    port::{
        TaskLog,
        log::{Fetch, NewRecord, NewTask},
    },
};
use scheduler_kafka::{Config, Kafka};

const N_CALLERS: u32 = 32;
const BATCH: u32 = 256;
const N_RECORDS: u32 = 1_000_000;
const N_TOPICS: u32 = 1_000;
const N_PARTITIONS: u16 = 4;

fn pipeline(number: u32, n_partitions: u16) -> Arc<Pipeline> {
    Arc::new(Pipeline {
        number: PipelineNumber(number),
        path: scheduler_core::path("t", "a", &format!("p{number}")).unwrap(),
        revision: Revision(1),
        spec: PipelineSpec {
            steps: [].into(),
            defaults: TaskOptions::default(),
            n_partitions,
            ..PipelineSpec::default()
        },
        mode: scheduler_core::Mode::Active,
        created_at: Timestamp::EPOCH,
    })
}

fn shard(pipeline: u32, partition: u16) -> ShardId {
    ShardId {
        pipeline: PipelineNumber(pipeline),
        partition: Partition(partition),
    }
}

fn fetch(shard: ShardId, from: Offset) -> Fetch {
    Fetch {
        shard,
        from,
        n_max: 100_000,
        bytes_max: 64 << 20,
    }
}

fn record(shard: ShardId) -> NewRecord {
    let task = NewTask {
        data: format!("{{\"x\":\"{}\"}}", "y".repeat(248)).into(),
        options: None,
        traceparent: None,
    };
    NewRecord { shard, task }
}

/// CPU time in seconds and memory in MiB of this process.
fn usage() -> (f64, u64) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let rss = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap();
    let kib: u64 = rss.split_whitespace().nth(1).unwrap().parse().unwrap();
    (ticks / 100.0, kib / 1_024)
}

#[tokio::main]
async fn main() {
    let servers = std::env::var("KAFKA_BOOTSTRAP_SERVERS").expect("KAFKA_BOOTSTRAP_SERVERS");
    let config = Config {
        topic_prefix: format!("measure-{}", std::process::id()),
        ..Config::new(&servers)
    };
    let log = Kafka::open(config.clone()).unwrap().log();
    if std::env::args().nth(1).as_deref() == Some("many") {
        return many(&config).await;
    }
    log.ensure(&[pipeline(1, 4)]).await.remove(0).unwrap();
    raw(&servers, &format!("{}.t.a.p1", config.topic_prefix));
    appends(&log).await;
    backlog(&log).await;
    latency(&log).await;
    many(&config).await;
}

fn raw(servers: &str, topic: &str) {
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("enable.idempotence", "true")
        .set("compression.type", "lz4")
        .set("linger.ms", "2")
        .set("queue.buffering.max.messages", "1000000")
        .create()
        .unwrap();
    let value = format!("{{\"x\":\"{}\"}}", "y".repeat(248));
    let started = Instant::now();
    for n in 0..N_RECORDS {
        let partition = i32::from(n % 4 == 1) + 2 * i32::from(n % 4 > 1);
        let record = BaseRecord::<[u8], str>::to(topic)
            .partition(partition)
            .payload(&value);
        let mut sent = producer.send(record);
        while let Err((_, record)) = sent {
            std::thread::sleep(Duration::from_millis(1));
            sent = producer.send(record);
        }
    }
    producer.flush(Duration::from_secs(60)).unwrap();
    report("raw produce", started, N_RECORDS);
}

fn report(what: &str, started: Instant, n: u32) {
    let seconds = started.elapsed().as_secs_f64();
    println!("{what}: {:.0} records/s", f64::from(n) / seconds);
}

async fn appends(log: &Arc<dyn TaskLog>) {
    let started = Instant::now();
    let callers: Vec<_> = (0..N_CALLERS)
        .map(|caller| {
            let log = Arc::clone(log);
            tokio::spawn(async move {
                let shard = shard(1, u16::try_from(caller % 4).unwrap());
                for _ in 0..N_RECORDS / N_CALLERS / BATCH {
                    let batch = (0..BATCH).map(|_| record(shard)).collect();
                    for answer in log.append(batch).await {
                        answer.unwrap();
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    report("append, 32 callers of 256", started, N_RECORDS);
}

async fn backlog(log: &Arc<dyn TaskLog>) {
    let started = Instant::now();
    let (mut next, mut n) = ([Offset::ZERO; 4], 0);
    while n < N_RECORDS {
        let wanted: Vec<_> = (0..4)
            .map(|i| fetch(shard(1, i), next[usize::from(i)]))
            .collect();
        for fetched in log
            .fetch(&wanted, Duration::from_secs(5))
            .await
            .unwrap()
            .read
        {
            n += u32::try_from(fetched.records.len()).unwrap();
            next[usize::from(fetched.shard.partition.0)] = fetched.next;
        }
    }
    report("fetch of a backlog", started, n);
}

async fn latency(log: &Arc<dyn TaskLog>) {
    let shard = shard(1, 0);
    let mut from = log.bounds(&[shard]).await.remove(0).unwrap().end;
    // The first one reads the partition from here.
    log.fetch(&[fetch(shard, from)], Duration::from_secs(2))
        .await
        .unwrap();
    let (mut appended, mut fetched) = (Vec::new(), Vec::new());
    for _ in 0..300 {
        let wanted = [fetch(shard, from)];
        let started = Instant::now();
        let append = async {
            log.append(vec![record(shard)]).await.remove(0).unwrap();
            appended.push(started.elapsed());
        };
        let (found, ()) = tokio::join!(
            async {
                let found = log.fetch(&wanted, Duration::from_secs(5)).await.unwrap();
                fetched.push(started.elapsed());
                found
            },
            append
        );
        from = found.read[0].next;
    }
    for (what, times) in [("append", &mut appended), ("append to fetch", &mut fetched)] {
        times.sort_unstable();
        println!("{what}: median {:?}, p99 {:?}", times[150], times[296]);
    }
}

async fn many(config: &Config) {
    let pipelines: Vec<_> = (10..10 + N_TOPICS)
        .map(|n| pipeline(n, N_PARTITIONS))
        .collect();
    let shards: Vec<_> = pipelines
        .iter()
        .flat_map(|pipeline| (0..N_PARTITIONS).map(|i| shard(pipeline.number.0, i)))
        .collect();
    let log = Kafka::open(config.clone()).unwrap().log();
    for what in ["made", "found"] {
        let started = Instant::now();
        for answer in log.ensure(&pipelines).await {
            answer.unwrap();
        }
        println!("{N_TOPICS} topics {what} in {:?}", started.elapsed());
    }
    // A broker tells of partitions before it has made their files.
    let started = Instant::now();
    while log.bounds(&shards).await.iter().any(Result::is_err) {}
    println!("all can be used after {:?}", started.elapsed());
    let started = Instant::now();
    for bounds in log.bounds(&shards).await {
        bounds.unwrap();
    }
    println!(
        "bounds of {} partitions in {:?}",
        shards.len(),
        started.elapsed()
    );
    let (_, before) = usage();
    let wanted: Vec<_> = shards
        .iter()
        .map(|shard| fetch(*shard, Offset::ZERO))
        .collect();
    let started = Instant::now();
    log.append(vec![record(shards[3_999])])
        .await
        .remove(0)
        .unwrap();
    let found = log.fetch(&wanted, Duration::from_secs(30)).await.unwrap();
    println!(
        "first record of 4,000 partitions after {:?}",
        started.elapsed()
    );
    let mut wanted = wanted;
    wanted[3_999].from = found.read[0].next;
    let drive = async |seconds| {
        let until = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < until {
            log.fetch(&wanted, Duration::from_secs(1)).await.unwrap();
        }
    };
    drive(10).await;
    let (cpu, _) = usage();
    let started = Instant::now();
    drive(30).await;
    let (after, rss) = usage();
    let share = (after - cpu) / started.elapsed().as_secs_f64() * 100.0;
    println!("4,000 idle partitions: {share:.1} % of a core, {rss} MiB (before: {before} MiB)");
}
