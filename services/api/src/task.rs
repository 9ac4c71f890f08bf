//! Routes of tasks.
#![expect(
    unused_qualifications,
    reason = "the documentation's macro writes paths in full"
)]

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use scheduler_core::{
    Error, Invalid, ListTasks, PipelinePath, StateName, Submit, Submitted, TaskId,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Api, batch, cancel,
    input::{
        NoQuery, Object, Segments, WRAPPING_BYTES_MAX, read_body, read_id, read_json, read_query,
    },
    options::OptionsJson,
    pipeline::pipeline_path,
    problem::Problem,
    time::{parse_duration, parse_timestamp},
    view::TaskJson,
};

pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list, submit_wrapped))
        .routes(routes!(batch::submit))
        .routes(routes!(cancel::cancel))
        .routes(routes!(read))
        .routes(routes!(cancel))
        .routes(routes!(redrive))
}

/// The longest `wait`.
const WAIT_MAX: std::time::Duration = std::time::Duration::from_secs(300);

/// The query of a submit whose body is the task's data.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct SubmitQuery {
    wait: Option<String>,
    delay: Option<String>,
    run_at: Option<String>,
    idempotency_key: Option<String>,
    timeout: Option<String>,
    heartbeat_timeout: Option<String>,
    retention: Option<String>,
    priority: Option<u32>,
    key: Option<String>,
    group: Option<String>,
    expires_at: Option<String>,
    total_timeout: Option<String>,
    /// Separated by commas.
    labels: Option<String>,
    cost: Option<u16>,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct WaitQuery {
    wait: Option<String>,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    state: Option<String>,
    since: Option<String>,
    limit: Option<usize>,
    page_token: Option<String>,
}

/// A task with its options.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewTask)]
pub(crate) struct Wrapped {
    /// A JSON object, whose fields fill the placeholders of the steps.
    #[schema(value_type = std::collections::BTreeMap<String, serde_json::Value>)]
    data: Box<RawValue>,
    #[serde(default)]
    #[schema(value_type = OptionsJson)]
    options: Object<OptionsJson>,
}

impl Wrapped {
    /// Reads a line of a batch.
    pub(crate) fn of_line(text: &[u8]) -> Result<Submit, Problem> {
        let Object(wrapped): Object<Self> = serde_json::from_slice(text)
            .map_err(|err| Problem::malformed(format!("the line is not as expected: {err}")))?;
        let (options, delay) = wrapped.options.0.read().map_err(Error::from)?;
        Ok(Submit {
            data: Bytes::from(wrapped.data.get().to_owned()),
            options,
            delay,
            traceparent: None,
        })
    }
}

/// An accepted task.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SubmittedTask)]
pub(crate) struct SubmittedJson {
    id: String,
    state: &'static str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    repeated: bool,
}

impl From<Submitted> for SubmittedJson {
    fn from(submitted: Submitted) -> Self {
        Self {
            id: submitted.id.to_string(),
            state: submitted.state.as_str(),
            repeated: submitted.repeated,
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Tasks)]
struct ListJson {
    tasks: Vec<TaskJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_page_token: Option<String>,
    backlog: u64,
}

/// Submits the body as a task's data.
#[utoipa::path(
    post, path = "/applications/{app}/pipelines/{pipeline}", operation_id = "submitTask", tag = "tasks",
    params(SubmitQuery, ("idempotency-key" = Option<String>, Header, description = "Repeated submits with one key are one task"), ("traceparent" = Option<String>, Header, description = "W3C trace context")),
    request_body(content = std::collections::BTreeMap<String, serde_json::Value>, description = "The task's data, whose fields fill the placeholders of the steps", example = json!({"name": "you"})),
    responses(
        (status = 202, description = "Accepted: it is durable", body = SubmittedJson, headers(("location" = String, description = "Where it is read"))),
        (status = 200, description = "With `wait`: it has ended in time", body = TaskJson, headers(("location" = String, description = "Where it is read"))),
        (status = 409, description = "The pipeline takes no tasks"),
    ),
)]
pub(crate) async fn submit(
    State(api): State<Api>,
    Segments((app, pipeline)): Segments<(String, String)>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let path = pipeline_path(&api, &app, &pipeline)?;
    let query: SubmitQuery = read_query(&uri)?;
    let data = read_body(
        body,
        "the task's data",
        api.scheduler().config().payload_bytes_max,
    )
    .await?;
    let options = OptionsJson {
        delay: query.delay,
        run_at: query.run_at,
        idempotency_key: query.idempotency_key,
        timeout: query.timeout,
        heartbeat_timeout: query.heartbeat_timeout,
        retention: query.retention,
        priority: query.priority,
        key: query.key,
        group: query.group,
        expires_at: query.expires_at,
        total_timeout: query.total_timeout,
        labels: query
            .labels
            .map(|labels| labels.split(',').map(ToOwned::to_owned).collect()),
        cost: query.cost,
        ..OptionsJson::default()
    };
    finish_submit(&api, &path, data, options, &headers, query.wait.as_deref()).await
}

