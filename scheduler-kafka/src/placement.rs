//! Ownership of slots by a consumer group: the partitions of one internal topic are the slots. A thread
//! polls the group's consumer; a revoked slot is let go only once it was released.

mod owned;
mod thread;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use rdkafka::{
    Offset as Position,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
    error::{KafkaResult, RDKafkaErrorCode},
};
use scheduler_core::{
    N_SLOTS, Slot,
    port::{FailureKind, Placement, PortError, placement::PlacementEvent},
};
use tokio::sync::{Mutex as AsyncMutex, Notify, Semaphore};

use self::{owned::Owned, thread::Member};
use crate::{
    consumer::positions,
    error::{code_of, late, unavailable},
    topic::Cluster,
};

const OPERATION: &str = "prove membership";

/// A member of the group.
pub(crate) struct GroupPlacement {
    cluster: Arc<Cluster>,
    shared: Arc<Shared>,
    consumer: AsyncMutex<Option<Arc<BaseConsumer<Member>>>>,
    /// One proof at a time: each holds a thread until Kafka has answered.
    proving: Arc<Semaphore>,
}

impl std::fmt::Debug for GroupPlacement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GroupPlacement").finish_non_exhaustive()
    }
}

/// What calls and the thread share.
#[derive(Debug, Default)]
struct Shared {
    owned: Mutex<Owned>,
    told: Notify,
    is_over: AtomicBool,
    /// It has left the group, or is about to: what the group takes back is let go at once.
    is_away: AtomicBool,
}

impl Shared {
    /// Whether what the group takes back is let go at once.
    fn is_leaving(&self) -> bool {
        self.is_over.load(Ordering::Acquire) || self.is_away.load(Ordering::Acquire)
    }

    fn owned(&self) -> MutexGuard<'_, Owned> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl GroupPlacement {
    pub(crate) fn new(cluster: &Arc<Cluster>) -> Self {
        Self {
            cluster: Arc::clone(cluster),
            shared: Arc::default(),
            consumer: AsyncMutex::new(None),
            proving: Arc::new(Semaphore::new(1)),
        }
    }

    /// Joins the group, once. The topic of the slots must be there before.
    async fn join(&self) -> Result<Arc<BaseConsumer<Member>>, PortError> {
        const OPERATION: &str = "join the members";
        let mut joined = self.consumer.lock().await;
        if let Some(consumer) = &*joined {
            return Ok(Arc::clone(consumer));
        }
        let topic: Arc<str> = self.cluster.config.slots_topic.as_str().into();
        self.make_topic(OPERATION, &topic).await?;
        let consumer = thread::start(&self.cluster.config, &self.shared);
        let consumer = consumer.map_err(|err| unavailable(OPERATION, err))?;
        *joined = Some(Arc::clone(&consumer));
        Ok(consumer)
    }

    async fn make_topic(&self, operation: &'static str, topic: &Arc<str>) -> Result<(), PortError> {
        let found = self
            .cluster
            .describe(operation, &[Arc::clone(topic)].into())
            .await?;
        let n_found = match found.get(topic) {
            Some(Ok(described)) => described.n_partitions,
            Some(Err(failure)) if crate::topic::is_missing(failure.code) => {
                let missing = BTreeMap::from([(Arc::clone(topic), N_SLOTS)]);
                let replicas = self.cluster.config.min_insync_replicas.to_string();
                let settings = [("min.insync.replicas", replicas)];
                let mut made = self.cluster.make(operation, &missing, &settings).await?;
                let made = made.remove(topic).ok_or_else(|| late(operation))?;
                made.map_err(|why| unavailable(operation, why))?
                    .n_partitions
            }
            Some(Err(failure)) => return Err(unavailable(operation, failure.clone())),
            None => return Err(late(operation)),
        };
        if n_found == usize::from(N_SLOTS) {
            return Ok(());
        }
        let why = format!("topic {topic} has {n_found} partitions; it must have {N_SLOTS}");
        Err(PortError::new(operation, FailureKind::Damaged).caused_by(why))
    }

