//! Why a directory cannot be opened, and how failures of SQLite become failures of a port.

use std::{io, path::PathBuf};

use scheduler_core::port::{BoxError, FailureKind, PortError};

/// Why a directory cannot be opened. Nothing in it has changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process works on it.
    #[error(
        "{} is in use by {holder}: stop that process, or use another directory",
        directory.display()
    )]
    InUse {
        /// The directory.
        directory: PathBuf,
        /// Who has it.
        holder: String,
    },
    /// The database ends before what was acknowledged.
    #[error(
        "{} was shortened: commit {acknowledged} was acknowledged, but the database ends with commit {found}. \
         The end of the write-ahead log (scheduler.db-wal) or the database itself was lost or damaged. \
         Nothing was changed; restore the whole directory from a backup, all its files together",
        directory.display()
    )]
    Shortened {
        /// The directory.
        directory: PathBuf,
        /// The last commit that was acknowledged.
        acknowledged: u64,
        /// The last commit that is left.
        found: u64,
    },
    /// Nothing tells what was acknowledged.
    #[error(
        "{} has a database with {found} commits, but its high-water mark is {fault}, so nothing can tell \
         whether the database is whole. Nothing was changed; put the file high-water back, or restore the \
         whole directory from a backup, all its files together",
        directory.display()
    )]
    NoMark {
        /// The directory.
        directory: PathBuf,
        /// The last commit of the database.
        found: u64,
        /// What is wrong with the mark: `missing` or `damaged`.
        fault: &'static str,
    },
    /// The file system refused something.
    #[error("cannot {action} in {}", directory.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The directory.
        directory: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The database cannot be read.
    #[error("cannot read the database in {}", directory.display())]
    Database {
        /// The directory.
        directory: PathBuf,
        /// What the database said.
        source: BoxError,
    },
}

const SQLITE_BUSY: i32 = 5;
const SQLITE_IOERR: i32 = 10;
const SQLITE_CORRUPT: i32 = 11;
const SQLITE_FULL: i32 = 13;
const SQLITE_NOTADB: i32 = 26;

/// What a failure of SQLite means for who waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The disk failed to take or give bytes.
    Disk,
    /// There is no room.
    Full,
    /// The file contradicts itself.
    Damaged,
    /// Someone else holds a lock on the file, or anything else that may pass.
    Other,
}

impl Cause {
    pub(crate) fn of(err: &sqlx::Error) -> Self {
        let code = match err {
            sqlx::Error::Database(err) => err.code().and_then(|code| code.parse::<i32>().ok()),
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => Some(SQLITE_CORRUPT),
            _ => None,
        };
        // The low byte of an extended code is the code that it extends.
        match code.map(|code| code & 0xff) {
            Some(SQLITE_IOERR) => Self::Disk,
            Some(SQLITE_FULL) => Self::Full,
            Some(SQLITE_CORRUPT | SQLITE_NOTADB) => Self::Damaged,
            Some(SQLITE_BUSY) | Some(_) | None => Self::Other,
        }
    }

    /// What a caller decides on, where nothing was written.
    pub(crate) fn kind(self) -> FailureKind {
        match self {
            Self::Disk | Self::Other => FailureKind::Unavailable,
            Self::Full => FailureKind::Full,
            Self::Damaged => FailureKind::Damaged,
        }
    }
}

/// A read that failed.
pub(crate) fn read_failed(operation: &'static str) -> impl Fn(sqlx::Error) -> PortError {
    move |err| PortError::new(operation, Cause::of(&err).kind()).caused_by(err)
}

/// A stored row that cannot be understood.
pub(crate) fn damaged<E: Into<BoxError>>(operation: &'static str) -> impl Fn(E) -> PortError {
    move |err| PortError::new(operation, FailureKind::Damaged).caused_by(err)
}
