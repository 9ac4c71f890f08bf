//! The OpenAPI document: what the handlers say of themselves, completed by what is the same for all of them.

use axum::Router;
use serde_json::{Map, Value, json};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_swagger_ui::SwaggerUi;

use crate::{
    Api, batch, events, problem,
    standing::{SeenJson, ToldJson},
};

/// What no handler names.
#[derive(OpenApi)]
#[openapi(components(schemas(
    problem::Body,
    batch::RefusedLine,
    events::ChangesJson,
    SeenJson,
    ToldJson
)))]
struct Parts;

const DESCRIPTION: &str = "Tasks run through pipelines of steps; an application has pipelines. Delivery is at least once, \
and what was accepted is never lost. Every error is `application/problem+json`; `type` is stable, and `detail` says what \
to do. Times are RFC 3339 in UTC, durations such as `30s`, `5m` or `1h30m`. A body is JSON whatever its content type.";

/// The types of problems by status, and what each status means for all calls.
const PROBLEMS: [(u16, &str, &[&str]); 14] = [
    (
        400,
        "It cannot be read: the JSON, a field or a query parameter",
        &["malformed"],
    ),
    (403, "It comes from another site", &["foreign-request"]),
    (
        404,
        "There is no such thing, or it is another tenant's",
        &["not-found"],
    ),
    (
        405,
        "The path does not take this method",
        &["method-not-allowed"],
    ),
    (408, "The body came too slowly", &["slow-body"]),
    (
        409,
        "Its state does not allow it",
        &["exists", "wrong-state", "lease-lost"],
    ),
    (410, "It is no longer kept", &["gone"]),
    (412, "Someone else changed it first", &["stale-revision"]),
    (413, "It is too large", &["too-large"]),
    (
        422,
        "A value breaks a rule; `field` names it",
        &["invalid", "key-reused"],
    ),
    (428, "It must name its revision", &["revision-required"]),
    (429, "A limit is reached", &["overloaded"]),
    (
        500,
        "Something is broken, and it is not the request",
        &["internal"],
    ),
    (
        503,
        "A part that is needed cannot be reached, or it may have happened or not",
        &["unavailable", "unknown-outcome"],
    ),
];

/// What a name may be.
const NAME: &str = "^[a-z]([-a-z0-9]*[a-z0-9])?$";

/// What each name in a path means, with an example.
const NAMES: [(&str, &str, &str); 3] = [
    ("app", "The application's name", "shop"),
    ("pipeline", "The pipeline's name", "hello"),
    ("id", "The task's id", "aaaaaaiaaaaaaaaaaaaaaaa"),
];

/// Serves the documented routes, the document at `/openapi.json` and a page that shows it at `/swagger`. Nothing of
/// the page comes from elsewhere.
pub(crate) fn served(routes: OpenApiRouter<Api>) -> Router<Api> {
    let (router, parts) = routes.split_for_parts();
    // By itself the page would ask a site whether the document is valid.
    let config = utoipa_swagger_ui::Config::default().validator_url("none");
    let page = SwaggerUi::new("/swagger").external_url_unchecked("/openapi.json", document(parts));
    router.merge(Router::from(page.config(config)))
}

/// Completes what the handlers say.
pub(crate) fn document(mut routes: utoipa::openapi::OpenApi) -> Value {
    routes.merge(Parts::openapi());
    // It is a struct of texts, numbers and maps with text keys.
    let mut document = serde_json::to_value(&routes).unwrap_or_default();
    document["info"] = json!({
        "title": "Workload Scheduler",
        "version": env!("CARGO_PKG_VERSION"),
        "description": DESCRIPTION,
        "license": {"name": env!("CARGO_PKG_LICENSE"), "identifier": env!("CARGO_PKG_LICENSE")},
    });
    document["servers"] = json!([{"url": "/"}]);
    if let Some(schemas) = object(&mut document["components"]["schemas"]) {
        complete_schemas(schemas);
    }
    let paths = object(&mut document["paths"]).into_iter().flatten();
    for (path, item) in paths {
        for (method, operation) in object(item).into_iter().flatten() {
            complete(path, method, operation);
        }
    }
    document
}

fn object(value: &mut Value) -> Option<&mut Map<String, Value>> {
    value.as_object_mut()
}

