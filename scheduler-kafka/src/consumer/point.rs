//! Reads of single records: a few threads, each with a consumer, take what was asked meanwhile at once.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    Offset as Position,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaResult,
};
use scheduler_core::{
    Offset, ShardId,
    port::{PortError, log::Record},
};
use tokio::sync::oneshot;

use super::{
    positions,
    thread::{Verdict, reader_settings, verdict},
};
use crate::{
    client::Reports,
    codec,
    error::{OpenError, late, unavailable},
    native::{Events, Polled},
    topic::Cluster,
};

const OPERATION: &str = "read a record";
/// Threads that read.
const N_THREADS: usize = 2;
/// Records that one thread reads at once.
const READS_MAX: usize = 64;
/// Records that may be waited for.
const WAITING_MAX: usize = 100_000;
/// How often an idle thread takes its consumer's lines.
const TICK: Duration = Duration::from_secs(1);

type Answer = Result<Option<Record>, String>;

/// Reads single records.
#[derive(Debug)]
pub(crate) struct PointReader {
    cluster: Arc<Cluster>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<VecDeque<Read>>,
    asked: Condvar,
    is_over: AtomicBool,
}

#[derive(Debug)]
struct Read {
    topic: Arc<str>,
    partition: u16,
    offset: Offset,
    answer: oneshot::Sender<Answer>,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, VecDeque<Read>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PointReader {
    /// Starts the threads.
    pub(crate) fn start(cluster: &Arc<Cluster>) -> Result<Self, OpenError> {
        let this = Self {
            cluster: Arc::clone(cluster),
            shared: Arc::default(),
        };
        for _ in 0..N_THREADS {
            let consumer = Arc::new(connect(cluster).map_err(OpenError::client)?);
            let events = Events::of(&consumer);
            let events = events.ok_or_else(|| OpenError::client("the consumer has no queue"))?;
            let (cluster, shared) = (Arc::clone(cluster), Arc::clone(&this.shared));
            let thread = thread::Builder::new().name("kafka-read".to_owned());
            thread
                .spawn(move || run(&cluster, &shared, &consumer, &events))
                .map_err(OpenError::client)?;
        }
        Ok(this)
    }

    /// Reads one record, or `None` if there is none at that offset.
    pub(crate) async fn read(
        &self,
        shard: ShardId,
        offset: Offset,
    ) -> Result<Option<Record>, PortError> {
        let known = self.cluster.topics.holding(OPERATION, shard)?;
        let (answer, answered) = oneshot::channel();
        {
            let mut waiting = self.shared.waiting();
            if waiting.len() >= WAITING_MAX {
                return Err(unavailable(OPERATION, "too many records are being read"));
            }
            waiting.push_back(Read {
                topic: known.name,
                partition: shard.partition.0,
                offset,
                answer,
            });
        }
        self.shared.asked.notify_one();
        let timeout = self.cluster.config.request_timeout;
        match tokio::time::timeout(timeout, answered).await {
            Ok(Ok(Ok(record))) => Ok(record),
            Ok(Ok(Err(why))) => Err(unavailable(OPERATION, why)),
            Ok(Err(_)) | Err(_) => Err(late(OPERATION)),
        }
    }
}

impl Drop for PointReader {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Release);
        self.shared.asked.notify_all();
    }
}

fn connect(cluster: &Cluster) -> KafkaResult<BaseConsumer<Reports>> {
    let mut settings = reader_settings(&cluster.config);
    settings
        // What is not there is told soon, and little is read beyond what is wanted.
        .set("fetch.wait.max.ms", "10")
        .set("fetch.message.max.bytes", (64 << 10).to_string())
        .set("queued.min.messages", "1")
        .set("queued.max.messages.kbytes", "4096");
    settings.create_with_context(Reports::of("reader"))
}

