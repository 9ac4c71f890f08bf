//! Why TiDB cannot be opened, and what its errors mean for who waits.

use scheduler_core::port::{BoxError, FailureKind};
use sqlx::mysql::MySqlDatabaseError;

use crate::ConfigError;

/// Why TiDB cannot be opened. Nothing that was stored has changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The configuration is wrong.
    #[error("the configuration of TiDB is wrong: {0}")]
    Config(#[from] ConfigError),
    /// There is no answer, or the server refuses us.
    #[error("cannot connect to TiDB at {server}; check the URL, the network, user and password")]
    Unreachable {
        /// Host and port.
        server: String,
        /// What was said.
        source: BoxError,
    },
    /// Another database, or one that is too old.
    #[error("the server at {server} is {found}, but TiDB 7.6 or newer is needed")]
    NotTidb {
        /// Host and port.
        server: String,
        /// What it says that it is.
        found: String,
    },
    /// The tables cannot be made.
    #[error(
        "cannot make the tables in TiDB at {server}; the user needs CREATE, CREATE VIEW, ALTER, INDEX, SELECT, \
         INSERT, UPDATE and DELETE on the database. Opening again goes on where this ended"
    )]
    Migrate {
        /// Host and port.
        server: String,
        /// What was said.
        source: BoxError,
    },
}

/// What an error means for a transaction that has not been committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The whole transaction can be tried again at once.
    Conflict,
    /// The connection is of no more use; the transaction can be tried again on another.
    Lost,
    /// There is no room.
    Full,
    /// A row that cannot be understood, or that can never be saved.
    Damaged,
    /// Anything else that may pass.
    Other,
}

/// The number of a server's error.
pub(crate) fn number(err: &sqlx::Error) -> Option<u16> {
    let sqlx::Error::Database(err) = err else {
        return None;
    };
    let err = err.try_downcast_ref::<MySqlDatabaseError>()?;
    Some(err.number())
}

impl Cause {
    pub(crate) fn of(err: &sqlx::Error) -> Self {
        if let Some(number) = number(err) {
            return Self::of_number(number);
        }
        match err {
            sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::Decode(_)
            | sqlx::Error::ColumnIndexOutOfBounds { .. }
            | sqlx::Error::Encode(_) => Self::Damaged,
            // The rest is about the connection: I/O, TLS, the protocol.
            _ => Self::Lost,
        }
    }

    fn of_number(number: u16) -> Self {
        match number {
            // Lock wait, deadlock, a lock's life is over, conflicts, a table that was just altered, too busy,
            // timeouts of TiKV and PD, regions that move. 1105 is what TiDB has no number for, as a context that
            // was cancelled inside it.
            1105 | 1205 | 1213 | 8002 | 8022 | 8027 | 8028 | 9001..=9005 | 9007 | 9010 => {
                Self::Conflict
            }
            // Shutting down, killed (as idle in a transaction, say), too many connections.
            1040 | 1053 | 1152 | 1158..=1161 | 1927 | 2006 | 2013 | 3168 | 8229 => Self::Lost,
            // No space for a file, a table or on a TiKV node.
            1021 | 1041 | 1114 | 9013 => Self::Full,
            // Too large a packet, row or transaction; out of range, no such value, too long; index and row differ.
            1153 | 1264 | 1292 | 1366 | 1406 | 1690 | 8004 | 8025 | 8133 | 8134 | 8138 | 8139
            | 8140 | 8141 | 8223 => Self::Damaged,
            _ => Self::Other,
        }
    }

    /// What a caller decides on, where nothing was written.
    pub(crate) fn kind(self) -> FailureKind {
        match self {
            Self::Conflict | Self::Lost | Self::Other => FailureKind::Unavailable,
            Self::Full => FailureKind::Full,
            Self::Damaged => FailureKind::Damaged,
        }
    }

    /// Whether another try at once can help.
    pub(crate) fn may_pass(self) -> bool {
        matches!(self, Self::Conflict | Self::Lost)
    }
}

/// Whether a COMMIT that failed so has surely not happened. What a server says about regions or
/// timeouts is no proof.
pub(crate) fn is_rolled_back(err: &sqlx::Error) -> bool {
    matches!(
        number(err),
        Some(1205 | 1213 | 8002 | 8004 | 8022 | 8025 | 8028 | 8141 | 9007)
    )
}
