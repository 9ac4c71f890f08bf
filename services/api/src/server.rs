//! The accept loop, with the limits that a framework's own loop does not have.

use std::{convert::Infallible, future::Future, pin::pin, sync::Arc, time::Duration};

use axum::{body::Body, extract::Request};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto::Builder, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_io_timeout::TimeoutStream;
use tower::ServiceExt as _;
use tracing::{debug, warn};

use crate::Api;

/// What one server bears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once; more wait in the kernel's queue.
    pub n_connections: usize,
    /// Bytes of a request's head.
    pub head_bytes: usize,
    /// How long a client may take to send a request's head.
    pub head_wait: Duration,
    /// How long a client may take to accept a part of an answer.
    pub write_wait: Duration,
    /// How long open requests may take after shutdown began.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            n_connections: 4_096,
            head_bytes: 64 << 10,
            head_wait: Duration::from_secs(10),
            write_wait: Duration::from_secs(30),
            grace: Duration::from_secs(20),
        }
    }
}

impl Api {
    /// Serves the API until `shutdown` is done, then ends event streams and lets other open requests end.
    pub async fn serve(
        &self,
        listener: TcpListener,
        limits: Limits,
        shutdown: impl Future<Output = ()> + Send,
    ) {
        let router = self.router();
        let places = Arc::new(Semaphore::new(limits.n_connections));
        let graceful = GracefulShutdown::new();
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head_wait)
            .max_buf_size(limits.head_bytes);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(Some(limits.head_wait))
            .max_concurrent_streams(256)
            .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX));
        let mut shutdown = pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                accepted = accept(&listener, &places) => accepted,
                () = &mut shutdown => break,
            };
            let Some((stream, place)) = accepted else {
                continue;
            };
            let mut stream = Box::pin(TimeoutStream::new(stream));
            stream
                .as_mut()
                .set_write_timeout_pinned(Some(limits.write_wait));
            let service = router
                .clone()
                .map_request(|request: Request<hyper::body::Incoming>| request.map(Body::new))
                .map_err(|never: Infallible| match never {});
            let connection = builder
                .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
                .into_owned();
            let connection = graceful.watch(connection);
            tokio::spawn(async move {
                if let Err(err) = connection.await {
                    debug!(%err, "connection ended");
                }
                drop(place);
            });
        }
        self.shared.closing.send_replace(true);
        if tokio::time::timeout(limits.grace, graceful.shutdown())
            .await
            .is_err()
        {
            warn!("requests were still open at the end of the grace period");
        }
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => {
            if let Err(err) = stream.set_nodelay(true) {
                debug!(%err, "cannot set nodelay");
            }
            Some((stream, place))
        }
        Err(err) => {
            warn!(%err, "cannot accept a connection");
            // Most likely out of file descriptors: wait for some to be closed.
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}
