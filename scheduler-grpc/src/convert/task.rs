//! Tasks, their options and their failures.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use scheduler_core::{
    Error, ErrorCode, Failure, GroupName, Invalid, Label, LeaseToken, ListTasks, OrderingKey,
    PipelinePath, Retention, StateName, Submit, Submitted, TaskOptions, TaskPage, TaskView,
    TenantName,
    explain::{Ahead, Waiting},
    task::{
        AttemptError, MESSAGE_LEN_MAX,
        retry::{Jitter, RetryPolicy},
    },
};

use super::{duration, duration_of, missing, some, timestamp, timestamp_of};
use crate::pb;

impl From<StateName> for pb::TaskState {
    fn from(state: StateName) -> Self {
        match state {
            StateName::Scheduled => Self::Scheduled,
            StateName::Available => Self::Available,
            StateName::Running => Self::Running,
            StateName::Retryable => Self::Retryable,
            StateName::Completed => Self::Completed,
            StateName::Cancelled => Self::Cancelled,
            StateName::Discarded => Self::Discarded,
        }
    }
}

impl TryFrom<pb::TaskState> for StateName {
    type Error = Invalid;

    fn try_from(state: pb::TaskState) -> Result<Self, Invalid> {
        Ok(match state {
            pb::TaskState::Unspecified => {
                return Err(Invalid::new("state", "must be a state of a task"));
            }
            pb::TaskState::Scheduled => Self::Scheduled,
            pb::TaskState::Available => Self::Available,
            pb::TaskState::Running => Self::Running,
            pb::TaskState::Retryable => Self::Retryable,
            pb::TaskState::Completed => Self::Completed,
            pb::TaskState::Cancelled => Self::Cancelled,
            pb::TaskState::Discarded => Self::Discarded,
        })
    }
}

/// A state that this version knows.
pub(super) fn state(value: i32) -> Result<StateName, Invalid> {
    pb::TaskState::try_from(value)
        .unwrap_or(pb::TaskState::Unspecified)
        .try_into()
}

impl From<RetryPolicy> for pb::RetryPolicy {
    fn from(retry: RetryPolicy) -> Self {
        let jitter = match retry.jitter {
            Jitter::None => pb::retry_policy::Jitter::None,
            Jitter::Full => pb::retry_policy::Jitter::Full,
        };
        Self {
            max_attempts: Some(retry.max_attempts),
            initial: Some(duration(retry.initial)),
            factor: Some(retry.factor),
            max: Some(duration(retry.max)),
            jitter: jitter.into(),
        }
    }
}

impl TryFrom<pb::RetryPolicy> for RetryPolicy {
    type Error = Invalid;

    fn try_from(retry: pb::RetryPolicy) -> Result<Self, Invalid> {
        let system = Self::default();
        let initial = retry.initial.map(|wait| duration_of("retry.initial", wait));
        let max = retry.max.map(|wait| duration_of("retry.max", wait));
        let policy = Self {
            max_attempts: retry.max_attempts.unwrap_or(system.max_attempts),
            initial: initial.transpose()?.unwrap_or(system.initial),
            factor: retry.factor.unwrap_or(system.factor),
            max: max.transpose()?.unwrap_or(system.max),
            jitter: match retry.jitter() {
                pb::retry_policy::Jitter::None => Jitter::None,
                pb::retry_policy::Jitter::Unspecified | pb::retry_policy::Jitter::Full => {
                    Jitter::Full
                }
            },
        };
        policy.validate()?;
        Ok(policy)
    }
}

impl From<Retention> for pb::Retention {
    fn from(retention: Retention) -> Self {
        let kept = match retention {
            Retention::For(kept) => pb::retention::Kept::All(duration(kept)),
            Retention::Failures(kept) => pb::retention::Kept::Failures(duration(kept)),
            Retention::None => pb::retention::Kept::None(true),
        };
        Self { kept: Some(kept) }
    }
}

