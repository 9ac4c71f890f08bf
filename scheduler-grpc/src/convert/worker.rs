//! What workers and the scheduler say to each other.

use std::{sync::Arc, time::Duration};

use scheduler_core::{
    Error, Heartbeat, Held, Invalid, LeaseLost, LeaseToken, Leased, LeasedTask, Outcome,
    PipelinePath, Poll, Report, Revision, ShardOwners, TaskOptions,
};

use super::{
    duration, duration_of, missing,
    task::{WAIT, labels, shared, text},
};
use crate::{pb, status};

/// The most bytes of a poll that does not say.
const BYTES_MAX: usize = 4 << 20;

impl From<ShardOwners> for pb::DiscoverResponse {
    fn from(found: ShardOwners) -> Self {
        let owners = found.n_shards.into_iter();
        let owner = |(address, shards): (Arc<str>, u32)| pb::ShardOwner {
            address: address.to_string(),
            shards,
        };
        Self {
            owners: owners.map(owner).collect(),
            unowned: found.n_unowned,
        }
    }
}

impl From<pb::DiscoverResponse> for ShardOwners {
    fn from(answer: pb::DiscoverResponse) -> Self {
        let owners = answer.owners.into_iter();
        Self {
            n_shards: owners
                .map(|owner| (owner.address.into(), owner.shards))
                .collect(),
            n_unowned: answer.unowned,
        }
    }
}

impl From<Held> for pb::HeldLease {
    fn from(held: Held) -> Self {
        Self {
            id: held.id.to_string(),
            lease_token: held.token.to_u64(),
        }
    }
}

impl TryFrom<pb::HeldLease> for Held {
    type Error = Invalid;

    fn try_from(held: pb::HeldLease) -> Result<Self, Invalid> {
        Ok(Self {
            id: held.id.parse()?,
            token: LeaseToken::from_u64(held.lease_token),
        })
    }
}

impl From<(&PipelinePath, Poll)> for pb::PollRequest {
    fn from((path, poll): (&PipelinePath, Poll)) -> Self {
        Self {
            application: path.application.to_string(),
            pipeline: path.pipeline.to_string(),
            ..poll.into()
        }
    }
}

impl From<Poll> for pb::PollRequest {
    /// Without the pipeline's names.
    fn from(poll: Poll) -> Self {
        Self {
            application: String::new(),
            pipeline: String::new(),
            worker: poll.worker.to_string(),
            credit: u32::try_from(poll.credit).unwrap_or(u32::MAX),
            bytes_max: u64::try_from(poll.bytes_max).unwrap_or(u64::MAX),
            wait: Some(duration(poll.wait)),
            held: poll.held.into_iter().map(Into::into).collect(),
            labels: poll.labels.iter().map(ToString::to_string).collect(),
            offers: poll.offers,
        }
    }
}

impl TryFrom<pb::PollRequest> for Poll {
    type Error = Invalid;

    fn try_from(poll: pb::PollRequest) -> Result<Self, Invalid> {
        let wait = poll
            .wait
            .map(|wait| duration_of("wait", wait))
            .transpose()?;
        let held = poll.held.into_iter().map(TryInto::try_into);
        Ok(Self {
            worker: poll.worker.as_str().try_into()?,
            labels: labels(&poll.labels)?,
            credit: usize::try_from(poll.credit).unwrap_or(usize::MAX),
            bytes_max: match usize::try_from(poll.bytes_max) {
                Ok(0) => BYTES_MAX,
                Ok(bytes) => bytes,
                Err(_) => usize::MAX,
            },
            wait: wait.unwrap_or(WAIT),
            held: held
                .collect::<Result<_, Invalid>>()
                .map_err(|fault| fault.within("held"))?,
            offers: poll.offers,
        })
    }
}

