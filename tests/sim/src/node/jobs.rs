//! A member's calls to its ports: what each action asks, and the events that come of the answers.

use std::{sync::Arc, time::Duration};

use scheduler_core::{
    Epoch, IdempotencyKey, Offset, OrderingKey, ShardId, Slot, TaskId, Timestamp,
    action::Action,
    member::Event,
    port::{
        FailureKind,
        log::{Fetch, Fetched, Fetches, NewRecord, NewTask},
        placement::PlacementEvent,
        store::{Claim, Claimed, DuePage, Found, KeyedPage, Lookup, ShardFlush},
    },
    shard::Loaded,
};

use super::Life;
use crate::{
    fact::Fact,
    port::{Ask, Caller, Told},
    world::{What, World},
};

/// How long to wait after a failed fetch or release of slots.
const RETRY: Duration = Duration::from_secs(1);
/// How often a member shows the group that it lives.
const BEAT_EVERY: Duration = Duration::from_secs(1);

/// A call to a port that is going on, and what it is for.
#[derive(Debug)]
pub(super) enum Job {
    Fetch(Vec<Fetch>),
    Flush(u16),
    /// Its three calls, one after the other.
    FirstBounds(Vec<ShardId>),
    Claim(Vec<ShardId>),
    LastBounds(Vec<Claimed>),
    Release(Vec<ShardId>),
    GiveUp(Given),
    Load(Vec<Read>),
    LoadLogged(Vec<Read>),
    FindKeys(Vec<(ShardId, Epoch, IdempotencyKey)>),
    Append(Vec<(ShardId, Epoch, IdempotencyKey)>),
    Due(Vec<(ShardId, Epoch)>),
    Keyed(Vec<(ShardId, Epoch, OrderingKey)>),
    Trim,
    Beat(Option<u64>),
    Prove(Timestamp),
    Leave,
    /// Whether the store answers one that has left the group.
    Probe(ShardId),
}

/// Slots that were given up, in which session, and what the member had heard by then.
#[derive(Debug)]
pub(crate) struct Given {
    session: u64,
    heard: u64,
    slots: Vec<Slot>,
}

type Read = (ShardId, Epoch, Offset);

/// Actions of one turn that share a call.
#[derive(Debug, Default)]
pub(super) struct Batch {
    loads: Vec<Read>,
    keys: Vec<(ShardId, Epoch, IdempotencyKey)>,
    appends: Vec<(ShardId, Epoch, IdempotencyKey, NewTask)>,
    pages: Vec<(Epoch, DuePage)>,
    keyed: Vec<(Epoch, KeyedPage)>,
    trims: Vec<(ShardId, Offset)>,
}

impl World {
    /// Calls a port for a member.
    pub(super) fn start(&mut self, member: usize, ask: Ask, job: Job) -> u64 {
        let caller = Caller::Member(member, self.members[member].n_lives);
        let id = self.ask(caller, ask);
        self.members[member].jobs.insert(id, job);
        id
    }

    pub(super) fn perform(&mut self, member: usize, action: Action) {
        let node = &mut self.members[member];
        match action {
            Action::Flush(lane, parts) => {
                self.flush_parts(member, lane, parts);
            }
            Action::Claim(ids) => {
                self.start(member, Ask::Bounds(ids.clone()), Job::FirstBounds(ids));
            }
            Action::Release(shards) => {
                let ids = shards.iter().map(|(id, _)| *id).collect();
                self.start(member, Ask::Release(shards), Job::Release(ids));
            }
            Action::GiveUp(slots) => {
                node.slots.retain(|slot| !slots.contains(slot));
                if let Some(session) = node.session {
                    let heard = node.n_heard;
                    let given = Given {
                        session,
                        heard,
                        slots,
                    };
                    self.give_up(member, given);
                }
            }
            Action::Leave(shard) => self.leave(member, shard),
            Action::Load(id, epoch, offset) => node.batch.loads.push((id, epoch, offset)),
            Action::ReadDue(epoch, page) => node.batch.pages.push((epoch, page)),
            Action::ReadKeyed(epoch, page) => node.batch.keyed.push((epoch, page)),
            Action::FindKey(id, epoch, key) => node.batch.keys.push((id, epoch, key)),
            Action::AppendKeyed(id, epoch, key, task) => {
                node.batch.appends.push((id, epoch, key, task));
            }
            Action::Trim(id, below) => node.batch.trims.push((id, below)),
            // Those are the turn's and the member's own, or for people.
            _ => {}
        }
    }

    fn flush_parts(&mut self, member: usize, lane: u16, parts: Arc<[ShardFlush]>) {
        self.start(member, Ask::Flush(parts), Job::Flush(lane));
    }

