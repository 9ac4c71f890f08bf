//! Probes: alive without asking anyone, ready if the scheduler works on all its shards; and metrics.

use axum::{extract::State, http::StatusCode, response::IntoResponse};

use crate::{Api, problem::Problem};

pub(crate) async fn healthz() -> impl IntoResponse {
    (StatusCode::OK, "ok\n")
}

pub(crate) async fn readyz(State(api): State<Api>) -> Result<&'static str, Problem> {
    api.scheduler().ready()?;
    Ok("ok\n")
}

pub(crate) async fn metrics(State(api): State<Api>) -> Result<String, Problem> {
    match api.metrics() {
        Some(metrics) => Ok(metrics.render(api.scheduler())),
        None => Err(scheduler_core::Error::not_found("path", "/metrics").into()),
    }
}
