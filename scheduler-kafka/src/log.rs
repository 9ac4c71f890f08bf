//! The log's port: each call goes to the part that does it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use rdkafka::{Offset as Position, error::RDKafkaErrorCode};
use scheduler_core::{
    Offset, Pipeline, ShardId, TaskId,
    member::shards_of,
    port::{
        PortError, TaskLog,
        log::{Appended, Bounds, Fetch, Fetches, NewRecord, Record},
    },
};

use crate::{
    consumer::{Fetcher, PointReader, positions},
    error::{OpenError, late, unavailable},
    native::{self, Described, Offsets},
    producer::Producer,
    topic::{Cluster, Known},
};

/// How soon a partition whose leader has moved is asked for again.
const RETRY: Duration = Duration::from_millis(50);

/// The log on Kafka. What reads is started when it is first asked for: many processes only append.
#[derive(Debug)]
pub(crate) struct KafkaLog {
    cluster: Arc<Cluster>,
    producer: Producer,
    fetcher: Started<Fetcher>,
    reader: Started<PointReader>,
}

/// Something that is started when it is first used.
#[derive(Debug)]
struct Started<T>(Mutex<Option<Arc<T>>>);

impl<T> Default for Started<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T> Started<T> {
    fn get(
        &self,
        operation: &'static str,
        start: impl FnOnce() -> Result<T, OpenError>,
    ) -> Result<Arc<T>, PortError> {
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(started) = &*place {
            return Ok(Arc::clone(started));
        }
        let started = Arc::new(start().map_err(|err| unavailable(operation, err))?);
        *place = Some(Arc::clone(&started));
        Ok(started)
    }

    fn if_started(&self) -> Option<Arc<T>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

type Place = (Arc<str>, u16);

impl KafkaLog {
    pub(crate) fn open(cluster: &Arc<Cluster>) -> Result<Self, OpenError> {
        Ok(Self {
            producer: Producer::open(Arc::clone(cluster))?,
            cluster: Arc::clone(cluster),
            fetcher: Started::default(),
            reader: Started::default(),
        })
    }

    fn fetcher(&self, operation: &'static str) -> Result<Arc<Fetcher>, PortError> {
        self.fetcher
            .get(operation, || Fetcher::start(&self.cluster))
    }

    /// One offset of each partition.
    async fn offsets(
        &self,
        operation: &'static str,
        places: &BTreeSet<Place>,
        position: Position,
    ) -> Result<HashMap<(Box<str>, i32), Result<i64, RDKafkaErrorCode>>, PortError> {
        let timeout = self.cluster.config.request_timeout;
        let deadline = Instant::now() + timeout / 2;
        let mut found = HashMap::new();
        let mut rest: Vec<_> = places.iter().cloned().collect();
        while !rest.is_empty() {
            let each = rest.drain(..);
            let list = positions(each.map(|(topic, partition)| (topic, partition, position)));
            let admin = Arc::clone(&self.cluster.admin);
            let asked = move || native::list_offsets(&admin, &list, timeout);
            let answers = tokio::task::spawn_blocking(asked).await;
            let answers: Offsets = answers.map_err(|err| unavailable(operation, err))?;
            let is_over = Instant::now() > deadline;
            for ((topic, partition), answer) in answers {
                match answer {
                    // A leader that has just changed is asked for again by the next call.
                    Err(code) if !is_over && may_have_moved(code) => {
                        rest.extend(u16::try_from(partition).map(|n| (Arc::from(topic), n)));
                    }
                    answer => drop(found.insert((topic, partition), answer)),
                }
            }
            if !rest.is_empty() {
                tokio::time::sleep(RETRY).await;
            }
        }
        Ok(found)
    }

    /// Where the shards are, and what the cluster knows of their topics.
    async fn locate(
        &self,
        operation: &'static str,
        shards: impl Iterator<Item = ShardId>,
    ) -> Result<Located, PortError> {
        let known: Vec<_> = shards
            .map(|shard| (shard, self.cluster.topics.holding(operation, shard)))
            .collect();
        let found = known.iter().filter_map(|(_, known)| known.as_ref().ok());
        let names: BTreeSet<_> = found.map(|known| Arc::clone(&known.name)).collect();
        let described = self.cluster.describe(operation, &names).await?;
        let mut located = Located {
            shards: Vec::with_capacity(known.len()),
            topics: BTreeMap::new(),
        };
        for (shard, known) in known {
            let usable = known.and_then(|known| {
                let topic = described.get(&known.name).ok_or_else(|| late(operation))?;
                usable(operation, shard, &known, topic.as_ref())?;
                Ok(known)
            });
            located.shards.push((shard, usable));
        }
        for (name, topic) in described {
            located.topics.extend(topic.ok().map(|topic| (name, topic)));
        }
        Ok(located)
    }

