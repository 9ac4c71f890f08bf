//! Closing a topic: its brokers refuse every task from then on, whoever sends it.
//!
//! The topic's `max.message.bytes` becomes smaller than any task. Then each partition's leader is asked: it
//! must refuse a probe that is too large, so it knows; and take a mark that just fits, which is replicated
//! after all that was accepted before, so that is below the mark and seen by all.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::CStr,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext, Message as _,
    admin::ResourceSpecifier,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseRecord, DeliveryResult, ProducerContext, ThreadedProducer},
};
use scheduler_core::{Offset, Partition, Pipeline, port::PortError};
use tokio::sync::mpsc;

use super::{Cluster, LOOK, answer, is_missing, name_of};
use crate::{
    client::{Reports, millis, settings},
    codec,
    config::Config,
    error::{code_of, late, unavailable},
    native,
};

const OPERATION: &str = "close a log";
/// A batch of one record without key, value and headers has 68 bytes; the smallest that can be a task, with
/// the value `{}`, has two more.
const MESSAGE_BYTES_MAX: &CStr = c"69";
const SETTING: &CStr = c"max.message.bytes";

/// A partition, and where its leader put a record or why it did not.
type Told = (i32, Result<i64, RDKafkaErrorCode>);

/// Where partitions end.
pub(crate) type Ends = BTreeMap<Partition, Offset>;

/// Tells what became of each record.
struct Answers {
    reports: Reports,
    told: mpsc::UnboundedSender<Told>,
}

/// A producer that asks the leaders of one topic.
struct Prober {
    client: ThreadedProducer<Answers>,
    told: mpsc::UnboundedReceiver<Told>,
    topic: String,
    deadline: Instant,
}

impl Cluster {
    /// Closes a pipeline's topic, and tells where it ends; `None` if there is none any more.
    pub(crate) async fn close(&self, pipeline: &Pipeline) -> Result<Option<Ends>, PortError> {
        let name = name_of(&self.config, &pipeline.path);
        let found = self
            .describe(OPERATION, &BTreeSet::from([name.clone()]))
            .await?;
        if let (Some(known), Some(Ok(found))) = (self.topics.of(pipeline.number), found.get(&name))
            && known.id != found.id
        {
            // The name is another pipeline's by now.
            return Ok(None);
        }
        // Also if it was not found: only the controller knows for sure that there is none.
        if !self.set_closed(&name).await? {
            return Ok(None);
        }
        if let Some(Ok(found)) = found.get(&name) {
            self.topics.learn(OPERATION, pipeline, &name, found)?;
        } else {
            return Err(unavailable(
                OPERATION,
                format!("topic {name} was not described"),
            ));
        }
        let mut prober = Prober::of(&self.config, &name)?;
        let all: BTreeSet<_> = (0..i32::from(pipeline.spec.n_partitions)).collect();
        prober.await_refusals(all.clone()).await?;
        prober.mark(all).await.map(Some)
    }

    /// Whether the topic was there to be set.
    async fn set_closed(&self, name: &str) -> Result<bool, PortError> {
        let timeout = self.config.request_timeout;
        let setting = (SETTING, MESSAGE_BYTES_MAX);
        let call = native::set_topic(&self.admin, name, setting, timeout);
        match answer(OPERATION, call, timeout).await? {
            Ok(()) => Ok(true),
            Err(failure) if is_missing(failure.code) => Ok(false),
            Err(failure) => {
                let why = format!("the settings of topic {name} cannot be changed: {failure}");
                Err(unavailable(OPERATION, why))
            }
        }
    }

    /// Whether a topic that refuses a record as too large does so because it is closed.
    pub(crate) async fn is_closed(&self, name: &str) -> bool {
        let topic = [ResourceSpecifier::Topic(name)];
        let described = self.admin.describe_configs(&topic, &self.options()).await;
        let mut found = described.unwrap_or_default().into_iter().flatten();
        found.any(|topic| {
            let entry = SETTING.to_str().ok().and_then(|name| topic.get(name));
            let value = entry.and_then(|entry| entry.value.as_deref());
            value.is_some_and(|value| value.as_bytes() == MESSAGE_BYTES_MAX.to_bytes())
        })
    }
}

