//! The dashboard beside the API: on the same router, behind the same guards.
#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use axum::{
    body::{Body, to_bytes},
    http::{Request, StatusCode, header},
};
use scheduler_core::{Config, Scheduler, memory};
use tower::ServiceExt as _;
use workload_api::Api;

async fn get(api: &Api, path: &str, host: &str, site: &str) -> (StatusCode, String) {
    let request = Request::get(path)
        .header(header::HOST, host)
        .header("sec-fetch-site", site)
        .body(Body::empty())
        .unwrap();
    let answer = api.router().oneshot(request).await.unwrap();
    let status = answer.status();
    let body = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn pages_and_assets_are_served_to_those_whom_the_api_serves() {
    let scheduler = Scheduler::start(Config::default(), memory::ports())
        .await
        .unwrap();
    let api = Api::new(scheduler.clone(), "default".try_into().unwrap());
    let (status, page) = get(&api, "/", "localhost:8080", "none").await;
    assert_eq!(status, StatusCode::OK);
    let script = page.split('"').find(|text| text.ends_with("/app.js"));
    let script = script.expect("the page names its script");
    let (status, _) = get(&api, script, "localhost:8080", "same-origin").await;
    assert_eq!(status, StatusCode::OK);
    for path in ["/", "/applications/shop/pipelines/ocr", script] {
        for (host, site) in [("example.com", "none"), ("localhost:8080", "cross-site")] {
            let (status, body) = get(&api, path, host, site).await;
            assert_eq!(status, StatusCode::FORBIDDEN, "{path} {host} {site}");
            assert!(body.contains("foreign-request"), "{body}");
        }
    }
    let (status, body) = get(&api, "/no/such/page", "localhost:8080", "none").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(body.contains("urn:workload:problem:not-found"), "{body}");
    scheduler.shutdown().await;
}
