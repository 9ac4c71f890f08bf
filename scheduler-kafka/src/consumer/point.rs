//! Reads of single records: a few threads, each with a consumer, take what was asked meanwhile at once,
//! and read each partition from the first wanted record on.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
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
    Offset, TaskId,
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
/// Partitions that one thread reads at once.
const PARTITIONS_MAX: usize = 64;
/// Records that may be waited for.
const WAITING_MAX: usize = 100_000;
/// A partition is read on to the next wanted record if at most so many lie between: finding a place anew takes longer.
const GAP_MAX: u64 = 1_000;
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

/// A topic and a partition of it.
type Part = (Arc<str>, u16);

#[derive(Debug)]
struct Read {
    part: Part,
    offset: Offset,
    answer: oneshot::Sender<Answer>,
}

/// What is wanted of one partition: whoever asked, by offset.
type Wanted = BTreeMap<Offset, Vec<oneshot::Sender<Answer>>>;

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

    /// Reads records: one answer each, and `None` where there is none.
    pub(crate) async fn read(&self, wanted: &[TaskId]) -> Vec<Result<Option<Record>, PortError>> {
        let timeout = self.cluster.config.request_timeout;
        let deadline = tokio::time::Instant::now() + timeout;
        let mut answers = Vec::with_capacity(wanted.len());
        for asked in self.ask(wanted) {
            let answer = match asked {
                Ok(answered) => match tokio::time::timeout_at(deadline, answered).await {
                    Ok(Ok(Ok(record))) => Ok(record),
                    Ok(Ok(Err(why))) => Err(unavailable(OPERATION, why)),
                    Ok(Err(_)) | Err(_) => Err(late(OPERATION)),
                },
                Err(err) => Err(err),
            };
            answers.push(answer);
        }
        answers
    }

    fn ask(&self, wanted: &[TaskId]) -> Vec<Result<oneshot::Receiver<Answer>, PortError>> {
        let mut waiting = self.shared.waiting();
        let ask = |id: &TaskId| {
            let known = self.cluster.topics.holding(OPERATION, id.shard)?;
            if waiting.len() >= WAITING_MAX {
                return Err(unavailable(OPERATION, "too many records are being read"));
            }
            let (answer, answered) = oneshot::channel();
            waiting.push_back(Read {
                part: (known.name, id.shard.partition.0),
                offset: id.offset,
                answer,
            });
            Ok(answered)
        };
        let asked = wanted.iter().map(ask).collect();
        self.shared.asked.notify_one();
        asked
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
        let wanted = next_reads(shared);
        if wanted.is_empty() {
            // Only lines come while nothing is assigned.
            while events.poll(Duration::ZERO, |_| {}) {}
            continue;
        }
        let mut round = Round {
            wanted,
            far: Vec::new(),
            payload_bytes_max: cluster.config.payload_bytes_max,
        };
        round.read(cluster, consumer, events);
        let mut waiting = shared.waiting();
        for read in round.far.into_iter().rev() {
            waiting.push_front(read);
        }
    }
}

/// Takes what was asked of some partitions, and waits a while if nothing was.
fn next_reads(shared: &Shared) -> HashMap<Part, Wanted> {
    let mut waiting = shared.waiting();
    if waiting.is_empty() && !shared.is_over.load(Ordering::Acquire) {
        let waited = shared.asked.wait_timeout(waiting, TICK);
        (waiting, _) = waited.unwrap_or_else(PoisonError::into_inner);
    }
    let mut wanted: HashMap<Part, Wanted> = HashMap::new();
    let mut rest = VecDeque::new();
    for read in waiting.drain(..) {
        // Whoever has gone needs no answer.
        if read.answer.is_closed() {
            continue;
        }
        if wanted.len() >= PARTITIONS_MAX && !wanted.contains_key(&read.part) {
            rest.push_back(read);
            continue;
        }
        let askers = wanted.entry(read.part).or_default();
        askers.entry(read.offset).or_default().push(read.answer);
    }
    *waiting = rest;
    if !waiting.is_empty() {
        shared.asked.notify_one();
    }
    wanted
}