impl From<(&PipelinePath, &Poll)> for pb::WorkHello {
    fn from((path, poll): (&PipelinePath, &Poll)) -> Self {
        Self {
            application: path.application.to_string(),
            pipeline: path.pipeline.to_string(),
            worker: poll.worker.to_string(),
            labels: poll.labels.iter().map(ToString::to_string).collect(),
            held: poll.held.iter().copied().map(Into::into).collect(),
            offers: poll.offers,
            credit: Some(pb::WorkCredit {
                seen: 0,
                tasks: u32::try_from(poll.credit).unwrap_or(u32::MAX),
                bytes: u64::try_from(poll.bytes_max).unwrap_or(u64::MAX),
            }),
        }
    }
}

impl TryFrom<pb::WorkHello> for Poll {
    type Error = Invalid;

    /// A poll without its credit, of which a stream keeps books.
    fn try_from(hello: pb::WorkHello) -> Result<Self, Invalid> {
        pb::PollRequest {
            application: hello.application,
            pipeline: hello.pipeline,
            worker: hello.worker,
            held: hello.held,
            labels: hello.labels,
            offers: hello.offers,
            ..pb::PollRequest::default()
        }
        .try_into()
    }
}

impl From<LeasedTask> for pb::LeasedTask {
    fn from(task: LeasedTask) -> Self {
        Self {
            id: task.id.to_string(),
            lease_token: task.token.to_u64(),
            attempt: task.attempt,
            max_attempts: task.max_attempts,
            data: task.data,
            options: task.options.as_deref().map(Into::into),
            traceparent: text(task.traceparent.as_deref()),
            lease: Some(duration(task.lease)),
            timeout: task.timeout.map(duration),
            heartbeat_timeout: task.heartbeat_timeout.map(duration),
            revision: task.revision.0,
        }
    }
}

impl TryFrom<pb::LeasedTask> for LeasedTask {
    type Error = Error;

    fn try_from(task: pb::LeasedTask) -> Result<Self, Error> {
        let span =
            |field, value: Option<_>| value.map(|value| duration_of(field, value)).transpose();
        let options = task.options.map(TaskOptions::try_from).transpose()?;
        Ok(Self {
            id: task.id.parse()?,
            token: LeaseToken::from_u64(task.lease_token),
            attempt: task.attempt,
            max_attempts: task.max_attempts,
            data: task.data,
            options: options.map(Arc::new),
            traceparent: shared(&task.traceparent),
            lease: span("lease", task.lease)?.ok_or_else(|| missing("lease"))?,
            timeout: span("timeout", task.timeout)?,
            heartbeat_timeout: span("heartbeat_timeout", task.heartbeat_timeout)?,
            revision: Revision(task.revision),
        })
    }
}

impl From<LeaseLost> for pb::lost_lease::Reason {
    fn from(why: LeaseLost) -> Self {
        match why {
            LeaseLost::Stale => Self::Stale,
            LeaseLost::Cancelled => Self::Cancelled,
            LeaseLost::TimedOut => Self::TimedOut,
            LeaseLost::Ended => Self::Ended,
        }
    }
}

impl From<pb::lost_lease::Reason> for LeaseLost {
    /// A reason of a later version is stale: the worker must stop in any case.
    fn from(reason: pb::lost_lease::Reason) -> Self {
        use pb::lost_lease::Reason;
        match reason {
            Reason::Unspecified | Reason::Stale => Self::Stale,
            Reason::Cancelled => Self::Cancelled,
            Reason::TimedOut => Self::TimedOut,
            Reason::Ended => Self::Ended,
        }
    }
}

impl From<Leased> for pb::PollResponse {
    fn from(leased: Leased) -> Self {
        Self {
            tasks: leased.tasks.into_iter().map(Into::into).collect(),
            lost: leased.lost.into_iter().map(Into::into).collect(),
        }
    }
}

