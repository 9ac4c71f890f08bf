//! What follows a durable transaction: the high-water mark first, then readers and callers learn of it.
//!
//! It runs on a thread of its own, so that the mark of one transaction is synced while the next one
//! is being written. A call is still answered only after both syncs, and transactions that end
//! during one sync of the mark share the next.

use std::{sync::Arc, thread::JoinHandle};

use scheduler_core::port::catalog::Snapshot;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

use super::op::{Failed, Outcome};
use crate::{
    config::OnSyncFailure,
    lock::DirectoryLock,
    log::{LogEvent, LogView},
    mark::HighWaterMark,
};

/// Transactions that wait for their mark; the writer waits beyond that.
const UNMARKED_MAX: usize = 16;

type Answer = (
    oneshot::Sender<Result<Outcome, Failed>>,
    Result<Outcome, Failed>,
    Option<OwnedSemaphorePermit>,
);

/// A durable transaction that nobody knows of yet.
#[derive(Debug)]
pub(super) struct Committed {
    pub(super) commit: u64,
    pub(super) events: Vec<LogEvent>,
    pub(super) catalog: Option<Snapshot>,
    pub(super) answers: Vec<Answer>,
}

/// What readers see without asking the database.
#[derive(Debug)]
pub(crate) struct Views {
    pub(crate) log: Arc<LogView>,
    pub(crate) catalog: watch::Sender<Arc<Snapshot>>,
}

/// The thread that marks and publishes.
#[derive(Debug)]
pub(crate) struct Publisher {
    committed: Option<mpsc::Sender<Committed>>,
    thread: Option<JoinHandle<()>>,
}

impl Publisher {
    pub(super) fn start(
        mut mark: HighWaterMark,
        views: Views,
        lock: Arc<DirectoryLock>,
        on_sync_failure: OnSyncFailure,
    ) -> Self {
        let (committed, mut waiting) = mpsc::channel::<Committed>(UNMARKED_MAX);
        let run = move || {
            // Until the last mark is written, nobody else may have the file.
            let _lock = lock;
            let mut group = Vec::with_capacity(UNMARKED_MAX);
            while waiting.blocking_recv_many(&mut group, UNMARKED_MAX) > 0 {
                let newest = group.iter().map(|committed| committed.commit).max();
                if let Some(Err(err)) = newest.map(|commit| mark.raise(commit)) {
                    on_sync_failure(&format!("high-water mark: {err}"));
                }
                for committed in group.drain(..) {
                    publish(&views, committed);
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("high-water".to_owned())
            .spawn(run)
            .map_err(|err| tracing::error!(%err, "cannot start a thread: every write will fail"))
            .ok();
        Self {
            committed: Some(committed),
            thread,
        }
    }

    /// Hands a transaction on; `false` if the thread is gone.
    pub(super) async fn publish(&self, committed: Committed) -> bool {
        match &self.committed {
            Some(waiting) => waiting.send(committed).await.is_ok(),
            None => false,
        }
    }

    /// Returns when all that was handed on is published.
    pub(super) async fn finish(&mut self) {
        self.committed = None;
        if let Some(thread) = self.thread.take() {
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("the high-water thread ended by a panic");
            }
        }
    }
}

fn publish(views: &Views, committed: Committed) {
    // Readers first: who gets an answer finds what it says.
    views.log.apply(committed.events);
    if let Some(snapshot) = committed.catalog {
        views.catalog.send_if_modified(|seen| {
            let newer = snapshot.version > seen.version;
            if newer {
                *seen = Arc::new(snapshot);
            }
            newer
        });
    }
    for (reply, outcome, permit) in committed.answers {
        drop(permit);
        // Who asked may have stopped waiting.
        reply.send(outcome).ok();
    }
}