    /// Starts what was collected in a turn.
    pub(super) fn start_batch(&mut self, member: usize) {
        let batch = std::mem::take(&mut self.members[member].batch);
        if !batch.loads.is_empty() {
            let lookup = |(id, _, at): &Read| Lookup::Task(*id, *at);
            let lookups = batch.loads.iter().map(lookup).collect();
            self.start(member, Ask::Get(lookups), Job::Load(batch.loads));
        }
        if !batch.keys.is_empty() {
            let keys = batch.keys.iter();
            let lookups = keys.map(|(id, _, key)| Lookup::Key(*id, key.clone()));
            let lookups = lookups.collect();
            self.start(member, Ask::Get(lookups), Job::FindKeys(batch.keys));
        }
        if !batch.appends.is_empty() {
            let appends = batch.appends.into_iter();
            let (keys, records) = appends
                .map(|(shard, epoch, key, task)| ((shard, epoch, key), NewRecord { shard, task }))
                .unzip();
            self.start(member, Ask::Append(records), Job::Append(keys));
        }
        if !batch.pages.is_empty() {
            let asked = |(epoch, page): &(Epoch, DuePage)| (page.shard, *epoch);
            let asked = batch.pages.iter().map(asked).collect();
            let pages = batch.pages.into_iter().map(|(_, page)| page).collect();
            self.start(member, Ask::Due(pages), Job::Due(asked));
        }
        if !batch.keyed.is_empty() {
            let asked = |(epoch, page): &(Epoch, KeyedPage)| (page.shard, *epoch, page.key.clone());
            let asked = batch.keyed.iter().map(asked).collect();
            let pages = batch.keyed.into_iter().map(|(_, page)| page).collect();
            self.start(member, Ask::Keyed(pages), Job::Keyed(asked));
        }
        if !batch.trims.is_empty() {
            self.start(member, Ask::Trim(batch.trims), Job::Trim);
        }
    }

    /// Tells the group that slots are given up, until it knows.
    pub(crate) fn give_up(&mut self, member: usize, given: Given) {
        if self.members[member].session == Some(given.session) {
            let ask = Ask::GiveUp(given.session, given.heard, given.slots.clone());
            self.start(member, ask, Job::GiveUp(given));
        }
    }

    /// A member leaves the group until the store answers it. If the group is not told, it sees a silence. The member
    /// is not told that its slots are lost: it must have let go of them.
    fn leave(&mut self, member: usize, shard: ShardId) {
        self.note(Fact::Fate("leaves the group", member));
        let node = &mut self.members[member];
        node.is_away = true;
        node.n_heard = 0;
        node.slots.clear();
        if let Some(session) = node.session.take() {
            self.start(member, Ask::Leave(session), Job::Leave);
        }
        self.probe_store(member, shard);
    }

    pub(crate) fn probe_store(&mut self, member: usize, shard: ShardId) {
        self.start(member, Ask::Owner(shard), Job::Probe(shard));
    }

    pub(crate) fn beat(&mut self, member: usize) {
        let node = &self.members[member];
        if node.life == Life::Down {
            return;
        }
        let (session, heard) = (node.session, node.n_heard);
        // One that joins waits for the answer.
        let joins = |job: &Job| matches!(job, Job::Beat(None));
        if node.is_away {
            // The group hears nothing of it.
        } else if session.is_some() || !node.jobs.values().any(joins) {
            self.start(member, Ask::Beat(session, heard), Job::Beat(session));
        }
        let n_lives = self.members[member].n_lives;
        let at = self.now + BEAT_EVERY;
        self.queue.push(at, What::Beat(member, n_lives));
    }

    pub(crate) fn prove(&mut self, member: usize) {
        let node = &self.members[member];
        if node.life == Life::Down {
            return;
        }
        let asked_at = node.local(self.now);
        let n_lives = node.n_lives;
        if let Some(session) = node.session {
            self.start(member, Ask::Prove(session), Job::Prove(asked_at));
        }
        let at = self.now + self.plan.config.proof_age_max / 4;
        self.queue.push(at, What::Prove(member, n_lives));
    }