    /// Calls the consumer, which waits for its own thread, where nobody waits for it.
    async fn subscribe(
        &self,
        operation: &'static str,
        call: impl FnOnce(&BaseConsumer<Member>) -> KafkaResult<()> + Send + 'static,
    ) -> Result<(), PortError> {
        let consumer = self.join().await?;
        let called = tokio::task::spawn_blocking(move || call(&consumer));
        let called = called.await.map_err(|err| unavailable(operation, err))?;
        called.map_err(|err| unavailable(operation, err))
    }
}

impl Drop for GroupPlacement {
    fn drop(&mut self) {
        // The thread closes the consumer, which leaves the group at once.
        self.shared.is_over.store(true, Ordering::Release);
    }
}

#[async_trait]
impl Placement for GroupPlacement {
    async fn next(&self) -> Result<PlacementEvent, PortError> {
        self.join().await?;
        loop {
            let mut told = std::pin::pin!(self.shared.told.notified());
            told.as_mut().enable();
            if let Some(event) = self.shared.owned().next_event() {
                return Ok(event);
            }
            told.await;
        }
    }

    async fn released(&self, slots: &[Slot]) -> Result<(), PortError> {
        // The thread sees it at its next look.
        self.shared.owned().release(slots);
        Ok(())
    }

    async fn prove(&self) -> Result<(), PortError> {
        let consumer = self.join().await?;
        let (slot, generation) = self
            .shared
            .owned()
            .to_prove()
            .ok_or_else(|| unavailable(OPERATION, "this process is not a member yet"))?;
        let topic: Arc<str> = self.cluster.config.slots_topic.as_str().into();
        let offsets = positions([(topic, u16::from(slot.0), Position::Offset(0))]);
        let permit = Arc::clone(&self.proving).try_acquire_owned();
        let permit = permit.map_err(|_| unavailable(OPERATION, "the last one is on its way"))?;
        // Kafka takes the commit only from a member of the current generation.
        let commit = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            consumer.commit(&offsets, CommitMode::Sync)
        });
        let answer = tokio::time::timeout(self.cluster.config.request_timeout, commit).await;
        let answer = answer.map_err(|_| late(OPERATION))?;
        match answer.map_err(|err| unavailable(OPERATION, err))? {
            // What was lost meanwhile was not proven.
            Ok(()) if self.shared.owned().is_still(generation) => Ok(()),
            Ok(()) => Err(unavailable(OPERATION, "the slots were lost meanwhile")),
            Err(err) => {
                let is_replaced = matches!(
                    code_of(&err),
                    RDKafkaErrorCode::UnknownMemberId | RDKafkaErrorCode::FencedInstanceId
                );
                // What came since was given to another membership than the one that was asked about.
                let is_news = is_replaced && {
                    let mut owned = self.shared.owned();
                    owned.is_still(generation) && owned.lose_all()
                };
                if is_news {
                    self.shared.told.notify_waiters();
                }
                Err(unavailable(OPERATION, err))
            }
        }
    }

    async fn leave(&self) -> Result<(), PortError> {
        self.shared.is_away.store(true, Ordering::Release);
        if self.shared.owned().lose_all() {
            self.shared.told.notify_waiters();
        }
        let leave = |consumer: &BaseConsumer<Member>| {
            consumer.unsubscribe();
            Ok(())
        };
        self.subscribe("leave the members", leave).await
    }

    async fn rejoin(&self) -> Result<(), PortError> {
        self.shared.is_away.store(false, Ordering::Release);
        let topic = self.cluster.config.slots_topic.clone();
        let join = move |consumer: &BaseConsumer<Member>| consumer.subscribe(&[&topic]);
        self.subscribe("join the members again", join).await
    }
}
