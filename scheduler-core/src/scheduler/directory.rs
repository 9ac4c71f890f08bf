//! The catalogue in memory, kept current.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};

use rustc_hash::FxHashMap;
use tracing::warn;

use super::Shared;
use crate::{
    ApplicationPath, Pipeline, PipelineNumber, PipelinePath,
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

impl Directory {
    pub(super) fn version(&self) -> CatalogVersion {
        self.version
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
        for pipeline in snapshot.pipelines {
            if !known.by_number.contains_key(&pipeline.number) {
                self.ports.log.ensure(&pipeline).await?;
            }
            let pipeline = Arc::new(pipeline);
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
                self.driver.tell(Event::Pipelines(pipelines));
            }
            is_newer
        });
        tracing::debug!(is_newer, version = directory.version.0, "catalogue read");
        Ok(())
    }
}

/// Keeps the directory current for as long as the scheduler lives.
pub(super) async fn follow(shared: Weak<Shared>) {
    loop {
        let Some((catalog, clock, stopped, seen)) = shared.upgrade().map(|shared| {
            let seen = shared.directory.borrow().version;
            let ports = &shared.ports;
            let stopped = shared.driver.stopped();
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
            () = stopped => return,
            // Now and then, look whether anyone still needs it.
            () = clock.sleep_until(clock.now() + RETRY) => None,
        };
        let refreshed = match changed {
            None => continue,
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