    async fn try_bounds(
        &self,
        operation: &'static str,
        shards: &[ShardId],
    ) -> Result<Vec<Result<Bounds, PortError>>, PortError> {
        let located = self.locate(operation, shards.iter().copied()).await?;
        let places = located.places();
        let (starts, ends) = tokio::join!(
            self.offsets(operation, &places, Position::Beginning),
            self.offsets(operation, &places, Position::End),
        );
        let (starts, ends) = (starts?, ends?);
        let bounds = |(shard, known): (ShardId, Result<Known, PortError>)| {
            let known = known?;
            let place = (Box::from(&*known.name), i32::from(shard.partition.0));
            let topic = located.topics.get(&known.name);
            let topic = topic.ok_or_else(|| late(operation))?;
            if topic.id != known.id {
                self.cluster.topics.renew(shard.pipeline, &topic.id);
            }
            Ok(Bounds {
                start: offset_of(operation, starts.get(&place))?,
                end: offset_of(operation, ends.get(&place))?,
                incarnation: Arc::clone(&topic.id),
            })
        };
        Ok(located.shards.into_iter().map(bounds).collect())
    }
}

struct Located {
    shards: Vec<(ShardId, Result<Known, PortError>)>,
    topics: BTreeMap<Arc<str>, Described>,
}

impl Located {
    fn places(&self) -> BTreeSet<Place> {
        let place = |(shard, known): &(ShardId, Result<Known, PortError>)| {
            let known = known.as_ref().ok()?;
            Some((Arc::clone(&known.name), shard.partition.0))
        };
        self.shards.iter().filter_map(place).collect()
    }
}

/// Refuses what would hold up a request about many partitions.
fn usable(
    operation: &'static str,
    shard: ShardId,
    known: &Known,
    topic: Result<&Described, &native::Failure>,
) -> Result<(), PortError> {
    let name = &known.name;
    match topic {
        Err(failure) => Err(unavailable(operation, format!("topic {name}: {failure}"))),
        Ok(topic) if usize::from(shard.partition.0) >= topic.n_partitions => {
            let why = format!("topic {name} has no partition {}", shard.partition.0);
            Err(unavailable(operation, why))
        }
        Ok(topic) if !topic.has_leaders => {
            let why = format!("topic {name} has a partition without a leader");
            Err(unavailable(operation, why))
        }
        Ok(_) => Ok(()),
    }
}

/// Whether the failure may be of a leader that is new, has moved, or is not known to this client yet: nothing that only
/// time or another call ends.
fn may_have_moved(code: RDKafkaErrorCode) -> bool {
    !native::is_of_all(code)
        && !matches!(
            code,
            RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::ClusterAuthorizationFailed
                | RDKafkaErrorCode::Authentication
                | RDKafkaErrorCode::InvalidArgument
        )
}

fn offset_of(
    operation: &'static str,
    found: Option<&Result<i64, RDKafkaErrorCode>>,
) -> Result<Offset, PortError> {
    match found {
        Some(Ok(offset)) => match u64::try_from(*offset) {
            Ok(offset) => Ok(Offset(offset)),
            Err(_) => Err(unavailable(operation, "Kafka did not tell the offset")),
        },
        Some(Err(code)) => Err(unavailable(operation, code.to_string())),
        None => Err(late(operation)),
    }
}

#[async_trait]
impl TaskLog for KafkaLog {
    async fn ensure(&self, pipelines: &[Arc<Pipeline>]) -> Vec<Result<(), PortError>> {
        let mut answers = self.cluster.ensure(pipelines).await;
        // A leader that has not opened its partition yet refuses a first batch and may take the one that follows
        // it; then it takes the first for a repeat, and it is lost. So each must be there before it is written to.
        let shards: Vec<_> = pipelines
            .iter()
            .enumerate()
            .filter(|(at, pipeline)| {
                answers[*at].is_ok() && self.cluster.topics.of(pipeline.number).is_some()
            })
            .flat_map(|(at, pipeline)| shards_of(pipeline).map(move |shard| (at, shard)))
            .collect();
        let places: Vec<_> = shards.iter().map(|(_, shard)| *shard).collect();
        if places.is_empty() {
            return answers;
        }
        for ((at, _), bounds) in shards.into_iter().zip(self.bounds(&places).await) {
            if let Err(err) = bounds {
                answers[at] = Err(err);
            }
        }
        answers
    }

