//! The thread that polls the group's consumer, so that the group sees a member that lives.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext, Offset as Position, Statistics, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::{KafkaError, KafkaResult},
    types::RDKafkaRespErr,
};
use scheduler_core::Slot;
use tracing::{error, warn};

use super::Shared;
use crate::{
    client::{Reports, millis, settings},
    config::Config,
    consumer::positions,
    error::{OpenError, code_of},
};

/// How often it looks whether slots were released.
const LOOK: Duration = Duration::from_millis(50);

/// What the consumer tells of the group.
pub(super) struct Member {
    reports: Reports,
    shared: Arc<Shared>,
}

impl ClientContext for Member {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.reports.line(level as i32, facility, line);
    }

    fn stats(&self, _statistics: Statistics) {}

    fn stats_raw(&self, _statistics: &[u8]) {}

    fn error(&self, err: KafkaError, reason: &str) {
        self.reports.failure(code_of(&err), reason);
    }
}

impl ConsumerContext for Member {
    /// Called by the poll. What is being revoked is not let go here: the group waits until the thread
    /// does that, while polls and heartbeats go on.
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        change: RDKafkaRespErr,
        slots: &mut TopicPartitionList,
    ) {
        let done = if change == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            let assigned = consumer.incremental_assign(slots);
            if assigned.is_ok() {
                self.shared.owned().assign(read(slots));
            }
            assigned
        } else if consumer.assignment_lost() || self.shared.is_leaving() {
            self.shared.owned().taken();
            consumer.incremental_unassign(slots)
        } else {
            self.shared.owned().revoke(read(slots), Instant::now());
            Ok(())
        };
        if let Err(err) = done {
            error!(%err, "the slots of this member could not be changed");
        }
        self.shared.told.notify_waiters();
    }
}

fn read(slots: &TopicPartitionList) -> BTreeSet<Slot> {
    let slots = slots.elements();
    let slot = |partition: i32| u8::try_from(partition).ok().map(Slot);
    slots
        .iter()
        .filter_map(|each| slot(each.partition()))
        .collect()
}

fn connect(config: &Config, shared: &Arc<Shared>) -> KafkaResult<BaseConsumer<Member>> {
    let mut settings = settings(config);
    settings
        .set("group.id", &config.group)
        // A commit waits so long for the group's broker, and holds a thread meanwhile.
        .set("coordinator.query.interval.ms", millis(config.request_timeout))
        .set("group.protocol", "classic")
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", millis(config.session_timeout))
        .set("heartbeat.interval.ms", millis(config.heartbeat_interval))
        // The group waits so long for a member that lets go of slots.
        .set("max.poll.interval.ms", millis(config.release_timeout * 2 + config.session_timeout))
        .set("isolation.level", "read_committed")
        .set("auto.offset.reset", "latest")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // The slots hold no records.
        .set("fetch.wait.max.ms", "1000")
        .set("queued.max.messages.kbytes", "1024");
    settings.create_with_context(Member {
        reports: Reports::of("member"),
        shared: Arc::clone(shared),
    })
}

/// Joins the group and starts the thread, which leaves it when `shared` says that it is over.
pub(super) fn start(
    config: &Config,
    shared: &Arc<Shared>,
) -> Result<Arc<BaseConsumer<Member>>, OpenError> {
    let consumer = connect(config, shared).map_err(OpenError::client)?;
    consumer
        .subscribe(&[&config.slots_topic])
        .map_err(OpenError::client)?;
    let consumer = Arc::new(consumer);
    let polled = Arc::clone(&consumer);
    let (shared, release_timeout) = (Arc::clone(shared), config.release_timeout);
    let topic: Arc<str> = config.slots_topic.as_str().into();
    let thread = thread::Builder::new().name("kafka-member".to_owned());
    let run = move || {
        while !shared.is_over.load(Ordering::Acquire) {
            if let Some(Err(err)) = polled.poll(LOOK) {
                polled
                    .context()
                    .reports
                    .failure(code_of(&err), "the group's consumer failed");
            }
            // The group tells of a loss only after it has got what it waits for.
            let too_long =
                |since: Instant| since.elapsed() > release_timeout || polled.assignment_lost();
            let gone = shared.owned().let_go(too_long);
            if let Some(gone) = gone {
                let_go(&polled, &topic, gone);
                shared.told.notify_waiters();
            }
        }
        let gone = shared.owned().let_go(|_| true);
        if let Some(gone) = gone {
            let_go(&polled, &topic, gone);
        }
        // Leaves the group, unless a proof still uses the consumer: then its end does.
        drop(polled);
    };
    thread.spawn(run).map_err(OpenError::client)?;
    Ok(consumer)
}

fn let_go(consumer: &BaseConsumer<Member>, topic: &Arc<str>, gone: BTreeSet<Slot>) {
    let gone = gone.into_iter();
    let gone = gone.map(|slot| (Arc::clone(topic), u16::from(slot.0), Position::Invalid));
    if let Err(err) = consumer.incremental_unassign(&positions(gone)) {
        warn!(%err, "slots were given up that the group had taken already");
    }
}
