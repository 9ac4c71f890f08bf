//! Appends: an idempotent producer behind a bounded queue. Every record is answered: written, certainly
//! not written, or unknown.

mod batch;

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rdkafka::{
    ClientContext, Message as _, Statistics,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer},
};
use scheduler_core::{
    Offset, PipelineNumber, Timestamp,
    port::{
        FailureKind, PortError,
        log::{Appended, NewRecord},
    },
};
use tokio::{sync::Semaphore, time::Instant};
use tracing::warn;

use self::batch::{Batch, Pending, Room};
use crate::{
    client::{Reports, millis, settings},
    codec,
    config::Config,
    error::{OpenError, code_of, unavailable, unknown},
    native,
    topic::{Cluster, Known},
};

const OPERATION: &str = "append records";
/// Records that are sent before others may go in between.
const BATCH_RECORDS_MAX: usize = 1_024;
/// What a record takes beside its data, about.
const RECORD_OVERHEAD: usize = 256;
/// Bytes are counted in units of this.
const UNIT: usize = 1_024;
/// What librdkafka gets more than an append may take, so that it is the one that answers.
const GRACE: Duration = Duration::from_secs(2);

type Client = ThreadedProducer<Deliveries>;

/// Appends records to the topics of pipelines.
pub(crate) struct Producer {
    cluster: Arc<Cluster>,
    client: RwLock<Arc<Client>>,
    records: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer").finish_non_exhaustive()
    }
}

/// Takes what is told of records that were sent.
struct Deliveries {
    reports: Reports,
    /// The client can send nothing any more: a new one must be made.
    is_broken: AtomicBool,
}

impl Producer {
    pub(crate) fn open(cluster: Arc<Cluster>) -> Result<Self, OpenError> {
        let config = &cluster.config;
        let client = connect(config).map_err(OpenError::client)?;
        let records = Semaphore::new(config.append_records_max);
        let bytes = Semaphore::new(config.append_bytes_max / UNIT);
        Ok(Self {
            client: RwLock::new(Arc::new(client)),
            records: Arc::new(records),
            bytes: Arc::new(bytes),
            cluster,
        })
    }

    /// Appends each record on its own; one answer per record, in their order.
    pub(crate) async fn append(&self, records: Vec<NewRecord>) -> Vec<Result<Appended, PortError>> {
        let config = &self.cluster.config;
        let started = Instant::now();
        let mut known = KnownTopics::new(&self.cluster);
        let mut batches = Vec::new();
        let number_of = |record: &NewRecord| record.shard.pipeline;
        let numbers: Vec<_> = records.iter().map(number_of).collect();
        let mut records = records.into_iter().peekable();
        let mut is_full = false;
        while records.peek().is_some() {
            let (batch, n_bytes) = next_batch(&mut records, self.batch_bytes_max());
            let pending = Arc::new(Batch::new(batch.len()));
            // Once it took too long for one, it does for those after it.
            let room = match is_full {
                true => None,
                false => self.room(batch.len(), n_bytes, started).await,
            };
            match room {
                Some(room) => {
                    pending.occupy(room);
                    self.send(&pending, batch, &mut known);
                }
                None => {
                    is_full = true;
                    pending.refuse_all("too many records are on their way to Kafka");
                }
            }
            batches.push(pending);
        }
        let deadline = started + config.produce_timeout + GRACE;
        let mut answers = Vec::new();
        for batch in batches {
            answers.extend(batch.answers(deadline).await);
        }
        self.tell_closed(&numbers, &mut answers).await;
        answers
    }

    /// A record is too large for a log that is closed; but a topic that someone else has made can have a limit
    /// that is lower than ours.
    async fn tell_closed(
        &self,
        numbers: &[PipelineNumber],
        answers: &mut [Result<Appended, PortError>],
    ) {
        let mut found = HashMap::new();
        for (number, answer) in numbers.iter().zip(answers) {
            let Err(err) = answer else { continue };
            if err.kind() != FailureKind::Closed {
                continue;
            }
            if !found.contains_key(number) {
                let is_closed = match self.cluster.topics.of(*number) {
                    Some(known) => self.cluster.is_closed(&known.name).await,
                    None => false,
                };
                found.insert(*number, is_closed);
            }
            if found.get(number) == Some(&false) {
                let why = "the record is larger than max.message.bytes of its topic";
                *answer = Err(unavailable(OPERATION, why));
            }
        }
    }

