//! Who waits for a change of the catalogue: one task of the process looks, for all that wait, and only
//! while someone does.

use std::{sync::Arc, time::Duration};

use scheduler_core::port::{FailureKind, PortError, catalog::CatalogVersion};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use super::change::read_version;
use crate::{
    call::{Call, Repeat},
    session::Pool,
};

const OPERATION: &str = "watch the catalogue";

/// What the last look has shown.
#[derive(Debug, Clone, Default)]
struct Look {
    version: CatalogVersion,
    /// How many looks have failed, and why the last of them.
    n_failures: u64,
    failure: Option<Arc<str>>,
}

/// The one task that looks, and those that wait for it.
#[derive(Debug)]
pub(super) struct Poller {
    looks: Arc<watch::Sender<Look>>,
    wanted: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Drop for Poller {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Poller {
    pub(super) fn start(pool: Arc<Pool>, call_timeout: Duration, interval: Duration) -> Self {
        let looks = Arc::new(watch::Sender::default());
        let wanted = Arc::new(Notify::new());
        let task = tokio::spawn({
            let (looks, wanted) = (Arc::clone(&looks), Arc::clone(&wanted));
            async move {
                loop {
                    while looks.receiver_count() == 0 {
                        wanted.notified().await;
                    }
                    let next = Instant::now() + interval;
                    look(&pool, call_timeout, &looks).await;
                    sleep_until(next).await;
                }
            }
        });
        Self {
            looks,
            wanted,
            task,
        }
    }

    /// Tells those that wait about a change that this process has made.
    pub(super) fn note(&self, version: CatalogVersion) {
        note(&self.looks, version);
    }

    /// Waits for a version greater than `seen`, or for a look that fails.
    pub(super) async fn changed(&self, seen: CatalogVersion) -> Result<CatalogVersion, PortError> {
        let unavailable = || PortError::new(OPERATION, FailureKind::Unavailable);
        let mut looks = self.looks.subscribe();
        self.wanted.notify_one();
        let n_failures = looks.borrow().n_failures;
        loop {
            let look = looks.borrow_and_update().clone();
            if look.version > seen {
                return Ok(look.version);
            }
            if look.n_failures > n_failures {
                let why = look.failure.unwrap_or_default();
                return Err(unavailable().caused_by(&*why));
            }
            looks.changed().await.map_err(|_| unavailable())?;
        }
    }
}

fn note(looks: &watch::Sender<Look>, version: CatalogVersion) {
    looks.send_if_modified(|look| {
        let is_new = version > look.version;
        look.version = look.version.max(version);
        is_new
    });
}

async fn look(pool: &Arc<Pool>, call_timeout: Duration, looks: &watch::Sender<Look>) {
    let call = Call::new(OPERATION, Repeat::Safe, call_timeout);
    let read = async {
        let once = async || read_version(&mut pool.session().await?).await;
        loop {
            match once().await {
                Ok(version) => return Ok(version),
                Err(err) => call.again(err).await?,
            }
        }
    };
    match call.run(read).await {
        Ok(version) => note(looks, version),
        Err(err) => {
            let source = std::error::Error::source(&err).map(ToString::to_string);
            looks.send_modify(|look| {
                look.n_failures += 1;
                look.failure = Some(source.unwrap_or_default().into());
            });
        }
    }
}
