//! The document says what the server does.
#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::collections::BTreeSet;

use axum::{
    body::Body,
    http::{Request, StatusCode, header},
};
use http_body_util::BodyExt as _;
use scheduler_core::{Config, Scheduler, memory};
use serde_json::Value;
use tower::ServiceExt as _;
use workload_api::Api;

const METHODS: [&str; 5] = ["get", "post", "put", "delete", "patch"];

async fn api() -> Api {
    let scheduler = Scheduler::start(Config::default(), memory::ports());
    Api::new(scheduler.await.unwrap(), "default".try_into().unwrap())
}

async fn ask(api: &Api, method: &str, path: &str) -> (StatusCode, String, String) {
    let request = Request::builder()
        .method(method.to_uppercase().as_str())
        .uri(path)
        .header(header::HOST, "localhost");
    let request = request.body(Body::empty()).unwrap();
    let response = api.router().oneshot(request).await.unwrap();
    let status = response.status();
    let media_type = response.headers().get(header::CONTENT_TYPE);
    let media_type = media_type.map_or("", |value| value.to_str().unwrap());
    let media_type = media_type.to_owned();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8_lossy(&body).into_owned();
    (status, media_type, text)
}

fn operations(document: &Value) -> Vec<(&String, &String, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    let items = paths.iter().flat_map(|(path, item)| {
        let methods = item.as_object().unwrap().iter();
        methods.map(move |(method, operation)| (path, method, operation))
    });
    items.collect()
}

#[tokio::test]
async fn what_is_served_is_documented_and_what_is_documented_is_served() {
    let api = api().await;
    let document = Api::openapi();
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() >= 23, "{} paths", paths.len());
    for (path, item) in paths {
        let real = path
            .replace("{app}", "app")
            .replace("{pipeline}", "pipe")
            .replace("{id}", "aaaaaaiaaaaaaaaaaaaaaaa");
        for method in METHODS {
            let (status, _, text) = ask(&api, method, &real).await;
            let is_served = status != StatusCode::METHOD_NOT_ALLOWED;
            let is_documented = item.get(method).is_some();
            assert_eq!(is_served, is_documented, "{method} {path}: {text}");
            assert!(!text.contains("there is nothing at"), "{method} {path}");
        }
    }
    let (_, _, served) = ask(&api, "get", "/openapi.json").await;
    assert_eq!(serde_json::from_str::<Value>(&served).unwrap(), document);
}

#[test]
fn each_call_says_how_it_is_called_and_how_it_fails() {
    let document = Api::openapi();
    assert_eq!(document["openapi"], "3.1.0");
    let mut ids = BTreeSet::new();
    for (path, method, operation) in operations(&document) {
        let what = format!("{method} {path}");
        assert!(
            ids.insert(operation["operationId"].as_str().unwrap()),
            "{what}"
        );
        assert!(operation["summary"].is_string(), "{what}");
        for name in ["app", "pipeline", "id"] {
            if path.contains(&format!("{{{name}}}")) {
                let parameters = operation["parameters"].as_array().unwrap();
                let named = parameters
                    .iter()
                    .filter(|parameter| parameter["name"] == name);
                assert_eq!(named.count(), 1, "{what}");
            }
        }
        let mut n_good = 0;
        for (status, response) in operation["responses"].as_object().unwrap() {
            assert!(response["description"].is_string(), "{what}: {status}");
            if status.starts_with('2') {
                n_good += 1;
                continue;
            }
            let problem = &response["content"]["application/problem+json"];
            assert!(problem["example"]["type"].is_string(), "{what}: {status}");
        }
        assert!(n_good > 0, "{what}");
    }
}

#[test]
fn every_reference_leads_somewhere() {
    fn check(value: &Value, document: &Value) {
        match value {
            Value::Object(fields) => {
                if let Some(Value::String(to)) = fields.get("$ref") {
                    let place = to.strip_prefix('#').unwrap();
                    assert!(document.pointer(place).is_some(), "{to}");
                }
                for field in fields.values() {
                    check(field, document);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| check(item, document)),
            _ => {}
        }
    }
    let document = Api::openapi();
    check(&document, &document);
}

#[tokio::test]
async fn the_page_is_served_without_anything_from_elsewhere() {
    let api = api().await;
    let (status, media_type, page) = ask(&api, "get", "/swagger/").await;
    assert_eq!((status, media_type.as_str()), (StatusCode::OK, "text/html"));
    let links = page.split(['"', '\'']).filter(|text| text.contains("//"));
    assert_eq!(links.collect::<Vec<_>>(), Vec::<&str>::new());
    let script = ask(&api, "get", "/swagger/swagger-initializer.js").await.2;
    assert!(script.contains("/openapi.json"), "{script}");
    assert!(script.contains("\"validatorUrl\": \"none\""), "{script}");
    for part in ["swagger-ui.css", "swagger-ui-bundle.js"] {
        let (status, ..) = ask(&api, "get", &format!("/swagger/{part}")).await;
        assert_eq!(status, StatusCode::OK, "{part}");
    }
}
