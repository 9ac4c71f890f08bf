//! The SQLite file: how it is opened, checked against the mark, and brought to this program's schema.

use std::{path::Path, time::Duration};

use scheduler_core::port::BoxError;
use sqlx::{
    ConnectOptions, Connection, SqliteConnection, SqlitePool,
    migrate::Migrator,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use crate::{
    config::Config,
    error::OpenError,
    mark::{Found, HighWaterMark},
};

const DATABASE_FILE: &str = "scheduler.db";
pub(crate) const PAGE_BYTES: u32 = 4096;
/// How long to wait for a person's `sqlite3` that holds a lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
const CACHE_KIB_WRITER: i64 = 64 * 1024;
const CACHE_KIB_READER: i64 = 8 * 1024;

static MIGRATOR: Migrator = sqlx::migrate!();

/// What is open after all checks.
#[derive(Debug)]
pub(crate) struct Database {
    /// The only connection that writes.
    pub(crate) writer: SqliteConnection,
    /// Connections that read.
    pub(crate) readers: SqlitePool,
    /// The mark, at or below what the database holds.
    pub(crate) mark: HighWaterMark,
}

/// Checks the database against its mark, then opens both. Changes nothing before the check is passed.
pub(crate) async fn open(config: &Config) -> Result<Database, OpenError> {
    let directory = config.directory.as_path();
    let io = |action| {
        move |source| OpenError::Io {
            action,
            directory: directory.to_owned(),
            source,
        }
    };
    let broken = |source: BoxError| OpenError::Database {
        directory: directory.to_owned(),
        source,
    };
    let found = last_commit(directory)
        .await
        .map_err(|err| broken(err.into()))?;
    let mark = HighWaterMark::read(directory).map_err(io("read the file high-water"))?;
    check(directory, mark, found)?;

    // The mark comes first: a database with commits has one, whenever the first opening is cut short.
    let mark = HighWaterMark::open(directory, found).map_err(io("make the file high-water"))?;
    let mut writer = write_options(config)
        .connect()
        .await
        .map_err(|err| broken(err.into()))?;
    // Not `run`: its future is not `Send` for a connection that is borrowed.
    MIGRATOR
        .run_direct(None, &mut writer, false)
        .await
        .map_err(|err| broken(err.into()))?;
    if found == 0 {
        first_commit(&mut writer)
            .await
            .map_err(|err| broken(err.into()))?;
    }
    // The names of new files are durable only with the directory.
    std::fs::File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(io("sync the directory"))?;
    let readers = SqlitePoolOptions::new()
        .max_connections(config.n_readers.max(1))
        // A file does not hang up, so there is nothing to test before each read.
        .test_before_acquire(false)
        .connect_lazy_with(read_options(directory));
    Ok(Database {
        writer,
        readers,
        mark,
    })
}

fn check(directory: &Path, mark: Found, found: u64) -> Result<(), OpenError> {
    let no_mark = |fault| OpenError::NoMark {
        directory: directory.to_owned(),
        found,
        fault,
    };
    match mark {
        Found::Missing | Found::Damaged if found == 0 => Ok(()),
        Found::Missing => Err(no_mark("missing")),
        Found::Damaged => Err(no_mark("damaged")),
        Found::Commit(acknowledged) if acknowledged > found => Err(OpenError::Shortened {
            directory: directory.to_owned(),
            acknowledged,
            found,
        }),
        Found::Commit(_) => Ok(()),
    }
}

/// Brings commit 1 into the database itself, so that one that has lost its write-ahead log and its
/// mark is not taken for a new one.
async fn first_commit(writer: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE meta SET value = 1 WHERE name = 'commit'")
        .execute(&mut *writer)
        .await?;
    sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
        .execute(&mut *writer)
        .await?;
    Ok(())
}

/// The last commit that the database holds; 0 if it was never made or its making was cut short.
///
/// Reads through a connection that may not write: one that may would copy what is left of a damaged
/// write-ahead log into the database when it closes, and so destroy what people must look at.
async fn last_commit(directory: &Path) -> Result<u64, sqlx::Error> {
    if !directory.join(DATABASE_FILE).exists() {
        return Ok(0);
    }
    let mut reader = read_options(directory).connect().await?;
    let made: Option<(i64,)> =
        sqlx::query_as("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'meta'")
            .fetch_optional(&mut reader)
            .await?;
    let mut commit = 0;
    if made.is_some() {
        let found: Option<(i64,)> = sqlx::query_as("SELECT value FROM meta WHERE name = 'commit'")
            .fetch_optional(&mut reader)
            .await?;
        commit = found.map_or(0, |(commit,)| commit.cast_unsigned());
    }
    reader.close().await?;
    Ok(commit)
}

fn read_options(directory: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(directory.join(DATABASE_FILE))
        .read_only(true)
        .busy_timeout(BUSY_TIMEOUT)
        .pragma("cache_size", (-CACHE_KIB_READER).to_string())
}

fn write_options(config: &Config) -> SqliteConnectOptions {
    let options = SqliteConnectOptions::new()
        .filename(config.directory.join(DATABASE_FILE))
        .create_if_missing(true)
        .page_size(PAGE_BYTES)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_TIMEOUT)
        // SQLite's own checkpoints hide a failed sync, so the writer makes them itself.
        .pragma("wal_autocheckpoint", "0")
        .pragma("cache_size", (-CACHE_KIB_WRITER).to_string());
    match config.database_bytes_max {
        Some(bytes) => options.pragma(
            "max_page_count",
            (bytes / u64::from(PAGE_BYTES)).to_string(),
        ),
        None => options,
    }
}
