//! Calls to log, store and group on their way there and back, with all that can become of them.

use std::{sync::Arc, time::Duration};

use scheduler_core::{
    Epoch, Offset, ShardId, Slot, TaskId,
    port::{
        FailureKind,
        log::{Appended, Bounds, Fetch, Fetches, NewRecord, Record, RecordBody},
        placement::PlacementEvent,
        store::{
            Claim, Claimed, DuePage, DueTasks, Flushed, Found, KeyedPage, KeyedTasks, Lookup,
            ShardFlush,
        },
    },
};

use crate::{
    fact::Fact,
    net::End,
    world::{What, World},
};

/// After so long a call is given up, whatever becomes of it.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long a fetch waits for news.
const FETCH_WAIT: Duration = Duration::from_secs(1);

/// Who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    /// A member, in this of its lives.
    Member(usize, u32),
    Clients,
}

impl Caller {
    pub(crate) fn end(self) -> End {
        match self {
            Self::Member(member, _) => End::Member(member),
            Self::Clients => End::Clients,
        }
    }
}

/// What is asked of a port.
#[derive(Debug, Clone)]
pub(crate) enum Ask {
    Append(Vec<NewRecord>),
    Fetch(Vec<Fetch>),
    ReadAt(Vec<TaskId>),
    Bounds(Vec<ShardId>),
    Trim(Vec<(ShardId, Offset)>),
    Claim(Vec<Claim>),
    Flush(Arc<[ShardFlush]>),
    Release(Vec<(ShardId, Epoch)>),
    Due(Vec<DuePage>),
    Keyed(Vec<KeyedPage>),
    Get(Vec<Lookup>),
    Owner(ShardId),
    Beat(Option<u64>, u64),
    Prove(u64),
    GiveUp(u64, u64, Vec<Slot>),
    Leave(u64),
}

/// What a port answers.
#[derive(Debug, Clone)]
pub(crate) enum Told {
    Appended(Vec<Result<Appended, FailureKind>>),
    Fetched(Fetches),
    Records(Vec<Option<Record>>),
    Bounds(Vec<Bounds>),
    Claimed(Vec<Claimed>),
    Flushed(Vec<Flushed>),
    Due(Vec<DueTasks>),
    Keyed(Vec<KeyedTasks>),
    Found(Vec<Option<Found>>),
    Owner(Option<Arc<str>>),
    /// The member's session and what it must still hear; `None`: it was expelled.
    Beat(Option<(u64, Vec<(u64, PlacementEvent)>)>),
    Proven(bool),
    Done,
    Failed(FailureKind),
}

/// A call on its way to its port.
#[derive(Debug)]
pub(crate) struct Visit {
    from: Caller,
    job: u64,
    ask: Ask,
    /// Its caller hears nothing of it any more.
    is_mute: bool,
}

/// A fetch that waits for news.
#[derive(Debug)]
pub(crate) struct Waiter {
    from: Caller,
    job: u64,
    wanted: Vec<Fetch>,
}

impl Ask {
    fn port(&self) -> End {
        match self {
            Self::Append(_)
            | Self::Fetch(_)
            | Self::ReadAt(_)
            | Self::Bounds(_)
            | Self::Trim(_) => End::Log,
            Self::Claim(_)
            | Self::Flush(_)
            | Self::Release(_)
            | Self::Due(_)
            | Self::Keyed(_)
            | Self::Get(_)
            | Self::Owner(_) => End::Store,
            Self::Beat(..) | Self::Prove(_) | Self::GiveUp(..) | Self::Leave(_) => End::Group,
        }
    }

    /// What is known of a call that was given up.
    fn unknown(&self) -> FailureKind {
        match self {
            Self::Append(_) | Self::Claim(_) | Self::Flush(_) | Self::Release(_) => {
                FailureKind::Unknown
            }
            _ => FailureKind::Unavailable,
        }
    }

    /// What happens of it if only a part does.
    fn some(self, rng: &mut fastrand::Rng) -> Self {
        match self {
            Self::Append(mut records) => {
                records.retain(|_| rng.bool());
                Self::Append(records)
            }
            Self::Flush(parts) => {
                let some: Vec<_> = parts.iter().filter(|_| rng.bool()).cloned().collect();
                Self::Flush(some.into())
            }
            whole => whole,
        }
    }
}

impl World {
    /// Calls a port. The answer comes back under the number given here.
    pub(crate) fn ask(&mut self, from: Caller, ask: Ask) -> u64 {
        let job = self.net.next_id();
        let faults = self.plan.faults.clone();
        let unknown = ask.unknown();
        if self.is_cut(from.end(), ask.port()) {
            let (at, kind) = if self.rng.bool() {
                (self.now + self.delay(), FailureKind::Unavailable)
            } else {
                (self.now + TIMEOUT, unknown)
            };
            self.answer(at, from, job, Told::Failed(kind));
            return job;
        }
        if self.strikes(faults.n_failed) {
            let at = self.now + self.delay();
            self.answer(at, from, job, Told::Failed(FailureKind::Unavailable));
        } else if self.strikes(faults.n_unknown) {
            // The request or its answer is lost, or both happen in part.
            if self.rng.u32(0..3) > 0 {
                let some = if self.rng.bool() {
                    ask.some(&mut self.rng)
                } else {
                    ask
                };
                let at = self.now + self.call_delay();
                self.visit(at, from, job, some, true);
            }
            let at = self.now + TIMEOUT;
            self.answer(at, from, job, Told::Failed(unknown));
        } else if self.strikes(faults.n_late) {
            let late = Duration::from_millis(self.rng.u64(1..30_000));
            let at = self.now + TIMEOUT;
            self.visit(at + late, from, job, ask, true);
            self.answer(at, from, job, Told::Failed(unknown));
        } else {
            let at = self.now + self.call_delay();
            self.visit(at, from, job, ask, false);
        }
        job
    }