    fn batch_bytes_max(&self) -> usize {
        self.cluster.config.append_bytes_max / 4
    }

    /// Waits for room, at most a quarter of what the append may take.
    async fn room(&self, n_records: usize, n_bytes: usize, started: Instant) -> Option<Room> {
        let config = &self.cluster.config;
        let permits = |n: usize, max: usize| u32::try_from(n.min(max)).unwrap_or(u32::MAX);
        let n_records = permits(n_records, config.append_records_max);
        let n_units = permits(n_bytes.div_ceil(UNIT), config.append_bytes_max / UNIT);
        let both = async {
            let records = Arc::clone(&self.records)
                .acquire_many_owned(n_records)
                .await;
            let bytes = Arc::clone(&self.bytes).acquire_many_owned(n_units).await;
            records.ok().zip(bytes.ok())
        };
        let until = started + config.produce_timeout / 4;
        tokio::time::timeout_at(until, both).await.ok().flatten()
    }

    fn send(&self, batch: &Arc<Batch>, records: Vec<NewRecord>, known: &mut KnownTopics<'_>) {
        let client = match self.client() {
            Ok(client) => client,
            Err(err) => return batch.refuse_all(&err.to_string()),
        };
        for (index, record) in records.into_iter().enumerate() {
            let pending = Box::new(Pending::new(batch, index));
            let topic = match known.holding(&record) {
                Ok(topic) => topic,
                Err(err) => {
                    pending.answer(Err(err));
                    continue;
                }
            };
            let sent = BaseRecord::with_opaque_to(&topic.name, pending)
                .partition(i32::from(record.shard.partition.0))
                .headers(codec::headers(&record.task));
            let mut sent: BaseRecord<'_, [u8], [u8], _> = sent.payload(&record.task.data);
            if let Some(key) = codec::key(&record.task) {
                sent = sent.key(key);
            }
            if let Err((err, sent)) = client.send(sent) {
                if code_of(&err) == RDKafkaErrorCode::Fatal {
                    client.context().is_broken.store(true, Ordering::Relaxed);
                }
                sent.delivery_opaque
                    .answer(Err(unavailable(OPERATION, err)));
            }
        }
    }

    /// The client; a new one if the one before is broken.
    fn client(&self) -> Result<Arc<Client>, KafkaError> {
        let client = Arc::clone(&self.client.read().unwrap_or_else(PoisonError::into_inner));
        if !client.context().is_broken.load(Ordering::Relaxed) {
            return Ok(client);
        }
        let mut place = self.client.write().unwrap_or_else(PoisonError::into_inner);
        if place.context().is_broken.load(Ordering::Relaxed) {
            warn!("the producer is broken and is made anew");
            let new = Arc::new(connect(&self.cluster.config)?);
            end(std::mem::replace(&mut *place, new));
        }
        Ok(Arc::clone(&place))
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        let place = self
            .client
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        end(Arc::clone(place));
    }
}

/// Lets go of a client elsewhere, since that may take a while.
fn end(client: Arc<Client>) {
    let ending = std::thread::Builder::new().name("kafka-end".to_owned());
    // Without a thread it ends here.
    ending.spawn(move || drop(client)).ok();
}

/// Takes records until they are many.
fn next_batch(
    records: &mut std::iter::Peekable<impl Iterator<Item = NewRecord>>,
    bytes_max: usize,
) -> (Vec<NewRecord>, usize) {
    let (mut batch, mut n_bytes) = (Vec::new(), 0);
    while let Some(record) = records.next_if(|record| {
        let fits = n_bytes + size_of_record(record) <= bytes_max && batch.len() < BATCH_RECORDS_MAX;
        fits || batch.is_empty()
    }) {
        n_bytes += size_of_record(&record);
        batch.push(record);
    }
    (batch, n_bytes)
}

