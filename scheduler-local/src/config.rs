//! What a data directory is opened with.

use std::{
    fmt::Debug,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// Where the data is and what it may take: plain data.
///
/// ```
/// let config = scheduler_local::Config::new("data");
/// assert_eq!(config.reserve_bytes, 64 << 20);
/// ```
#[derive(Debug, Clone)]
pub struct Config {
    /// The directory: made if it is missing, and used by one process at a time.
    pub directory: PathBuf,
    /// Who this process is (an address, say), for the error that a second process gets.
    pub holder: String,
    /// Calls that wait to be written hold at most so many bytes; further calls wait before they are queued.
    pub queue_bytes_max: usize,
    /// At most so many bytes are written in one transaction, unless one call has more.
    pub commit_bytes_max: usize,
    /// The newest records are kept in memory for fetches, up to so many bytes.
    pub tail_bytes_max: usize,
    /// The write-ahead log is copied into the database once it has grown by about so many bytes.
    pub wal_bytes_max: u64,
    /// Connections that read at the same time.
    pub n_readers: u32,
    /// How often ended tasks and idempotency keys that are past their time are deleted.
    pub sweep_interval: Duration,
    /// With less free space than this, appends are refused; the database's own free pages count as space.
    pub space_min_bytes: u64,
    /// Space held back while there is enough, and given free for reports when there is not.
    pub reserve_bytes: u64,
    /// The database never grows beyond this.
    pub database_bytes_max: Option<u64>,
    /// Tells how much space is free.
    pub free_space: Arc<dyn FreeSpace>,
    /// What happens when the disk fails to take a write or a sync.
    pub on_sync_failure: OnSyncFailure,
}

/// Called with what failed when a write or a sync failed; it must not return.
///
/// After a failed `fsync` the kernel may have dropped the pages it could not write and report
/// success the next time, so neither a retry nor what memory says can be trusted any more: only a
/// restart reads back what is really there.
pub type OnSyncFailure = fn(&str) -> !;

impl Config {
    /// The defaults for this directory.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            holder: String::new(),
            queue_bytes_max: 64 << 20,
            commit_bytes_max: 8 << 20,
            tail_bytes_max: 64 << 20,
            wal_bytes_max: 64 << 20,
            n_readers: 4,
            sweep_interval: Duration::from_secs(10),
            space_min_bytes: 128 << 20,
            reserve_bytes: 64 << 20,
            database_bytes_max: None,
            free_space: Arc::new(Statvfs),
            on_sync_failure: abort,
        }
    }
}

fn abort(what: &str) -> ! {
    tracing::error!(
        what,
        "the disk failed; stopping, because only a restart shows what it kept"
    );
    std::process::abort()
}

/// Tells how much space is free.
pub trait FreeSpace: Debug + Send + Sync {
    /// Bytes that this process can still write to the file system of `directory`.
    ///
    /// # Errors
    /// What the system says.
    fn bytes(&self, directory: &Path) -> io::Result<u64>;
}

/// What the file system itself says.
#[derive(Debug)]
struct Statvfs;

impl FreeSpace for Statvfs {
    fn bytes(&self, directory: &Path) -> io::Result<u64> {
        let found = rustix::fs::statvfs(directory)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }
}
