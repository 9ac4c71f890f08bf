//! One connection to whichever of several addresses can be reached.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};
use tonic::transport::{Channel, Endpoint, Uri};

/// How long one address may take, before the next is tried.
const PATIENCE: Duration = Duration::from_secs(2);

/// A channel to one of these addresses, `HOST:PORT`: to the next one whenever its connection breaks or cannot be made.
pub(super) fn connect(endpoint: &Endpoint, addresses: Vec<String>) -> Channel {
    let n = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
    let addresses: Arc<[String]> = addresses.into();
    let next = Arc::new(AtomicUsize::new(0));
    let connector = tower::service_fn(move |_: Uri| {
        let (addresses, next) = (Arc::clone(&addresses), Arc::clone(&next));
        async move { connect_next(&addresses, &next).await }
    });
    endpoint
        .clone()
        .connect_timeout(PATIENCE.saturating_mul(n.saturating_add(1)))
        .connect_with_connector_lazy(connector)
}

async fn connect_next(addresses: &[String], next: &AtomicUsize) -> io::Result<TokioIo<TcpStream>> {
    let mut failure = io::Error::from(io::ErrorKind::NotFound);
    for _ in addresses {
        let at = next.fetch_add(1, Ordering::Relaxed) % addresses.len();
        let connecting = timeout(PATIENCE, TcpStream::connect(addresses[at].as_str()));
        match connecting.await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                return Ok(TokioIo::new(stream));
            }
            Ok(Err(err)) => failure = err,
            Err(_) => failure = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(failure)
}
