//! What members tell each other of shards and workers.

use std::collections::BTreeMap;

use scheduler_core::{
    Epoch, Error, Offset, PipelineNumber, ShardId,
    survey::{Ask, Changes, FailureGroup, Hand, Heard, Present, ShardSurvey, Survey},
};

use super::{
    member::{shard, shards},
    missing,
    standing::{durations, durations_of, states, states_of, waits, waits_of},
    timestamp, timestamp_of,
};
use crate::pb;

impl From<Ask> for pb::SurveyRequest {
    fn from(ask: Ask) -> Self {
        let heard = ask.changes.iter().flatten();
        let heard = heard.map(|(shard, heard)| pb::Heard {
            shard: Some((*shard).into()),
            epoch: heard.epoch.0,
            n: heard.n,
        });
        Self {
            heard: heard.collect(),
            changes: ask.changes.is_some(),
            shards: ask.shards.into_iter().map(Into::into).collect(),
            workers_of: ask.workers.map(|pipeline| pipeline.0),
        }
    }
}

impl TryFrom<pb::SurveyRequest> for Ask {
    type Error = Error;

    fn try_from(request: pb::SurveyRequest) -> Result<Self, Error> {
        let heard = request.heard.into_iter().map(|heard| {
            let epoch = Epoch(heard.epoch);
            Ok((shard(heard.shard)?, Heard { epoch, n: heard.n }))
        });
        let heard = heard.collect::<Result<BTreeMap<ShardId, Heard>, Error>>()?;
        Ok(Self {
            shards: shards(request.shards)?,
            workers: request.workers_of.map(PipelineNumber),
            changes: request.changes.then_some(heard),
        })
    }
}

impl From<Survey> for pb::SurveyResponse {
    fn from(survey: Survey) -> Self {
        let present = survey.present.into_iter().map(|present| pb::PresentWorker {
            worker: present.worker.to_string(),
            labels: present.labels.iter().map(ToString::to_string).collect(),
            credit: u32::try_from(present.credit).unwrap_or(u32::MAX),
            is_polling: present.is_polling,
            since: Some(timestamp(present.since)),
            seen_at: Some(timestamp(present.seen_at)),
        });
        Self {
            present: present.collect(),
            shards: survey.shards.into_iter().map(Into::into).collect(),
            absent: survey.absent.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<pb::SurveyResponse> for Survey {
    type Error = Error;

    fn try_from(survey: pb::SurveyResponse) -> Result<Self, Error> {
        let present = survey.present.into_iter().map(|present| {
            let labels = present.labels.iter().map(|label| label.as_str().try_into());
            Ok(Present {
                worker: present.worker.as_str().try_into()?,
                labels: labels.collect::<Result<_, _>>()?,
                credit: present.credit as usize,
                is_polling: present.is_polling,
                since: at("since", present.since)?,
                seen_at: at("seen_at", present.seen_at)?,
            })
        });
        let seen = survey.shards.into_iter().map(TryInto::try_into);
        Ok(Self {
            present: present.collect::<Result<_, Error>>()?,
            shards: seen.collect::<Result<_, Error>>()?,
            absent: shards(survey.absent)?,
        })
    }
}

fn at(
    field: &'static str,
    at: Option<prost_types::Timestamp>,
) -> Result<scheduler_core::Timestamp, Error> {
    let at = at.ok_or_else(|| missing(field))?;
    Ok(timestamp_of(field, at)?)
}

impl From<ShardSurvey> for pb::ShardSurvey {
    fn from(seen: ShardSurvey) -> Self {
        let failures = seen.failures.iter().map(|group| pb::OwnedFailures {
            fingerprint: group.fingerprint,
            group: Some(group.into()),
        });
        let hands = seen.hands.iter().map(|hand| pb::WorkerHand {
            worker: hand.worker.to_string(),
            n_leases: hand.n_leases,
            n_slots: hand.n_slots,
            since: Some(timestamp(hand.since)),
            seen_at: Some(timestamp(hand.seen_at)),
        });
        Self {
            shard: Some(seen.shard.into()),
            epoch: seen.epoch.0,
            claimed_at: Some(timestamp(seen.claimed_at)),
            claimed_end: seen.claimed_end.0,
            next_offset: seen.next_offset.0,
            watermark: seen.watermark.0,
            read_at: seen.read_at.map(timestamp),
            n_bytes: seen.n_bytes,
            states: states(&seen.states),
            waits: waits(&seen.waits),
            has_parked: seen.has_parked,
            totals: Some(seen.totals.into()),
            waited: durations(&seen.waited),
            ran: durations(&seen.ran),
            failures: failures.collect(),
            hands: hands.collect(),
            changes: seen.changes.list.into_iter().map(Into::into).collect(),
            n_changes: seen.changes.n,
        }
    }
}

impl TryFrom<pb::ShardSurvey> for ShardSurvey {
    type Error = Error;

    fn try_from(seen: pb::ShardSurvey) -> Result<Self, Error> {
        let read_at = seen.read_at.map(|at| timestamp_of("read_at", at));
        let hands = seen.hands.into_iter().map(|hand| {
            Ok(Hand {
                worker: hand.worker.as_str().try_into()?,
                n_leases: hand.n_leases,
                n_slots: hand.n_slots,
                since: at("since", hand.since)?,
                seen_at: at("seen_at", hand.seen_at)?,
            })
        });
        let changes = seen.changes.into_iter().map(TryInto::try_into);
        let failures = seen.failures.into_iter().map(failures_of);
        Ok(Self {
            shard: shard(seen.shard)?,
            epoch: Epoch(seen.epoch),
            claimed_at: at("claimed_at", seen.claimed_at)?,
            claimed_end: Offset(seen.claimed_end),
            next_offset: Offset(seen.next_offset),
            watermark: Offset(seen.watermark),
            read_at: read_at.transpose()?,
            n_bytes: seen.n_bytes,
            states: states_of(seen.states)?,
            waits: waits_of(seen.waits),
            has_parked: seen.has_parked,
            totals: seen.totals.unwrap_or_default().into(),
            waited: durations_of(seen.waited),
            ran: durations_of(seen.ran),
            failures: failures.collect::<Result<_, Error>>()?,
            hands: hands.collect::<Result<_, Error>>()?,
            changes: Changes {
                list: changes.collect::<Result<_, Error>>()?,
                n: seen.n_changes,
            },
        })
    }
}

fn failures_of(failures: pb::OwnedFailures) -> Result<FailureGroup, Error> {
    let group = failures.group.ok_or_else(|| missing("group"))?;
    Ok(FailureGroup {
        fingerprint: failures.fingerprint,
        code: group.code.as_str().try_into()?,
        message: group.message,
        n: group.count,
        first_at: at("first_at", group.first_at)?,
        last_at: at("last_at", group.last_at)?,
        last: group.task.parse()?,
    })
}
