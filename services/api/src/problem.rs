//! Errors as `application/problem+json` (RFC 9457): the one table from errors to HTTP.

use axum::{
    http::{HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use scheduler_core::{Error, LeaseLost};
use serde::Serialize;
use utoipa::ToSchema;

/// The prefix of every problem's `type`; the error catalogue in `docs/errors.md` explains each.
pub(crate) const TYPE: &str = "urn:workload:problem:";

/// The most characters of a detail: it may repeat what the request said, but not all of it.
const DETAIL_CHARS_MAX: usize = 1_000;

/// A request that was not done.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    kind: &'static str,
    title: &'static str,
    detail: String,
    field: Option<String>,
    retry_after_s: Option<u64>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct Body<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<String>,
}

impl Problem {
    pub(crate) fn new(
        status: StatusCode,
        kind: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        let mut detail = detail.into();
        if let Some((end, _)) = detail.char_indices().nth(DETAIL_CHARS_MAX) {
            detail.truncate(end);
            detail.push('…');
        }
        Self {
            status,
            kind,
            title,
            detail,
            field: None,
            retry_after_s: None,
        }
    }

    /// What is told of it.
    pub(crate) fn body(&self) -> Body<'_> {
        Body {
            r#type: format!("{TYPE}{}", self.kind),
            title: self.title,
            status: self.status.as_u16(),
            detail: &self.detail,
            field: self.field.as_deref(),
            retry_after: self.retry_after_s.map(|seconds| format!("{seconds}s")),
        }
    }

    /// The request cannot be read: malformed JSON, an unknown field or query parameter.
    pub(crate) fn malformed(detail: impl Into<String>) -> Self {
        Error::Malformed(detail.into()).into()
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let (status, kind, title) = row_of(&error);
        let mut problem = Self::new(status, kind, title, error.to_string());
        if let Error::Invalid(fault) = &error {
            problem.field = Some(fault.field.to_string());
        }
        problem.retry_after_s = error.retry_after().map(|wait| {
            wait.as_millis()
                .div_ceil(1000)
                .try_into()
                .unwrap_or(u64::MAX)
        });
        problem
    }
}

fn row_of(error: &Error) -> (StatusCode, &'static str, &'static str) {
    match error {
        Error::Malformed(_) => (
            StatusCode::BAD_REQUEST,
            "malformed",
            "The request cannot be read",
        ),
        Error::Invalid(_) => (
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid",
            "A value breaks a rule",
        ),
        Error::NotFound { .. } => (StatusCode::NOT_FOUND, "not-found", "There is no such thing"),
        Error::Gone(_) => (StatusCode::GONE, "gone", "It is no longer kept"),
        Error::Exists { .. } => (StatusCode::CONFLICT, "exists", "It exists already"),
        Error::WrongState(_) => (
            StatusCode::CONFLICT,
            "wrong-state",
            "Its state does not allow this",
        ),
        Error::KeyReused(_) => (
            StatusCode::UNPROCESSABLE_ENTITY,
            "key-reused",
            "The idempotency key was used for something else",
        ),
        Error::StaleRevision { .. } => (
            StatusCode::PRECONDITION_FAILED,
            "stale-revision",
            "Someone else changed it first",
        ),
        Error::RevisionRequired => (
            StatusCode::PRECONDITION_REQUIRED,
            "revision-required",
            "The change must name its revision",
        ),
        Error::TooLarge { .. } => (
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-large",
            "It is too large",
        ),
        Error::Overloaded { .. } => (
            StatusCode::TOO_MANY_REQUESTS,
            "overloaded",
            "A limit is reached",
        ),
        Error::Unavailable { .. } => (
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "A part that is needed cannot be reached",
        ),
        Error::UnknownOutcome { .. } => (
            StatusCode::SERVICE_UNAVAILABLE,
            "unknown-outcome",
            "It may have happened or not",
        ),
        Error::LeaseLost(
            LeaseLost::Stale | LeaseLost::Cancelled | LeaseLost::TimedOut | LeaseLost::Ended,
        ) => (
            StatusCode::CONFLICT,
            "lease-lost",
            "The lease is no longer held",
        ),
        _ => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "Something is broken, and it is not the request",
        ),
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        if self.status.is_server_error() {
            tracing::warn!(
                status = self.status.as_u16(),
                kind = self.kind,
                detail = self.detail,
                "request failed"
            );
        }
        // A struct of texts and numbers always has a JSON form.
        let body = serde_json::to_vec(&self.body()).unwrap_or_default();
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        let media_type = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, media_type);
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

pub(crate) async fn no_such_path(uri: Uri) -> Problem {
    let detail = format!("there is nothing at {}; the API is below /api", uri.path());
    Problem::new(
        StatusCode::NOT_FOUND,
        "not-found",
        "There is no such thing",
        detail,
    )
}

pub(crate) async fn method_not_allowed(method: Method, uri: Uri) -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method-not-allowed",
        "The path does not take this method",
        format!("{} does not take {method}", uri.path()),
    )
}
