//! Probes: alive without asking anyone, ready if the scheduler works on all its shards.

use axum::{extract::State, http::StatusCode, response::IntoResponse};

use crate::{Api, problem::Problem};

pub(crate) async fn healthz() -> impl IntoResponse {
    (StatusCode::OK, "ok\n")
}

pub(crate) async fn readyz(State(api): State<Api>) -> Result<&'static str, Problem> {
    api.scheduler().ready()?;
    Ok("ok\n")
}
