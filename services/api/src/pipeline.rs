//! Routes of pipelines.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
};
use scheduler_core::{
    Deleted, Error, Invalid, Pipeline, PipelinePath, PipelineSpec, Revision, Step,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Api,
    application::path_of,
    chart::{StepIn, read_steps},
    input::{DESCRIPTION_BYTES_MAX, NoQuery, Object, Segments, read_json},
    limits::LimitsJson,
    options::OptionsJson,
    problem::Problem,
    redrive, task,
    view::PipelineJson,
};

pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(read, update, remove, task::submit))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(drain))
        .routes(routes!(redrive::redrive))
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewPipeline)]
struct Create {
    name: String,
    chart: Option<String>,
    /// Steps; or else a chart that has them.
    #[schema(value_type = Option<Vec<StepIn>>)]
    pipeline: Option<Vec<Object<StepIn>>>,
    #[serde(default)]
    options: OptionsIn,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PipelineUpdate)]
struct Update {
    #[schema(value_type = Vec<StepIn>)]
    pipeline: Vec<Object<StepIn>>,
    #[serde(default)]
    options: OptionsIn,
}

/// A pipeline's options: how many partitions, and what its tasks start from.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = NewPipelineOptions)]
struct OptionsIn {
    partitions: Option<u16>,
    pool: Option<String>,
    #[serde(default)]
    limits: LimitsJson,
    #[serde(flatten)]
    #[schema(ignore)]
    defaults: serde_json::Map<String, serde_json::Value>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Pipelines)]
struct ListJson {
    pipelines: Vec<PipelineJson>,
}

/// Partitions of a pipeline that asks for no number.
const PARTITIONS: u16 = 4;

impl OptionsIn {
    fn read(self, steps: Arc<[Step]>) -> Result<PipelineSpec, Problem> {
        // `flatten` and `deny_unknown_fields` do not go together, so the rest is read on its own.
        let defaults: OptionsJson = serde_json::from_value(self.defaults.into())
            .map_err(|err| Problem::malformed(format!("options: {err}")))?;
        let (defaults, delay) = defaults
            .read()
            .map_err(|fault| Error::from(fault.within("options")))?;
        if delay.is_some() {
            let rule = "is for single tasks; a pipeline cannot have it as a default";
            return Err(Error::from(Invalid::new("options.delay", rule)).into());
        }
        let limits = self.limits.read();
        let pool = self.pool.as_deref().map(TryInto::try_into).transpose();
        Ok(PipelineSpec {
            steps,
            defaults,
            limits: limits.map_err(|fault| Error::from(fault.within("options")))?,
            pool: pool.map_err(|fault: Invalid| Error::from(fault.within("options")))?,
            n_partitions: self.partitions.unwrap_or(PARTITIONS),
        })
    }
}

/// The caller's pipeline of that name.
pub(crate) fn pipeline_path(api: &Api, app: &str, pipeline: &str) -> Result<PipelinePath, Problem> {
    let application = path_of(api, app)?;
    let pipeline = pipeline
        .try_into()
        .map_err(|fault: Invalid| Error::from(fault))?;
    Ok(PipelinePath {
        tenant: application.tenant,
        application: application.application,
        pipeline,
    })
}

/// Creates a pipeline, and its application if that is missing.
#[utoipa::path(
    post, path = "/applications/{app}/pipelines", operation_id = "createPipeline", tag = "pipelines",
    request_body(content = Create, example = json!({"name": "hello", "pipeline": [{"executor": "any", "commands": ["echo hello {{name}}"]}], "options": {"partitions": 4}})),
    responses(
        (status = 202, description = "Created; its application, too, if that was missing", body = PipelineJson, headers(("etag" = String, description = "The revision, for `If-Match`"), ("location" = String, description = "Where it is read"))),
        (status = 409, description = "The name is taken"),
    ),
)]
async fn create(
    State(api): State<Api>,
    Segments(app): Segments<String>,
    _: NoQuery,
    body: Body,
) -> Result<impl IntoResponse, Problem> {
    let create: Create = read_json(body, "the body", DESCRIPTION_BYTES_MAX).await?;
    let path = pipeline_path(&api, &app, &create.name)?;
    let steps = match (create.chart, create.pipeline) {
        (None, Some(steps)) => read_steps(&steps).map_err(Error::from)?,
        (Some(chart), None) => steps_of_chart(&api, &chart).await?,
        (None, None) | (Some(_), Some(_)) => {
            return Err(Problem::malformed(
                "give either chart or pipeline (a list of steps)",
            ));
        }
    };
    let spec = create.options.read(steps)?;
    let created = api.scheduler().create_pipeline(&path, spec).await?;
    let location = format!("/api/applications/{app}/pipelines/{}", path.pipeline);
    Ok((
        StatusCode::ACCEPTED,
        [(header::LOCATION, location)],
        shown(&api, &created),
    ))
}