    /// The answer to a member's call.
    pub(crate) fn told(&mut self, member: usize, id: u64, told: Told) {
        let Some(job) = self.members[member].jobs.remove(&id) else {
            return;
        };
        let events = match (job, told) {
            (Job::FirstBounds(ids), Told::Bounds(bounds)) => {
                let claim =
                    |(shard, bounds): (&ShardId, scheduler_core::port::log::Bounds)| Claim {
                        shard: *shard,
                        address: format!("m{member}").into(),
                        incarnation: bounds.incarnation,
                    };
                let claims = ids.iter().zip(bounds).map(claim).collect();
                self.start(member, Ask::Claim(claims), Job::Claim(ids));
                return;
            }
            // Only now: what an earlier owner leased before it was fenced lies below this end.
            (Job::Claim(ids), Told::Claimed(claimed)) => {
                self.start(member, Ask::Bounds(ids), Job::LastBounds(claimed));
                vec![Event::StoreAsked(Ok(()))]
            }
            (Job::Load(reads), Told::Found(found)) => self.loaded(member, reads, found),
            (Job::Beat(session), told) => return self.heard(member, session, told),
            (Job::GiveUp(given), told) => return self.gave_up(member, given, &told),
            (Job::Probe(shard), Told::Failed(_)) => {
                let n_lives = self.members[member].n_lives;
                let at = self.now + RETRY;
                self.queue.push(at, What::Probe(member, n_lives, shard));
                return;
            }
            (Job::Probe(_), _) => {
                self.members[member].is_away = false;
                return;
            }
            (Job::Fetch(_), Told::Failed(_)) => {
                let node = &mut self.members[member];
                let at = self.now + RETRY;
                node.jobs.insert(id, Job::Fetch(Vec::new()));
                let again = Told::Fetched(Fetches::default());
                let caller = Caller::Member(member, node.n_lives);
                self.queue.push(at, What::Told(caller, id, again));
                return;
            }
            (job, told) => events_of(job, told),
        };
        self.members[member].events.extend(events);
        self.wake(member);
    }

    /// Tasks that have no row are read from the log.
    fn loaded(&mut self, member: usize, reads: Vec<Read>, found: Vec<Option<Found>>) -> Vec<Event> {
        let mut events = Vec::new();
        let mut logged = Vec::new();
        for ((id, epoch, offset), found) in reads.into_iter().zip(found) {
            match found {
                Some(Found::Task(task)) => {
                    events.push(Event::Loaded(id, epoch, offset, Loaded::Stored(task)));
                }
                _ => logged.push((id, epoch, offset)),
            }
        }
        if !logged.is_empty() {
            let id = |(shard, _, offset): &Read| TaskId {
                shard: *shard,
                offset: *offset,
            };
            let ids = logged.iter().map(id).collect();
            self.start(member, Ask::ReadAt(ids), Job::LoadLogged(logged));
        }
        events
    }

    /// What the group has to say.
    fn heard(&mut self, member: usize, session: Option<u64>, told: Told) {
        let Told::Beat(told) = told else {
            return;
        };
        if session != self.members[member].session {
            return;
        }
        let n_heard = self.members[member].n_heard;
        for (n, news) in told.iter().flat_map(|(_, news)| news) {
            if *n > n_heard {
                self.note(Fact::Placed(member, news.clone()));
            }
        }
        if told.is_none() {
            self.note(Fact::Fate("is expelled from the group", member));
        }
        let node = &mut self.members[member];
        match told {
            Some((session, news)) => {
                node.session = Some(session);
                for (n, news) in news {
                    if n > node.n_heard {
                        node.n_heard = n;
                        node.events.push(placed(&mut node.slots, news));
                    }
                }
            }
            None => {
                node.session = None;
                node.n_heard = 0;
                let slots = std::mem::take(&mut node.slots);
                node.events.push(Event::Lost(slots.into_iter().collect()));
            }
        }
        self.wake(member);
    }

    fn gave_up(&mut self, member: usize, given: Given, told: &Told) {
        if !matches!(told, Told::Done) {
            let n_lives = self.members[member].n_lives;
            let at = self.now + RETRY;
            self.queue.push(at, What::GiveUp(member, n_lives, given));
        }
    }
}

fn placed(slots: &mut std::collections::BTreeSet<Slot>, news: PlacementEvent) -> Event {
    match news {
        PlacementEvent::Assigned(new) => {
            slots.extend(new.iter().copied());
            Event::Assigned(new)
        }
        PlacementEvent::Revoking(leaving) => Event::Revoking(leaving),
        PlacementEvent::Lost(lost) => {
            slots.retain(|slot| !lost.contains(slot));
            Event::Lost(lost)
        }
    }
}

