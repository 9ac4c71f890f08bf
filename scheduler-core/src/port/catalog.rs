//! The port of the catalogue: applications and pipelines, and who changes them when.

use std::fmt::Debug;

use async_trait::async_trait;

use crate::{
    ApplicationPath, Mode, Pipeline, PipelineNumber, PipelinePath, PipelineSpec, Revision,
    Timestamp, port::PortError,
};

/// An application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Application {
    /// Where it is.
    pub path: ApplicationPath,
    /// Grows at every change.
    pub revision: Revision,
    /// When it was created.
    pub created_at: Timestamp,
}

/// Counts the changes of the whole catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct CatalogVersion(pub u64);

/// The whole catalogue at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// Which moment.
    pub version: CatalogVersion,
    /// All applications, by path.
    pub applications: Vec<Application>,
    /// All pipelines, by path.
    pub pipelines: Vec<Pipeline>,
}

/// A change of the catalogue: done whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Creates an application.
    CreateApplication {
        /// Where.
        path: ApplicationPath,
        /// When.
        at: Timestamp,
    },
    /// Deletes an application that has no pipelines.
    DeleteApplication {
        /// Which.
        path: ApplicationPath,
    },
    /// Creates a pipeline under a number never used before, and its application if it is missing.
    CreatePipeline {
        /// Where.
        path: PipelinePath,
        /// What.
        spec: PipelineSpec,
        /// When.
        at: Timestamp,
    },
    /// Changes a pipeline; the number of partitions stays.
    UpdatePipeline {
        /// Which.
        path: PipelinePath,
        /// The revision that the change is based on.
        expected: Revision,
        /// What it becomes.
        spec: PipelineSpec,
    },
    /// Changes the mode of a pipeline; its revision stays.
    SetMode {
        /// Which.
        path: PipelinePath,
        /// Guards against changing another one that was created under the same path.
        number: PipelineNumber,
        /// What it becomes.
        mode: Mode,
    },
    /// Deletes a pipeline.
    DeletePipeline {
        /// Which.
        path: PipelinePath,
        /// Guards against deleting another one that was created under the same path.
        number: PipelineNumber,
    },
}

/// What a change answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// Done: durable, and seen by every later snapshot.
    Done(CatalogVersion),
    /// There is one already.
    Exists,
    /// There is none.
    Missing,
    /// The application still has pipelines.
    NotEmpty,
    /// Someone else changed it first; this is its revision.
    Stale(Revision),
    /// It is being deleted, from which there is no way back.
    Deleting,
}

/// Durable home of applications and pipelines.
///
/// # Contract (checked by `catalog_conformance!`)
/// - Changes MUST be done one after the other, each whole or not at all.
/// - A number once given to a pipeline MUST NOT be given again, also after it is deleted.
/// - A mode MUST NOT change any more once it is [`Mode::Deleting`], and MUST outlast an update.
/// - The version MUST grow with every change that was done, and only then.
#[cfg_attr(feature = "mocks", mockall::automock)]
#[async_trait]
pub trait Catalog: Debug + Send + Sync {
    /// Reads everything.
    async fn snapshot(&self) -> Result<Snapshot, PortError>;

    /// Does one change, or says why not; then nothing has changed.
    async fn change(&self, change: Change) -> Result<Changed, PortError>;

    /// Waits until the version is greater than `seen`, whoever changed it.
    ///
    /// # Cancel safety
    /// Dropping it has no effect.
    async fn changed(&self, seen: CatalogVersion) -> Result<CatalogVersion, PortError>;
}