/// Reads the answer to a poll.
///
/// # Errors
/// [`Error::Malformed`] or [`Error::Invalid`] if the other side speaks another version.
pub fn leased(answer: pb::PollResponse) -> Result<Leased, Error> {
    let tasks = answer.tasks.into_iter().map(TryInto::try_into);
    let lost = answer.lost.iter().map(super::seek::lost);
    Ok(Leased {
        tasks: tasks.collect::<Result<_, Error>>()?,
        lost: lost.collect::<Result<_, Error>>()?,
    })
}

impl From<Report> for pb::TaskReport {
    fn from(report: Report) -> Self {
        use pb::task_report::Outcome as Wire;
        let outcome = match report.outcome {
            Outcome::Completed { result } => Wire::Completed(pb::Completed { result }),
            Outcome::Failed(failure) => Wire::Failed(failure.into()),
            Outcome::Interrupted => Wire::Interrupted(pb::Interrupted {}),
            Outcome::Snoozed(delay) => Wire::Snoozed(pb::Snoozed {
                delay: Some(duration(delay)),
            }),
        };
        Self {
            id: report.id.to_string(),
            lease_token: report.token.to_u64(),
            outcome: Some(outcome),
        }
    }
}

impl TryFrom<pb::TaskReport> for Report {
    type Error = Invalid;

    fn try_from(report: pb::TaskReport) -> Result<Self, Invalid> {
        use pb::task_report::Outcome as Wire;
        let outcome = match report.outcome {
            None => return Err(Invalid::new("outcome", "must be said")),
            Some(Wire::Completed(done)) => Outcome::Completed {
                result: done.result,
            },
            Some(Wire::Failed(failure)) => Outcome::Failed(
                failure
                    .try_into()
                    .map_err(|fault: Invalid| fault.within("failed"))?,
            ),
            Some(Wire::Interrupted(_)) => Outcome::Interrupted,
            Some(Wire::Snoozed(snoozed)) => {
                let delay = snoozed.delay.unwrap_or_default();
                Outcome::Snoozed(duration_of("snoozed.delay", delay)?)
            }
        };
        Ok(Self {
            id: report.id.parse()?,
            token: LeaseToken::from_u64(report.lease_token),
            outcome,
        })
    }
}

impl From<Heartbeat> for pb::TaskHeartbeat {
    fn from(heartbeat: Heartbeat) -> Self {
        Self {
            id: heartbeat.id.to_string(),
            lease_token: heartbeat.token.to_u64(),
            from_handler: heartbeat.from_handler,
            progress: heartbeat.progress,
        }
    }
}

impl TryFrom<pb::TaskHeartbeat> for Heartbeat {
    type Error = Invalid;

    fn try_from(heartbeat: pb::TaskHeartbeat) -> Result<Self, Invalid> {
        Ok(Self {
            id: heartbeat.id.parse()?,
            token: LeaseToken::from_u64(heartbeat.lease_token),
            from_handler: heartbeat.from_handler,
            progress: heartbeat.progress,
        })
    }
}

impl From<Result<Duration, Error>> for pb::HeartbeatResult {
    fn from(result: Result<Duration, Error>) -> Self {
        use pb::heartbeat_result::Result as Wire;
        let result = match result {
            Ok(lease) => Wire::Lease(duration(lease)),
            Err(error) => Wire::Error(status::to_rpc(&error)),
        };
        Self {
            result: Some(result),
        }
    }
}

/// Reads the answers to heartbeats, one each.
#[must_use]
pub fn heartbeat_results(answer: pb::HeartbeatResponse) -> Vec<Result<Duration, Error>> {
    use pb::heartbeat_result::Result as Wire;
    let read = |result: pb::HeartbeatResult| match result.result {
        Some(Wire::Lease(lease)) => Ok(duration_of("lease", lease)?),
        Some(Wire::Error(error)) => {
            status::from_rpc(&error)?;
            Err(missing("lease"))
        }
        None => Err(missing("result")),
    };
    answer.results.into_iter().map(read).collect()
}
