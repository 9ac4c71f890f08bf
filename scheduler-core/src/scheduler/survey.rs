//! How pipelines, shards, workers and members stand, as far as all members together can tell.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, MutexGuard, PoisonError},
};

use super::{Scheduler, Shared, roster::Roster, unreachable_port};
use crate::{
    Error, Label, Partition, Pipeline, PipelinePath, ShardId, Timestamp, WorkerId,
    member::shards_of,
    port::log::Bounds,
    survey::{
        Ask, Durations, FailureGroup, Heard, MemberState, Present, ShardSurvey, States, Survey,
        Totals, Waits,
    },
};

/// The most groups of failures and workers that are shown.
const FAILURES_MAX: usize = 20;
const WORKERS_MAX: usize = 1_000;

/// How a pipeline stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PipelineStats {
    /// Tasks in memory, as they are shown.
    pub states: States,
    /// What those wait for that wait.
    pub waits: Waits,
    /// Accepted tasks that their shards have not read.
    pub backlog: u64,
    /// Whether tasks are parked in the store; they are not counted.
    pub has_parked: bool,
    /// Accepted since the claims.
    pub n_accepted: u64,
    /// What has become of tasks since the claims.
    pub totals: Totals,
    /// The sum of all epochs. While it stays the same, `n_accepted` and `totals` only grow.
    pub n_claims: u64,
    /// The first claim that still holds.
    pub since: Option<Timestamp>,
    /// How long tasks that could run waited for a worker, lately.
    pub waited: Durations,
    /// How long workers had tasks before they reported, lately.
    pub ran: Durations,
    /// How tasks failed lately: at most 20 causes, the most frequent first.
    pub failures: Vec<FailureGroup>,
    /// How many shards it has.
    pub n_shards: usize,
    /// Of these, how many could not be asked: their part is missing.
    pub n_absent: usize,
}

/// How a shard stands, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardStanding {
    /// Its partition.
    pub partition: Partition,
    /// Where its newest owner said that it is reached; `None` if it never had one.
    pub owner: Option<Arc<str>>,
    /// What its log holds.
    pub bounds: Bounds,
    /// How its owner sees it; `None` if nobody answers for it now.
    pub seen: Option<ShardSurvey>,
}

impl ShardStanding {
    /// Accepted tasks that it has not read.
    #[must_use]
    pub fn backlog(&self) -> Option<u64> {
        let seen = self.seen.as_ref()?;
        Some(self.bounds.end.0.saturating_sub(seen.next_offset.0))
    }
}

/// The workers of a pipeline.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Workers {
    /// By name, at most 1,000.
    pub list: Vec<WorkerStanding>,
    /// So many more there are.
    pub n_more: usize,
    /// So many members and shards could not be asked.
    pub n_absent: usize,
}

/// How a worker stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerStanding {
    /// Its name.
    pub worker: WorkerId,
    /// Labels it has, if it is connected.
    pub labels: BTreeSet<Label>,
    /// Whether it asks for tasks now.
    pub is_polling: bool,
    /// Free slots by its last poll, if it is connected.
    pub credit: Option<usize>,
    /// Leases that it holds.
    pub n_leases: u64,
    /// Slots that they take.
    pub n_slots: u64,
    /// Since when it has been known without a break.
    pub since: Timestamp,
    /// When it was last heard of.
    pub seen_at: Timestamp,
    /// The member that it is connected to, if it is one.
    pub member: Option<Arc<str>>,
}

/// A member, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStanding {
    /// Where it is reached.
    pub address: Arc<str>,
    /// What it says of itself, or why it says nothing.
    pub state: Result<MemberState, Error>,
}

impl Scheduler {
    /// How a pipeline stands.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable`, if store or log cannot be reached.
    pub async fn stats(&self, path: &PipelinePath) -> Result<PipelineStats, Error> {
        let pipeline = self.find_pipeline(path)?;
        let (stats, _) = self.shared.look_at(&pipeline, None).await?;
        Ok(stats)
    }

