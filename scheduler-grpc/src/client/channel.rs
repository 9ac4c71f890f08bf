//! Connections: TCP and unix sockets, kept alive and made anew when they break.

use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

use crate::{CONNECTION_WINDOW, STREAM_WINDOW};

/// The endpoint cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{endpoint:?} is no endpoint; say http://HOST:PORT or unix:/PATH")]
pub struct ConnectError {
    /// As it was given.
    pub endpoint: String,
}

/// A channel to `http://HOST:PORT`, `HOST:PORT` or `unix:/PATH`.
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
    let uri = if endpoint.starts_with("unix:") || endpoint.contains("://") {
        endpoint.to_owned()
    } else {
        format!("http://{endpoint}")
    };
    if !uri.starts_with("unix:") && !uri.starts_with("http://") {
        return Err(refused());
    }
    let endpoint = Endpoint::from_shared(uri).map_err(|_| refused())?;
    Ok(endpoint
        .connect_timeout(Duration::from_secs(5))
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true)
        .tcp_nodelay(true)
        .initial_stream_window_size(Some(STREAM_WINDOW))
        .initial_connection_window_size(Some(CONNECTION_WINDOW))
        .connect_lazy())
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
        ] {
            assert!(connect(good).is_ok(), "{good}");
        }
        for bad in ["", "https://localhost:7070", "ftp://x", "a b"] {
            assert!(connect(bad).is_err(), "{bad}");
        }
    }
}