/// Submits `{data, options}`.
#[utoipa::path(
    post, path = "/applications/{app}/pipelines/{pipeline}/tasks", operation_id = "submitTaskWithOptions", tag = "tasks",
    params(WaitQuery, ("idempotency-key" = Option<String>, Header, description = "Repeated submits with one key are one task"), ("traceparent" = Option<String>, Header, description = "W3C trace context")),
    request_body(content = Wrapped, example = json!({"data": {"name": "you"}, "options": {"priority": 7}})),
    responses(
        (status = 202, description = "Accepted: it is durable", body = SubmittedJson, headers(("location" = String, description = "Where it is read"))),
        (status = 200, description = "With `wait`: it has ended in time", body = TaskJson, headers(("location" = String, description = "Where it is read"))),
        (status = 409, description = "The pipeline takes no tasks"),
    ),
)]
async fn submit_wrapped(
    State(api): State<Api>,
    Segments((app, pipeline)): Segments<(String, String)>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let path = pipeline_path(&api, &app, &pipeline)?;
    let query: WaitQuery = read_query(&uri)?;
    let max = api.scheduler().config().payload_bytes_max + WRAPPING_BYTES_MAX;
    let wrapped: Wrapped = read_json(body, "the body", max).await?;
    let data = Bytes::from(wrapped.data.get().to_owned());
    finish_submit(
        &api,
        &path,
        data,
        wrapped.options.0,
        &headers,
        query.wait.as_deref(),
    )
    .await
}

async fn finish_submit(
    api: &Api,
    path: &PipelinePath,
    data: Bytes,
    mut options: OptionsJson,
    headers: &HeaderMap,
    wait: Option<&str>,
) -> Result<Response, Problem> {
    let wait = wait.map(read_wait).transpose()?;
    options.idempotency_key = key_in(headers, options.idempotency_key)?;
    let (options, delay) = options.read().map_err(Error::from)?;
    let submit = Submit {
        data,
        options,
        delay,
        traceparent: headers
            .get("traceparent")
            .and_then(|value| value.to_str().ok())
            .filter(|text| text.len() <= 128)
            .map(Into::into),
    };
    let submitted = api.scheduler().submit(path, submit).await?;
    let mut state = submitted.state;
    let location = format!(
        "/api/applications/{}/tasks/{}",
        path.application, submitted.id
    );
    let location = [(header::LOCATION, location)];
    if let Some(wait) = wait {
        // It is accepted, so a caller must get its id even if the wait fails.
        match api.scheduler().wait(api.tenant(), submitted.id, wait).await {
            Ok(task) if task.state.is_terminal() => {
                return Ok((StatusCode::OK, location, Json(TaskJson::from(task))).into_response());
            }
            Ok(task) => state = task.state,
            Err(_) => {}
        }
    }
    let body = SubmittedJson {
        id: submitted.id.to_string(),
        state: state.as_str(),
        repeated: submitted.repeated,
    };
    Ok((StatusCode::ACCEPTED, location, Json(body)).into_response())
}

/// The one idempotency key that the header or the options name.
fn key_in(headers: &HeaderMap, option: Option<String>) -> Result<Option<String>, Problem> {
    let headers = headers.get_all("idempotency-key").iter();
    let named = headers.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let mut keys = named.chain(option);
    let key = keys.next();
    if keys.any(|other| Some(other) != key) {
        return Err(Problem::malformed(
            "two different idempotency keys are given; a task has one",
        ));
    }
    Ok(key)
}

fn read_wait(text: &str) -> Result<std::time::Duration, Problem> {
    let wait = parse_duration("wait", text).map_err(Error::from)?;
    if wait > WAIT_MAX {
        return Err(Error::from(Invalid::new("wait", "must be at most 5m")).into());
    }
    Ok(wait)
}

