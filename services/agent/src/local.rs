//! An executor of this machine that stands for every executor a pipeline names.

use std::path::{Path, PathBuf};

use tokio::{sync::oneshot, task::JoinHandle};
use worker_sdk::executor::{Executor, ExecutorError, Listen};

use crate::Executors;

/// The name of the socket in its directory.
const SOCKET: &str = "executor.sock";
/// A socket's path may have 107 bytes.
const SOCKET_LEN_MAX: usize = 107;

/// Runs programs of this machine, from `PATH`, over a unix socket: the same way as in a pod.
///
/// Dropping it ends it without waiting; what runs is killed.
#[derive(Debug)]
pub struct LocalExecutor {
    socket: PathBuf,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<Result<(), ExecutorError>>,
}

impl LocalExecutor {
    /// Starts it, with its socket in this directory. Where that makes too long a path, the socket is
    /// in the system's directory for temporary files.
    ///
    /// # Errors
    /// [`ExecutorError::Listen`].
    pub async fn start(directory: &Path) -> Result<Self, ExecutorError> {
        let mut socket = directory.join(SOCKET);
        if socket.as_os_str().len() > SOCKET_LEN_MAX {
            let name = format!("workload-{:016x}.sock", fastrand::u64(..));
            socket = std::env::temp_dir().join(name);
        }
        let bound = Executor::new().bind(&Listen::Unix(socket.clone())).await?;
        only_for_owner(&socket);
        let (stop, stopped) = oneshot::channel::<()>();
        // Dropping the sender counts as well.
        let serving = tokio::spawn(bound.serve(async { drop(stopped.await) }));
        Ok(Self {
            socket,
            stop,
            serving,
        })
    }

    /// The executors of an agent, all served by this one.
    #[must_use]
    pub fn executors(&self) -> Executors {
        Executors::Any(format!("unix:{}", self.socket.display()))
    }

    /// Kills what runs, and ends.
    pub async fn stop(self) {
        // An error means that it has ended.
        self.stop.send(()).ok();
        match self.serving.await {
            Ok(Ok(())) => {}
            Ok(Err(err)) => tracing::error!(%err, "local executor failed"),
            Err(err) => tracing::error!(%err, "local executor panicked"),
        }
        std::fs::remove_file(&self.socket).ok();
    }
}

/// Whoever can write to the socket can run programs as this user.
fn only_for_owner(socket: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let permissions = std::fs::Permissions::from_mode(0o600);
    if let Err(err) = std::fs::set_permissions(socket, permissions) {
        tracing::warn!(%err, "cannot protect the local executor's socket");
    }
}