/// `None` if nothing is said.
fn retention(retention: pb::Retention) -> Result<Option<Retention>, Invalid> {
    let Some(kept) = retention.kept else {
        return Ok(None);
    };
    Ok(Some(match kept {
        pb::retention::Kept::All(kept) => Retention::For(duration_of("retention", kept)?),
        pb::retention::Kept::Failures(kept) => Retention::Failures(duration_of("retention", kept)?),
        pb::retention::Kept::None(_) => Retention::None,
    }))
}

/// Reads labels of a worker or task.
pub(super) fn labels(given: &[String]) -> Result<BTreeSet<Label>, Invalid> {
    given
        .iter()
        .map(|label| label.as_str().try_into())
        .collect()
}

impl From<Waiting> for pb::Waiting {
    fn from(waiting: Waiting) -> Self {
        Self {
            reason: waiting.reason.into_owned(),
            text: waiting.text,
            until: waiting.until.map(timestamp),
            tasks: waiting.tasks.iter().map(ToString::to_string).collect(),
            about_before: waiting.ahead.map(|ahead| ahead.about),
            at_most_before: waiting.ahead.map(|ahead| ahead.at_most),
        }
    }
}

impl TryFrom<pb::Waiting> for Waiting {
    type Error = Error;

    fn try_from(waiting: pb::Waiting) -> Result<Self, Error> {
        let until = waiting.until.map(|until| timestamp_of("until", until));
        let tasks = waiting.tasks.iter().map(|id| id.parse());
        let ahead = waiting.about_before.zip(waiting.at_most_before);
        Ok(Self {
            reason: waiting.reason.into(),
            text: waiting.text,
            until: until.transpose()?,
            tasks: tasks.collect::<Result<_, Invalid>>()?,
            ahead: ahead.map(|(about, at_most)| Ahead { about, at_most }),
        })
    }
}

impl From<&TaskOptions> for pb::TaskOptions {
    fn from(options: &TaskOptions) -> Self {
        let codes = |codes: &Vec<ErrorCode>| pb::ErrorCodes {
            codes: codes.iter().map(ToString::to_string).collect(),
        };
        let key = options.idempotency_key.as_ref();
        Self {
            run_at: options.run_at.map(timestamp),
            idempotency_key: key.map(ToString::to_string).unwrap_or_default(),
            timeout: options.timeout.map(duration),
            heartbeat_timeout: options.heartbeat_timeout.map(duration),
            retry: options.retry.map(Into::into),
            non_retryable: options.non_retryable.as_ref().map(codes),
            retention: options.retention.map(Into::into),
            metadata: options.metadata.clone(),
            priority: options.priority.map(|priority| priority.get().into()),
            key: text(options.key.as_ref().map(OrderingKey::as_str)),
            group: text(options.group.as_ref().map(GroupName::as_str)),
            expires_at: options.expires_at.map(timestamp),
            total_timeout: options.total_timeout.map(duration),
            labels: options.labels.as_ref().map(|labels| pb::Labels {
                labels: labels.iter().map(ToString::to_string).collect(),
            }),
            cost: options.cost.map(Into::into),
        }
    }
}

impl TryFrom<pb::TaskOptions> for TaskOptions {
    type Error = Invalid;

    fn try_from(options: pb::TaskOptions) -> Result<Self, Invalid> {
        let span =
            |field, value: Option<_>| value.map(|value| duration_of(field, value)).transpose();
        let codes = |codes: pb::ErrorCodes| -> Result<Vec<ErrorCode>, Invalid> {
            let codes = codes.codes.iter().map(|code| code.as_str().try_into());
            codes
                .collect::<Result<_, _>>()
                .map_err(|fault: Invalid| Invalid::new("non_retryable", fault.rule))
        };
        let run_at = options.run_at.map(|at| timestamp_of("run_at", at));
        let expires_at = options.expires_at;
        let expires_at = expires_at.map(|at| timestamp_of("expires_at", at));
        let options = Self {
            run_at: run_at.transpose()?,
            idempotency_key: some(&options.idempotency_key)?,
            timeout: span("timeout", options.timeout)?,
            heartbeat_timeout: span("heartbeat_timeout", options.heartbeat_timeout)?,
            retry: options.retry.map(TryInto::try_into).transpose()?,
            non_retryable: options.non_retryable.map(codes).transpose()?,
            retention: options.retention.map(retention).transpose()?.flatten(),
            metadata: options.metadata,
            priority: options.priority.map(TryInto::try_into).transpose()?,
            key: some(&options.key)?,
            group: some(&options.group)?,
            expires_at: expires_at.transpose()?,
            total_timeout: span("total_timeout", options.total_timeout)?,
            labels: options
                .labels
                .map(|given| labels(&given.labels))
                .transpose()?,
            // One that does not fit is out of range like any other.
            cost: options
                .cost
                .map(|cost| u16::try_from(cost).unwrap_or(u16::MAX)),
        };
        options.validate()?;
        Ok(options)
    }
}

