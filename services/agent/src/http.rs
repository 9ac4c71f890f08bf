//! The pipeline for one call, without a scheduler, and the probes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use scheduler_core::Step;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use worker_sdk::Failure;

use crate::{
    run::{Job, Runner},
    source::Source,
};

/// The most bytes of data.
const DATA_MAX: usize = 1 << 20;
/// How long a caller may take to send them.
const DATA_WAIT: Duration = Duration::from_secs(30);
/// The most calls at once. Those that wait for the shared directory count as well.
const CALLS_MAX: usize = 64;
/// How long a connection to an executor may take for the agent to be ready.
const READY_WITHIN: Duration = Duration::from_secs(1);

/// What is run for a call.
#[derive(Debug, Clone)]
pub(crate) enum Direct {
    /// These steps.
    Fixed(Arc<[Step]>),
    /// The pipeline's newest.
    Newest(Arc<Source>),
}

#[derive(Debug, Clone)]
struct Shared {
    runner: Arc<Runner>,
    direct: Direct,
    calls: Arc<Semaphore>,
}

/// `POST /` with a JSON object answers the result; `GET /healthz` and `/readyz` are the probes.
pub(crate) fn router(runner: Arc<Runner>, direct: Direct) -> Router {
    Router::new()
        .route("/", post(run))
        .route("/healthz", get(async || StatusCode::OK))
        .route("/readyz", get(ready))
        .with_state(Shared {
            runner,
            direct,
            calls: Arc::new(Semaphore::new(CALLS_MAX)),
        })
}

async fn run(State(shared): State<Shared>, data: Body) -> Response {
    let Ok(_place) = shared.calls.try_acquire() else {
        let text = format!("{CALLS_MAX} calls are open; try again later");
        let status = StatusCode::TOO_MANY_REQUESTS;
        let retry_after = [(header::RETRY_AFTER, "1")];
        return (
            retry_after,
            problem(status, "overloaded", &text, Value::Null),
        )
            .into_response();
    };
    let data = match read(data).await {
        Ok(data) => data,
        Err((status, kind, text)) => return problem(status, kind, &text, Value::Null),
    };
    let steps = match &shared.direct {
        Direct::Fixed(steps) => Arc::clone(steps),
        Direct::Newest(source) => match source.newest().await {
            Ok(steps) => steps,
            Err(err) => return refused(&Failure::new("pipeline_unavailable", err)),
        },
    };
    let name = format!("direct-{:016x}", fastrand::u64(..));
    let job = Job {
        environment: BTreeMap::from([
            ("WORKLOAD_TASK_ID".to_owned(), name.clone()),
            ("WORKLOAD_ATTEMPT".to_owned(), "1".to_owned()),
            ("WORKLOAD_LEASE_TOKEN".to_owned(), "0".to_owned()),
        ]),
        name,
        steps,
        data,
        deadline: None,
        progress: Box::new(|_| {}),
    };
    // A client that is gone drops this, and with it the run.
    match shared.runner.run(job).await {
        Ok(result) => Json(result).into_response(),
        Err(failure) => refused(&failure),
    }
}

/// Reads the data, if they are no more and no slower than a caller may send.
async fn read(data: Body) -> Result<Bytes, (StatusCode, &'static str, String)> {
    let data = tokio::time::timeout(DATA_WAIT, Limited::new(data, DATA_MAX).collect()).await;
    match data {
        Ok(Ok(data)) => Ok(data.to_bytes()),
        Ok(Err(err)) if err.is::<LengthLimitError>() => {
            let text = format!("the data have more than {DATA_MAX} bytes");
            Err((StatusCode::PAYLOAD_TOO_LARGE, "too-large", text))
        }
        Ok(Err(err)) => {
            let text = format!("the body broke off: {err}");
            Err((StatusCode::BAD_REQUEST, "malformed", text))
        }
        Err(_) => {
            let text = "the whole body must arrive within 30s".to_owned();
            Err((StatusCode::REQUEST_TIMEOUT, "slow-body", text))
        }
    }
}

fn refused(failure: &Failure) -> Response {
    let status = match failure.code() {
        "bad_data" | "missing_field" | "argument_too_long" | "output_too_large" => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
        "executor_unavailable" | "pipeline_unavailable" => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let mut detail: Value = serde_json::from_slice(failure.detail()).unwrap_or_default();
    let steps = detail.get_mut("steps").map_or(Value::Null, Value::take);
    let kind = failure.code().replace('_', "-");
    problem(status, &kind, failure.message(), steps)
}

fn problem(status: StatusCode, kind: &str, title: &str, steps: Value) -> Response {
    let problem = json!({
        "type": format!("urn:workload:problem:{kind}"),
        "title": title,
        "status": status.as_u16(),
        "steps": steps,
    });
    let kind = [(header::CONTENT_TYPE, "application/problem+json")];
    (status, kind, problem.to_string()).into_response()
}

/// Ready when every executor can be reached.
async fn ready(State(shared): State<Shared>) -> Response {
    for endpoint in shared.runner.connections().endpoints() {
        if let Err(why) = reach(endpoint).await {
            let text = format!("executor {endpoint} cannot be reached: {why}\n");
            return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
        }
    }
    StatusCode::OK.into_response()
}

async fn reach(endpoint: &str) -> std::io::Result<()> {
    let connect = async {
        match endpoint.strip_prefix("unix:") {
            Some(path) => tokio::net::UnixStream::connect(path).await.map(drop),
            None => {
                let address = endpoint.trim_start_matches("http://").trim_end_matches('/');
                tokio::net::TcpStream::connect(address).await.map(drop)
            }
        }
    };
    tokio::time::timeout(READY_WITHIN, connect).await?
}
