//! Topics: their names and settings, what is known of them, and how they are made and removed.

mod close;
mod known;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    TopicPartitionList,
    admin::{
        AdminClient, AdminOptions, ConfigResourceResult, NewTopic, ResourceSpecifier,
        TopicReplication,
    },
    config::RDKafkaLogLevel,
    error::RDKafkaErrorCode,
};
use scheduler_core::{Mode, Pipeline, PipelinePath, port::PortError};
use tracing::{error, info};

pub(crate) use self::known::{Known, Topics};
use crate::{
    client::{Reports, settings},
    config::Config,
    error::{OpenError, code_of, late, unavailable},
    native::{self, Call, Described, Descriptions, Failure},
};

/// How often it is looked whether a change has come through.
const LOOK: Duration = Duration::from_millis(20);
/// The controller takes at most 10,000 changes in one request: a topic has some, and one per partition.
const CHANGES_MAX: usize = 5_000;
/// How long a cluster may take to make one partition, when it makes many.
const PER_PARTITION: Duration = Duration::from_millis(10);
/// Topics whose settings are read by one request.
const DESCRIBE_MAX: usize = 100;

/// The cluster, as far as topics go.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) config: Arc<Config>,
    pub(crate) admin: Arc<AdminClient<Reports>>,
    pub(crate) topics: Topics,
}

/// The name of a pipeline's topic.
pub(crate) fn name_of(config: &Config, path: &PipelinePath) -> Arc<str> {
    let PipelinePath {
        tenant,
        application,
        pipeline,
    } = path;
    // Names have no dots, so this is unambiguous.
    format!("{}.{tenant}.{application}.{pipeline}", config.topic_prefix).into()
}

/// The settings of a topic that holds tasks: it forgets nothing that was not trimmed.
fn task_settings(config: &Config) -> Vec<(&'static str, String)> {
    vec![
        ("cleanup.policy", "delete".to_owned()),
        ("retention.ms", "-1".to_owned()),
        ("retention.bytes", "-1".to_owned()),
        ("message.timestamp.type", "LogAppendTime".to_owned()),
        ("unclean.leader.election.enable", "false".to_owned()),
        (
            "min.insync.replicas",
            config.min_insync_replicas.to_string(),
        ),
        ("max.message.bytes", config.record_bytes_max().to_string()),
        // Only whole segments are deleted.
        ("segment.bytes", (64 << 20).to_string()),
        ("segment.ms", (24 * 3_600 * 1_000).to_string()),
    ]
}

/// What must not differ in a topic that someone else has made, since tasks would be lost or misjudged.
const WATCHED: [&str; 5] = [
    "cleanup.policy",
    "retention.ms",
    "retention.bytes",
    "message.timestamp.type",
    "unclean.leader.election.enable",
];

impl Cluster {
    pub(crate) fn open(config: Arc<Config>) -> Result<Self, OpenError> {
        let mut settings = settings(&config);
        // Nobody reads this client's lines; the others tell the same.
        settings
            .set_log_level(RDKafkaLogLevel::Emerg)
            // Who leads a partition must be known anew soon after it has changed.
            .set("metadata.max.age.ms", "10000")
            .set("topic.metadata.refresh.interval.ms", "5000");
        let admin = settings.create_with_context(Reports::of("admin"));
        Ok(Self {
            config,
            admin: Arc::new(admin.map_err(OpenError::client)?),
            topics: Topics::default(),
        })
    }

    pub(crate) fn options(&self) -> AdminOptions {
        AdminOptions::new()
            .request_timeout(Some(self.config.request_timeout))
            .operation_timeout(Some(self.config.request_timeout))
    }

    /// What the cluster knows of topics.
    pub(crate) async fn describe(
        &self,
        operation: &'static str,
        names: &BTreeSet<Arc<str>>,
    ) -> Result<BTreeMap<Arc<str>, Result<Described, Failure>>, PortError> {
        if names.is_empty() {
            return Ok(BTreeMap::new());
        }
        let timeout = self.config.request_timeout;
        let call = native::describe_topics(&self.admin, names.iter().map(|name| &**name), timeout);
        let found: Descriptions = answer(operation, call, timeout).await?;
        let found = found
            .into_iter()
            .map(|(name, found)| (Arc::from(name), found));
        Ok(found.collect())
    }