/// Parameters in the path, and answers that any such call may get.
fn complete(path: &str, method: &str, operation: &mut Value) {
    let mut parameters = match operation["parameters"].take() {
        Value::Array(parameters) => parameters,
        _ => Vec::new(),
    };
    let in_path = NAMES
        .iter()
        .filter(|(name, ..)| path.contains(&format!("{{{name}}}")));
    let is_of_something = in_path.clone().count() > 0;
    parameters.extend(in_path.map(|(name, description, example)| {
        let schema = match *name {
            "id" => json!({"type": "string"}),
            _ => json!({"type": "string", "pattern": NAME, "maxLength": scheduler_core::NAME_LEN_MAX}),
        };
        json!({
            "name": name, "in": "path", "required": true, "description": description,
            "schema": schema, "example": example,
        })
    }));
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    } else if let Some(operation) = object(operation) {
        operation.remove("parameters");
    }
    let has_body = operation.get("requestBody").is_some();
    let mut statuses = vec![400, 403, 429, 500, 503];
    if is_of_something {
        statuses.extend([404, 422]);
    }
    if has_body {
        statuses.extend([408, 413, 422]);
    }
    if ["post", "put", "delete"].contains(&method) && !path.ends_with("/applications") {
        statuses.push(409);
    }
    if !path.starts_with("/api") {
        statuses = vec![403, 503];
    }
    let Some(responses) = object(&mut operation["responses"]) else {
        return;
    };
    for status in statuses {
        responses
            .entry(status.to_string())
            .or_insert_with(|| json!({}));
    }
    for (status, response) in responses {
        let known = PROBLEMS
            .iter()
            .find(|(known, ..)| status == &known.to_string());
        if let Some((status, description, types)) = known {
            complete_problem(*status, description, types, response);
        }
    }
}

fn complete_problem(status: u16, description: &str, types: &[&str], response: &mut Value) {
    if response.get("description").is_none() {
        response["description"] = description.into();
    }
    let types: Vec<_> = types
        .iter()
        .map(|name| format!("{}{name}", problem::TYPE))
        .collect();
    let mut example = json!({
        "type": types[0], "title": description, "status": status,
        "detail": "says what was wrong and what to do",
    });
    let is_for_later = [429, 503].contains(&status);
    if is_for_later {
        example["retry_after"] = "1s".into();
        response["headers"] = json!({"retry-after": {
            "description": "So many seconds to wait before trying again", "schema": {"type": "integer"},
        }});
    }
    let schema = json!({"allOf": [
        {"$ref": "#/components/schemas/Problem"},
        {"properties": {"type": {"enum": types}, "status": {"const": status}}},
    ]});
    response["content"] =
        json!({"application/problem+json": {"schema": schema, "example": example}});
}

/// What is flattened into others, and what names tell of their values.
fn complete_schemas(schemas: &mut Map<String, Value>) {
    let own = ["delay", "run_at", "idempotency_key"];
    for options in ["PipelineOptions", "NewPipelineOptions"] {
        merge(schemas, options, "TaskOptions", &own, true);
    }
    merge(schemas, "Shard", "OwnedShard", &[], true);
    merge(schemas, "Member", "MemberState", &[], true);
    merge(schemas, "AcceptedLine", "SubmittedTask", &[], false);
    merge(schemas, "RefusedLine", "Problem", &[], false);
    for (name, schema) in schemas {
        let properties = schema.get_mut("properties").and_then(object);
        let properties = properties.into_iter().flatten();
        for (property, schema) in properties {
            let is_time = property.ends_with("_at")
                || ["at", "since", "until", "last_seen"].contains(&property.as_str());
            let is_text = schema["type"] == "string" || schema["type"] == json!(["string", "null"]);
            if is_time && is_text {
                schema["format"] = "date-time".into();
            }
            if property == "name" {
                schema["pattern"] = NAME.into();
                schema["maxLength"] = scheduler_core::NAME_LEN_MAX.into();
            }
            if property == "state" {
                let states: Vec<_> = match name.as_str() {
                    "Pipeline" => ["active", "paused", "draining", "deleting"].to_vec(),
                    _ => scheduler_core::StateName::ALL
                        .map(scheduler_core::StateName::as_str)
                        .to_vec(),
                };
                schema["enum"] = states.into();
            }
        }
    }
}

/// Adds the properties of one schema to another, but for some.
fn merge(schemas: &mut Map<String, Value>, into: &str, from: &str, but: &[&str], optional: bool) {
    let Some(other) = schemas.get(from).cloned() else {
        return;
    };
    let Some(schema) = schemas.get_mut(into) else {
        return;
    };
    for (name, property) in other["properties"].as_object().into_iter().flatten() {
        if !but.contains(&name.as_str()) {
            schema["properties"][name] = property.clone();
        }
    }
    let required = other["required"].as_array().filter(|_| !optional);
    let mut all = schema["required"].as_array().cloned().unwrap_or_default();
    all.extend(required.into_iter().flatten().cloned());
    if !all.is_empty() {
        schema["required"] = all.into();
    }
    schema["additionalProperties"] = (into != "NewPipelineOptions" && !optional).into();
}