fn run(cluster: &Cluster, shared: &Shared, consumer: &BaseConsumer<Reports>, events: &Events) {
    while !shared.is_over.load(Ordering::Acquire) {
        let reads = next_reads(shared);
        if reads.is_empty() {
            // Only lines come while nothing is assigned.
            while events.poll(Duration::ZERO, |_| {}) {}
            continue;
        }
        read_all(cluster, consumer, events, reads);
    }
}

/// Takes what was asked, at most one of each partition, and waits a while if nothing was.
fn next_reads(shared: &Shared) -> HashMap<(Arc<str>, u16), Read> {
    let mut waiting = shared.waiting();
    if waiting.is_empty() && !shared.is_over.load(Ordering::Acquire) {
        let waited = shared.asked.wait_timeout(waiting, TICK);
        (waiting, _) = waited.unwrap_or_else(PoisonError::into_inner);
    }
    let mut reads = HashMap::new();
    let mut rest = VecDeque::new();
    while let Some(read) = waiting.pop_front() {
        // Whoever has gone needs no answer.
        if read.answer.is_closed() {
            continue;
        }
        let place = (Arc::clone(&read.topic), read.partition);
        if reads.len() >= READS_MAX {
            rest.push_back(read);
            break;
        }
        match reads.entry(place) {
            Entry::Occupied(_) => rest.push_back(read),
            Entry::Vacant(free) => drop(free.insert(read)),
        }
    }
    while let Some(read) = rest.pop_back() {
        waiting.push_front(read);
    }
    if !waiting.is_empty() {
        shared.asked.notify_one();
    }
    reads
}

fn read_all(
    cluster: &Cluster,
    consumer: &BaseConsumer<Reports>,
    events: &Events,
    mut reads: HashMap<(Arc<str>, u16), Read>,
) {
    let deadline = Instant::now() + cluster.config.request_timeout;
    let place = |read: &Read| {
        let offset = i64::try_from(read.offset.0).unwrap_or(i64::MAX);
        (
            Arc::clone(&read.topic),
            read.partition,
            Position::Offset(offset),
        )
    };
    if let Err(err) = consumer.assign(&positions(reads.values().map(place))) {
        for (_, read) in reads {
            // Whoever has gone needs no answer.
            read.answer.send(Err(err.to_string())).ok();
        }
        return;
    }
    while !reads.is_empty() {
        let Some(wait) = deadline.checked_duration_since(Instant::now()) else {
            break;
        };
        events.poll(wait.min(TICK), |polled| {
            hear(polled, cluster.config.payload_bytes_max, &mut reads);
        });
        reads.retain(|_, read| !read.answer.is_closed());
    }
    // What is left is told as late by whoever waits. A consumer that cannot do this has ended.
    consumer.unassign().ok();
}

fn hear(polled: Polled<'_>, payload_bytes_max: usize, reads: &mut HashMap<(Arc<str>, u16), Read>) {
    let (Polled::Record(place, _) | Polled::End(place) | Polled::Failed(place, _)) = &polled;
    let Ok(partition) = u16::try_from(place.partition) else {
        return;
    };
    let key = (Arc::from(place.topic), partition);
    let Some(wanted) = reads.get(&key).map(|read| read.offset) else {
        return;
    };
    let found = u64::try_from(place.offset).map(Offset);
    let answer = match polled {
        Polled::Record(_, raw) if found == Ok(wanted) && !codec::is_mark(raw) => {
            Ok(Some(codec::record(wanted, raw, payload_bytes_max)))
        }
        Polled::Record(..) | Polled::End(_) => Ok(None),
        Polled::Failed(_, failure) => match verdict(&failure) {
            Verdict::Lost(_) if crate::topic::is_out_of_range(failure.code) => Ok(None),
            Verdict::Lost(_) | Verdict::Doubt => Err(failure.to_string()),
            Verdict::Passing => return,
        },
    };
    if let Some(read) = reads.remove(&key) {
        // Whoever has gone needs no answer.
        read.answer.send(answer).ok();
    }
}
