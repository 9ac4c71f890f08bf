//! Runs command lines for the agent of a pod: the executor's side of `ExecutorService`.
//!
//! Arguments go to programs as they are; no shell sees them. Each command leads a process group of
//! its own, and when it ends, is cancelled, runs out of time or loses its client, nothing that it
//! started is left: see [`Executor`].

mod command;
mod mark;
mod proc;
mod service;
mod tree;

use std::{
    fmt,
    future::Future,
    io,
    net::{AddrParseError, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use scheduler_grpc::pb::executor_service_server::ExecutorServiceServer;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::watch,
};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::transport::Server;

use self::{service::Service, tree::Nursery};

/// How long a shutdown waits for clients to close their connections, after everything was killed.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// Where an executor listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// On a TCP address.
    Tcp(SocketAddr),
    /// On a unix socket. A socket that an earlier process left there is replaced.
    Unix(PathBuf),
}

impl FromStr for Listen {
    type Err = AddrParseError;

    /// Reads `HOST:PORT`, with the host as a number, or `unix:/PATH`.
    fn from_str(text: &str) -> Result<Self, AddrParseError> {
        match text.strip_prefix("unix:") {
            Some(path) => Ok(Self::Unix(path.into())),
            None => Ok(Self::Tcp(text.parse()?)),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Why an executor cannot serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecutorError {
    /// The address cannot be listened on.
    #[error("cannot listen on {listen}")]
    Listen {
        /// Which.
        listen: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Connections cannot be served.
    #[error("cannot serve executions")]
    Serve(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// This process cannot adopt what commands leave behind.
    #[error("cannot adopt orphaned processes")]
    Adopt(#[source] io::Error),
}

/// Runs commands, and leaves none of their processes behind.
///
/// A command's processes are those of its group and session, their descendants, and whatever carries
/// the command's mark in its environment, so that also a daemon that left group and parent is found.
/// They get SIGTERM, and SIGKILL half a second later.
///
/// ```no_run
/// # async fn run() -> Result<(), worker_sdk::executor::ExecutorError> {
/// use worker_sdk::executor::{Executor, Listen};
///
/// let listen = Listen::Unix("/run/executor.sock".into());
/// Executor::new().serve(&listen, worker_sdk::signalled()).await
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Executor {
    nursery: Arc<Nursery>,
}

impl Executor {
    /// An executor in a process that does other things as well.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An executor that has its process for itself: orphans become its children, and while one
    /// command runs alone, every child that is not the command's own is taken for its leftover. So a
    /// daemon that has emptied its environment is found, too.
    ///
    /// # Errors
    /// [`ExecutorError::Adopt`], where the system has no such thing.
    pub fn adopting() -> Result<Self, ExecutorError> {
        Ok(Self {
            nursery: Arc::new(Nursery::adopting().map_err(ExecutorError::Adopt)?),
        })
    }

    /// Starts to listen. Clients can connect from now on; they are served by [`Bound::serve`].
    ///
    /// Kills first what executors that were themselves killed have left behind on this machine: their
    /// tasks will be run again.
    ///
    /// # Errors
    /// [`ExecutorError::Listen`].
    pub async fn bind(self, listen: &Listen) -> Result<Bound, ExecutorError> {
        match mark::sweep() {
            0 => {}
            n => tracing::warn!(n, "killed processes of executors that are gone"),
        }
        let bound = match listen {
            Listen::Tcp(address) => TcpListener::bind(address).await.map(Listener::Tcp),
            Listen::Unix(path) => bind_unix(path).map(Listener::Unix),
        };
        let listener = bound.map_err(|source| ExecutorError::Listen {
            listen: listen.to_string(),
            source,
        })?;
        Ok(Bound {
            nursery: self.nursery,
            listener,
        })
    }

    /// Listens and serves until `shutdown` is done; then kills what runs, and returns.
    ///
    /// # Errors
    /// [`ExecutorError`], if it cannot listen or accept.
    pub async fn serve(
        self,
        listen: &Listen,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ExecutorError> {
        self.bind(listen).await?.serve(shutdown).await
    }
}

/// An executor that listens.
#[derive(Debug)]
pub struct Bound {
    nursery: Arc<Nursery>,
    listener: Listener,
}

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Bound {
    /// Serves until `shutdown` is done; then kills what runs, and returns.
    ///
    /// # Errors
    /// [`ExecutorError::Serve`], if connections cannot be accepted any more.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) -> Result<(), ExecutorError> {
        let nursery = self.nursery;
        match self.listener {
            Listener::Tcp(tcp) => {
                serve_incoming(nursery, TcpListenerStream::new(tcp), shutdown).await
            }
            Listener::Unix(unix) => {
                serve_incoming(nursery, UnixListenerStream::new(unix), shutdown).await
            }
        }
    }
}

async fn serve_incoming<I, C>(
    nursery: Arc<Nursery>,
    incoming: I,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ExecutorError>
where
    I: tokio_stream::Stream<Item = io::Result<C>>,
    C: tonic::transport::server::Connected
        + tokio::io::AsyncRead
        + tokio::io::AsyncWrite
        + Unpin
        + Send
        + 'static,
    C::ConnectInfo: Clone + Send + Sync + 'static,
{
    let (closing, is_closing) = watch::channel(false);
    let service = ExecutorServiceServer::new(Service::new(nursery, is_closing));
    let mut is_closed = closing.subscribe();
    let closed = async move {
        // An error means that the sender is gone, which is a close.
        drop(is_closed.wait_for(|closing| *closing).await);
    };
    let serving = Server::builder()
        .max_concurrent_streams(Some(service::EXECUTIONS_MAX_U32))
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(5)))
        .serve_with_incoming_shutdown(service, incoming, closed);
    let too_late = async {
        shutdown.await;
        closing.send_replace(true);
        tokio::time::sleep(CLOSE_MAX).await;
    };
    tokio::select! {
        served = serving => served.map_err(|err| ExecutorError::Serve(err.into())),
        () = too_late => Ok(()),
    }
}

fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    use std::os::unix::fs::FileTypeExt as _;
    // Only a socket is replaced: a path that was mistyped must not cost a file.
    if path
        .symlink_metadata()
        .is_ok_and(|found| found.file_type().is_socket())
    {
        std::fs::remove_file(path)?;
    }
    UnixListener::bind(path)
}

#[cfg(test)]
mod tests;
