//! What the routes answer, and that every file of the client is among them.

use std::{collections::BTreeSet, path::Path};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Request, Response, StatusCode, header},
};
use tower::ServiceExt as _;

use crate::{asset, routes};

async fn get(path: &str, known: Option<&str>) -> Response<Body> {
    let mut request = Request::get(path);
    if let Some(known) = known {
        request = request.header(header::IF_NONE_MATCH, known);
    }
    let router: Router = routes();
    router
        .oneshot(request.body(Body::empty()).unwrap())
        .await
        .unwrap()
}

fn header_of(response: &Response<Body>, name: header::HeaderName) -> &str {
    response
        .headers()
        .get(name)
        .map_or("", |value| value.to_str().unwrap())
}

async fn text_of(response: Response<Body>) -> String {
    let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn every_page_loads_the_client_of_this_release_and_lets_nothing_else_run() {
    for path in [
        "/",
        "/pipelines",
        "/tasks",
        "/dead-letters",
        "/members",
        "/applications/shop/pipelines/ocr",
        "/applications/shop/tasks/aaaa",
    ] {
        let page = get(path, None).await;
        assert_eq!(page.status(), StatusCode::OK, "{path}");
        assert_eq!(header_of(&page, header::CACHE_CONTROL), "no-cache");
        let policy = header_of(&page, header::CONTENT_SECURITY_POLICY);
        assert!(policy.starts_with("default-src 'none'; "), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(header_of(&page, header::X_CONTENT_TYPE_OPTIONS), "nosniff");
        let page = text_of(page).await;
        let client = format!("/assets/{}/app.js", *asset::RELEASE);
        assert!(page.contains(&client), "{page}");
        assert!(!page.contains("{release}"), "{page}");
    }
}

#[tokio::test]
async fn assets_of_this_release_are_kept_forever_and_those_of_another_are_not_found() {
    let path = format!("/assets/{}/app.js", *asset::RELEASE);
    let script = get(&path, None).await;
    assert_eq!(script.status(), StatusCode::OK);
    assert_eq!(
        header_of(&script, header::CONTENT_TYPE),
        "text/javascript; charset=utf-8"
    );
    assert!(header_of(&script, header::CACHE_CONTROL).contains("immutable"));
    for path in [
        "/assets/0000000000000000/app.js".to_owned(),
        format!("/assets/{}/none.js", *asset::RELEASE),
        format!("/assets/{}/../Cargo.toml", *asset::RELEASE),
    ] {
        let missing = get(&path, None).await;
        assert_eq!(missing.status(), StatusCode::NOT_FOUND, "{path}");
        assert!(!header_of(&missing, header::CACHE_CONTROL).contains("immutable"));
    }
}

#[tokio::test]
async fn what_the_browser_has_is_not_sent_again() {
    let tag = header_of(&get("/", None).await, header::ETAG).to_owned();
    for known in [tag.clone(), format!("W/{tag}"), format!("\"x\", {tag}")] {
        let page = get("/", Some(&known)).await;
        assert_eq!(page.status(), StatusCode::NOT_MODIFIED, "{known}");
        assert_eq!(text_of(page).await, "");
    }
    assert_eq!(get("/", Some("\"x\"")).await.status(), StatusCode::OK);
}

#[test]
fn every_file_of_the_client_is_served() {
    fn walk(dir: &Path, root: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, root, found);
            } else {
                let name = path.strip_prefix(root).unwrap();
                found.insert(name.to_str().unwrap().replace('\\', "/"));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets");
    let mut there = BTreeSet::new();
    walk(&root, &root, &mut there);
    let served = asset::FILES.iter().map(|(path, _)| (*path).to_owned());
    let mut served: BTreeSet<String> = served.collect();
    served.insert("index.html".to_owned());
    // Read by people, and not by browsers.
    there.remove("vendor/README.md");
    assert_eq!(there, served);
}
