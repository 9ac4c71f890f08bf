//! Reading requests: bounded bodies that are JSON whatever their content type says, and strict queries.

use std::time::Duration;

use axum::{body::Body, http::Uri};
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use scheduler_core::{Error, Invalid, TaskId};
use serde::de::DeserializeOwned;

use crate::problem::Problem;

/// How long a client may take to send a body.
const BODY_WAIT: Duration = Duration::from_secs(30);
/// The largest body that describes something (a pipeline, an application).
pub(crate) const DESCRIPTION_BYTES_MAX: usize = 256 << 10;
/// What a task's data may be wrapped in.
pub(crate) const WRAPPING_BYTES_MAX: usize = 64 << 10;

/// Reads a whole body of at most `max` bytes.
pub(crate) async fn read_body(
    body: Body,
    what: &'static str,
    max: usize,
) -> Result<Bytes, Problem> {
    let whole = tokio::time::timeout(BODY_WAIT, Limited::new(body, max).collect()).await;
    match whole {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(err)) if err.is::<LengthLimitError>() => Err(Error::TooLarge {
            what: what.into(),
            max,
        }
        .into()),
        Ok(Err(err)) => Err(Problem::malformed(format!("the body broke off: {err}"))),
        Err(_) => Err(Problem::new(
            axum::http::StatusCode::REQUEST_TIMEOUT,
            "slow-body",
            "The body came too slowly",
            "the whole body must arrive within 30s",
        )),
    }
}

/// Reads a body as JSON. Unknown fields are errors, and nesting is limited to 128 levels.
pub(crate) async fn read_json<T: DeserializeOwned>(
    body: Body,
    what: &'static str,
    max: usize,
) -> Result<T, Problem> {
    let bytes = read_body(body, what, max).await?;
    serde_json::from_slice(&bytes)
        .map_err(|err| Problem::malformed(format!("the body is not as expected: {err}")))
}

/// Reads the query: a parameter that `T` does not know is an error.
pub(crate) fn read_query<T: DeserializeOwned>(uri: &Uri) -> Result<T, Problem> {
    axum::extract::Query::try_from_uri(uri)
        .map(|axum::extract::Query(query)| query)
        .map_err(|err| {
            Problem::malformed(format!("the query is not as expected: {}", err.body_text()))
        })
}

/// Reads a task's id from the path: what is no id is no task.
pub(crate) fn read_id(text: &str) -> Result<TaskId, Problem> {
    text.parse()
        .map_err(|_: Invalid| Error::not_found("task", text).into())
}
