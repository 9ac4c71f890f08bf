//! Connections: TCP and unix sockets, kept alive and made anew when they break.

mod several;

use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

use crate::{CONNECTION_WINDOW, STREAM_WINDOW};

/// The endpoint cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{endpoint:?} is no endpoint; say http://HOST:PORT, several of them with commas, or unix:/PATH"
)]
pub struct ConnectError {
    /// As it was given.
    pub endpoint: String,
}

/// A channel to `http://HOST:PORT`, `HOST:PORT` or `unix:/PATH`; or to one of several `HOST:PORT`, with commas
/// between them: when its connection breaks or cannot be made, it goes on with the next.
///
/// Connects with the first call, and again after the connection broke. A peer that says nothing for
/// 20 s is asked, and given up 10 s later.
///
/// # Errors
/// [`ConnectError`], if the text is no endpoint. Whether someone listens there shows later.
pub fn connect(endpoint: &str) -> Result<Channel, ConnectError> {
    let refused = || ConnectError {
        endpoint: endpoint.to_owned(),
    };
    let all = endpoint.split(',').map(|one| one_of(one.trim()));
    let mut all = all.collect::<Option<Vec<_>>>().ok_or_else(refused)?;
    if all.len() == 1 {
        return Ok(all.remove(0).connect_lazy());
    }
    let address = |endpoint: &Endpoint| {
        let authority = endpoint.uri().authority()?;
        let has_port = endpoint.uri().scheme_str() == Some("http") && authority.port().is_some();
        has_port.then(|| authority.to_string())
    };
    let addresses = all.iter().map(address).collect::<Option<_>>();
    Ok(several::connect(&all[0], addresses.ok_or_else(refused)?))
}

/// One endpoint, if it is one.
fn one_of(endpoint: &str) -> Option<Endpoint> {
    let uri = if endpoint.starts_with("unix:") || endpoint.contains("://") {
        endpoint.to_owned()
    } else {
        format!("http://{endpoint}")
    };
    if !uri.starts_with("unix:") && !uri.starts_with("http://") {
        return None;
    }
    let endpoint = Endpoint::from_shared(uri).ok()?;
    Some(
        endpoint
            .connect_timeout(Duration::from_secs(5))
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true)
            .tcp_nodelay(true)
            .initial_stream_window_size(Some(STREAM_WINDOW))
            .initial_connection_window_size(Some(CONNECTION_WINDOW)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn endpoints_are_hosts_and_sockets() {
        for good in [
            "http://localhost:7070",
            "localhost:7070",
            "[::1]:7070",
            "unix:/run/a.sock",
            "http://a:7070, b:7070",
        ] {
            assert!(connect(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "https://localhost:7070",
            "ftp://x",
            "a b",
            "a:7070,",
            "a:7070,b",
            "a:7070,unix:/run/a.sock",
        ] {
            assert!(connect(bad).is_err(), "{bad}");
        }
    }
}