async fn steps_of_chart(api: &Api, chart: &str) -> Result<Arc<[Step]>, Problem> {
    let invalid = |rule: String| Error::from(Invalid::new("chart", rule));
    let Some(charts) = api.charts() else {
        let rule = "cannot be deployed by this server; give the steps as pipeline instead";
        return Err(invalid(rule.to_owned()).into());
    };
    let steps = charts.steps(chart).await;
    Ok(steps.map_err(|err| invalid(format!("gives no pipeline: {err}")))?)
}

/// Lists the pipelines of an application.
#[utoipa::path(
    get, path = "/applications/{app}/pipelines", operation_id = "listPipelines", tag = "pipelines",
    responses(
        (status = 200, description = "All of the application, by name", body = ListJson),
    ),
)]
async fn list(
    State(api): State<Api>,
    Segments(app): Segments<String>,
    _: NoQuery,
) -> Result<impl IntoResponse, Problem> {
    let pipelines = api.scheduler().pipelines(&path_of(&api, &app)?).await?;
    let lease = api.scheduler().config().lease;
    let pipelines = pipelines
        .iter()
        .map(|pipeline| PipelineJson::of(pipeline, lease));
    Ok(Json(ListJson {
        pipelines: pipelines.collect(),
    }))
}

/// Reads a pipeline.
#[utoipa::path(
    get, path = "/applications/{app}/pipelines/{pipeline}", operation_id = "getPipeline", tag = "pipelines",
    responses(
        (status = 200, description = "The pipeline", body = PipelineJson, headers(("etag" = String, description = "The revision, for `If-Match`"))),
    ),
)]
async fn read(
    State(api): State<Api>,
    Segments((app, pipeline)): Segments<(String, String)>,
    _: NoQuery,
) -> Result<impl IntoResponse, Problem> {
    let path = pipeline_path(&api, &app, &pipeline)?;
    let pipeline = api.scheduler().pipeline(&path).await?;
    Ok(shown(&api, &pipeline))
}

/// Changes a pipeline. Its number of partitions stays.
#[utoipa::path(
    put, path = "/applications/{app}/pipelines/{pipeline}", operation_id = "updatePipeline", tag = "pipelines",
    params(("if-match" = String, Header, description = "The ETag of the pipeline that the change is based on", example = "\"1\"")),
    request_body(content = Update, example = json!({"pipeline": [{"executor": "any", "commands": ["echo bye {{name}}"]}]})),
    responses(
        (status = 200, description = "Changed", body = PipelineJson, headers(("etag" = String, description = "The revision, for `If-Match`"))),
        (status = 409, description = "It is being deleted"),
        (status = 412, description = "Someone else changed it first"),
        (status = 428, description = "If-Match is missing"),
    ),
)]
async fn update(
    State(api): State<Api>,
    Segments((app, pipeline)): Segments<(String, String)>,
    _: NoQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<impl IntoResponse, Problem> {
    let path = pipeline_path(&api, &app, &pipeline)?;
    let expected = revision_in(&headers)?;
    let mut update: Update = read_json(body, "the body", DESCRIPTION_BYTES_MAX).await?;
    if update.options.partitions.is_none() {
        let current = api.scheduler().pipeline(&path).await?;
        update.options.partitions = Some(current.spec.n_partitions);
    }
    let steps = read_steps(&update.pipeline).map_err(Error::from)?;
    let spec = update.options.read(steps)?;
    let updated = api
        .scheduler()
        .update_pipeline(&path, expected, spec)
        .await?;
    Ok(shown(&api, &updated))
}

/// Deletes a pipeline whose tasks have all ended.
#[utoipa::path(
    delete, path = "/applications/{app}/pipelines/{pipeline}", operation_id = "deletePipeline", tag = "pipelines",
    responses(
        (status = 204, description = "Deleted"),
        (status = 202, description = "It is being deleted, and that goes on by itself", body = PipelineJson, headers(("etag" = String, description = "The revision, for `If-Match`"))),
        (status = 409, description = "It has tasks that have not ended"),
    ),
)]
async fn remove(
    State(api): State<Api>,
    Segments((app, pipeline)): Segments<(String, String)>,
    _: NoQuery,
) -> Result<Response, Problem> {
    let path = pipeline_path(&api, &app, &pipeline)?;
    match api.scheduler().delete_pipeline(&path).await? {
        Deleted::Done => Ok(StatusCode::NO_CONTENT.into_response()),
        Deleted::Pending => match api.scheduler().pipeline(&path).await {
            Ok(found) => Ok((StatusCode::ACCEPTED, shown(&api, &found)).into_response()),
            // It has ended just now.
            Err(Error::NotFound { .. }) => Ok(StatusCode::NO_CONTENT.into_response()),
            Err(err) => Err(err.into()),
        },
    }
}

