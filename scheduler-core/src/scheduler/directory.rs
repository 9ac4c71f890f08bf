//! The catalogue in memory, kept current.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use rustc_hash::{FxHashMap, FxHashSet};
use tracing::warn;

use super::Shared;
use crate::{
    ApplicationPath, Mode, Pipeline, PipelineNumber, PipelinePath,
    driver::Handle,
    member::Event,
    port::{
        PortError,
        catalog::{Application, CatalogVersion},
    },
};

/// How long to wait after the catalogue could not be read.
const RETRY: Duration = Duration::from_secs(1);

/// All applications and pipelines at one moment.
#[derive(Debug, Default)]
pub(super) struct Directory {
    version: CatalogVersion,
    pub(super) applications: BTreeMap<ApplicationPath, Application>,
    pub(super) pipelines: BTreeMap<PipelinePath, Arc<Pipeline>>,
    pub(super) by_number: FxHashMap<PipelineNumber, Arc<Pipeline>>,
}

/// The logs of the pipelines in the directory.
#[derive(Debug, Default)]
pub(super) struct Logs {
    made: FxHashSet<PipelineNumber>,
    /// They could not be made yet, or are being made.
    missing: BTreeMap<PipelineNumber, Arc<Pipeline>>,
}

impl Directory {
    pub(super) fn version(&self) -> CatalogVersion {
        self.version
    }

    pub(super) fn has(&self, number: PipelineNumber) -> bool {
        self.by_number.contains_key(&number)
    }

    pub(super) fn has_deleting(&self) -> bool {
        let mut all = self.pipelines.values();
        all.any(|pipeline| pipeline.mode == Mode::Deleting)
    }

    pub(super) fn deleting(&self) -> Vec<Arc<Pipeline>> {
        let all = self.pipelines.values();
        let deleting = all.filter(|pipeline| pipeline.mode == Mode::Deleting);
        deleting.cloned().collect()
    }
}

impl Shared {
    /// Reads the catalogue, makes the logs of new pipelines, and tells the member.
    pub(super) async fn refresh(&self) -> Result<(), PortError> {
        let snapshot = self.ports.catalog.snapshot().await?;
        let known = Arc::clone(&self.directory.borrow());
        let mut directory = Directory {
            version: snapshot.version,
            ..Directory::default()
        };
        for application in snapshot.applications {
            directory
                .applications
                .insert(application.path.clone(), application);
        }
        let pipelines: Vec<_> = snapshot.pipelines.into_iter().map(Arc::new).collect();
        let is_new = |pipeline: &&Arc<Pipeline>| !known.by_number.contains_key(&pipeline.number);
        let new: Vec<_> = pipelines.iter().filter(is_new).cloned().collect();
        let numbers: FxHashSet<_> = pipelines.iter().map(|pipeline| pipeline.number).collect();
        self.ensure_logs(&new, |number| numbers.contains(&number))
            .await;
        for pipeline in pipelines {
            directory
                .pipelines
                .insert(pipeline.path.clone(), Arc::clone(&pipeline));
            directory.by_number.insert(pipeline.number, pipeline);
        }
        let directory = Arc::new(directory);
        let is_newer = self.directory.send_if_modified(|current| {
            let is_newer =
                directory.version > current.version || current.version == CatalogVersion(0);
            if is_newer {
                *current = Arc::clone(&directory);
                // Within the lock, so that the member sees directories in their order.
                let pipelines = directory.pipelines.values().cloned().collect();
                if let Some(driver) = &self.driver {
                    driver.tell(Event::Pipelines(pipelines));
                }
            }
            is_newer
        });
        tracing::debug!(is_newer, version = directory.version.0, "catalogue read");
        Ok(())
    }
}

impl Shared {
    /// Makes the logs of these pipelines, and those that could not be made before and are still wanted.
    /// One that cannot be made holds up no other.
    async fn ensure_logs(&self, new: &[Arc<Pipeline>], is_wanted: impl Fn(PipelineNumber) -> bool) {
        let wanted: Vec<_> = {
            let mut logs = lock(&self.logs);
            let Logs { made, missing } = &mut *logs;
            made.retain(|number| is_wanted(*number));
            missing.retain(|number, _| is_wanted(*number));
            // Whoever read the catalogue at the same time may have made it already.
            let unmade = new.iter().filter(|new| !made.contains(&new.number));
            missing.extend(unmade.map(|new| (new.number, Arc::clone(new))));
            missing.values().cloned().collect()
        };
        if wanted.is_empty() {
            return;
        }
        let answers = self.ports.log.ensure(&wanted).await;
        for (pipeline, answer) in wanted.iter().zip(answers) {
            match answer {
                Ok(()) => {
                    let mut logs = lock(&self.logs);
                    logs.missing.remove(&pipeline.number);
                    logs.made.insert(pipeline.number);
                }
                Err(err) => {
                    let source = std::error::Error::source(&err);
                    warn!(%err, ?source, pipeline = %pipeline.path, "cannot make a log");
                }
            }
        }
    }

    /// Whether the log of a pipeline is still to be made.
    pub(super) fn is_unlogged(&self, number: PipelineNumber) -> bool {
        lock(&self.logs).missing.contains_key(&number)
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is one call of a map, so what a panic left behind is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for what there may be; `None` at once without it.
pub(super) async fn wait_for<T>(future: Option<impl Future<Output = T>>) -> Option<T> {
    match future {
        Some(future) => Some(future.await),
        None => None,
    }
}

/// Keeps the directory current for as long as the scheduler lives.
pub(super) async fn follow(shared: Weak<Shared>) {
    loop {
        let Some((catalog, clock, stopped, seen)) = shared.upgrade().map(|shared| {
            let seen = shared.directory.borrow().version;
            let ports = &shared.ports;
            let stopped = shared.driver.as_ref().map(Handle::stopped);
            (
                Arc::clone(&ports.catalog),
                Arc::clone(&ports.clock),
                stopped,
                seen,
            )
        }) else {
            return;
        };
        let changed = tokio::select! {
            changed = catalog.changed(seen) => Some(changed),
            Some(()) = wait_for(stopped) => return,
            // Now and then, look whether anyone still needs it.
            () = clock.sleep_until(clock.now() + RETRY) => None,
        };
        let refreshed = match changed {
            None => {
                if let Some(shared) = shared.upgrade() {
                    shared.ensure_logs(&[], |_| true).await;
                }
                continue;
            }
            Some(Err(err)) => Err(err),
            Some(Ok(_)) => match shared.upgrade() {
                Some(shared) => shared.refresh().await,
                None => return,
            },
        };
        if let Err(err) = refreshed {
            warn!(%err, "cannot read the catalogue");
            clock.sleep_until(clock.now() + RETRY).await;
        }
    }
}
