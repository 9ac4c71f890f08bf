//! How pipelines, shards, workers and members stand.

use scheduler_core::{
    Error, MemberStanding, PipelineEvent, PipelineStats, ShardStanding, WorkerStanding, Workers,
    member::Load,
    survey::{Change, Durations, FailureGroup, MemberState, States, Totals, Waits},
};

use super::{
    duration, missing,
    task::{state, text},
    timestamp, timestamp_of,
};
use crate::pb;

pub(super) fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

pub(super) fn states(states: &States) -> Vec<pb::StateCount> {
    let states = states.iter().map(|(state, n)| pb::StateCount {
        state: pb::TaskState::from(*state).into(),
        count: *n,
    });
    states.collect()
}

pub(super) fn states_of(states: Vec<pb::StateCount>) -> Result<States, Error> {
    let states = states.into_iter();
    let states = states.map(|counted| Ok((state(counted.state)?, counted.count)));
    states.collect()
}

pub(super) fn waits(waits: &Waits) -> Vec<pb::ReasonCount> {
    let waits = waits.iter().map(|(reason, n)| pb::ReasonCount {
        reason: reason.to_string(),
        count: *n,
    });
    waits.collect()
}

pub(super) fn waits_of(waits: Vec<pb::ReasonCount>) -> Waits {
    let waits = waits.into_iter();
    waits
        .map(|counted| (counted.reason.into(), counted.count))
        .collect()
}

impl From<Totals> for pb::TaskTotals {
    fn from(totals: Totals) -> Self {
        Self {
            completed: totals.n_completed,
            failed_attempts: totals.n_failed,
            cancelled: totals.n_cancelled,
            discarded: totals.n_discarded,
        }
    }
}

impl From<pb::TaskTotals> for Totals {
    fn from(totals: pb::TaskTotals) -> Self {
        Self {
            n_completed: totals.completed,
            n_failed: totals.failed_attempts,
            n_cancelled: totals.cancelled,
            n_discarded: totals.discarded,
        }
    }
}

impl From<&Durations> for pb::Durations {
    fn from(durations: &Durations) -> Self {
        let quantile = |per_mille| durations.quantile(per_mille).map(duration);
        Self {
            count: durations.n(),
            p50: quantile(500),
            p99: quantile(990),
        }
    }
}

impl From<&FailureGroup> for pb::FailureGroup {
    fn from(group: &FailureGroup) -> Self {
        Self {
            code: group.code.to_string(),
            message: group.message.clone(),
            count: group.n,
            first_at: Some(timestamp(group.first_at)),
            last_at: Some(timestamp(group.last_at)),
            task: group.last.to_string(),
        }
    }
}

impl From<&PipelineStats> for pb::PipelineStats {
    fn from(stats: &PipelineStats) -> Self {
        Self {
            states: states(&stats.states),
            waiting: waits(&stats.waits),
            backlog: stats.backlog,
            parked: stats.has_parked,
            accepted: stats.n_accepted,
            totals: Some(stats.totals.into()),
            claims: stats.n_claims,
            since: stats.since.map(timestamp),
            wait: Some((&stats.waited).into()),
            run: Some((&stats.ran).into()),
            failures: stats.failures.iter().map(Into::into).collect(),
            shards: u32::try_from(stats.n_shards).unwrap_or(u32::MAX),
            absent: u32::try_from(stats.n_absent).unwrap_or(u32::MAX),
        }
    }
}

impl From<ShardStanding> for pb::ShardStanding {
    fn from(shard: ShardStanding) -> Self {
        let backlog = shard.backlog().unwrap_or(0);
        Self {
            partition: shard.partition.0.into(),
            owner: text(shard.owner.as_deref()),
            log_start: shard.bounds.start.0,
            log_end: shard.bounds.end.0,
            seen: shard.seen.map(|seen| pb::OwnedShard {
                epoch: seen.epoch.0,
                claimed_at: Some(timestamp(seen.claimed_at)),
                read_to: seen.next_offset.0,
                watermark: seen.watermark.0,
                backlog,
                backlog_since: seen.read_at.filter(|_| backlog > 0).map(timestamp),
                states: states(&seen.states),
                waiting: waits(&seen.waits),
                parked: seen.has_parked,
                bytes: seen.n_bytes,
            }),
        }
    }
}