impl Prober {
    fn of(config: &Config, topic: &str) -> Result<Self, PortError> {
        let mut settings = settings(config);
        // Each record is a batch of its own, and as large as it looks.
        settings
            .set("acks", "all")
            .set("compression.type", "none")
            .set("linger.ms", "0")
            .set("batch.num.messages", "1")
            .set("message.timeout.ms", millis(config.request_timeout))
            .set("request.timeout.ms", millis(config.request_timeout));
        let (tell, told) = mpsc::unbounded_channel();
        let answers = Answers {
            reports: Reports::of("closer"),
            told: tell,
        };
        let client = settings.create_with_context(answers);
        Ok(Self {
            client: client.map_err(|err| unavailable(OPERATION, err))?,
            told,
            topic: topic.to_owned(),
            deadline: Instant::now() + config.request_timeout,
        })
    }

    /// Asks until every leader refuses what is too large: one that has not heard of the change takes the probe,
    /// which is no task to anyone.
    async fn await_refusals(&mut self, mut rest: BTreeSet<i32>) -> Result<(), PortError> {
        loop {
            for (partition, answer) in self.ask(&rest, codec::PROBE_KEY).await? {
                match answer {
                    Err(RDKafkaErrorCode::MessageSizeTooLarge) => drop(rest.remove(&partition)),
                    Ok(_) => {}
                    Err(code) => return Err(self.failed(partition, code)),
                }
            }
            if rest.is_empty() {
                return Ok(());
            }
            if Instant::now() > self.deadline {
                return Err(late(OPERATION));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Where each partition ends.
    async fn mark(&mut self, all: BTreeSet<i32>) -> Result<Ends, PortError> {
        let mut ends = Ends::new();
        for (partition, answer) in self.ask(&all, codec::MARK_KEY).await? {
            let at = answer.map_err(|code| self.failed(partition, code))?;
            let known = u16::try_from(partition).ok().zip(u64::try_from(at).ok());
            let (partition, at) = known.ok_or_else(|| late(OPERATION))?;
            ends.insert(Partition(partition), Offset(at).next());
        }
        Ok(ends)
    }

    /// Sends one record to each partition, and gives all the answers.
    async fn ask(
        &mut self,
        partitions: &BTreeSet<i32>,
        key: &[u8],
    ) -> Result<Vec<Told>, PortError> {
        for partition in partitions {
            let record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&self.topic).key(key);
            let sent = self.client.send(record.partition(*partition));
            sent.map_err(|(err, _)| unavailable(OPERATION, err))?;
        }
        let mut answers = Vec::new();
        while answers.len() < partitions.len() {
            // librdkafka ends every record; the rest is for its own delays.
            let until = self.deadline + Duration::from_secs(1);
            let told = tokio::time::timeout_at(until.into(), self.told.recv()).await;
            answers.extend(told.map_err(|_| late(OPERATION))?);
        }
        Ok(answers)
    }

    fn failed(&self, partition: i32, code: RDKafkaErrorCode) -> PortError {
        let topic = &self.topic;
        unavailable(
            OPERATION,
            format!("topic {topic}, partition {partition}: {code}"),
        )
    }
}

impl ClientContext for Answers {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.reports.line(level as i32, facility, line);
    }

    fn error(&self, err: KafkaError, reason: &str) {
        self.reports.failure(code_of(&err), reason);
    }
}

impl ProducerContext for Answers {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let told = match result {
            Ok(record) => (record.partition(), Ok(record.offset())),
            Err((err, record)) => (record.partition(), Err(code_of(err))),
        };
        // Whoever has gone needs no answer.
        self.told.send(told).ok();
    }
}
