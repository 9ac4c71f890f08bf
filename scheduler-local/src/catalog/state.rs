//! The catalogue as the writer knows it: decides a change and writes its rows.

use std::collections::BTreeMap;

use scheduler_core::{
    ApplicationPath, Mode, Pipeline, PipelineNumber, PipelinePath, PipelineSpec, PoolName,
    Revision, Timestamp,
    port::catalog::{Application, CatalogVersion, Change, Changed, Snapshot},
};
use sqlx::SqliteConnection;

use super::row;
use crate::{codec::encode_options, key::time_key};

/// The whole catalogue.
#[derive(Debug)]
pub(crate) struct CatalogState {
    version: u64,
    last_number: u32,
    applications: BTreeMap<ApplicationPath, Application>,
    pipelines: BTreeMap<PipelinePath, Pipeline>,
}

impl CatalogState {
    pub(crate) async fn load(db: &mut SqliteConnection) -> Result<Self, sqlx::Error> {
        let (version, last_number): (i64, u32) = sqlx::query_as(
            "SELECT (SELECT value FROM meta WHERE name = 'catalog_version'),
                    (SELECT value FROM meta WHERE name = 'last_pipeline')",
        )
        .fetch_one(&mut *db)
        .await?;
        let applications =
            sqlx::query("SELECT tenant, application, revision, created_at FROM application")
                .fetch_all(&mut *db)
                .await?;
        let pipelines = sqlx::query(
            "SELECT number, tenant, application, pipeline, revision, created_at, n_partitions,
                    steps, defaults, mode, paused_by, paused_reason, paused_at, limits, pool
             FROM pipeline",
        )
        .fetch_all(&mut *db)
        .await?;
        let mut this = Self {
            version: version.cast_unsigned(),
            last_number,
            applications: BTreeMap::new(),
            pipelines: BTreeMap::new(),
        };
        for found in &applications {
            let found = row::application(found)?;
            this.applications.insert(found.path.clone(), found);
        }
        for found in &pipelines {
            let found = row::pipeline(found)?;
            this.pipelines.insert(found.path.clone(), found);
        }
        Ok(this)
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot {
            version: CatalogVersion(self.version),
            applications: self.applications.values().cloned().collect(),
            pipelines: self.pipelines.values().cloned().collect(),
        }
    }

    /// Does a change or says why not; then nothing is written.
    pub(crate) async fn change(
        &mut self,
        change: &Change,
        db: &mut SqliteConnection,
    ) -> Result<Changed, sqlx::Error> {
        if let Some(refused) = self.refusal(change) {
            return Ok(refused);
        }
        match change {
            Change::CreateApplication { path, at } => {
                self.create_application(path, *at, db).await?;
            }
            Change::DeleteApplication { path } => {
                self.applications.remove(path);
                sqlx::query("DELETE FROM application WHERE tenant = ? AND application = ?")
                    .bind(path.tenant.as_str())
                    .bind(path.application.as_str())
                    .execute(&mut *db)
                    .await?;
            }
            Change::CreatePipeline { path, spec, at } => {
                self.create_application(&path.application_path(), *at, db)
                    .await?;
                self.create_pipeline(path, spec, *at, db).await?;
            }
            Change::UpdatePipeline { path, spec, .. } => {
                self.update_pipeline(path, spec, db).await?;
            }
            Change::SetMode { path, mode, .. } => self.set_mode(path, mode, db).await?,
            Change::DeletePipeline { path, number } => {
                self.pipelines.remove(path);
                sqlx::query("DELETE FROM pipeline WHERE number = ?")
                    .bind(number.0)
                    .execute(&mut *db)
                    .await?;
            }
        }
        self.version += 1;
        save_counter("catalog_version", self.version.cast_signed(), db).await?;
        Ok(Changed::Done(CatalogVersion(self.version)))
    }

    fn refusal(&self, change: &Change) -> Option<Changed> {
        match change {
            Change::CreateApplication { path, .. } => self
                .applications
                .contains_key(path)
                .then_some(Changed::Exists),
            Change::DeleteApplication { path } => {
                let mut pipelines = self.pipelines.keys();
                if !self.applications.contains_key(path) {
                    Some(Changed::Missing)
                } else if pipelines.any(|pipeline| pipeline.application_path() == *path) {
                    Some(Changed::NotEmpty)
                } else {
                    None
                }
            }
            Change::CreatePipeline { path, .. } => {
                self.pipelines.contains_key(path).then_some(Changed::Exists)
            }
            Change::UpdatePipeline { path, expected, .. } => match self.pipelines.get(path) {
                None => Some(Changed::Missing),
                Some(found) if found.revision != *expected => Some(Changed::Stale(found.revision)),
                Some(_) => None,
            },
            Change::SetMode { path, number, .. } => match self.pipelines.get(path) {
                Some(found) if found.number == *number => {
                    (found.mode == Mode::Deleting).then_some(Changed::Deleting)
                }
                Some(_) | None => Some(Changed::Missing),
            },
            Change::DeletePipeline { path, number } => match self.pipelines.get(path) {
                Some(found) if found.number == *number => None,
                Some(_) | None => Some(Changed::Missing),
            },
        }
    }