    /// How the shards of a pipeline stand, by partition.
    ///
    /// # Errors
    /// As [`stats`](Self::stats).
    pub async fn shards(&self, path: &PipelinePath) -> Result<Vec<ShardStanding>, Error> {
        let pipeline = self.find_pipeline(path)?;
        let shared = &self.shared;
        let shards: Vec<_> = shards_of(&pipeline).collect();
        let ask = Ask {
            shards: shards.clone(),
            ..Ask::default()
        };
        let seen = shared.survey(ask, BTreeSet::new()).await?;
        let seen = seen.into_iter().filter_map(|(_, survey)| survey.ok());
        let seen = seen.flat_map(|survey| survey.shards);
        let mut seen: BTreeMap<_, _> = seen.map(|seen| (seen.shard, seen)).collect();
        let bounds = shared.bounds_of(&shards).await?;
        let owners = shared.addresses(&shards).await?;
        let standings = shards.into_iter().zip(bounds).zip(owners);
        let standings = standings.map(|((shard, bounds), owner)| ShardStanding {
            partition: shard.partition,
            owner,
            bounds,
            seen: seen.remove(&shard),
        });
        Ok(standings.collect())
    }

    /// Who works for a pipeline: workers that are connected to members or to this process, and those that hold leases.
    /// One that holds none is forgotten [soon](crate::survey::PRESENT_KEPT) after it was last heard of.
    ///
    /// # Errors
    /// As [`stats`](Self::stats).
    pub async fn workers(&self, path: &PipelinePath) -> Result<Workers, Error> {
        let pipeline = self.find_pipeline(path)?;
        let shared = &self.shared;
        let shards: Vec<_> = shards_of(&pipeline).collect();
        let mut left: BTreeSet<_> = shards.iter().copied().collect();
        let members = shared.all_addresses().await?;
        let ask = Ask {
            shards,
            workers: Some(pipeline.number),
            changes: None,
        };
        let mut found = Found::default();
        let mut n_silent = 0;
        for (address, survey) in shared.survey(ask, members).await? {
            let Ok(survey) = survey else {
                n_silent += 1;
                continue;
            };
            for seen in &survey.shards {
                left.remove(&seen.shard);
            }
            found.take(survey, &address);
        }
        if shared.driver.is_none() {
            let now = shared.ports.clock.now();
            for present in lock_roster(shared).read(pipeline.number, now) {
                found.connected(present, None);
            }
        }
        let n_more = found.0.len().saturating_sub(WORKERS_MAX);
        Ok(Workers {
            list: found.0.into_values().take(WORKERS_MAX).collect(),
            n_more,
            n_absent: n_silent + left.len(),
        })
    }

    /// The members of the installation, as far as they own shards or are in this process. What is said of them is no
    /// tenant's secret.
    ///
    /// # Errors
    /// `Unavailable`, if the store cannot be reached.
    pub async fn members(&self) -> Result<Vec<MemberStanding>, Error> {
        let shared = &self.shared;
        let addresses = shared.all_addresses().await?;
        let told = shared.route.describe(addresses, &shared.ports.clock).await;
        let standings = told.into_iter();
        let standings = standings.map(|(address, state)| MemberStanding { address, state });
        Ok(standings.collect())
    }
}

pub(super) fn lock_roster(shared: &Shared) -> MutexGuard<'_, Roster> {
    let roster = shared.roster.lock();
    roster.unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    async fn survey(
        &self,
        ask: Ask,
        others: BTreeSet<Arc<str>>,
    ) -> Result<Vec<(Arc<str>, Result<Survey, Error>)>, Error> {
        self.route.survey(ask, others, &self.ports.clock).await
    }

    async fn bounds_of(&self, shards: &[ShardId]) -> Result<Vec<Bounds>, Error> {
        let bounds = self.ports.log.bounds(shards).await.into_iter();
        let bounds = bounds.collect::<Result<_, _>>();
        bounds.map_err(|err| unreachable_port("the log", &err))
    }

    async fn addresses(&self, shards: &[ShardId]) -> Result<Vec<Option<Arc<str>>>, Error> {
        let owners = self.ports.store.owners(shards).await;
        owners.map_err(|err| unreachable_port("the store", &err))
    }

    /// Where all members are reached that own shards.
    async fn all_addresses(&self) -> Result<BTreeSet<Arc<str>>, Error> {
        let shards: Vec<_> = {
            let directory = self.directory.borrow();
            let pipelines = directory.pipelines.values();
            pipelines.flat_map(|pipeline| shards_of(pipeline)).collect()
        };
        let addresses = self.addresses(&shards).await?;
        Ok(addresses.into_iter().flatten().collect())
    }

    /// How a pipeline stands, and how its shards do, of which it is told what changed since.
    pub(super) async fn look_at(
        &self,
        pipeline: &Pipeline,
        changes: Option<BTreeMap<ShardId, Heard>>,
    ) -> Result<(PipelineStats, Vec<ShardSurvey>), Error> {
        let shards: Vec<_> = shards_of(pipeline).collect();
        let ask = Ask {
            shards: shards.clone(),
            workers: None,
            changes,
        };
        let seen = self.survey(ask, BTreeSet::new()).await?;
        let seen = seen.into_iter().filter_map(|(_, survey)| survey.ok());
        let seen: Vec<_> = seen.flat_map(|survey| survey.shards).collect();
        // Read after the shards have told how far they have read.
        let ends = self.bounds_of(&shards).await?.into_iter();
        let ends = shards.into_iter().zip(ends.map(|bounds| bounds.end));
        Ok((stats_of(&seen, &ends.collect()), seen))
    }
}

