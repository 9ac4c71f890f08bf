//! Routes of applications.

use axum::{Json, body::Body, extract::State, http::StatusCode, response::IntoResponse};
use scheduler_core::{ApplicationPath, Invalid};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Api,
    input::{DESCRIPTION_BYTES_MAX, NoQuery, Segments, read_json},
    problem::Problem,
    view::ApplicationJson,
};

pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(read, remove))
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewApplication)]
struct Create {
    name: String,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Applications)]
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

/// Creates an application.
#[utoipa::path(
    post, path = "/applications", operation_id = "createApplication", tag = "applications",
    request_body(content = Create, example = json!({"name": "shop"})),
    responses(
        (status = 201, description = "Created", body = ApplicationJson, headers(("location" = String, description = "Where it is read"))),
        (status = 409, description = "The name is taken"),
    ),
)]
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

/// Lists the applications of the tenant.
#[utoipa::path(
    get, path = "/applications", operation_id = "listApplications", tag = "applications",
    responses(
        (status = 200, description = "All of the tenant, by name", body = ListJson),
    ),
)]
async fn list(State(api): State<Api>, _: NoQuery) -> Result<impl IntoResponse, Problem> {
    let applications = api.scheduler().applications(api.tenant()).await?;
    let applications = applications.into_iter().map(Into::into).collect();
    Ok(Json(ListJson { applications }))
}

/// Reads an application.
#[utoipa::path(
    get, path = "/applications/{app}", operation_id = "getApplication", tag = "applications",
    responses(
        (status = 200, description = "The application", body = ApplicationJson),
    ),
)]
async fn read(
    State(api): State<Api>,
    Segments(app): Segments<String>,
    _: NoQuery,
) -> Result<impl IntoResponse, Problem> {
    let application = api.scheduler().application(&path_of(&api, &app)?).await?;
    Ok(Json(ApplicationJson::from(application)))
}

/// Deletes an application without pipelines.
#[utoipa::path(
    delete, path = "/applications/{app}", operation_id = "deleteApplication", tag = "applications",
    responses(
        (status = 204, description = "Deleted"),
        (status = 409, description = "It has pipelines"),
    ),
)]
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