    /// Creates an application unless it is there.
    async fn create_application(
        &mut self,
        path: &ApplicationPath,
        at: Timestamp,
        db: &mut SqliteConnection,
    ) -> Result<(), sqlx::Error> {
        if self.applications.contains_key(path) {
            return Ok(());
        }
        sqlx::query("INSERT INTO application VALUES (?, ?, 1, ?)")
            .bind(path.tenant.as_str())
            .bind(path.application.as_str())
            .bind(time_key(at))
            .execute(db)
            .await?;
        let application = Application {
            path: path.clone(),
            revision: Revision(1),
            created_at: at,
        };
        self.applications.insert(path.clone(), application);
        Ok(())
    }

    async fn create_pipeline(
        &mut self,
        path: &PipelinePath,
        spec: &PipelineSpec,
        at: Timestamp,
        db: &mut SqliteConnection,
    ) -> Result<(), sqlx::Error> {
        self.last_number += 1;
        save_counter("last_pipeline", i64::from(self.last_number), db).await?;
        let pipeline = Pipeline {
            number: PipelineNumber(self.last_number),
            path: path.clone(),
            revision: Revision(1),
            spec: spec.clone(),
            mode: Mode::Active,
            created_at: at,
        };
        self.save_pipeline(pipeline, db).await
    }

    async fn update_pipeline(
        &mut self,
        path: &PipelinePath,
        spec: &PipelineSpec,
        db: &mut SqliteConnection,
    ) -> Result<(), sqlx::Error> {
        let Some(found) = self.pipelines.get(path) else {
            return Ok(());
        };
        let mut pipeline = found.clone();
        pipeline.revision = Revision(found.revision.0 + 1);
        pipeline.spec = spec.clone();
        pipeline.spec.n_partitions = found.spec.n_partitions;
        self.save_pipeline(pipeline, db).await
    }

    async fn set_mode(
        &mut self,
        path: &PipelinePath,
        mode: &Mode,
        db: &mut SqliteConnection,
    ) -> Result<(), sqlx::Error> {
        let Some(found) = self.pipelines.get(path) else {
            return Ok(());
        };
        let mut pipeline = found.clone();
        pipeline.mode = mode.clone();
        self.save_pipeline(pipeline, db).await
    }

    async fn save_pipeline(
        &mut self,
        pipeline: Pipeline,
        db: &mut SqliteConnection,
    ) -> Result<(), sqlx::Error> {
        let (paused_by, paused_reason, paused_at) = row::pause(&pipeline.mode);
        sqlx::query(
            "REPLACE INTO pipeline (number, tenant, application, pipeline, revision, created_at,
                                    n_partitions, steps, defaults, mode, paused_by, paused_reason,
                                    paused_at, limits, pool)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(pipeline.number.0)
        .bind(pipeline.path.tenant.as_str())
        .bind(pipeline.path.application.as_str())
        .bind(pipeline.path.pipeline.as_str())
        .bind(pipeline.revision.0.cast_signed())
        .bind(time_key(pipeline.created_at))
        .bind(pipeline.spec.n_partitions)
        .bind(row::encode_steps(&pipeline.spec.steps))
        .bind(encode_options(&pipeline.spec.defaults))
        .bind(pipeline.mode.as_str())
        .bind(paused_by)
        .bind(paused_reason)
        .bind(paused_at)
        .bind(row::encode_limits(&pipeline.spec.limits))
        .bind(pipeline.spec.pool.as_ref().map(PoolName::as_str))
        .execute(db)
        .await?;
        self.pipelines.insert(pipeline.path.clone(), pipeline);
        Ok(())
    }
}

async fn save_counter(
    name: &'static str,
    value: i64,
    db: &mut SqliteConnection,
) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE meta SET value = ? WHERE name = ?")
        .bind(value)
        .bind(name)
        .execute(db)
        .await
        .map(|_| ())
}
