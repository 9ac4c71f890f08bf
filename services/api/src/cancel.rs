//! Cancelling many tasks of a pipeline, and counting them before.

use std::collections::BTreeMap;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use scheduler_core::{BulkCancel, CancelFilter, CancelMany, CancelPreview, Error, Invalid};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    Api,
    input::{DESCRIPTION_BYTES_MAX, NoQuery, Segments, read_json},
    pipeline::pipeline_path,
    problem::Problem,
    task::state_of,
    time::parse_timestamp,
};

/// Which tasks to cancel, or to count.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = CancelRequest)]
struct CancelIn {
    filter: FilterIn,
    /// That an empty filter is meant.
    all: bool,
    id: Option<String>,
    preview: bool,
}

#[derive(Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = CancelFilter)]
struct FilterIn {
    key: Option<String>,
    group: Option<String>,
    states: Vec<String>,
    accepted_from: Option<String>,
    accepted_before: Option<String>,
    metadata: BTreeMap<String, String>,
}

impl TryFrom<FilterIn> for CancelFilter {
    type Error = Invalid;

    fn try_from(given: FilterIn) -> Result<Self, Invalid> {
        let time = |field, text: Option<String>| {
            text.map(|text| parse_timestamp(field, &text)).transpose()
        };
        Ok(Self {
            key: given.key.as_deref().map(TryInto::try_into).transpose()?,
            group: given.group.as_deref().map(TryInto::try_into).transpose()?,
            states: given
                .states
                .iter()
                .map(|name| state_of("states", name))
                .collect::<Result<_, _>>()?,
            accepted_from: time("accepted_from", given.accepted_from)?,
            accepted_before: time("accepted_before", given.accepted_before)?,
            metadata: given.metadata,
        })
    }
}

/// How far a bulk cancel is.
#[derive(Serialize, ToSchema)]
#[schema(as = BulkCancel)]
struct CancelJson {
    id: String,
    cancelled: u64,
    over: bool,
}

impl From<BulkCancel> for CancelJson {
    fn from(cancel: BulkCancel) -> Self {
        Self {
            id: cancel.id.to_string(),
            cancelled: cancel.progress.n_cancelled,
            over: cancel.progress.is_over,
        }
    }
}

/// The answer: by `preview`.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = CancelledOrCounted)]
enum Answer {
    Cancelled(CancelJson),
    Counted(PreviewJson),
}

/// What a bulk cancel would be about.
#[derive(Serialize, ToSchema)]
#[schema(as = CancelPreview)]
struct PreviewJson {
    found: BTreeMap<&'static str, u64>,
    backlog_max: u64,
    has_more: bool,
}

impl From<CancelPreview> for PreviewJson {
    fn from(preview: CancelPreview) -> Self {
        let found = preview.n_found.into_iter();
        Self {
            found: found.map(|(state, n)| (state.as_str(), n)).collect(),
            backlog_max: preview.n_backlog_max,
            has_more: preview.has_more,
        }
    }
}

/// Cancels all tasks that fit a filter and were accepted before the call, or counts them.
#[utoipa::path(
    post, path = "/applications/{app}/pipelines/{pipeline}/tasks/cancel", operation_id = "cancelTasks", tag = "tasks",
    request_body(content = CancelIn, example = json!({"filter": {"group": "g"}, "preview": true})),
    responses(
        (status = 200, description = "All are cancelled, or with `preview` they are counted", body = Answer),
        (status = 202, description = "The bulk cancel is durable and goes on; call again with its id", body = CancelJson),
        (status = 409, description = "The id was used for another filter"),
    ),
)]
pub(crate) async fn cancel(
    State(api): State<Api>,
    Segments((app, pipeline)): Segments<(String, String)>,
    _: NoQuery,
    body: Body,
) -> Result<Response, Problem> {
    let path = pipeline_path(&api, &app, &pipeline)?;
    let given: CancelIn = read_json(body, "the body", DESCRIPTION_BYTES_MAX).await?;
    let filter = CancelFilter::try_from(given.filter).map_err(|fault| fault.within("filter"));
    let filter = filter.map_err(Error::from)?;
    if given.preview {
        let preview = api.scheduler().preview_cancel(&path, &filter).await?;
        return Ok(Json(Answer::Counted(preview.into())).into_response());
    }
    let id = given.id.as_deref().map(TryInto::try_into).transpose();
    let wish = CancelMany {
        filter,
        all: given.all,
        id: id.map_err(|fault: Invalid| Error::from(fault))?,
    };
    let cancel = CancelJson::from(api.scheduler().cancel_many(&path, wish).await?);
    let status = if cancel.over {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    };
    Ok((status, Json(Answer::Cancelled(cancel))).into_response())
}