/// One pass over some partitions, in each from the first wanted record on.
struct Round {
    wanted: HashMap<Part, Wanted>,
    /// Too far from the ones before: for another round.
    far: Vec<Read>,
    payload_bytes_max: usize,
}

impl Round {
    fn read(&mut self, cluster: &Cluster, consumer: &BaseConsumer<Reports>, events: &Events) {
        let deadline = Instant::now() + cluster.config.request_timeout;
        let place = |(part, wanted): (&Part, &Wanted)| {
            let first = wanted.keys().next().copied().unwrap_or(Offset::ZERO);
            let first = i64::try_from(first.0).unwrap_or(i64::MAX);
            (Arc::clone(&part.0), part.1, Position::Offset(first))
        };
        if let Err(err) = consumer.assign(&positions(self.wanted.iter().map(place))) {
            let askers = self.wanted.drain().flat_map(|(_, wanted)| wanted);
            askers.for_each(|(_, askers)| tell(askers, &Err(err.to_string())));
            return;
        }
        while !self.wanted.is_empty() {
            let Some(wait) = deadline.checked_duration_since(Instant::now()) else {
                break;
            };
            events.poll(wait.min(TICK), |polled| self.hear(&polled));
            self.wanted.retain(|_, wanted| {
                let mut askers = wanted.values().flatten();
                askers.any(|asker| !asker.is_closed())
            });
        }
        // What is left is told as late by whoever waits. A consumer that cannot do this has ended.
        consumer.unassign().ok();
    }

    fn hear(&mut self, polled: &Polled<'_>) {
        let (Polled::Record(place, _) | Polled::End(place) | Polled::Failed(place, _)) = polled;
        let Ok(partition) = u16::try_from(place.partition) else {
            return;
        };
        let part: Part = (Arc::from(place.topic), partition);
        let Some(mut wanted) = self.wanted.remove(&part) else {
            return;
        };
        match polled {
            Polled::Record(place, raw) => {
                // None has a negative one.
                let at = Offset(u64::try_from(place.offset).unwrap_or_default());
                while let Some(passed) = wanted.first_entry()
                    && *passed.key() < at
                {
                    tell(passed.remove(), &Ok(None));
                }
                if let Some(askers) = wanted.remove(&at) {
                    let record = || codec::record(at, *raw, self.payload_bytes_max);
                    let record = (!codec::is_mark(*raw)).then(record);
                    tell(askers, &Ok(record));
                }
                let is_far = |next: &Offset| next.0 - at.0 > GAP_MAX;
                if wanted.keys().next().is_some_and(is_far) {
                    self.postpone(&part, std::mem::take(&mut wanted));
                }
            }
            Polled::End(_) => tell_all(std::mem::take(&mut wanted), &Ok(None)),
            Polled::Failed(_, failure) => match verdict(failure) {
                Verdict::Lost(_) if crate::topic::is_out_of_range(failure.code) => {
                    // The others may be there.
                    if let Some((_, askers)) = wanted.pop_first() {
                        tell(askers, &Ok(None));
                    }
                    self.postpone(&part, std::mem::take(&mut wanted));
                }
                Verdict::Lost(_) | Verdict::Doubt => {
                    tell_all(std::mem::take(&mut wanted), &Err(failure.to_string()));
                }
                Verdict::Passing => {}
            },
        }
        if !wanted.is_empty() {
            self.wanted.insert(part, wanted);
        }
    }

    fn postpone(&mut self, part: &Part, wanted: Wanted) {
        for (offset, askers) in wanted {
            self.far.extend(askers.into_iter().map(|answer| Read {
                part: part.clone(),
                offset,
                answer,
            }));
        }
    }
}

fn tell_all(wanted: Wanted, answer: &Answer) {
    wanted.into_values().for_each(|askers| tell(askers, answer));
}

fn tell(askers: Vec<oneshot::Sender<Answer>>, answer: &Answer) {
    for asker in askers {
        // Whoever has gone needs no answer.
        asker.send(answer.clone()).ok();
    }
}
