//! One port call per kind of action and turn, each in a task of its own.

mod read;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
};
use tracing::{error, info, warn};

use self::read::{due_each, get_each, keyed_each, read_logs};
use crate::{
    Config, Epoch, IdempotencyKey, Offset, ShardId, Slot, TaskId, Timestamp,
    action::Action,
    member::Event,
    port::{
        Clock, FailureKind, PortError,
        log::{Fetch, Fetched, Fetches, NewRecord, NewTask},
        placement::PlacementEvent,
        store::{Claim, DuePage, Found, KeyedPage, Lookup, ShardFlush},
    },
    scheduler::Ports,
    shard::Loaded,
};

/// How long a fetch waits for news.
const FETCH_WAIT: Duration = Duration::from_secs(1);
/// How long to wait after a failed fetch, placement or proof.
const RETRY: Duration = Duration::from_secs(1);
/// How often the log is told how far it is worked off.
const PUBLISH_EVERY: Duration = Duration::from_secs(5);
/// The most shards of one claim.
const CLAIM_MAX: usize = 256;

/// Starts port calls and sends their results back.
#[derive(Debug)]
pub(super) struct Performer {
    config: Arc<Config>,
    ports: Ports,
    events: mpsc::UnboundedSender<Event>,
    loads: Vec<(ShardId, Epoch, Offset)>,
    keys: Vec<(ShardId, Epoch, IdempotencyKey)>,
    appends: Vec<(ShardId, Epoch, IdempotencyKey, NewTask)>,
    pages: Vec<(Epoch, DuePage)>,
    keyed: Vec<(Epoch, KeyedPage)>,
    trims: Vec<(ShardId, Offset)>,
    /// Durable watermarks that the log was not told yet.
    watermarks: Arc<Mutex<BTreeMap<ShardId, Offset>>>,
}

