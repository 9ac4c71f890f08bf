//! The embedded ports: durable, one process, one directory, no server.
//!
//! [`open`] gives a [`Local`], and that gives the log, the store and the catalogue of
//! `scheduler-core`, all of them on one SQLite database. What is answered is durable: it was synced
//! to disk, and it is noticed if it is not there when the directory is opened again.
//!
//! ```
//! use std::{sync::Arc, time::Duration};
//!
//! use scheduler_core::{
//!     Offset, Partition, PipelineSpec, ShardId, TaskOptions, Timestamp,
//!     port::{catalog::Change, log::{Fetch, NewRecord, NewTask}},
//! };
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! let local = scheduler_local::open(scheduler_local::Config::new(directory.path())).await?;
//! let path = scheduler_core::path("default", "shop", "mail")?;
//! let spec = PipelineSpec { n_partitions: 1, ..PipelineSpec::default() };
//! local.catalog().change(Change::CreatePipeline { path, spec, at: Timestamp::EPOCH }).await?;
//! let pipeline = Arc::new(local.catalog().snapshot().await?.pipelines.remove(0));
//!
//! let log = local.log();
//! for made in log.ensure(&[Arc::clone(&pipeline)]).await {
//!     made?;
//! }
//! let shard = ShardId { pipeline: pipeline.number, partition: Partition(0) };
//! let task = NewTask { data: r#"{"to":"you"}"#.into(), options: None, traceparent: None };
//! for appended in log.append(vec![NewRecord { shard, task }]).await {
//!     appended?; // it is on the disk
//! }
//! let fetch = Fetch { shard, from: Offset::ZERO, n_max: 10, bytes_max: 1 << 20 };
//! let fetched = log.fetch(&[fetch], Duration::from_secs(1)).await?;
//! assert_eq!(fetched.read[0].records.len(), 1);
//! local.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! # What is in the directory
//! | file | content |
//! |---|---|
//! | `scheduler.db`, `-wal`, `-shm` | the database. `sqlite3 -readonly scheduler.db 'SELECT * FROM tasks'` shows it to people; there is also a view `batches`, and the schema has comments |
//! | `high-water` | the last commit that was acknowledged: a database that ends before it is refused |
//! | `lock` | who has the directory open; one process at a time |
//! | `reserve` | space kept for reports when the disk is full |
//!
//! A backup is a copy of the whole directory while nobody has it open.
//!
//! # When the disk is full
//! With less than [`Config::space_min_bytes`] free, appends are refused as full, while reads and
//! flushes go on, from the reserve if need be. When there is space again, so are appends.
//!
//! # When the disk fails
//! A write or sync that fails ends the process ([`Config::on_sync_failure`]): only a restart shows
//! what the disk kept. What was acknowledged and is missing then is told by the high-water mark.

mod catalog;
mod codec;
mod config;
mod database;
mod error;
mod key;
mod lock;
mod log;
mod mark;
mod space;
mod store;
mod writer;

use std::sync::Arc;

use scheduler_core::port::{Catalog, TaskLog, TaskStore};
use tokio::sync::watch;

use self::{
    catalog::LocalCatalog,
    lock::DirectoryLock,
    log::{LocalLog, LogView},
    store::LocalStore,
    writer::{Op, State, Views, Writer},
};
pub use self::{
    config::{Config, FreeSpace, OnSyncFailure},
    error::OpenError,
};

/// An open data directory. It stays open until [`close`](Self::close), or until this and all
/// ports that it gave are dropped.
#[derive(Debug)]
pub struct Local {
    log: Arc<LocalLog>,
    store: Arc<LocalStore>,
    catalog: Arc<LocalCatalog>,
    writer: Writer,
}

/// Opens a data directory, or makes it.
///
/// # Errors
/// [`OpenError`] if another process has it, if it is damaged, or if the system refuses. Nothing
/// that was stored has changed then.
pub async fn open(config: Config) -> Result<Local, OpenError> {
    let directory = config.directory.clone();
    std::fs::create_dir_all(&directory).map_err(|source| OpenError::Io {
        action: "make the directory",
        directory: directory.clone(),
        source,
    })?;
    let lock = DirectoryLock::take(&directory, &config.holder)?;
    let mut database = database::open(&config).await?;
    let state = State::load(&mut database.writer)
        .await
        .map_err(|err| OpenError::Database {
            directory: directory.clone(),
            source: err.into(),
        })?;
    let view = Arc::new(LogView::new(&state.logs, config.tail_bytes_max));
    let (snapshots, snapshot) = watch::channel(Arc::new(state.catalog.snapshot()));
    let views = Views {
        log: Arc::clone(&view),
        catalog: snapshots,
    };
    let readers = database.readers.clone();
    let writer = Writer::start(config, lock, database, state, views);
    // A commit syncs all that was recovered, and its mark says so, before any of it is shown.
    writer
        .call("open", Op::Release(Vec::new()), 0)
        .await
        .map_err(|err| OpenError::Database {
            directory,
            source: err.into(),
        })?;
    Ok(Local {
        log: Arc::new(LocalLog::new(writer.clone(), readers.clone(), view)),
        store: Arc::new(LocalStore::new(writer.clone(), readers)),
        catalog: Arc::new(LocalCatalog::new(writer.clone(), snapshot)),
        writer,
    })
}

impl Local {
    /// The log.
    #[must_use]
    pub fn log(&self) -> Arc<dyn TaskLog> {
        Arc::clone(&self.log) as _
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> Arc<dyn TaskStore> {
        Arc::clone(&self.store) as _
    }

    /// The catalogue.
    #[must_use]
    pub fn catalog(&self) -> Arc<dyn Catalog> {
        Arc::clone(&self.catalog) as _
    }

    /// Writes what is queued, closes the database and gives up the directory. Later calls of the
    /// ports fail as unavailable.
    ///
    /// # Cancel safety
    /// Once begun, it ends also if it is dropped.
    pub async fn close(&self) {
        if let Err(err) = self.writer.call("close", Op::Close, 0).await {
            tracing::warn!(%err, "closing a directory that is closed already, or whose writer failed");
        }
    }
}