impl From<Submit> for pb::NewTask {
    fn from(submit: Submit) -> Self {
        Self {
            data: submit.data,
            options: (!submit.options.is_empty()).then(|| (&submit.options).into()),
            delay: submit.delay.map(duration),
            traceparent: text(submit.traceparent.as_deref()),
        }
    }
}

impl TryFrom<pb::NewTask> for Submit {
    type Error = Invalid;

    fn try_from(task: pb::NewTask) -> Result<Self, Invalid> {
        let options = task.options.unwrap_or_default().try_into();
        let delay = task.delay.map(|delay| duration_of("delay", delay));
        Ok(Self {
            data: task.data,
            options: options.map_err(|fault: Invalid| fault.within("options"))?,
            delay: delay.transpose()?,
            traceparent: shared(&task.traceparent),
        })
    }
}

impl From<Submitted> for pb::SubmitResponse {
    fn from(submitted: Submitted) -> Self {
        Self {
            id: submitted.id.to_string(),
            state: pb::TaskState::from(submitted.state).into(),
            is_repeat: submitted.repeated,
        }
    }
}

/// Reads the answer to a submit.
///
/// # Errors
/// [`Error::Malformed`] if it is none.
pub fn submitted(answer: pb::SubmitResponse) -> Result<Submitted, Error> {
    Ok(Submitted {
        id: answer.id.parse()?,
        state: state(answer.state)?,
        repeated: answer.is_repeat,
    })
}

impl From<Failure> for pb::Failure {
    fn from(failure: Failure) -> Self {
        Self {
            code: failure.code.to_string(),
            message: failure.message,
            retryable: Some(failure.retryable),
            detail: failure.detail,
        }
    }
}

impl TryFrom<pb::Failure> for Failure {
    type Error = Invalid;

    fn try_from(failure: pb::Failure) -> Result<Self, Invalid> {
        let mut message = failure.message;
        message.truncate(message.floor_char_boundary(MESSAGE_LEN_MAX));
        Ok(Self {
            code: failure.code.as_str().try_into()?,
            message,
            retryable: failure.retryable.unwrap_or(true),
            detail: failure.detail,
        })
    }
}

impl From<AttemptError> for pb::AttemptError {
    fn from(error: AttemptError) -> Self {
        Self {
            attempt: error.attempt,
            lease_token: error.token.to_u64(),
            worker: error.worker.to_string(),
            at: Some(timestamp(error.at)),
            failure: Some(error.failure.into()),
        }
    }
}

impl TryFrom<pb::AttemptError> for AttemptError {
    type Error = Error;

    fn try_from(error: pb::AttemptError) -> Result<Self, Error> {
        Ok(Self {
            attempt: error.attempt,
            token: LeaseToken::from_u64(error.lease_token),
            worker: error.worker.as_str().try_into()?,
            at: timestamp_of("at", error.at.ok_or_else(|| missing("at"))?)?,
            failure: error
                .failure
                .ok_or_else(|| missing("failure"))?
                .try_into()?,
        })
    }
}