/// The events of a call that needs no other.
fn events_of(job: Job, told: Told) -> Vec<Event> {
    let kind = match &told {
        Told::Failed(kind) => *kind,
        _ => FailureKind::Unavailable,
    };
    match (job, told) {
        (Job::Fetch(wanted), Told::Fetched(fetches)) => fetch_events(&wanted, fetches),
        (Job::Flush(lane), Told::Flushed(answers)) => vec![Event::Flushed(lane, Ok(answers))],
        (Job::Flush(lane), _) => vec![Event::Flushed(lane, Err(kind))],
        (Job::LastBounds(claimed), Told::Bounds(bounds)) => {
            let claimed = claimed.into_iter().zip(bounds);
            let claimed = claimed.map(|(claimed, bounds)| Event::Claimed(claimed, bounds));
            claimed.collect()
        }
        (Job::FirstBounds(ids), _) => claims_failed(ids, kind),
        (Job::Claim(ids), _) => {
            let mut events = claims_failed(ids, kind);
            events.push(Event::StoreAsked(Err(kind)));
            events
        }
        (Job::LastBounds(claimed), _) => {
            claims_failed(claimed.into_iter().map(|claimed| claimed.shard), kind)
        }
        (Job::Release(ids), _) => vec![Event::Released(ids)],
        (Job::LoadLogged(reads), Told::Records(records)) => {
            let logged = |record| match record {
                Some(record) => Loaded::Logged(Box::new(record)),
                None => Loaded::Missing,
            };
            let loaded = reads.into_iter().zip(records);
            let loaded = loaded.map(|((id, epoch, offset), record)| {
                Event::Loaded(id, epoch, offset, logged(record))
            });
            loaded.collect()
        }
        (Job::Load(reads) | Job::LoadLogged(reads), _) => {
            let failed = |(id, epoch, at)| Event::Loaded(id, epoch, at, Loaded::Failed);
            reads.into_iter().map(failed).collect()
        }
        (Job::FindKeys(keys), told) => keys_found(keys, told, kind),
        (Job::Append(keys), Told::Appended(answers)) => {
            let answers = keys.into_iter().zip(answers);
            let event = |((id, epoch, key), answer)| Event::KeyedAppended(id, epoch, key, answer);
            answers.map(event).collect()
        }
        (Job::Append(keys), _) => {
            let failed = |(id, epoch, key)| Event::KeyedAppended(id, epoch, key, Err(kind));
            keys.into_iter().map(failed).collect()
        }
        (Job::Due(asked), Told::Due(pages)) => {
            let pages = asked.into_iter().zip(pages);
            let event = |((id, epoch), page)| Event::DueRead(id, epoch, Some(page));
            pages.map(event).collect()
        }
        (Job::Due(asked), _) => {
            let failed = |(id, epoch)| Event::DueRead(id, epoch, None);
            asked.into_iter().map(failed).collect()
        }
        (Job::Keyed(asked), Told::Keyed(pages)) => {
            let pages = asked.into_iter().zip(pages);
            let event = |((id, epoch, key), page)| Event::KeyedRead(id, epoch, key, Some(page));
            pages.map(event).collect()
        }
        (Job::Keyed(asked), _) => {
            let failed = |(id, epoch, key)| Event::KeyedRead(id, epoch, key, None);
            asked.into_iter().map(failed).collect()
        }
        (Job::Prove(asked_at), Told::Proven(true)) => vec![Event::Proven(asked_at)],
        (
            Job::Fetch(_)
            | Job::Trim
            | Job::Beat(_)
            | Job::Prove(_)
            | Job::GiveUp(_)
            | Job::Leave
            | Job::Probe(_),
            _,
        ) => Vec::new(),
    }
}

fn claims_failed(ids: impl IntoIterator<Item = ShardId>, kind: FailureKind) -> Vec<Event> {
    let failed = |id| Event::ClaimFailed(id, kind);
    ids.into_iter().map(failed).collect()
}

fn keys_found(
    keys: Vec<(ShardId, Epoch, IdempotencyKey)>,
    told: Told,
    kind: FailureKind,
) -> Vec<Event> {
    let mut found = match told {
        Told::Found(found) => Some(found.into_iter()),
        _ => None,
    };
    let event = |(id, epoch, key)| {
        let found = match &mut found {
            Some(found) => match found.next().flatten() {
                Some(Found::Key(row)) => Ok(Some(row)),
                _ => Ok(None),
            },
            None => Err(kind),
        };
        Event::KeyFound(id, epoch, key, found)
    };
    keys.into_iter().map(event).collect()
}

/// Pairs each answer with the offset it was asked for.
fn fetch_events(wanted: &[Fetch], fetches: Fetches) -> Vec<Event> {
    let from = |id| {
        let fetch = wanted.iter().find(|fetch| fetch.shard == id)?;
        Some(fetch.from)
    };
    let paired = |fetched: Fetched| Some((from(fetched.shard)?, fetched));
    let lost = fetches.lost.into_iter();
    let lost = lost.filter_map(|(id, why)| Some(Event::LogLost(id, from(id)?, why)));
    let read = fetches.read.into_iter().filter_map(paired).collect();
    lost.chain([Event::Fetched(read)]).collect()
}