    /// Makes what is missing, but for pipelines that are being deleted, and answers for each.
    pub(crate) async fn ensure(
        self: &Arc<Self>,
        pipelines: &[Arc<Pipeline>],
    ) -> Vec<Result<(), PortError>> {
        const OPERATION: &str = "make a log";
        let names: Vec<_> = pipelines
            .iter()
            .map(|pipeline| name_of(&self.config, &pipeline.path))
            .collect();
        let wanted: BTreeMap<_, _> = names
            .iter()
            .zip(pipelines)
            .map(|(name, pipeline)| {
                let is_made = pipeline.mode != Mode::Deleting;
                let n_partitions = is_made.then_some(pipeline.spec.n_partitions);
                (Arc::clone(name), n_partitions)
            })
            .collect();
        let found = match self.find_or_make(OPERATION, &wanted).await {
            Ok(found) => found,
            Err(err) => {
                let kind = err.kind();
                let cause = std::error::Error::source(&err).map(ToString::to_string);
                let cause = cause.unwrap_or_default();
                let failed = || PortError::new(OPERATION, kind).caused_by(cause.clone());
                return pipelines.iter().map(|_| Err(failed())).collect();
            }
        };
        let answer = |(name, pipeline): (&Arc<str>, &Arc<Pipeline>)| match found.get(name) {
            Some(Ok(described)) => self.topics.learn(OPERATION, pipeline, name, described),
            Some(Err(why)) => Err(unavailable(OPERATION, why.clone())),
            None if pipeline.mode == Mode::Deleting => Ok(()),
            None => Err(late(OPERATION)),
        };
        names.iter().zip(pipelines).map(answer).collect()
    }

    async fn find_or_make(
        self: &Arc<Self>,
        operation: &'static str,
        wanted: &BTreeMap<Arc<str>, Option<u16>>,
    ) -> Result<BTreeMap<Arc<str>, Result<Described, String>>, PortError> {
        let names = wanted.keys().cloned().collect();
        let mut found = BTreeMap::new();
        let mut missing = BTreeMap::new();
        let mut present = Vec::new();
        for (name, description) in self.describe(operation, &names).await? {
            match description {
                Ok(described) => {
                    present.push(Arc::clone(&name));
                    found.insert(name, Ok(described));
                }
                Err(failure) if is_missing(failure.code) => {
                    if let Some(n) = wanted.get(&name).copied().flatten() {
                        missing.insert(name, n);
                    }
                }
                Err(failure) => drop(found.insert(name, Err(failure.to_string()))),
            }
        }
        self.look_at_settings(present);
        if !missing.is_empty() {
            let settings = task_settings(&self.config);
            found.extend(self.make(operation, &missing, &settings).await?);
        }
        Ok(found)
    }

