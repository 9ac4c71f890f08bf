//! Probes: alive without asking anyone, ready if the scheduler works on all its shards; and metrics.

use axum::{extract::State, http::StatusCode, response::IntoResponse};

use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{Api, problem::Problem};

pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .routes(routes!(metrics))
}

/// Says that the process lives; asks nobody.
#[utoipa::path(
    get, path = "/healthz", operation_id = "healthz", tag = "probes",
    responses(
        (status = 200, description = "The process lives", body = String, content_type = "text/plain; charset=utf-8"),
    ),
)]
pub(crate) async fn healthz() -> impl IntoResponse {
    (StatusCode::OK, "ok\n")
}

/// Says whether it works on all its shards.
#[utoipa::path(
    get, path = "/readyz", operation_id = "readyz", tag = "probes",
    responses(
        (status = 200, description = "It works on all its shards", body = String, content_type = "text/plain; charset=utf-8"),
    ),
)]
pub(crate) async fn readyz(State(api): State<Api>) -> Result<&'static str, Problem> {
    api.scheduler().ready()?;
    Ok("ok\n")
}

/// Tells what was counted and measured.
#[utoipa::path(
    get, path = "/metrics", operation_id = "metrics", tag = "probes",
    responses(
        (status = 200, description = "Prometheus metrics", body = String, content_type = "text/plain; charset=utf-8"),
        (status = 404, description = "This process records none"),
    ),
)]
pub(crate) async fn metrics(State(api): State<Api>) -> Result<String, Problem> {
    match api.metrics() {
        Some(metrics) => Ok(metrics.render(api.scheduler())),
        None => Err(scheduler_core::Error::not_found("path", "/metrics").into()),
    }
}