impl From<TaskView> for pb::Task {
    fn from(task: TaskView) -> Self {
        Self {
            id: task.id.to_string(),
            application: task.path.application.to_string(),
            pipeline: task.path.pipeline.to_string(),
            state: pb::TaskState::from(task.state).into(),
            attempt: task.attempt,
            max_attempts: task.max_attempts,
            data: task.data,
            options: task.options.as_deref().map(Into::into),
            accepted_at: Some(timestamp(task.accepted_at)),
            due_at: task.due_at.map(timestamp),
            started_at: task.started_at.map(timestamp),
            ended_at: task.ended_at.map(timestamp),
            worker: text(task.worker.as_ref().map(|worker| worker.as_str())),
            progress: task.progress,
            errors: task.errors.into_iter().map(Into::into).collect(),
            result: task.result,
            n_before: task.n_before,
            waiting: task.waits.map(Into::into),
        }
    }
}

/// Reads a task of a tenant.
///
/// # Errors
/// [`Error::Malformed`] or [`Error::Invalid`] if the other side speaks another version.
pub fn task_view(tenant: &TenantName, task: pb::Task) -> Result<TaskView, Error> {
    let at = |field, at: Option<_>| at.map(|at| timestamp_of(field, at)).transpose();
    let options = task.options.map(TaskOptions::try_from).transpose()?;
    let accepted_at = task.accepted_at.ok_or_else(|| missing("accepted_at"))?;
    let errors = task.errors.into_iter().map(TryInto::try_into);
    Ok(TaskView {
        id: task.id.parse()?,
        path: PipelinePath {
            tenant: tenant.clone(),
            application: task.application.as_str().try_into()?,
            pipeline: task.pipeline.as_str().try_into()?,
        },
        state: state(task.state)?,
        attempt: task.attempt,
        max_attempts: task.max_attempts,
        data: task.data,
        options: options.map(Arc::new),
        accepted_at: timestamp_of("accepted_at", accepted_at)?,
        due_at: at("due_at", task.due_at)?,
        started_at: at("started_at", task.started_at)?,
        ended_at: at("ended_at", task.ended_at)?,
        worker: some(&task.worker)?,
        progress: task.progress,
        errors: errors.collect::<Result<_, Error>>()?,
        result: task.result,
        n_before: task.n_before,
        waits: task.waiting.map(TryInto::try_into).transpose()?,
    })
}

impl TryFrom<pb::ListTasksRequest> for ListTasks {
    type Error = Invalid;

    fn try_from(request: pb::ListTasksRequest) -> Result<Self, Invalid> {
        let states = request
            .states
            .into_iter()
            .map(state)
            .collect::<Result<_, _>>();
        let since = request.since.map(|since| timestamp_of("since", since));
        Ok(Self {
            states: states.map_err(|fault| Invalid::new("states", fault.rule))?,
            since: since.transpose()?,
            limit: usize::try_from(request.limit).unwrap_or(usize::MAX),
            page_token: (!request.page_token.is_empty()).then_some(request.page_token),
        })
    }
}

impl From<TaskPage> for pb::ListTasksResponse {
    fn from(page: TaskPage) -> Self {
        Self {
            tasks: page.tasks.into_iter().map(Into::into).collect(),
            next_page_token: page.next_page_token.unwrap_or_default(),
            backlog: page.backlog,
        }
    }
}

/// Reads a page of a tenant's tasks.
///
/// # Errors
/// As [`task_view`].
pub fn task_page(tenant: &TenantName, page: pb::ListTasksResponse) -> Result<TaskPage, Error> {
    let tasks = page.tasks.into_iter().map(|task| task_view(tenant, task));
    Ok(TaskPage {
        tasks: tasks.collect::<Result<_, _>>()?,
        next_page_token: (!page.next_page_token.is_empty()).then_some(page.next_page_token),
        backlog: page.backlog,
    })
}

pub(super) fn text(text: Option<&str>) -> String {
    text.unwrap_or_default().to_owned()
}

pub(super) fn shared(text: &str) -> Option<Arc<str>> {
    (!text.is_empty()).then(|| text.into())
}

/// What a long wait may last if the caller does not say.
pub(crate) const WAIT: Duration = Duration::from_secs(20);
