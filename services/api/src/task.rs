//! Routes of tasks.

use axum::{
    Json, Router,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use scheduler_core::{
    Error, Invalid, ListTasks, PipelinePath, StateName, Submit, Submitted, TaskId,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

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

pub(crate) fn routes() -> Router<Api> {
    Router::new()
        .route(
            "/applications/{app}/pipelines/{pipeline}/tasks",
            get(list).post(submit_wrapped),
        )
        .route(
            "/applications/{app}/pipelines/{pipeline}/tasks/batch",
            post(batch::submit),
        )
        .route(
            "/applications/{app}/pipelines/{pipeline}/tasks/cancel",
            post(cancel::cancel),
        )
        .route("/applications/{app}/tasks/{id}", get(read))
        .route("/applications/{app}/tasks/{id}/cancel", post(cancel))
        .route("/applications/{app}/tasks/{id}/redrive", post(redrive))
}

/// The longest `wait`.
const WAIT_MAX: std::time::Duration = std::time::Duration::from_secs(300);

/// The query of a submit whose body is the task's data.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
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

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WaitQuery {
    wait: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ListQuery {
    state: Option<String>,
    since: Option<String>,
    limit: Option<usize>,
    page_token: Option<String>,
}

/// A task with its options.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wrapped {
    data: Box<RawValue>,
    #[serde(default)]
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
#[derive(Debug, Serialize)]
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

#[derive(Debug, Serialize)]
struct ListJson {
    tasks: Vec<TaskJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_page_token: Option<String>,
    backlog: u64,
}

/// Submits the body as a task's data.
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

async fn cancel(
    State(api): State<Api>,
    Segments((app, id)): Segments<(String, String)>,
    _: NoQuery,
) -> Result<impl IntoResponse, Problem> {
    let id = task_of(&api, &app, &id)?;
    let task = api.scheduler().cancel(api.tenant(), id).await?;
    Ok(Json(TaskJson::from(task)))
}

async fn redrive(
    State(api): State<Api>,
    Segments((app, id)): Segments<(String, String)>,
    _: NoQuery,
) -> Result<impl IntoResponse, Problem> {
    let id = task_of(&api, &app, &id)?;
    let task = api.scheduler().redrive(api.tenant(), id).await?;
    Ok(Json(TaskJson::from(task)))
}
