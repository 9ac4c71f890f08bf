//! A catalogue in memory.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use tokio::sync::Notify;

use super::lock;
use crate::{
    ApplicationPath, Mode, Pipeline, PipelineNumber, PipelinePath, Revision, Timestamp,
    port::{
        self, PortError,
        catalog::{Application, CatalogVersion, Change, Changed, Snapshot},
    },
};

/// A catalogue in memory. Clones are the same catalogue.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    version: CatalogVersion,
    last_number: u32,
    applications: BTreeMap<ApplicationPath, Application>,
    pipelines: BTreeMap<PipelinePath, Pipeline>,
}

impl Catalog {
    /// An empty catalogue.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl State {
    fn change(&mut self, change: Change) -> Changed {
        let refused = match change {
            Change::CreateApplication { path, at } => self.create_application(path, at),
            Change::DeleteApplication { path } => self.delete_application(&path),
            Change::CreatePipeline { path, spec, at } => {
                if self.pipelines.contains_key(&path) {
                    return Changed::Exists;
                }
                self.create_application(path.application_path(), at);
                self.last_number += 1;
                let pipeline = Pipeline {
                    number: PipelineNumber(self.last_number),
                    path: path.clone(),
                    revision: Revision(1),
                    spec,
                    mode: Mode::Active,
                    created_at: at,
                };
                self.pipelines.insert(path, pipeline);
                None
            }
            Change::UpdatePipeline {
                path,
                expected,
                mut spec,
            } => match self.pipelines.get_mut(&path) {
                None => Some(Changed::Missing),
                Some(found) if found.revision != expected => Some(Changed::Stale(found.revision)),
                Some(found) => {
                    spec.n_partitions = found.spec.n_partitions;
                    found.spec = spec;
                    found.revision = Revision(found.revision.0 + 1);
                    None
                }
            },
            Change::SetMode { path, number, mode } => match self.pipelines.get_mut(&path) {
                Some(found) if found.number == number && found.mode == Mode::Deleting => {
                    Some(Changed::Deleting)
                }
                Some(found) if found.number == number => {
                    found.mode = mode;
                    None
                }
                _ => Some(Changed::Missing),
            },
            Change::DeletePipeline { path, number } => match self.pipelines.get(&path) {
                Some(found) if found.number == number => {
                    self.pipelines.remove(&path);
                    None
                }
                _ => Some(Changed::Missing),
            },
        };
        refused.unwrap_or_else(|| {
            self.version.0 += 1;
            Changed::Done(self.version)
        })
    }

    fn create_application(&mut self, path: ApplicationPath, at: Timestamp) -> Option<Changed> {
        if self.applications.contains_key(&path) {
            return Some(Changed::Exists);
        }
        let application = Application {
            path: path.clone(),
            revision: Revision(1),
            created_at: at,
        };
        self.applications.insert(path, application);
        None
    }

    fn delete_application(&mut self, path: &ApplicationPath) -> Option<Changed> {
        if !self.applications.contains_key(path) {
            return Some(Changed::Missing);
        }
        let mut pipelines = self.pipelines.keys();
        if pipelines.any(|pipeline| pipeline.application_path() == *path) {
            return Some(Changed::NotEmpty);
        }
        self.applications.remove(path);
        None
    }
}

#[async_trait]
impl port::Catalog for Catalog {
    async fn snapshot(&self) -> Result<Snapshot, PortError> {
        let state = lock(&self.shared.state);
        Ok(Snapshot {
            version: state.version,
            applications: state.applications.values().cloned().collect(),
            pipelines: state.pipelines.values().cloned().collect(),
        })
    }

    async fn change(&self, change: Change) -> Result<Changed, PortError> {
        let changed = lock(&self.shared.state).change(change);
        self.shared.changed.notify_waiters();
        Ok(changed)
    }

    async fn changed(&self, seen: CatalogVersion) -> Result<CatalogVersion, PortError> {
        loop {
            // Registered before the look, so that a change in between is not missed.
            let changed = self.shared.changed.notified();
            let version = lock(&self.shared.state).version;
            if version > seen {
                return Ok(version);
            }
            changed.await;
        }
    }
}
