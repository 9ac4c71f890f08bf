//! Applications and pipelines.

use std::{sync::Arc, time::Duration};

use super::{Scheduler, Shared, unreachable_port};
use crate::{
    ApplicationPath, Error, Mode, Pipeline, PipelinePath, PipelineSpec, Revision, TenantName,
    action::Counts,
    member::{InMemory, shards_of},
    port::catalog::{Application, CatalogVersion, Change, Changed},
};

impl Scheduler {
    /// Creates an application.
    ///
    /// # Errors
    /// `Exists`, or the catalogue cannot be reached.
    pub async fn create_application(&self, path: &ApplicationPath) -> Result<Application, Error> {
        let at = self.shared.ports.clock.now();
        let path = path.clone();
        match self
            .shared
            .change(Change::CreateApplication {
                path: path.clone(),
                at,
            })
            .await?
        {
            Changed::Done(_) => self.application(&path).await,
            _ => Err(Error::Exists {
                what: "application".into(),
                name: path.application.to_string(),
            }),
        }
    }

    /// Reads an application.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn application(&self, path: &ApplicationPath) -> Result<Application, Error> {
        let directory = self.shared.directory.borrow();
        let found = directory.applications.get(path).cloned();
        found.ok_or_else(|| Error::not_found("application", &path.application))
    }

    /// Lists the applications of a tenant, by name.
    ///
    /// # Errors
    /// None today; the catalogue is in memory.
    pub async fn applications(&self, tenant: &TenantName) -> Result<Vec<Application>, Error> {
        let directory = self.shared.directory.borrow();
        let all = directory.applications.values();
        let own = all.filter(|application| application.path.tenant == *tenant);
        Ok(own.cloned().collect())
    }

    /// Deletes an application without pipelines.
    ///
    /// # Errors
    /// `NotFound`, or `WrongState` while it has pipelines.
    pub async fn delete_application(&self, path: &ApplicationPath) -> Result<(), Error> {
        match self
            .shared
            .change(Change::DeleteApplication { path: path.clone() })
            .await?
        {
            Changed::Done(_) => Ok(()),
            Changed::NotEmpty => {
                let what = "the application still has pipelines; delete them first";
                Err(Error::WrongState(what.to_owned()))
            }
            _ => Err(Error::not_found("application", &path.application)),
        }
    }

    /// Waits until the catalogue is newer than `seen`, and gives all pipelines of all tenants.
    ///
    /// # Cancel safety
    /// Dropping it has no effect.
    pub async fn pipelines_changed(
        &self,
        seen: CatalogVersion,
    ) -> (CatalogVersion, Vec<Arc<Pipeline>>) {
        let mut directory = self.shared.directory.subscribe();
        // The sender lives as long as this handle, so this cannot fail.
        let _current = directory
            .wait_for(|directory| directory.version() > seen)
            .await;
        let directory = self.shared.directory.borrow();
        let pipelines = directory.pipelines.values().cloned().collect();
        (directory.version(), pipelines)
    }

    /// Creates a pipeline, and its application if it is missing. Tasks can be submitted at once.
    ///
    /// # Errors
    /// `Invalid`, `Exists`, or the catalogue or log cannot be reached.
    pub async fn create_pipeline(
        &self,
        path: &PipelinePath,
        spec: PipelineSpec,
    ) -> Result<Arc<Pipeline>, Error> {
        spec.validate()?;
        let at = self.shared.ports.clock.now();
        let path = path.clone();
        let change = Change::CreatePipeline {
            path: path.clone(),
            spec,
            at,
        };
        match self.shared.change(change).await? {
            Changed::Done(_) => {
                let pipeline = self.find_pipeline(&path)?;
                if self.shared.is_unlogged(pipeline.number) {
                    let what = "the pipeline is created, but its log cannot be made yet; that is tried again";
                    return Err(Error::Unavailable {
                        what: what.to_owned(),
                        retry_after: Duration::from_secs(1),
                    });
                }
                Ok(pipeline)
            }
            _ => {
                let found = self.find_pipeline(&path);
                let what = match found {
                    Ok(found) if found.mode == Mode::Deleting => {
                        "a pipeline that is being deleted and is named"
                    }
                    Ok(_) | Err(_) => "pipeline",
                };
                Err(Error::Exists {
                    what: what.into(),
                    name: path.pipeline.to_string(),
                })
            }
        }
    }

    /// Reads a pipeline.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn pipeline(&self, path: &PipelinePath) -> Result<Arc<Pipeline>, Error> {
        self.find_pipeline(path)
    }

    /// Lists the pipelines of an application, by name.
    ///
    /// # Errors
    /// `NotFound`: there is no such application.
    pub async fn pipelines(&self, path: &ApplicationPath) -> Result<Vec<Arc<Pipeline>>, Error> {
        self.application(path).await?;
        let directory = self.shared.directory.borrow();
        let all = directory.pipelines.values();
        let own = all.filter(|pipeline| pipeline.path.application_path() == *path);
        Ok(own.cloned().collect())
    }

    /// Changes a pipeline: tasks that start from now on follow the new steps and options. The number
    /// of partitions cannot change.
    ///
    /// # Errors
    /// `Invalid`, `NotFound`, `StaleRevision`.
    pub async fn update_pipeline(
        &self,
        path: &PipelinePath,
        expected: Revision,
        spec: PipelineSpec,
    ) -> Result<Arc<Pipeline>, Error> {
        spec.validate()?;
        let current = self.find_pipeline(path)?;
        if spec.n_partitions != current.spec.n_partitions {
            let rule = format!("cannot change; it is {}", current.spec.n_partitions);
            return Err(crate::Invalid::new("options.partitions", rule).into());
        }
        let change = Change::UpdatePipeline {
            path: path.clone(),
            expected,
            spec,
        };
        match self.shared.change(change).await? {
            Changed::Done(_) => self.find_pipeline(path),
            Changed::Stale(found) => Err(Error::StaleRevision {
                expected: expected.0,
                found: found.0,
            }),
            _ => Err(Error::not_found("pipeline", &path.pipeline)),
        }
    }
}

impl Shared {
    /// How many tasks of a pipeline are where, and which are in memory.
    pub(super) async fn count(
        &self,
        pipeline: &Pipeline,
        listed: Option<InMemory>,
    ) -> Result<Counts, Error> {
        let shards = shards_of(pipeline).collect();
        self.route.count(shards, listed).await
    }

    /// Accepted tasks that their shards had not read when they were counted.
    pub(super) async fn backlog_of(
        &self,
        pipeline: &Pipeline,
        counts: &Counts,
    ) -> Result<u64, Error> {
        let shards: Vec<_> = shards_of(pipeline).collect();
        let mut n_unread = 0;
        for (id, bounds) in shards.iter().zip(self.ports.log.bounds(&shards).await) {
            let bounds = bounds.map_err(|err| unreachable_port("the log", &err))?;
            let next = counts.next_offsets.iter().find(|(of, _)| of == id);
            n_unread += next.map_or(0, |(_, next)| bounds.end.0.saturating_sub(next.0));
        }
        Ok(n_unread)
    }

    /// Does a change, and knows it afterwards.
    pub(super) async fn change(&self, change: Change) -> Result<Changed, Error> {
        let unreachable = |err| unreachable_port("the catalogue", &err);
        let changed = self.ports.catalog.change(change).await;
        let changed = changed.map_err(unreachable)?;
        if matches!(changed, Changed::Done(_)) {
            self.refresh().await.map_err(unreachable)?;
        }
        Ok(changed)
    }
}