/// Who pauses a pipeline, and why.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = PauseRequest)]
struct Pause {
    by: String,
    reason: String,
}

/// Pauses a pipeline: it takes tasks and starts none.
#[utoipa::path(
    post, path = "/applications/{app}/pipelines/{pipeline}/pause", operation_id = "pausePipeline", tag = "pipelines",
    request_body(content = Pause, example = json!({"by": "me", "reason": "the shop is down"})),
    responses(
        (status = 200, description = "Paused: it takes tasks and starts none", body = PipelineJson, headers(("etag" = String, description = "The revision, for `If-Match`"))),
        (status = 409, description = "It is being deleted"),
    ),
)]
async fn pause(
    State(api): State<Api>,
    Segments((app, pipeline)): Segments<(String, String)>,
    _: NoQuery,
    body: Body,
) -> Result<impl IntoResponse, Problem> {
    let path = pipeline_path(&api, &app, &pipeline)?;
    let pause: Pause = read_json(body, "the body", DESCRIPTION_BYTES_MAX).await?;
    let paused = api
        .scheduler()
        .pause(&path, &pause.by, &pause.reason)
        .await?;
    Ok(shown(&api, &paused))
}

/// Lets a pipeline take and start tasks again.
#[utoipa::path(
    post, path = "/applications/{app}/pipelines/{pipeline}/resume", operation_id = "resumePipeline", tag = "pipelines",
    responses(
        (status = 200, description = "It takes and starts tasks again", body = PipelineJson, headers(("etag" = String, description = "The revision, for `If-Match`"))),
        (status = 409, description = "It is being deleted"),
    ),
)]
async fn resume(
    State(api): State<Api>,
    Segments((app, pipeline)): Segments<(String, String)>,
    _: NoQuery,
) -> Result<impl IntoResponse, Problem> {
    let path = pipeline_path(&api, &app, &pipeline)?;
    let resumed = api.scheduler().resume(&path).await?;
    Ok(shown(&api, &resumed))
}

/// Drains a pipeline: it takes no more tasks.
#[utoipa::path(
    post, path = "/applications/{app}/pipelines/{pipeline}/drain", operation_id = "drainPipeline", tag = "pipelines",
    responses(
        (status = 200, description = "It takes no more tasks; those that it has come to their end", body = PipelineJson, headers(("etag" = String, description = "The revision, for `If-Match`"))),
        (status = 409, description = "It is being deleted"),
    ),
)]
async fn drain(
    State(api): State<Api>,
    Segments((app, pipeline)): Segments<(String, String)>,
    _: NoQuery,
) -> Result<impl IntoResponse, Problem> {
    let path = pipeline_path(&api, &app, &pipeline)?;
    let drained = api.scheduler().drain(&path).await?;
    Ok(shown(&api, &drained))
}

/// A pipeline with its revision as its entity tag.
fn shown(api: &Api, pipeline: &Pipeline) -> ([(HeaderName, String); 1], Json<PipelineJson>) {
    let tag = format!("\"{}\"", pipeline.revision.0);
    let lease = api.scheduler().config().lease;
    (
        [(header::ETAG, tag)],
        Json(PipelineJson::of(pipeline, lease)),
    )
}

fn revision_in(headers: &HeaderMap) -> Result<Revision, Problem> {
    let Some(tag) = headers.get(header::IF_MATCH) else {
        return Err(Error::RevisionRequired.into());
    };
    let number = tag
        .to_str()
        .ok()
        .and_then(|tag| tag.trim_matches('"').parse().ok());
    let revision = number.map(Revision);
    revision.ok_or_else(|| {
        Problem::malformed("If-Match must be the ETag of the pipeline, such as \"3\"")
    })
}