fn stats_of(seen: &[ShardSurvey], ends: &BTreeMap<ShardId, crate::Offset>) -> PipelineStats {
    let mut stats = PipelineStats {
        n_shards: ends.len(),
        n_absent: ends.len().saturating_sub(seen.len()),
        ..PipelineStats::default()
    };
    let mut failures: BTreeMap<u64, FailureGroup> = BTreeMap::new();
    for shard in seen {
        for (state, n) in &shard.states {
            *stats.states.entry(*state).or_default() += n;
        }
        for (reason, n) in &shard.waits {
            *stats.waits.entry(reason.clone()).or_default() += n;
        }
        if let Some(end) = ends.get(&shard.shard) {
            stats.backlog += end.0.saturating_sub(shard.next_offset.0);
            stats.n_accepted += end.0.saturating_sub(shard.claimed_end.0);
        }
        stats.has_parked |= shard.has_parked;
        stats.totals += shard.totals;
        stats.n_claims += u64::from(shard.epoch.0);
        let since = stats.since.into_iter().chain([shard.claimed_at]);
        stats.since = since.min();
        stats.waited.add(&shard.waited);
        stats.ran.add(&shard.ran);
        for group in &shard.failures {
            match failures.get_mut(&group.fingerprint) {
                Some(known) => known.add(group.clone()),
                None => drop(failures.insert(group.fingerprint, group.clone())),
            }
        }
    }
    stats.failures = failures.into_values().collect();
    let rank = |group: &FailureGroup| std::cmp::Reverse((group.n, group.last_at));
    stats.failures.sort_by_key(rank);
    stats.failures.truncate(FAILURES_MAX);
    stats
}

/// Workers, by name.
#[derive(Debug, Default)]
struct Found(BTreeMap<WorkerId, WorkerStanding>);

impl Found {
    fn worker(&mut self, worker: &WorkerId, since: Timestamp) -> &mut WorkerStanding {
        let entry = self.0.entry(worker.clone());
        entry.or_insert_with(|| WorkerStanding {
            worker: worker.clone(),
            labels: BTreeSet::new(),
            is_polling: false,
            credit: None,
            n_leases: 0,
            n_slots: 0,
            since,
            seen_at: since,
            member: None,
        })
    }

    fn take(&mut self, survey: Survey, address: &Arc<str>) {
        for hand in survey.shards.into_iter().flat_map(|shard| shard.hands) {
            let known = self.worker(&hand.worker, hand.since);
            known.n_leases += hand.n_leases;
            known.n_slots += hand.n_slots;
            known.since = known.since.min(hand.since);
            known.seen_at = known.seen_at.max(hand.seen_at);
        }
        for present in survey.present {
            self.connected(present, Some(address));
        }
    }

    /// A worker may be connected at several places, one after the other: where it was seen last counts.
    fn connected(&mut self, present: Present, member: Option<&Arc<str>>) {
        let known = self.worker(&present.worker, present.since);
        let is_first = known.credit.is_none();
        known.since = known.since.min(present.since);
        let is_newer = present.is_polling && !known.is_polling || present.seen_at >= known.seen_at;
        if is_first || is_newer {
            known.labels = present.labels;
            known.credit = Some(present.credit);
            known.member = member.cloned();
        }
        known.is_polling |= present.is_polling;
        known.seen_at = known.seen_at.max(present.seen_at);
    }
}