    async fn close(&self, pipeline: &Pipeline) -> Result<Option<Vec<Bounds>>, PortError> {
        let Some(ends) = self.cluster.close(pipeline).await? else {
            return Ok(None);
        };
        let shards: Vec<_> = shards_of(pipeline).collect();
        let mut closed = Vec::with_capacity(shards.len());
        for (shard, bounds) in shards.iter().zip(self.bounds(&shards).await) {
            let mut bounds = bounds?;
            // A transaction that is still open hides what lies behind its beginning.
            let end = ends.get(&shard.partition).copied();
            bounds.end = end.map_or(bounds.end, |end| end.max(bounds.end));
            closed.push(bounds);
        }
        Ok(Some(closed))
    }

    async fn remove(&self, pipeline: &Pipeline) -> Result<(), PortError> {
        self.cluster.remove(pipeline).await
    }

    async fn append(&self, records: Vec<NewRecord>) -> Vec<Result<Appended, PortError>> {
        self.producer.append(records).await
    }

    async fn fetch(&self, wanted: &[Fetch], wait: Duration) -> Result<Fetches, PortError> {
        Ok(self.fetcher("fetch records")?.fetch(wanted, wait).await)
    }

    async fn read_at(&self, wanted: &[TaskId]) -> Vec<Result<Option<Record>, PortError>> {
        let start = || PointReader::start(&self.cluster);
        match self.reader.get("read a record", start) {
            Ok(reader) => reader.read(wanted).await,
            Err(err) => {
                let why = err.to_string();
                let again = |_| Err(unavailable("read a record", why.clone()));
                wanted.iter().map(again).collect()
            }
        }
    }

    async fn bounds(&self, shards: &[ShardId]) -> Vec<Result<Bounds, PortError>> {
        const OPERATION: &str = "read bounds";
        match self.try_bounds(OPERATION, shards).await {
            Ok(bounds) => bounds,
            Err(err) => {
                let why = std::error::Error::source(&err).map(ToString::to_string);
                let why = why.unwrap_or_else(|| err.to_string());
                let failed = |_| Err(unavailable(OPERATION, why.clone()));
                shards.iter().map(failed).collect()
            }
        }
    }

    async fn trim(&self, below: &[(ShardId, Offset)]) -> Result<(), PortError> {
        const OPERATION: &str = "trim";
        let located = self
            .locate(OPERATION, below.iter().map(|(shard, _)| *shard))
            .await?;
        let ends = self
            .offsets(OPERATION, &located.places(), Position::End)
            .await?;
        let mut wanted = BTreeMap::new();
        let mut failed = None;
        for ((shard, known), (_, below)) in located.shards.iter().zip(below) {
            let Ok(known) = known else {
                failed = Some(format!("there is no log of shard {shard}"));
                continue;
            };
            let found = located.topics.get(&known.name);
            if found.is_some_and(|found| found.id != known.id) {
                // Those records are another log's, perhaps another pipeline's.
                failed = Some(format!("the log of shard {shard} was made again"));
                continue;
            }
            let place = (Box::from(&*known.name), i32::from(shard.partition.0));
            match offset_of(OPERATION, ends.get(&place)) {
                // Kafka refuses what lies beyond the end.
                Ok(end) => {
                    let place = (Arc::clone(&known.name), shard.partition.0);
                    let wanted = wanted.entry(place).or_insert((*shard, Offset::ZERO));
                    wanted.1 = wanted.1.max(end.min(*below));
                }
                Err(err) => failed = Some(format!("the end of shard {shard} is not known: {err}")),
            }
        }
        let position = |offset: Offset| Position::Offset(i64::try_from(offset.0).unwrap_or(0));
        let list = positions(wanted.iter().map(|((topic, partition), (_, below))| {
            (Arc::clone(topic), *partition, position(*below))
        }));
        if list.count() > 0 {
            if let Some(fetcher) = self.fetcher.if_started() {
                // First, so that no fetch sees what is being deleted.
                wanted
                    .values()
                    .for_each(|(shard, below)| fetcher.trimmed(*shard, *below));
            }
            let deleted = self.cluster.delete_records(OPERATION, &list).await?;
            for place in deleted.elements() {
                if let Err(err) = place.error() {
                    let (topic, partition) = (place.topic(), place.partition());
                    failed = Some(format!("topic {topic}, partition {partition}: {err}"));
                }
            }
        }
        failed.map_or(Ok(()), |why| Err(unavailable(OPERATION, why)))
    }

    async fn publish_watermarks(&self, watermarks: &[(ShardId, Offset)]) -> Result<(), PortError> {
        const OPERATION: &str = "publish watermarks";
        self.fetcher(OPERATION)?
            .publish(OPERATION, watermarks)
            .await
    }
}