impl Performer {
    pub(super) fn new(
        config: Arc<Config>,
        ports: Ports,
        events: mpsc::UnboundedSender<Event>,
    ) -> Self {
        Self {
            config,
            ports,
            events,
            loads: Vec::new(),
            keys: Vec::new(),
            appends: Vec::new(),
            pages: Vec::new(),
            keyed: Vec::new(),
            trims: Vec::new(),
            watermarks: Arc::default(),
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.ports.clock.now()
    }

    pub(super) fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.ports.clock)
    }

    pub(super) fn tell(&self, event: Event) {
        // A driver that has stopped needs no results.
        self.events.send(event).ok();
    }

    /// Notes an action; what can share a call is collected until [`start`](Self::start).
    pub(super) fn add(&mut self, action: Action) {
        match action {
            Action::Flush(lane, parts) => self.flush(lane, parts),
            Action::Claim(ids) => self.claim(&ids),
            Action::Release(shards) => self.release(shards),
            Action::GiveUp(slots) => self.give_up(slots),
            Action::Load(id, epoch, offset) => self.loads.push((id, epoch, offset)),
            Action::ReadDue(epoch, page) => self.pages.push((epoch, page)),
            Action::ReadKeyed(epoch, page) => self.keyed.push((epoch, page)),
            Action::FindKey(id, epoch, key) => self.keys.push((id, epoch, key)),
            Action::AppendKeyed(id, epoch, key, task) => self.appends.push((id, epoch, key, task)),
            Action::Watermark(id, watermark) => drop(
                self.watermarks
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(id, watermark),
            ),
            Action::Trim(id, below) => self.trims.push((id, below)),
            Action::Refused(shard, why) => error!(%shard, why, "shard cannot be scheduled"),
            Action::LogLost(shard, why) => {
                warn!(%shard, why, "the log lost what was to be read next")
            }
            // Those are the turn's and the member's own.
            Action::Answer(..)
            | Action::Ended(_)
            | Action::Changed(_)
            | Action::LeaseEnded(..)
            | Action::Stopped => {}
        }
    }

    /// Starts what was collected.
    pub(super) fn start(&mut self) {
        self.load();
        self.find_keys();
        self.append();
        self.read_due();
        self.read_keyed();
        self.trim();
    }

    fn spawn(&self, call: impl Future<Output = Vec<Event>> + Send + 'static) -> JoinHandle<()> {
        let events = self.events.clone();
        tokio::spawn(async move {
            for event in call.await {
                // A driver that has stopped needs no results.
                events.send(event).ok();
            }
        })
    }

    pub(super) fn fetch(&self, wanted: Vec<Fetch>) -> JoinHandle<()> {
        let (log, clock) = (Arc::clone(&self.ports.log), self.clock());
        self.spawn(async move {
            // Without news too: by now other shards may have room.
            let fetched = match log.fetch(&wanted, FETCH_WAIT).await {
                Ok(fetched) => fetched,
                Err(err) => {
                    warn_port(&err, "fetch");
                    clock.sleep_until(clock.now() + RETRY).await;
                    Fetches::default()
                }
            };
            fetch_events(&wanted, fetched)
        })
    }

    fn flush(&self, lane: u16, parts: Arc<[ShardFlush]>) {
        let store = Arc::clone(&self.ports.store);
        self.spawn(async move {
            let answers = store.flush(&parts).await.map_err(|err| {
                warn_port(&err, "flush");
                err.kind()
            });
            vec![Event::Flushed(lane, answers)]
        });
    }

    fn claim(&self, ids: &[ShardId]) {
        for ids in ids.chunks(CLAIM_MAX) {
            let (ports, ids) = (self.ports.clone(), ids.to_vec());
            let address: Arc<str> = self.config.address.as_str().into();
            self.spawn(async move {
                claim(&ports, &ids, &address).await.unwrap_or_else(|err| {
                    warn_port(&err, "claim");
                    let failed = |id| Event::ClaimFailed(id, err.kind());
                    ids.into_iter().map(failed).collect()
                })
            });
        }
    }

    fn release(&self, shards: Vec<(ShardId, Epoch)>) {
        let store = Arc::clone(&self.ports.store);
        self.spawn(async move {
            if let Err(err) = store.release(&shards).await {
                // The next owner then waits for workers that may hold leases, and loses nothing.
                warn_port(&err, "release");
            }
            vec![Event::Released(
                shards.into_iter().map(|(id, _)| id).collect(),
            )]
        });
    }

    fn give_up(&self, slots: Vec<Slot>) {
        let (ports, events) = (self.ports.clone(), self.events.clone());
        self.spawn(async move {
            // Until it is told, nobody can have the slots; a member that has stopped loses them by that.
            while !events.is_closed()
                && let Err(err) = ports.placement.released(&slots).await
            {
                warn_port(&err, "give up slots");
                ports.clock.sleep_until(ports.clock.now() + RETRY).await;
            }
            Vec::new()
        });
    }

    fn load(&mut self) {
        let wanted = std::mem::take(&mut self.loads);
        if wanted.is_empty() {
            return;
        }
        let (ports, events) = (self.ports.clone(), self.events.clone());
        self.spawn(async move {
            let lookups: Vec<_> = wanted
                .iter()
                .map(|(id, _, at)| Lookup::Task(*id, *at))
                .collect();
            let rows = get_each(&*ports.store, &lookups).await;
            let mut unsaved = Vec::new();
            for ((id, epoch, offset), row) in wanted.into_iter().zip(rows) {
                let loaded = match row {
                    Ok(Some(Found::Task(task))) => Loaded::Stored(task),
                    Ok(_) => {
                        unsaved.push((id, epoch, offset));
                        continue;
                    }
                    Err(_) => Loaded::Failed,
                };
                // At once: what is in the store need not wait for the log. A driver that has stopped needs nothing.
                events.send(Event::Loaded(id, epoch, offset, loaded)).ok();
            }
            if unsaved.is_empty() {
                return Vec::new();
            }
            let id_of = |(shard, _, offset): &(ShardId, Epoch, Offset)| TaskId {
                shard: *shard,
                offset: *offset,
            };
            let ids: Vec<_> = unsaved.iter().map(id_of).collect();
            let read = read_logs(&ports, &ids).await;
            let event = |((id, epoch, offset), loaded)| Event::Loaded(id, epoch, offset, loaded);
            unsaved.into_iter().zip(read).map(event).collect()
        });
    }

    fn find_keys(&mut self) {
        let wanted = std::mem::take(&mut self.keys);
        if wanted.is_empty() {
            return;
        }
        let store = Arc::clone(&self.ports.store);
        self.spawn(async move {
            let lookups: Vec<_> = wanted
                .iter()
                .map(|(id, _, key)| Lookup::Key(*id, key.clone()))
                .collect();
            let rows = get_each(&*store, &lookups).await;
            let event = |((id, epoch, key), row): ((ShardId, Epoch, IdempotencyKey), _)| {
                let found = match row {
                    Ok(Some(Found::Key(row))) => Ok(Some(row)),
                    Ok(_) => Ok(None),
                    Err(kind) => Err(kind),
                };
                Event::KeyFound(id, epoch, key, found)
            };
            wanted.into_iter().zip(rows).map(event).collect()
        });
    }

    fn append(&mut self) {
        let wanted = std::mem::take(&mut self.appends);
        if wanted.is_empty() {
            return;
        }
        let log = Arc::clone(&self.ports.log);
        self.spawn(async move {
            let (keys, records): (Vec<_>, Vec<_>) = wanted
                .into_iter()
                .map(|(shard, epoch, key, task)| ((shard, epoch, key), NewRecord { shard, task }))
                .unzip();
            let answers = log.append(records).await;
            keys.into_iter()
                .zip(answers)
                .map(|((id, epoch, key), answer)| {
                    Event::KeyedAppended(id, epoch, key, answer.map_err(|err| err.kind()))
                })
                .collect()
        });
    }

    fn read_due(&mut self) {
        let (epochs, pages): (Vec<_>, Vec<_>) = std::mem::take(&mut self.pages).into_iter().unzip();
        if pages.is_empty() {
            return;
        }
        let store = Arc::clone(&self.ports.store);
        self.spawn(async move {
            let answers = due_each(&*store, &pages).await;
            let event = |((page, epoch), answer): ((&DuePage, Epoch), _)| {
                Event::DueRead(page.shard, epoch, answer)
            };
            let asked = pages.iter().zip(epochs);
            asked.zip(answers).map(event).collect()
        });
    }

    fn read_keyed(&mut self) {
        let (epochs, pages): (Vec<_>, Vec<_>) = std::mem::take(&mut self.keyed).into_iter().unzip();
        if pages.is_empty() {
            return;
        }
        let store = Arc::clone(&self.ports.store);
        self.spawn(async move {
            let answers = keyed_each(&*store, &pages).await;
            let asked = pages.into_iter().zip(epochs);
            let event = |((page, epoch), answer): ((KeyedPage, Epoch), _)| {
                Event::KeyedRead(page.shard, epoch, page.key, answer)
            };
            asked.zip(answers).map(event).collect()
        });
    }

    fn trim(&mut self) {
        let trims = std::mem::take(&mut self.trims);
        if trims.is_empty() {
            return;
        }
        let log = Arc::clone(&self.ports.log);
        self.spawn(async move {
            if let Err(err) = log.trim(&trims).await {
                // The next trim goes further and takes this one's records with it.
                warn_port(&err, "trim");
            }
            Vec::new()
        });
    }

    /// Follows the placement, proves the membership and publishes watermarks until the guard is dropped.
    pub(super) fn start_guards(&self) -> JoinSet<()> {
        let mut guards = JoinSet::new();
        let (ports, events) = (self.ports.clone(), self.events.clone());
        guards.spawn(async move {
            loop {
                let event = match ports.placement.next().await {
                    Ok(PlacementEvent::Assigned(slots)) => Event::Assigned(slots),
                    Ok(PlacementEvent::Revoking(slots)) => Event::Revoking(slots),
                    Ok(PlacementEvent::Lost(slots)) => Event::Lost(slots),
                    Err(err) => {
                        warn_port(&err, "follow the placement");
                        ports.clock.sleep_until(ports.clock.now() + RETRY).await;
                        continue;
                    }
                };
                info!(?event, "placement changed");
                // A driver that has stopped needs no slots.
                events.send(event).ok();
            }
        });
        let (ports, events) = (self.ports.clone(), self.events.clone());
        let every = self.config.proof_age_max / 4;
        guards.spawn(async move {
            loop {
                // The proof is as old as its asking.
                let asked_at = ports.clock.now();
                match ports.placement.prove().await {
                    // A driver that has stopped needs no proofs.
                    Ok(()) => drop(events.send(Event::Proven(asked_at))),
                    Err(err) => warn_port(&err, "prove membership"),
                }
                ports.clock.sleep_until(asked_at + every).await;
            }
        });
        let (ports, watermarks) = (self.ports.clone(), Arc::clone(&self.watermarks));
        guards.spawn(async move {
            loop {
                ports
                    .clock
                    .sleep_until(ports.clock.now() + PUBLISH_EVERY)
                    .await;
                publish(&ports, &watermarks).await;
            }
        });
        guards
    }

    /// Tells the log what it was not told yet.
    pub(super) async fn publish_watermarks(&self) {
        publish(&self.ports, &self.watermarks).await;
    }
}

