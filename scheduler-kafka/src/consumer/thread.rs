//! The thread that owns the consumer: it carries out what the table plans, and tells the table what comes.

use std::{
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    Offset as Position,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaResult, RDKafkaErrorCode},
};
use scheduler_core::{Offset, port::log::Record};
use tracing::{error, warn};

use super::{
    Shared, positions,
    table::{Place, Plan},
};
use crate::{
    client::{Reports, millis, settings},
    codec,
    config::Config,
    error::OpenError,
    native::{self, Call, Descriptions, Events, Failure, Polled},
    topic::{Cluster, is_missing},
};

/// How long it sleeps when nothing happens.
const TICK: Duration = Duration::from_millis(500);
/// How soon it looks for an answer.
const LOOK: Duration = Duration::from_millis(20);
/// How often it looks whether the topics are still those that are read.
const CHECK_IDS: Duration = Duration::from_secs(5);
/// How often the table looks for what nobody wants any more.
const TIDY: Duration = Duration::from_secs(1);
/// Events that are told to the table at once.
const EVENTS_MAX: usize = 512;

/// What came.
enum Told {
    Record(Box<str>, i32, Record),
    End(Box<str>, i32, i64),
    Lost(Box<str>, i32, String),
    /// A topic may be gone.
    Doubt,
}

struct Reader {
    cluster: Arc<Cluster>,
    shared: Arc<Shared>,
    consumer: Arc<BaseConsumer<Reports>>,
    events: Events,
    check: Option<Call<Descriptions>>,
    check_at: Instant,
    tidy_at: Instant,
}

/// Settings of consumers that read what they are told to, from where they are told to.
pub(super) fn reader_settings(config: &Config) -> rdkafka::ClientConfig {
    let mut settings = settings(config);
    settings
        .set("group.id", &config.progress_group)
        // A commit waits so long for the group's broker, and holds a thread meanwhile.
        .set("coordinator.query.interval.ms", millis(config.request_timeout))
        .set("isolation.level", "read_committed")
        .set("auto.offset.reset", "error")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("enable.partition.eof", "true")
        .set("check.crcs", "true");
    settings
}

fn connect(config: &Config) -> KafkaResult<BaseConsumer<Reports>> {
    // Half of what a member may hold is in the table; the rest is on its way there.
    let queued_kbytes = config.fetch_bytes_max / 4 / 1_024;
    let response_bytes = (config.fetch_bytes_max / 8).max(config.record_bytes_max());
    let mut settings = reader_settings(config);
    settings
        .set("fetch.wait.max.ms", millis(config.fetch_wait))
        .set("fetch.message.max.bytes", (1 << 20).to_string())
        .set("fetch.max.bytes", response_bytes.to_string())
        .set("queued.max.messages.kbytes", queued_kbytes.to_string())
        .set("queued.min.messages", "20000")
        // When the queue is full, it is soon looked whether it still is.
        .set("fetch.queue.backoff.ms", "10")
        .set("fetch.error.backoff.ms", "200");
    settings.create_with_context(Reports::of("consumer"))
}

/// Makes the consumer and starts its thread, which ends when `shared` says that it is over.
pub(super) fn start(
    cluster: &Arc<Cluster>,
    shared: &Arc<Shared>,
) -> Result<Arc<BaseConsumer<Reports>>, OpenError> {
    let mut consumer = connect(&cluster.config).map_err(OpenError::client)?;
    let waking = Arc::clone(shared);
    consumer.set_nonempty_callback(move || waking.wake());
    let consumer = Arc::new(consumer);
    let events = Events::of(&consumer);
    let events = events.ok_or_else(|| OpenError::client("the consumer has no queue"))?;
    let now = Instant::now();
    let mut reader = Reader {
        cluster: Arc::clone(cluster),
        shared: Arc::clone(shared),
        consumer: Arc::clone(&consumer),
        events,
        check: None,
        check_at: now + CHECK_IDS,
        tidy_at: now + TIDY,
    };
    let thread = thread::Builder::new().name("kafka-fetch".to_owned());
    let running = move || {
        // Only this thread sets it, once.
        reader.shared.thread.set(thread::current()).ok();
        reader.run();
    };
    thread.spawn(running).map_err(OpenError::client)?;
    Ok(consumer)
}

impl Reader {
    fn run(&mut self) {
        while !self.shared.is_over.load(Ordering::Acquire) {
            self.carry_out();
            let is_drained = self.drain();
            self.check_ids();
            if is_drained && !self.shared.table().has_work() {
                thread::park_timeout(if self.check.is_some() { LOOK } else { TICK });
            }
        }
    }

    fn carry_out(&mut self) {
        let now = Instant::now();
        let plan = {
            let mut table = self.shared.table();
            if !table.has_work() && now < self.tidy_at {
                return;
            }
            table.plan(now)
        };
        self.tidy_at = now + TIDY;
        if let Err(err) = self.apply(plan) {
            warn!(%err, "the assignment of the consumer is made anew");
            // A consumer that cannot even do this has ended.
            if let Ok(all) = self.consumer.assignment() {
                self.consumer.resume(&all).ok();
            }
            self.consumer.unassign().ok();
            self.shared.table().restart();
            thread::park_timeout(LOOK);
        }
    }