    fn call_delay(&mut self) -> Duration {
        let millis = if self.strikes(self.plan.faults.n_slow_calls) {
            self.rng.u64(50..2_000)
        } else {
            self.rng.u64(1..8)
        };
        Duration::from_millis(millis)
    }

    fn visit(
        &mut self,
        at: scheduler_core::Timestamp,
        from: Caller,
        job: u64,
        ask: Ask,
        is_mute: bool,
    ) {
        let visit = Visit {
            from,
            job,
            ask,
            is_mute,
        };
        self.queue.push(at, What::Visit(Box::new(visit)));
    }

    fn answer(&mut self, at: scheduler_core::Timestamp, from: Caller, job: u64, told: Told) {
        self.queue.push(at, What::Told(from, job, told));
    }

    /// A call reaches its port.
    pub(crate) fn serve(&mut self, visit: Visit) {
        let Visit {
            from,
            job,
            ask,
            is_mute,
        } = visit;
        if let Ask::Fetch(wanted) = ask {
            if !is_mute {
                self.serve_fetch(from, job, wanted);
            }
            return;
        }
        let told = self.serve_at_once(from, ask);
        if !is_mute {
            let at = self.now + self.call_delay();
            self.answer(at, from, job, told);
        }
    }

    fn serve_at_once(&mut self, from: Caller, ask: Ask) -> Told {
        let now = self.now;
        match ask {
            Ask::Append(records) => Told::Appended(
                records
                    .into_iter()
                    .map(|record| Ok(self.append(record.shard, RecordBody::Task(record.task))))
                    .collect(),
            ),
            Ask::Fetch(wanted) => Told::Fetched(self.log.fetch(&wanted)),
            Ask::ReadAt(ids) => {
                Told::Records(ids.into_iter().map(|id| self.log.read_at(id)).collect())
            }
            Ask::Bounds(ids) => {
                Told::Bounds(ids.into_iter().map(|id| self.log.bounds(id)).collect())
            }
            Ask::Trim(below) => {
                for (shard, below) in below {
                    self.log.trim(shard, below);
                    self.note(Fact::Trimmed(shard, below));
                }
                Told::Done
            }
            Ask::Claim(claims) => {
                Told::Claimed(claims.iter().map(|claim| self.store.claim(claim)).collect())
            }
            Ask::Flush(parts) => Told::Flushed(self.flush(&parts)),
            Ask::Release(shards) => {
                for (shard, epoch) in shards {
                    self.store.release(shard, epoch);
                }
                Told::Done
            }
            Ask::Due(pages) => Told::Due(pages.iter().map(|page| self.store.due(page)).collect()),
            Ask::Keyed(pages) => {
                let found = pages.iter().map(|page| self.store.keyed(page));
                Told::Keyed(found.collect())
            }
            Ask::Get(lookups) => Told::Found(
                lookups
                    .iter()
                    .map(|lookup| self.store.get(lookup, now))
                    .collect(),
            ),
            Ask::Owner(shard) => Told::Owner(self.store.owner(shard)),
            Ask::Beat(session, heard) => {
                let Caller::Member(member, _) = from else {
                    return Told::Done;
                };
                Told::Beat(self.group.beat(member, session, heard, now))
            }
            Ask::Prove(session) => Told::Proven(self.group.prove(session, now)),
            Ask::GiveUp(session, heard, slots) => {
                self.group.give_up(session, heard, &slots);
                Told::Done
            }
            Ask::Leave(session) => {
                self.group.leave(session);
                Told::Done
            }
        }
    }

    fn flush(&mut self, parts: &Arc<[ShardFlush]>) -> Vec<Flushed> {
        let mut answers = Vec::with_capacity(parts.len());
        for at in 0..parts.len() {
            let applied = self.store.flush(&parts[at], self.now);
            answers.push(applied.answer);
            if applied.is_new {
                self.note(Fact::Saved(Arc::clone(parts), at, applied));
            }
        }
        answers
    }

    /// Puts a record into the log, and wakes the fetches that wait for it.
    pub(crate) fn append(&mut self, shard: ShardId, body: RecordBody) -> Appended {
        let n_gaps = if self.strikes(self.plan.faults.n_gaps) {
            self.rng.u64(1..4)
        } else {
            0
        };
        let appended = self.log.append(shard, body, n_gaps, self.now);
        let offset = appended.offset;
        self.note(Fact::Appended(TaskId { shard, offset }));
        let has_news = |waiter: &mut Waiter| waiter.wanted.iter().any(|fetch| fetch.shard == shard);
        let woken: Vec<_> = self.waiters.extract_if(.., has_news).collect();
        for waiter in woken {
            self.serve_fetch(waiter.from, waiter.job, waiter.wanted);
        }
        appended
    }

    fn serve_fetch(&mut self, from: Caller, job: u64, wanted: Vec<Fetch>) {
        let fetches = self.log.fetch(&wanted);
        if fetches == Fetches::default() {
            self.waiters.push(Waiter { from, job, wanted });
            self.queue.push(self.now + FETCH_WAIT, What::FetchOver(job));
        } else {
            let at = self.now + self.call_delay();
            self.answer(at, from, job, Told::Fetched(fetches));
        }
    }

    /// A fetch has waited long enough.
    pub(crate) fn fetch_over(&mut self, job: u64) {
        if let Some(at) = self.waiters.iter().position(|waiter| waiter.job == job) {
            let waiter = self.waiters.remove(at);
            let at = self.now + self.call_delay();
            self.answer(at, waiter.from, job, Told::Fetched(Fetches::default()));
        }
    }
}