/// Pairs each answer with the offset it was asked for; what was wanted is in the order of shards.
fn fetch_events(wanted: &[Fetch], fetches: Fetches) -> Vec<Event> {
    let from = |id| {
        let at = wanted.binary_search_by_key(&id, |fetch| fetch.shard).ok()?;
        Some(wanted[at].from)
    };
    let paired = |fetched: Fetched| Some((from(fetched.shard)?, fetched));
    let lost = fetches.lost.into_iter();
    lost.filter_map(|(id, why)| Some(Event::LogLost(id, from(id)?, why)))
        .chain([Event::Fetched(
            fetches.read.into_iter().filter_map(paired).collect(),
        )])
        .collect()
}

async fn claim(
    ports: &Ports,
    ids: &[ShardId],
    address: &Arc<str>,
) -> Result<Vec<Event>, PortError> {
    let mut events = Vec::with_capacity(ids.len());
    let failed = |id, err: &PortError| {
        warn_port(err, "read the bounds of a log");
        Event::ClaimFailed(id, err.kind())
    };
    let mut claims = Vec::with_capacity(ids.len());
    for (shard, bounds) in ids.iter().zip(ports.log.bounds(ids).await) {
        match bounds {
            Ok(bounds) => claims.push(Claim {
                shard: *shard,
                address: Arc::clone(address),
                incarnation: bounds.incarnation,
            }),
            Err(err) => events.push(failed(*shard, &err)),
        }
    }
    let claimed = ports.store.claim(&claims).await?;
    // Only now: what an earlier owner leased before it was fenced lies below this end.
    let ids: Vec<_> = claimed.iter().map(|claimed| claimed.shard).collect();
    for (claimed, bounds) in claimed.into_iter().zip(ports.log.bounds(&ids).await) {
        match bounds {
            Ok(bounds) => events.push(Event::Claimed(claimed, bounds)),
            Err(err) => events.push(failed(claimed.shard, &err)),
        }
    }
    Ok(events)
}

async fn publish(ports: &Ports, watermarks: &Mutex<BTreeMap<ShardId, Offset>>) {
    let news = std::mem::take(&mut *watermarks.lock().unwrap_or_else(PoisonError::into_inner));
    if news.is_empty() {
        return;
    }
    let news: Vec<_> = news.into_iter().collect();
    if let Err(err) = ports.log.publish_watermarks(&news).await {
        // What is shown is behind until the watermark moves again; nothing is decided by it.
        warn_port(&err, "publish watermarks");
    }
}

fn warn_port(err: &PortError, doing: &'static str) {
    let source = std::error::Error::source(err).map(ToString::to_string);
    match err.kind() {
        FailureKind::Damaged => error!(%err, source, doing, "port failed"),
        FailureKind::Unavailable
        | FailureKind::Full
        | FailureKind::Closed
        | FailureKind::Unknown => {
            warn!(%err, source, doing, "port failed");
        }
    }
}
