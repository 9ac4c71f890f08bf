//! The dashboard: pages for people, served from this program and drawn by the browser from the public HTTP API.
//!
//! It holds no state and reads no task: [`routes`] answers embedded files and nothing else. See `docs/dashboard.md`.

mod asset;

use std::sync::LazyLock;

use axum::{
    Router,
    extract::Path,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

/// Paths at which a page is answered: each is the path of what it shows without `/api`, so that it can be
/// bookmarked and reloaded. The client draws the page.
const PAGES: [&str; 7] = [
    "/",
    "/pipelines",
    "/tasks",
    "/dead-letters",
    "/members",
    "/applications/{app}/pipelines/{pipeline}",
    "/applications/{app}/tasks/{id}",
];

/// What a page may do: load and call this origin. Neither inline scripts nor inline styles run, no text becomes a script
/// or markup by assignment, and no other site may frame it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

/// An asset's path names what it holds, so it never changes.
const FOREVER: &str = "public, max-age=31536000, immutable";
/// A page is asked for each time, since it names the assets.
const ASK_AGAIN: &str = "no-cache";

/// The page that loads the client of this release.
static PAGE: LazyLock<String> = LazyLock::new(|| {
    let page = String::from_utf8_lossy(asset::PAGE);
    page.replace("{release}", &asset::RELEASE)
});

/// The routes of the dashboard, to be merged into those of an API.
pub fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let pages = PAGES
        .iter()
        .fold(Router::new(), |router, path| router.route(path, get(page)));
    pages.route("/assets/{release}/{*path}", get(asset))
}

async fn page(headers: HeaderMap) -> Response {
    answer(
        &headers,
        "text/html; charset=utf-8",
        ASK_AGAIN,
        PAGE.as_bytes(),
    )
}

async fn asset(Path((release, path)): Path<(String, String)>, headers: HeaderMap) -> Response {
    let found = asset::find(&path).filter(|_| release == *asset::RELEASE);
    match found {
        Some((bytes, content_type)) => answer(&headers, content_type, FOREVER, bytes),
        // Most likely of another release: a page that is loaded again names the right one.
        None => (
            StatusCode::NOT_FOUND,
            "there is no such asset; load the page again\n",
        )
            .into_response(),
    }
}

fn answer(
    asked: &HeaderMap,
    content_type: &'static str,
    caching: &'static str,
    bytes: &'static [u8],
) -> Response {
    let tag = format!("\"{}\"", *asset::RELEASE);
    let is_known = asked.get_all(header::IF_NONE_MATCH).iter().any(|known| {
        let known = known.to_str().unwrap_or_default();
        known
            .split(',')
            .any(|known| known.trim().trim_start_matches("W/") == tag)
    });
    let fixed = [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, caching),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ];
    let mut response = if is_known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        bytes.into_response()
    };
    let headers = response.headers_mut();
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // Letters, digits and quotes are always a header's value.
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(header::ETAG, tag);
    }
    response
}

#[cfg(test)]
mod tests;