/// Lists the tasks of a pipeline that left its backlog.
#[utoipa::path(
    get, path = "/applications/{app}/pipelines/{pipeline}/tasks", operation_id = "listTasks", tag = "tasks",
    params(ListQuery),
    responses(
        (status = 200, description = "Tasks that left the backlog, newest first", body = ListJson),
    ),
)]
async fn list(
    State(api): State<Api>,
    Segments((app, pipeline)): Segments<(String, String)>,
    uri: Uri,
) -> Result<impl IntoResponse, Problem> {
    let path = pipeline_path(&api, &app, &pipeline)?;
    let query: ListQuery = read_query(&uri)?;
    let states = query.state.as_deref().map_or(Ok(Vec::new()), read_states)?;
    let since = query
        .since
        .as_deref()
        .map(|text| parse_timestamp("since", text));
    let query = ListTasks {
        states,
        since: since.transpose().map_err(Error::from)?,
        limit: query.limit.unwrap_or(0),
        page_token: query.page_token,
    };
    let page = api.scheduler().list(&path, query).await?;
    Ok(Json(ListJson {
        tasks: page.tasks.into_iter().map(TaskJson::from).collect(),
        next_page_token: page.next_page_token,
        backlog: page.backlog,
    }))
}

fn read_states(text: &str) -> Result<Vec<StateName>, Problem> {
    let states = text.split(',').map(|name| state_of("state", name));
    Ok(states.collect::<Result<_, _>>().map_err(Error::from)?)
}

/// A state by its name.
pub(crate) fn state_of(field: &'static str, name: &str) -> Result<StateName, Invalid> {
    let mut all = StateName::ALL.into_iter();
    all.find(|state| state.as_str() == name).ok_or_else(|| {
        let all = StateName::ALL.map(StateName::as_str).join(", ");
        Invalid::new(field, format!("must be one or more of {all}"))
    })
}

/// The id of a task of this application: to everyone else it does not exist.
pub(crate) fn task_of(api: &Api, app: &str, id: &str) -> Result<TaskId, Problem> {
    let id = read_id(id)?;
    let path = api.scheduler().path_of(api.tenant(), id)?;
    if path.application.as_str() == app {
        Ok(id)
    } else {
        Err(Error::not_found("task", id).into())
    }
}

/// Reads a task, or waits for its end.
#[utoipa::path(
    get, path = "/applications/{app}/tasks/{id}", operation_id = "getTask", tag = "tasks",
    params(WaitQuery),
    responses(
        (status = 200, description = "The task", body = TaskJson),
        (status = 410, description = "It ended and is no longer kept"),
    ),
)]
async fn read(
    State(api): State<Api>,
    Segments((app, id)): Segments<(String, String)>,
    uri: Uri,
) -> Result<impl IntoResponse, Problem> {
    let query: WaitQuery = read_query(&uri)?;
    let id = task_of(&api, &app, &id)?;
    let task = match query.wait.as_deref() {
        Some(wait) => {
            api.scheduler()
                .wait(api.tenant(), id, read_wait(wait)?)
                .await?
        }
        None => api.scheduler().get(api.tenant(), id).await?,
    };
    Ok(Json(TaskJson::from(task)))
}

/// Cancels a task, wherever it is.
#[utoipa::path(
    post, path = "/applications/{app}/tasks/{id}/cancel", operation_id = "cancelTask", tag = "tasks",
    responses(
        (status = 200, description = "Cancelled, durably", body = TaskJson),
        (status = 409, description = "It has ended"),
        (status = 410, description = "It ended and is no longer kept"),
    ),
)]
async fn cancel(
    State(api): State<Api>,
    Segments((app, id)): Segments<(String, String)>,
    _: NoQuery,
) -> Result<impl IntoResponse, Problem> {
    let id = task_of(&api, &app, &id)?;
    let task = api.scheduler().cancel(api.tenant(), id).await?;
    Ok(Json(TaskJson::from(task)))
}

/// Lets a discarded task run again, with all its attempts.
#[utoipa::path(
    post, path = "/applications/{app}/tasks/{id}/redrive", operation_id = "redriveTask", tag = "tasks",
    responses(
        (status = 200, description = "It can run again, durably", body = TaskJson),
        (status = 409, description = "It is no dead letter"),
        (status = 410, description = "It ended and is no longer kept"),
    ),
)]
async fn redrive(
    State(api): State<Api>,
    Segments((app, id)): Segments<(String, String)>,
    _: NoQuery,
) -> Result<impl IntoResponse, Problem> {
    let id = task_of(&api, &app, &id)?;
    let task = api.scheduler().redrive(api.tenant(), id).await?;
    Ok(Json(TaskJson::from(task)))
}