impl From<WorkerStanding> for pb::Worker {
    fn from(worker: WorkerStanding) -> Self {
        let credit = worker.credit;
        Self {
            worker: worker.worker.to_string(),
            labels: worker.labels.iter().map(ToString::to_string).collect(),
            polling: worker.is_polling,
            credit: credit.map(|credit| u32::try_from(credit).unwrap_or(u32::MAX)),
            leases: worker.n_leases,
            slots: worker.n_slots,
            since: Some(timestamp(worker.since)),
            last_seen: Some(timestamp(worker.seen_at)),
            member: text(worker.member.as_deref()),
        }
    }
}

impl From<Workers> for pb::ListWorkersResponse {
    fn from(workers: Workers) -> Self {
        Self {
            workers: workers.list.into_iter().map(Into::into).collect(),
            more: count(workers.n_more),
            absent: count(workers.n_absent),
        }
    }
}

impl From<MemberState> for pb::Member {
    fn from(state: MemberState) -> Self {
        let load = state.load;
        Self {
            address: state.address,
            ready: state.unready.is_none(),
            why: state.unready.unwrap_or_default(),
            version: state.version,
            started_at: Some(timestamp(state.started_at)),
            shards: count(load.n_shards),
            coming: count(load.n_coming),
            refused: count(load.n_refused),
            tasks: count(load.n_tasks),
            bytes: count(load.n_bytes),
            calls: count(load.n_calls),
        }
    }
}

impl From<MemberStanding> for pb::Member {
    fn from(member: MemberStanding) -> Self {
        match member.state {
            Ok(state) => state.into(),
            Err(error) => Self {
                address: member.address.to_string(),
                why: error.to_string(),
                ..Self::default()
            },
        }
    }
}

impl TryFrom<pb::Member> for MemberState {
    type Error = Error;

    fn try_from(member: pb::Member) -> Result<Self, Error> {
        let started_at = member.started_at.ok_or_else(|| missing("started_at"))?;
        let n = |n| usize::try_from(n).unwrap_or(usize::MAX);
        Ok(Self {
            address: member.address,
            version: member.version,
            started_at: timestamp_of("started_at", started_at)?,
            load: Load {
                n_shards: n(member.shards),
                n_coming: n(member.coming),
                n_refused: n(member.refused),
                n_tasks: n(member.tasks),
                n_bytes: n(member.bytes),
                n_calls: n(member.calls),
            },
            unready: (!member.ready).then_some(member.why),
        })
    }
}

impl From<Change> for pb::TaskChange {
    fn from(change: Change) -> Self {
        Self {
            id: change.id.to_string(),
            state: pb::TaskState::from(change.state).into(),
            attempt: change.attempt,
            at: Some(timestamp(change.at)),
        }
    }
}

impl TryFrom<pb::TaskChange> for Change {
    type Error = Error;

    fn try_from(change: pb::TaskChange) -> Result<Self, Error> {
        let at = change.at.ok_or_else(|| missing("at"))?;
        Ok(Self {
            id: change.id.parse()?,
            state: state(change.state)?,
            attempt: change.attempt,
            at: timestamp_of("at", at)?,
        })
    }
}

impl From<PipelineEvent> for pb::PipelineEvent {
    fn from(event: PipelineEvent) -> Self {
        use pb::pipeline_event::Event;
        let event = match event {
            PipelineEvent::Stats(stats) => Event::Stats((&*stats).into()),
            PipelineEvent::Changes(changes) => Event::Changes(pb::TaskChanges {
                changes: changes.list.iter().copied().map(Into::into).collect(),
                missed: changes.n_missed,
            }),
        };
        Self { event: Some(event) }
    }
}

/// How long something took, from its classes.
pub(super) fn durations_of(counts: Vec<pb::DurationCount>) -> Durations {
    let counts = counts.into_iter();
    counts
        .map(|counted| {
            let class = u16::try_from(counted.class).unwrap_or(u16::MAX);
            (class, counted.count)
        })
        .collect()
}

/// The classes of how long something took.
pub(super) fn durations(durations: &Durations) -> Vec<pb::DurationCount> {
    let counts = durations.counts().map(|(class, count)| pb::DurationCount {
        class: class.into(),
        count,
    });
    counts.collect()
}
