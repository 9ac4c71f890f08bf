//! Event streams: a task and a pipeline as they change, as server-sent events.
//!
//! A stream is read no faster than its client takes it, and nothing is kept for one that is slow. It ends with the
//! server, and a browser opens it anew elsewhere by itself.

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use futures::{Stream, stream};
use scheduler_core::{Error, PipelineEvent, PipelineWatch, TaskChanges, TaskView, TaskWatch};
use serde::Serialize;
use tokio::sync::watch;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Api,
    input::{NoQuery, Segments},
    pipeline::pipeline_path,
    problem::Problem,
    standing::StatsJson,
    task::task_of,
    time::print_timestamp,
    view::TaskJson,
};

/// How long a stream is silent at most.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// How long a browser waits before it opens a broken stream anew.
const RETRY: Duration = Duration::from_secs(2);

pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(of_task))
        .routes(routes!(of_pipeline))
}

/// Tasks that changed.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TaskChanges)]
pub(crate) struct ChangesJson {
    changes: Vec<ChangeJson>,
    /// So many more changes there were, which are not told.
    missed: u64,
}

/// A task is shown otherwise than before.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TaskChange)]
struct ChangeJson {
    id: String,
    state: &'static str,
    attempt: u32,
    at: String,
}

impl From<TaskChanges> for ChangesJson {
    fn from(changes: TaskChanges) -> Self {
        let list = changes.list.iter().map(|change| ChangeJson {
            id: change.id.to_string(),
            state: change.state.as_str(),
            attempt: change.attempt,
            at: print_timestamp(change.at),
        });
        Self {
            changes: list.collect(),
            missed: changes.n_missed,
        }
    }
}

fn event(name: &str, data: &impl Serialize) -> Event {
    // These become JSON. Data is shown as it was given, maybe on many lines, which in JSON are mere space.
    let data = serde_json::to_string(data).unwrap_or_default();
    let data = data.replace(['\r', '\n'], " ");
    Event::default().event(name).data(data)
}

fn seen_of(headers: &HeaderMap) -> Option<u64> {
    let last = headers.get("last-event-id")?.to_str().ok()?;
    u64::from_str_radix(last, 16).ok()
}

fn task_event(view: TaskView) -> Event {
    let id = format!("{:016x}", view.digest());
    event("task", &TaskJson::from(view)).id(id).retry(RETRY)
}

/// One that is told until it is over.
trait Told: Send + 'static {
    fn next(&mut self) -> impl Future<Output = Result<Option<Event>, Error>> + Send;
}

impl Told for TaskWatch {
    async fn next(&mut self) -> Result<Option<Event>, Error> {
        Ok(Self::next(self).await?.map(task_event))
    }
}

impl Told for PipelineWatch {
    async fn next(&mut self) -> Result<Option<Event>, Error> {
        let told = Self::next(self).await?;
        Ok(told.map(|told| match told {
            PipelineEvent::Stats(stats) => event("stats", &StatsJson::from(&*stats)),
            PipelineEvent::Changes(changes) => event("changes", &ChangesJson::from(changes)),
        }))
    }
}

async fn step<T: Told>(
    state: Option<(T, watch::Receiver<bool>)>,
) -> Option<(
    Result<Event, Infallible>,
    Option<(T, watch::Receiver<bool>)>,
)> {
    let (mut told, mut closing) = state?;
    let next = tokio::select! {
        next = told.next() => next,
        // An error means that nobody can close it any more, which is a close.
        _ = closing.wait_for(|closing| *closing) => return None,
    };
    match next {
        Ok(event) => Some((Ok(event?), Some((told, closing)))),
        // Nothing comes after it.
        Err(error) => Some((Ok(event("problem", &Problem::from(error).body())), None)),
    }
}

fn events<T: Told>(
    api: &Api,
    told: T,
) -> Sse<impl Stream<Item = Result<Event, Infallible>> + use<T>> {
    let closing = api.closing();
    let events = stream::unfold(Some((told, closing)), step);
    let alive = KeepAlive::new().interval(SILENCE_MAX).text("alive");
    Sse::new(events).keep_alive(alive)
}

/// Follows a task to its end, as server-sent events.
#[utoipa::path(
    get, path = "/applications/{app}/tasks/{id}/events", operation_id = "followTask", tag = "tasks",
    params(("last-event-id" = Option<String>, Header, description = "The id of the event that was seen last")),
    responses(
        (status = 200, description = "Events `task`: the task as it stands now and whenever that changes, until it has ended; `problem` before an early end", body = String, content_type = "text/event-stream"),
        (status = 204, description = "The end has been seen already: do not come again"),
        (status = 410, description = "It ended and is no longer kept"),
    ),
)]
async fn of_task(
    State(api): State<Api>,
    Segments((app, id)): Segments<(String, String)>,
    _: NoQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = task_of(&api, &app, &id)?;
    let seen = seen_of(&headers);
    let watch = api.scheduler().watch_task(api.tenant(), id, seen).await?;
    if watch.is_over() {
        // The client has seen the end. A browser comes again until it is told so.
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    Ok(events(&api, watch).into_response())
}

/// Follows a pipeline, as server-sent events.
#[utoipa::path(
    get, path = "/applications/{app}/pipelines/{pipeline}/events", operation_id = "followPipeline", tag = "pipelines",
    responses(
        (status = 200, description = "Events `stats`: `PipelineStats` now and whenever they differ; `changes`: `TaskChanges`; `problem` before an early end. At most one of each a second", body = String, content_type = "text/event-stream"),
    ),
)]
async fn of_pipeline(
    State(api): State<Api>,
    Segments((app, pipeline)): Segments<(String, String)>,
    _: NoQuery,
) -> Result<impl IntoResponse, Problem> {
    let path = pipeline_path(&api, &app, &pipeline)?;
    let watch = api.scheduler().watch_pipeline(&path)?;
    Ok(events(&api, watch))
}
