//! Redriving the dead letters of a pipeline: a line of JSON after every step.

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::header,
    response::IntoResponse,
};
use futures::stream;
use scheduler_core::{Error, Halted, Invalid, Redrive, RedriveMany, Redriving};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    Api,
    input::{DESCRIPTION_BYTES_MAX, NoQuery, Segments, read_json},
    pipeline::pipeline_path,
    problem::Problem,
    time::parse_duration,
};

/// Which dead letters to redrive, and how patiently.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = RedriveRequest)]
struct RedriveIn {
    code: Option<String>,
    limit: Option<usize>,
    patience: Option<String>,
}

/// How far it is.
#[derive(Serialize, ToSchema)]
#[schema(as = RedriveProgress)]
struct ProgressJson<'a> {
    found: usize,
    redriven: usize,
    skipped: usize,
    changed: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    halted: Option<HaltedJson<'a>>,
    /// Whether this is the last line.
    over: bool,
}

/// Why it went no further.
#[derive(Serialize, ToSchema)]
#[serde(tag = "reason", rename_all = "kebab-case")]
#[schema(as = RedriveHalted)]
enum HaltedJson<'a> {
    SameFailure {
        task: String,
        code: &'a str,
        message: &'a str,
    },
    NoVerdict {
        tasks: usize,
    },
}

/// An error on the way, which is the last line, too.
#[derive(Serialize)]
struct BrokenJson {
    problem: String,
    over: bool,
}

fn line(so_far: &Redriving, over: bool) -> Bytes {
    json_line(&ProgressJson {
        found: so_far.n_found,
        redriven: so_far.n_redriven,
        skipped: so_far.n_skipped,
        changed: so_far.n_changed,
        halted: so_far.halted.as_ref().map(|halted| match halted {
            Halted::SameFailure { id, failure } => HaltedJson::SameFailure {
                task: id.to_string(),
                code: failure.code.as_str(),
                message: &failure.message,
            },
            Halted::NoVerdict { n } => HaltedJson::NoVerdict { tasks: *n },
        }),
        over,
    })
}

pub(crate) fn json_line(value: &impl Serialize) -> Bytes {
    // Numbers and texts always become JSON.
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line.into()
}

/// One step, and its line; the redrive goes with the client that no longer reads.
async fn step(redrive: Option<Redrive>) -> Option<(Result<Bytes, Error>, Option<Redrive>)> {
    let mut redrive = redrive?;
    Some(match redrive.step().await {
        Ok(Some(so_far)) => (Ok(line(so_far, false)), Some(redrive)),
        Ok(None) => (Ok(line(redrive.so_far(), true)), None),
        Err(err) => {
            let broken = BrokenJson {
                problem: err.to_string(),
                over: true,
            };
            (Ok(json_line(&broken)), None)
        }
    })
}

/// Redrives the dead letters of a pipeline, a few first, and halts when they fail as before.
#[utoipa::path(
    post, path = "/applications/{app}/pipelines/{pipeline}/redrive", operation_id = "redriveDeadLetters", tag = "pipelines",
    request_body(content = RedriveIn, example = json!({"code": "http", "limit": 1000})),
    responses(
        (status = 200, description = "A line of JSON after every step, of which the last has `over`", body = ProgressJson, content_type = "application/x-ndjson"),
    ),
)]
pub(crate) async fn redrive(
    State(api): State<Api>,
    Segments((app, pipeline)): Segments<(String, String)>,
    _: NoQuery,
    body: Body,
) -> Result<impl IntoResponse, Problem> {
    let path = pipeline_path(&api, &app, &pipeline)?;
    let given: RedriveIn = read_json(body, "the body", DESCRIPTION_BYTES_MAX).await?;
    let default = RedriveMany::default();
    let patience = given.patience.as_deref();
    let patience = patience.map(|text| parse_duration("patience", text));
    let code = given.code.as_deref().map(TryInto::try_into);
    let query = RedriveMany {
        code: code
            .transpose()
            .map_err(|fault: Invalid| fault.within("code"))
            .map_err(Error::from)?,
        limit: given.limit.unwrap_or(default.limit),
        patience: patience
            .transpose()
            .map_err(Error::from)?
            .unwrap_or(default.patience),
    };
    let redrive = api.scheduler().redrive_many(&path, query).await?;
    let lines = Body::from_stream(stream::unfold(Some(redrive), step));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], lines))
}
