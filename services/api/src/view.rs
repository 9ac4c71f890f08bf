//! What is shown of tasks, pipelines and applications: their JSON form.

use bytes::Bytes;
use scheduler_core::{
    Mode, Pipeline, TaskView, explain::Waiting, port::catalog::Application, task::AttemptError,
};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::{
    limits::LimitsJson,
    options::OptionsJson,
    time::{print_duration, print_timestamp},
};

/// Bytes that hold JSON already.
#[derive(Debug)]
pub(crate) struct Json(Box<RawValue>);

impl Json {
    /// Data of a plain producer may be no JSON at all; it is then shown as a text.
    fn of(bytes: &Bytes) -> Option<Self> {
        if bytes.is_empty() {
            return None;
        }
        let text = String::from_utf8_lossy(bytes);
        let raw = RawValue::from_string(text.clone().into_owned())
            .or_else(|_| serde_json::value::to_raw_value(&text));
        raw.ok().map(Self)
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Task)]
pub(crate) struct TaskJson {
    id: String,
    application: String,
    pipeline: String,
    state: &'static str,
    attempt: u32,
    max_attempts: u32,
    /// What was submitted.
    #[schema(value_type = serde_json::Value)]
    data: Option<Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    options: Option<OptionsJson>,
    accepted_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    due_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// What its handler last said of its progress, while it runs.
    #[schema(value_type = Option<serde_json::Value>)]
    progress: Option<Json>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<ErrorJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// What came out.
    #[schema(value_type = Option<serde_json::Value>)]
    result: Option<Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<WaitingJson>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Waiting)]
struct WaitingJson {
    reason: String,
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
    /// Tasks that it waits for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tasks: Vec<String>,
    /// How many go before it, about.
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    before_at_most: Option<u64>,
}

impl WaitingJson {
    fn of(waiting: Waiting, n_before: Option<u64>) -> Self {
        let ahead = waiting.ahead;
        Self {
            reason: waiting.reason.into_owned(),
            text: waiting.text,
            until: waiting.until.map(print_timestamp),
            tasks: waiting.tasks.iter().map(ToString::to_string).collect(),
            before: n_before.or(ahead.map(|ahead| ahead.about)),
            before_at_most: n_before.or(ahead.map(|ahead| ahead.at_most)),
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AttemptError)]
struct ErrorJson {
    attempt: u32,
    code: String,
    message: String,
    retryable: bool,
    worker: String,
    at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    detail: Option<Json>,
}

impl From<AttemptError> for ErrorJson {
    fn from(error: AttemptError) -> Self {
        Self {
            attempt: error.attempt,
            code: error.failure.code.to_string(),
            message: error.failure.message,
            retryable: error.failure.retryable,
            worker: error.worker.to_string(),
            at: print_timestamp(error.at),
            detail: Json::of(&error.failure.detail),
        }
    }
}

impl From<TaskView> for TaskJson {
    fn from(task: TaskView) -> Self {
        let (waits, n_before) = (task.waits, task.n_before);
        Self {
            id: task.id.to_string(),
            application: task.path.application.to_string(),
            pipeline: task.path.pipeline.to_string(),
            state: task.state.as_str(),
            attempt: task.attempt,
            max_attempts: task.max_attempts,
            data: Json::of(&task.data),
            options: task.options.map(|options| OptionsJson::of(&options)),
            accepted_at: print_timestamp(task.accepted_at),
            due_at: task.due_at.map(print_timestamp),
            started_at: task.started_at.map(print_timestamp),
            ended_at: task.ended_at.map(print_timestamp),
            worker: task.worker.map(|worker| worker.to_string()),
            progress: task.progress.as_ref().and_then(Json::of),
            errors: task.errors.into_iter().map(ErrorJson::from).collect(),
            result: task.result.as_ref().and_then(Json::of),
            waiting: waits.map(|waits| WaitingJson::of(waits, n_before)),
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Application)]
pub(crate) struct ApplicationJson {
    name: String,
    revision: u64,
    created_at: String,
}

impl From<Application> for ApplicationJson {
    fn from(application: Application) -> Self {
        Self {
            name: application.path.application.to_string(),
            revision: application.revision.0,
            created_at: print_timestamp(application.created_at),
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Pipeline)]
pub(crate) struct PipelineJson {
    name: String,
    application: String,
    number: u32,
    revision: u64,
    /// Whether it takes tasks and starts them.
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    paused: Option<PausedJson>,
    pipeline: Vec<StepJson>,
    options: PipelineOptionsJson,
    created_at: String,
    lease: String,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Paused)]
struct PausedJson {
    by: String,
    reason: String,
    at: String,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Step)]
struct StepJson {
    executor: String,
    commands: Vec<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PipelineOptions)]
struct PipelineOptionsJson {
    partitions: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pool: Option<String>,
    #[serde(skip_serializing_if = "LimitsJson::is_none")]
    limits: LimitsJson,
    /// What tasks start from.
    #[serde(flatten)]
    #[schema(ignore)]
    defaults: OptionsJson,
}

impl PipelineJson {
    pub(crate) fn of(pipeline: &Pipeline, lease: std::time::Duration) -> Self {
        let step = |step: &scheduler_core::Step| StepJson {
            executor: step.executor.to_string(),
            commands: step.commands.iter().map(ToString::to_string).collect(),
        };
        Self {
            name: pipeline.path.pipeline.to_string(),
            application: pipeline.path.application.to_string(),
            number: pipeline.number.0,
            revision: pipeline.revision.0,
            state: pipeline.mode.as_str(),
            paused: paused(&pipeline.mode),
            pipeline: pipeline.spec.steps.iter().map(step).collect(),
            options: PipelineOptionsJson {
                partitions: pipeline.spec.n_partitions,
                pool: pipeline.spec.pool.as_ref().map(ToString::to_string),
                limits: LimitsJson::of(&pipeline.spec.limits),
                defaults: OptionsJson::of(&pipeline.spec.defaults),
            },
            created_at: print_timestamp(pipeline.created_at),
            lease: print_duration(lease),
        }
    }
}

fn paused(mode: &Mode) -> Option<PausedJson> {
    match mode {
        Mode::Paused { by, reason, at } => Some(PausedJson {
            by: by.clone(),
            reason: reason.clone(),
            at: print_timestamp(*at),
        }),
        Mode::Active | Mode::Draining | Mode::Deleting => None,
    }
}
