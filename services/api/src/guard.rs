//! Refuses what a web page from elsewhere could send to a server that is open on loopback.
//!
//! The API starts programs and, without authentication, trusts whoever reaches it. A browser on the same machine
//! reaches it too: by a cross-origin form (`Origin`, `Sec-Fetch-Site`), or by a name that an attacker
//! lets point to 127.0.0.1 (DNS rebinding, seen in `Host`).

use std::net::IpAddr;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, Uri, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::{Api, problem::Problem};

pub(crate) async fn refuse_foreign(
    State(api): State<Api>,
    request: Request,
    next: Next,
) -> Response {
    match check(request.uri(), request.headers(), api.hosts()) {
        Ok(()) => next.run(request).await,
        Err(detail) => Problem::new(
            StatusCode::FORBIDDEN,
            "foreign-request",
            "The request comes from elsewhere",
            detail,
        )
        .into_response(),
    }
}

fn check(uri: &Uri, headers: &HeaderMap, hosts: &[String]) -> Result<(), &'static str> {
    let text = |name| {
        headers
            .get(name)
            .map(|value: &header::HeaderValue| value.to_str().unwrap_or(""))
    };
    if headers.get_all(header::HOST).iter().count() > 1 {
        return Err("the request names several Hosts");
    }
    let host = uri
        .authority()
        .map(Authority::as_str)
        .or_else(|| text(header::HOST))
        .ok_or("the request names no Host")?;
    let authority: Authority = host.parse().map_err(|_| "the Host cannot be read")?;
    let is_named = |name: &String| name.eq_ignore_ascii_case(authority.host());
    if !is_loopback(authority.host()) && !hosts.iter().any(is_named) {
        return Err(
            "the Host is neither a loopback name nor one that this server was told to serve",
        );
    }
    if let Some(site) = text(header::HeaderName::from_static("sec-fetch-site"))
        && !["same-origin", "none"].contains(&site)
    {
        return Err("Sec-Fetch-Site says that another site sent it");
    }
    if let Some(origin) = text(header::ORIGIN) {
        let own = origin
            .strip_prefix("http://")
            .is_some_and(|of| of.eq_ignore_ascii_case(host));
        if !own {
            return Err("the Origin is another site");
        }
    }
    Ok(())
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.eq_ignore_ascii_case("localhost")
        || bare
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(host: Option<&str>, origin: Option<&str>, site: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in [("host", host), ("origin", origin), ("sec-fetch-site", site)] {
            if let Some(value) = value {
                headers.insert(name, value.parse().unwrap());
            }
        }
        check(
            &Uri::from_static("/"),
            &headers,
            &["jobs.example.org".to_owned()],
        )
        .is_ok()
    }

    #[test]
    fn only_loopback_and_named_hosts_are_served() {
        for host in [
            "localhost",
            "LOCALHOST:8080",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:8080",
            "Jobs.example.org:443",
        ] {
            assert!(verdict(Some(host), None, None), "{host}");
        }
        for host in [
            "example.com",
            "localhost.example.com",
            "10.0.0.1",
            "127.0.0.1.nip.io",
            "a@b:c",
            "",
        ] {
            assert!(!verdict(Some(host), None, None), "{host}");
        }
        assert!(!verdict(None, None, None));
        let mut two = HeaderMap::new();
        two.append("host", "localhost".parse().unwrap());
        two.append("host", "example.com".parse().unwrap());
        assert!(check(&Uri::from_static("/"), &two, &[]).is_err());
    }

    #[test]
    fn other_sites_are_refused() {
        let host = Some("localhost:8080");
        assert!(verdict(
            host,
            Some("http://localhost:8080"),
            Some("same-origin")
        ));
        for origin in [
            "http://localhost:9090",
            "https://localhost:8080",
            "http://example.com",
            "null",
        ] {
            assert!(!verdict(host, Some(origin), None), "{origin}");
        }
        for site in ["cross-site", "same-site", "x"] {
            assert!(!verdict(host, None, Some(site)), "{site}");
        }
    }
}