    /// Makes topics and waits until they can be used.
    pub(crate) async fn make(
        &self,
        operation: &'static str,
        missing: &BTreeMap<Arc<str>, u16>,
        settings: &[(&'static str, String)],
    ) -> Result<BTreeMap<Arc<str>, Result<Described, String>>, PortError> {
        let n_partitions = missing.values().map(|n| u32::from(*n)).sum();
        let deadline = Instant::now()
            + self.config.request_timeout
            + PER_PARTITION.saturating_mul(n_partitions);
        let replication = i32::from(self.config.replication_factor);
        let mut found = BTreeMap::new();
        let mut made = BTreeSet::new();
        let mut rest: Vec<_> = missing.iter().collect();
        while !rest.is_empty() {
            let mut n_changes = 0;
            let n = rest
                .iter()
                .take_while(|(_, n_partitions)| {
                    n_changes += settings.len() + usize::from(**n_partitions) + 1;
                    n_changes <= CHANGES_MAX
                })
                .count();
            let topics: Vec<_> = rest
                .drain(..n.max(1))
                .map(|(name, n_partitions)| {
                    let fixed = TopicReplication::Fixed(replication);
                    let topic = NewTopic::new(name, i32::from(*n_partitions), fixed);
                    settings
                        .iter()
                        .fold(topic, |topic, (key, value)| topic.set(key, value))
                })
                .collect();
            let results = self.admin.create_topics(&topics, &self.options()).await;
            for result in results.map_err(|err| unavailable(operation, err))? {
                match result {
                    Ok(name) => drop(made.insert(Arc::from(name))),
                    // Someone else was faster.
                    Err((name, RDKafkaErrorCode::TopicAlreadyExists)) => {
                        made.insert(Arc::from(name));
                    }
                    Err((name, code)) => {
                        found.insert(Arc::from(name), Err(format!("the cluster refused: {code}")));
                    }
                }
            }
        }
        info!(n = made.len(), "made topics");
        while !made.is_empty() {
            let looked_at = Instant::now();
            for (name, description) in self.describe(operation, &made).await? {
                if let Ok(described) = description
                    && described.has_leaders
                {
                    made.remove(&name);
                    found.insert(name, Ok(described));
                }
            }
            if made.is_empty() || Instant::now() > deadline {
                break;
            }
            // A look at many topics costs more, and is not needed as often.
            tokio::time::sleep(LOOK.max(looked_at.elapsed())).await;
        }
        let no_leader = || Err("the topic was made, but has no leaders yet".to_owned());
        found.extend(made.into_iter().map(|name| (name, no_leader())));
        Ok(found)
    }

    /// Removes a pipeline's topic, and waits until it is gone.
    pub(crate) async fn remove(&self, pipeline: &Pipeline) -> Result<(), PortError> {
        const OPERATION: &str = "remove a log";
        let name = name_of(&self.config, &pipeline.path);
        let names = BTreeSet::from([Arc::clone(&name)]);
        let known = self.topics.of(pipeline.number);
        let found = self.describe(OPERATION, &names).await?;
        let found = found.get(&name).and_then(|found| found.as_ref().ok());
        let is_another = known
            .zip(found)
            .is_some_and(|(known, found)| known.id != found.id);
        if !self.topics.forget(pipeline.number, &name) || is_another {
            // The name is another pipeline's by now, so this one's log is gone.
            return Ok(());
        }
        let deadline = Instant::now() + self.config.request_timeout;
        let results = self.admin.delete_topics(&[&name], &self.options()).await;
        for result in results.map_err(|err| unavailable(OPERATION, err))? {
            match result {
                Ok(_) => {}
                Err((_, code)) if is_missing(code) => {}
                Err((_, code)) => return Err(unavailable(OPERATION, code.to_string())),
            }
        }
        loop {
            let found = self.describe(OPERATION, &names).await?;
            let is_gone = |found: &Result<Described, Failure>| {
                found
                    .as_ref()
                    .is_err_and(|failure| is_missing(failure.code))
            };
            if found.values().all(is_gone) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(late(OPERATION));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Deletes records; tells for each partition that failed why it did.
    pub(crate) async fn delete_records(
        &self,
        operation: &'static str,
        below: &TopicPartitionList,
    ) -> Result<TopicPartitionList, PortError> {
        let deleted = self.admin.delete_records(below, &self.options()).await;
        deleted.map_err(|err| match code_of(&err) {
            RDKafkaErrorCode::RequestTimedOut | RDKafkaErrorCode::OperationTimedOut => {
                late(operation)
            }
            _ => unavailable(operation, err),
        })
    }

    /// Tells loudly where a topic that was found could lose tasks; asks in the background.
    fn look_at_settings(self: &Arc<Self>, names: Vec<Arc<str>>) {
        let names = self.topics.not_looked_at(names);
        if names.is_empty() {
            return;
        }
        let this = Arc::clone(self);
        tokio::spawn(async move {
            for names in names.chunks(DESCRIBE_MAX) {
                let resources: Vec<_> = names
                    .iter()
                    .map(|name| ResourceSpecifier::Topic(name))
                    .collect();
                let described = this.admin.describe_configs(&resources, &this.options());
                match described.await {
                    Ok(results) => results.into_iter().for_each(|result| this.judge(result)),
                    Err(err) => tracing::warn!(%err, "the settings of topics were not read"),
                }
            }
        });
    }

    fn judge(&self, result: ConfigResourceResult) {
        let Ok(resource) = result else {
            return;
        };
        let wanted = task_settings(&self.config);
        for (key, wanted) in wanted.iter().filter(|(key, _)| WATCHED.contains(key)) {
            let found = resource.get(key).and_then(|entry| entry.value.as_deref());
            if let Some(found) = found.filter(|found| found != wanted) {
                error!(
                    topic = ?resource.specifier, setting = key, found, wanted,
                    "a topic can lose or misdate tasks: set it as wanted"
                );
            }
        }
    }
}

/// Waits for an answer without blocking the runtime.
pub(crate) async fn answer<T: Send + 'static>(
    operation: &'static str,
    call: Option<Call<T>>,
    timeout: Duration,
) -> Result<T, PortError> {
    let call = call.ok_or_else(|| unavailable(operation, "librdkafka has no room for a call"))?;
    // librdkafka ends the call by then; the rest is for its own delays.
    let wait = timeout + Duration::from_secs(1);
    match tokio::task::spawn_blocking(move || call.answer(wait)).await {
        Ok(Some(Ok(answer))) => Ok(answer),
        Ok(Some(Err(failure))) => Err(unavailable(operation, failure)),
        Ok(None) => Err(late(operation)),
        Err(err) => Err(unavailable(operation, err)),
    }
}

/// Whether a code says that a topic does not exist.
pub(crate) fn is_missing(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::UnknownPartition
            | RDKafkaErrorCode::UnknownTopicId
    )
}

/// Whether a code says that a partition does not hold an offset.
pub(crate) fn is_out_of_range(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange
    )
}