    fn apply(&self, plan: Plan) -> KafkaResult<()> {
        let all = |places: Vec<Place>| {
            let places = places.into_iter();
            positions(places.map(|(topic, partition)| (topic, partition, Position::Invalid)))
        };
        if !plan.leave.is_empty() {
            let leave = all(plan.leave);
            // A pause would outlive the assignment, and stop the next one of the same partition.
            self.consumer.resume(&leave)?;
            self.consumer.incremental_unassign(&leave)?;
        }
        if !plan.join.is_empty() {
            let position =
                |offset: Offset| Position::Offset(i64::try_from(offset.0).unwrap_or(i64::MAX));
            let joined = plan.join.into_iter();
            self.consumer.incremental_assign(&positions(
                joined.map(|((topic, partition), from)| (topic, partition, position(from))),
            ))?;
        }
        if !plan.pause.is_empty() {
            self.consumer.pause(&all(plan.pause))?;
        }
        if !plan.resume.is_empty() {
            self.consumer.resume(&all(plan.resume))?;
        }
        Ok(())
    }

    /// Takes what has come; tells whether that was all there is to do for now.
    fn drain(&mut self) -> bool {
        let mut told = Vec::new();
        if self.shared.table().is_full() {
            return true;
        }
        let payload_bytes_max = self.cluster.config.payload_bytes_max;
        let mut n_events = 0;
        let mut n_bytes = 0;
        let mut is_drained = false;
        while n_events < EVENTS_MAX && n_bytes < (1 << 20) {
            let has_event = self.events.poll(Duration::ZERO, |polled| {
                let now = hear(polled, payload_bytes_max);
                if let Some(Told::Record(_, _, record)) = &now {
                    n_bytes += codec::data_len(record);
                }
                told.extend(now);
            });
            if !has_event {
                is_drained = true;
                break;
            }
            n_events += 1;
        }
        if !told.is_empty() && self.tell(told) {
            self.shared.news.notify_waiters();
        }
        is_drained
    }

    fn tell(&mut self, told: Vec<Told>) -> bool {
        let mut is_news = false;
        let mut table = self.shared.table();
        for told in told {
            is_news |= match told {
                Told::Record(topic, partition, record) => table.push(&topic, partition, record),
                Told::End(topic, partition, end) => table.end(&topic, partition, end),
                Told::Lost(topic, partition, why) => table.lose(&topic, partition, &why),
                Told::Doubt => {
                    self.check_at = Instant::now();
                    false
                }
            };
        }
        is_news
    }

    /// Asks once in a while whether the topics are still those that were wanted.
    fn check_ids(&mut self) {
        let now = Instant::now();
        if let Some(check) = &self.check {
            match check.answer(Duration::ZERO) {
                Some(Ok(found)) => self.judge(found),
                Some(Err(failure)) => warn!(%failure, "the ids of topics were not read"),
                // librdkafka ends every call.
                None => return,
            }
            self.check = None;
            self.check_at = self.check_at.max(now + LOOK);
        } else if now >= self.check_at {
            self.check_at = now + CHECK_IDS;
            let topics = self.shared.table().topics();
            if !topics.is_empty() {
                self.check = native::describe_topics(
                    &self.cluster.admin,
                    topics.iter().map(|topic| &**topic),
                    self.cluster.config.request_timeout,
                );
            }
        }
    }

    fn judge(&self, found: Descriptions) {
        let mut is_news = false;
        let mut table = self.shared.table();
        for (topic, found) in found {
            match found {
                Ok(described) => is_news |= table.check_id(&topic, Some(&described.id)),
                Err(failure) if is_missing(failure.code) => is_news |= table.check_id(&topic, None),
                Err(failure) => warn!(%topic, %failure, "the id of a topic was not read"),
            }
        }
        drop(table);
        if is_news {
            self.shared.news.notify_waiters();
        }
    }
}

fn hear(polled: Polled<'_>, payload_bytes_max: usize) -> Option<Told> {
    match polled {
        // What is passed over is told by the end that follows, or by the next record.
        Polled::Record(_, raw) if codec::is_mark(raw) => None,
        Polled::Record(place, raw) => {
            let offset = Offset(u64::try_from(place.offset).ok()?);
            let record = codec::record(offset, raw, payload_bytes_max);
            Some(Told::Record(place.topic.into(), place.partition, record))
        }
        Polled::End(place) => Some(Told::End(place.topic.into(), place.partition, place.offset)),
        Polled::Failed(place, failure) => {
            let (topic, partition, offset) = (place.topic, place.partition, place.offset);
            match verdict(&failure) {
                Verdict::Lost(why) => {
                    warn!(topic, partition, offset, %failure, "a partition cannot be read on");
                    Some(Told::Lost(
                        topic.into(),
                        partition,
                        format!("{why} ({failure})"),
                    ))
                }
                Verdict::Doubt => Some(Told::Doubt),
                Verdict::Passing => {
                    error!(topic, partition, offset, code = ?failure.code, %failure, "fetch failed");
                    None
                }
            }
        }
    }
}

/// What the failure of a partition means.
pub(super) enum Verdict {
    /// It cannot be read on from where it is.
    Lost(&'static str),
    /// Its topic may be gone.
    Doubt,
    /// It is tried again.
    Passing,
}

pub(super) fn verdict(failure: &Failure) -> Verdict {
    match failure.code {
        RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange => {
            Verdict::Lost("the log does not hold the wanted offset")
        }
        // librdkafka would go on behind what it cannot read.
        RDKafkaErrorCode::BadMessage
        | RDKafkaErrorCode::BadCompression
        | RDKafkaErrorCode::NotImplemented
        | RDKafkaErrorCode::InvalidMessage
        | RDKafkaErrorCode::InvalidRecord
        | RDKafkaErrorCode::MessageSizeTooLarge => Verdict::Lost("the records cannot be read"),
        RDKafkaErrorCode::TopicAuthorizationFailed => {
            Verdict::Lost("this process may not read the topic")
        }
        code if is_missing(code) => Verdict::Doubt,
        _ => Verdict::Passing,
    }
}