fn size_of_record(record: &NewRecord) -> usize {
    let options = record.task.options.as_ref();
    RECORD_OVERHEAD + record.task.data.len() + options.map_or(0, |options| options.n_bytes())
}

/// The topics of one append, looked up once each.
struct KnownTopics<'a> {
    cluster: &'a Cluster,
    last: Option<(PipelineNumber, Option<Known>)>,
}

impl<'a> KnownTopics<'a> {
    fn new(cluster: &'a Cluster) -> Self {
        Self {
            cluster,
            last: None,
        }
    }

    fn holding(&mut self, record: &NewRecord) -> Result<&Known, PortError> {
        let number = record.shard.pipeline;
        if self.last.as_ref().is_none_or(|(last, _)| *last != number) {
            self.last = Some((number, self.cluster.topics.of(number)));
        }
        let found = self.last.as_ref().and_then(|(_, found)| found.as_ref());
        let partition = usize::from(record.shard.partition.0);
        found
            .filter(|known| partition < known.n_partitions)
            .ok_or_else(|| {
                let shard = record.shard;
                unavailable(OPERATION, format!("there is no log of shard {shard}"))
            })
    }
}

fn connect(config: &Config) -> Result<Client, KafkaError> {
    let mut settings = settings(config);
    // A quarter of the time is for the wait for room.
    let timeout = millis(config.produce_timeout * 3 / 4);
    settings
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("compression.type", "lz4")
        .set("linger.ms", millis(config.linger))
        .set("message.timeout.ms", &timeout)
        .set("request.timeout.ms", &timeout)
        .set("message.max.bytes", config.record_bytes_max().to_string())
        .set("queue.buffering.max.messages", (config.append_records_max + 1).to_string())
        // Room for what one batch may be more than its limit.
        .set("queue.buffering.max.kbytes", (2 * config.append_bytes_max / 1_024).to_string());
    for (key, value) in &config.extra {
        settings.set(key, value);
    }
    settings.create_with_context(Deliveries {
        reports: Reports::of("producer"),
        is_broken: AtomicBool::new(false),
    })
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.reports.line(level as i32, facility, line);
    }

    fn stats(&self, _statistics: Statistics) {}

    fn stats_raw(&self, _statistics: &[u8]) {}

    fn error(&self, err: KafkaError, reason: &str) {
        if code_of(&err) == RDKafkaErrorCode::Fatal {
            self.is_broken.store(true, Ordering::Relaxed);
        }
        self.reports.failure(code_of(&err), reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<Pending>;

    fn delivery(&self, result: &DeliveryResult<'_>, pending: Box<Pending>) {
        pending.answer(match result {
            Ok(record) => written(record.offset(), record.timestamp()),
            Err((err, record)) => {
                if code_of(err) == RDKafkaErrorCode::Fatal {
                    self.is_broken.store(true, Ordering::Relaxed);
                }
                Err(if code_of(err) == RDKafkaErrorCode::MessageSizeTooLarge {
                    // Which of the two it is, is found out before it is answered.
                    PortError::new(OPERATION, FailureKind::Closed).caused_by(err.clone())
                } else if native::is_certainly_not_written(record) {
                    unavailable(OPERATION, err.clone())
                } else {
                    unknown(OPERATION, err.clone())
                })
            }
        });
    }
}

fn written(offset: i64, at: rdkafka::Timestamp) -> Result<Appended, PortError> {
    // A repeat that the cluster had already may come back without its place.
    let offset = u64::try_from(offset).map_err(|_| {
        unknown(
            OPERATION,
            "the record was written, but Kafka did not say where",
        )
    })?;
    let millis = at.to_millis().and_then(|millis| u64::try_from(millis).ok());
    Ok(Appended {
        offset: Offset(offset),
        accepted_at: Timestamp::from_millis(millis.unwrap_or(0)),
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use scheduler_core::{
        Partition, Pipeline, PipelineNumber, PipelineSpec, Revision, ShardId, TaskOptions,
        port::{FailureKind, log::NewTask},
    };

    use super::*;
    use crate::native::Described;

    const SHARD: ShardId = ShardId {
        pipeline: PipelineNumber(1),
        partition: Partition(0),
    };

    fn record(n_bytes: usize) -> NewRecord {
        let task = NewTask {
            data: Bytes::from(vec![b'x'; n_bytes]),
            options: None,
            traceparent: None,
        };
        NewRecord { shard: SHARD, task }
    }

    /// Of a cluster that is not there.
    fn producer(append_records_max: usize) -> Producer {
        let config = Config {
            produce_timeout: Duration::from_secs(1),
            append_records_max,
            ..Config::new("127.0.0.1:1")
        };
        let cluster = Cluster::open(Arc::new(config)).unwrap();
        let pipeline = Pipeline {
            number: SHARD.pipeline,
            path: scheduler_core::path("t", "a", "p").unwrap(),
            revision: Revision(1),
            spec: PipelineSpec {
                steps: [].into(),
                defaults: TaskOptions::default(),
                n_partitions: 1,
                ..PipelineSpec::default()
            },
            mode: scheduler_core::Mode::Active,
            created_at: Timestamp::EPOCH,
        };
        let found = Described {
            id: "id".into(),
            n_partitions: 1,
            has_leaders: true,
        };
        let learned = cluster
            .topics
            .learn("test", &pipeline, &"w.t.a.p".into(), &found);
        learned.unwrap();
        Producer::open(Arc::new(cluster)).unwrap()
    }

    fn kinds(answers: Vec<Result<Appended, PortError>>) -> Vec<FailureKind> {
        answers
            .into_iter()
            .map(|answer| answer.unwrap_err().kind())
            .collect()
    }

    #[tokio::test]
    async fn a_producer_that_failed_for_good_is_made_anew() {
        let producer = producer(100);
        let before = producer.client().unwrap();
        native::fail_for_good(before.client());
        let answers = producer.append(vec![record(1)]).await;
        assert_eq!(kinds(answers), [FailureKind::Unavailable]);
        assert!(!Arc::ptr_eq(&before, &producer.client().unwrap()));
    }

    #[tokio::test]
    async fn records_without_room_are_refused_and_the_room_comes_back() {
        let producer = producer(10);
        let started = Instant::now();
        let fill = || (0..10).map(|_| record(1)).collect::<Vec<_>>();
        let (first, second) = tokio::join!(producer.append(fill()), async {
            let answers = producer.append(fill()).await;
            (answers, started.elapsed())
        });
        let (second, took) = second;
        assert_eq!(kinds(first), [FailureKind::Unavailable; 10]);
        assert_eq!(kinds(second), [FailureKind::Unavailable; 10]);
        assert!(
            took < Duration::from_millis(700),
            "it is told soon, not after {took:?}"
        );
        assert_eq!(producer.records.available_permits(), 10);
    }

    #[tokio::test]
    async fn a_dropped_append_gives_its_room_back() {
        let producer = producer(10);
        let dropped = producer.append(vec![record(1)]);
        tokio::select! {
            biased;
            _ = dropped => panic!("nobody answers"),
            () = tokio::task::yield_now() => {}
        }
        assert_eq!(producer.records.available_permits(), 9);
        // It needs all of it, so it waits until the record was given up.
        let room = producer.records.acquire_many(10);
        let room = tokio::time::timeout(Duration::from_secs(10), room).await;
        assert_eq!(room.unwrap().unwrap().num_permits(), 10);
    }

    #[test]
    fn batches_keep_to_their_limits_and_to_the_order() {
        let sizes = [10, 20, 5_000, 30, 40];
        let mut records = sizes.map(record).into_iter().peekable();
        let mut batches = Vec::new();
        while records.peek().is_some() {
            let (batch, n_bytes) = next_batch(&mut records, 1_000);
            assert_eq!(n_bytes, batch.iter().map(size_of_record).sum::<usize>());
            batches.push(
                batch
                    .iter()
                    .map(|record| record.task.data.len())
                    .collect::<Vec<_>>(),
            );
        }
        assert_eq!(batches, [vec![10, 20], vec![5_000], vec![30, 40]]);
    }
}
