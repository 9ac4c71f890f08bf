//! Routes of applications.

use axum::{
    Json, Router, body::Body, extract::State, http::StatusCode, response::IntoResponse,
    routing::get,
};
use scheduler_core::{ApplicationPath, Invalid};
use serde::{Deserialize, Serialize};

use crate::{
    Api,
    input::{DESCRIPTION_BYTES_MAX, NoQuery, Segments, read_json},
    problem::Problem,
    view::ApplicationJson,
};

pub(crate) fn routes() -> Router<Api> {
    Router::new()
        .route("/applications", get(list).post(create))
        .route("/applications/{app}", get(read).delete(remove))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    name: String,
}

#[derive(Debug, Serialize)]
struct ListJson {
    applications: Vec<ApplicationJson>,
}

/// The caller's application of that name.
pub(crate) fn path_of(api: &Api, app: &str) -> Result<ApplicationPath, Problem> {
    let application = app
        .try_into()
        .map_err(|fault: Invalid| scheduler_core::Error::from(fault))?;
    Ok(ApplicationPath {
        tenant: api.tenant().clone(),
        application,
    })
}

async fn create(
    State(api): State<Api>,
    _: NoQuery,
    body: Body,
) -> Result<impl IntoResponse, Problem> {
    let create: Create = read_json(body, "the body", DESCRIPTION_BYTES_MAX).await?;
    let path = path_of(&api, &create.name)?;
    let created = api.scheduler().create_application(&path).await?;
    let location = format!("/api/applications/{}", path.application);
    let headers = [(axum::http::header::LOCATION, location)];
    Ok((
        StatusCode::CREATED,
        headers,
        Json(ApplicationJson::from(created)),
    ))
}

async fn list(State(api): State<Api>, _: NoQuery) -> Result<impl IntoResponse, Problem> {
    let applications = api.scheduler().applications(api.tenant()).await?;
    let applications = applications.into_iter().map(Into::into).collect();
    Ok(Json(ListJson { applications }))
}

async fn read(
    State(api): State<Api>,
    Segments(app): Segments<String>,
    _: NoQuery,
) -> Result<impl IntoResponse, Problem> {
    let application = api.scheduler().application(&path_of(&api, &app)?).await?;
    Ok(Json(ApplicationJson::from(application)))
}

async fn remove(
    State(api): State<Api>,
    Segments(app): Segments<String>,
    _: NoQuery,
) -> Result<impl IntoResponse, Problem> {
    api.scheduler()
        .delete_application(&path_of(&api, &app)?)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}
