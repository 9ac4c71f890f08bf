//! Fetches: one consumer, on a thread of its own, reads all partitions that are wanted into bounded
//! buffers, and fetches are answered from these.

mod point;
mod table;
mod thread;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::Thread,
    time::Duration,
};

use rdkafka::{
    Offset as Position, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
};
use scheduler_core::{
    Offset, ShardId,
    port::{
        PortError,
        log::{Fetch, Fetches},
    },
};
use tokio::{
    sync::{Notify, Semaphore},
    time::Instant,
};

pub(crate) use self::point::PointReader;
use self::table::Table;
use crate::{
    client::Reports,
    error::{OpenError, late, unavailable},
    topic::Cluster,
};

/// How often a fetch that waits says that it still wants its partitions.
const TOUCH: Duration = Duration::from_secs(2);

/// Reads partitions on.
#[derive(Debug)]
pub(crate) struct Fetcher {
    cluster: Arc<Cluster>,
    shared: Arc<Shared>,
    consumer: SharedConsumer,
    /// One commit at a time: each holds a thread until Kafka has answered.
    publishing: Arc<Semaphore>,
}

/// A consumer; it has nothing to show.
#[derive(Clone)]
struct SharedConsumer(Arc<BaseConsumer<Reports>>);

impl std::fmt::Debug for SharedConsumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Consumer")
    }
}

/// What fetches and the thread share.
#[derive(Debug)]
struct Shared {
    table: Mutex<Table>,
    news: Notify,
    thread: OnceLock<Thread>,
    is_over: AtomicBool,
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

impl Fetcher {
    /// Starts the thread.
    pub(crate) fn start(cluster: &Arc<Cluster>) -> Result<Self, OpenError> {
        let shared = Arc::new(Shared {
            table: Mutex::new(Table::new(cluster.config.fetch_bytes_max / 2)),
            news: Notify::new(),
            thread: OnceLock::new(),
            is_over: AtomicBool::new(false),
        });
        let consumer = thread::start(cluster, &shared)?;
        Ok(Self {
            cluster: Arc::clone(cluster),
            shared,
            consumer: SharedConsumer(consumer),
            publishing: Arc::new(Semaphore::new(1)),
        })
    }

    /// Answers as soon as one of the wanted partitions has something.
    pub(crate) async fn fetch(&self, wanted: &[Fetch], wait: Duration) -> Fetches {
        let deadline = Instant::now() + wait;
        loop {
            let mut news = std::pin::pin!(self.shared.news.notified());
            // Registered before the look, so that a record in between is not missed.
            news.as_mut().enable();
            let (fetches, has_work) = self.look(wanted);
            if has_work {
                self.shared.wake();
            }
            if fetches != Fetches::default() || Instant::now() >= deadline {
                return fetches;
            }
            let until = deadline.min(Instant::now() + TOUCH);
            // Either way it looks again.
            tokio::time::timeout_at(until, news).await.ok();
        }
    }

    fn look(&self, wanted: &[Fetch]) -> (Fetches, bool) {
        let topics = &self.cluster.topics;
        self.shared
            .table()
            .fetch(wanted, std::time::Instant::now(), |number| {
                topics.of(number)
            })
    }

    /// What was deleted must not be read from a buffer either.
    pub(crate) fn trimmed(&self, shard: ShardId, below: Offset) {
        self.shared.table().trim(shard, below);
    }

    /// Commits offsets under the group that has no members.
    pub(crate) async fn publish(
        &self,
        operation: &'static str,
        watermarks: &[(ShardId, Offset)],
    ) -> Result<(), PortError> {
        let place = |(shard, offset): &(ShardId, Offset)| {
            // Of one that was removed meanwhile nothing needs to be shown.
            let known = self.cluster.topics.holding(operation, *shard).ok()?;
            let offset = Position::Offset(i64::try_from(offset.0).ok()?);
            Some((known.name, shard.partition.0, offset))
        };
        let list = positions(watermarks.iter().filter_map(place));
        if list.count() == 0 {
            return Ok(());
        }
        let permit = Arc::clone(&self.publishing).try_acquire_owned();
        let permit = permit.map_err(|_| unavailable(operation, "the last one is on its way"))?;
        let consumer = self.consumer.clone();
        let commit = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            consumer.0.commit(&list, CommitMode::Sync)
        });
        match tokio::time::timeout(self.cluster.config.request_timeout, commit).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(err))) => Err(unavailable(operation, err)),
            Ok(Err(err)) => Err(unavailable(operation, err)),
            Err(_) => Err(late(operation)),
        }
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Release);
        self.shared.wake();
    }
}

/// A list of partitions and offsets for librdkafka.
pub(crate) fn positions(
    places: impl IntoIterator<Item = (Arc<str>, u16, Position)>,
) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    // Each place once, as librdkafka wants it.
    let sorted: BTreeMap<_, _> = places
        .into_iter()
        .map(|(topic, partition, position)| ((topic, partition), position))
        .collect();
    for ((topic, partition), position) in sorted {
        let mut place = list.add_partition(&topic, i32::from(partition));
        // Any offset that is no special one can be set.
        place.set_offset(position).ok();
    }
    list
}
