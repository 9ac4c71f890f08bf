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
        match (err, number(err)) {
            (sqlx::Error::Database(err), Some(number)) => Self::of_server(number, err.message()),
            (
                sqlx::Error::ColumnDecode { .. }
                | sqlx::Error::Decode(_)
                | sqlx::Error::ColumnIndexOutOfBounds { .. }
                | sqlx::Error::Encode(_),
                _,
            ) => Self::Damaged,
            // The rest is about the connection: I/O, TLS, the protocol.
            _ => Self::Lost,
        }
    }

    fn of_server(number: u16, message: &str) -> Self {
        match number {
            // No space for a file or a table.
            1021 | 1114 => Self::Full,
            // TiDB has no number for a TiKV without space.
            _ if message.to_ascii_lowercase().contains("disk full") => Self::Full,
            // Lock wait, deadlock, a lock's life is over, conflicts, a table that was just altered, timeouts of
            // TiKV and PD, regions that move. 1105 is whatever TiDB has no number for, as a context that was
            // cancelled inside it because another session altered a table.
            1105
            | 1205
            | 1213
            | 8002
            | 8005
            | 8022
            | 8027
            | 8028
            | 8229
            | 9001..=9005
            | 9007
            | 9008
            | 9010
            | 9011 => Self::Conflict,
            // Too many connections, shutting down, killed (as idle in a transaction, say).
            1040 | 1053 | 1152 | 1158..=1161 | 1927 | 2006 | 2013 | 3168 => Self::Lost,
            // Too large a packet, row, key or transaction; out of range, no such value, too long; index and row differ.
            1153
            | 1264
            | 1292
            | 1366
            | 1406
            | 1690
            | 8004
            | 8025
            | 8133
            | 8134
            | 8138..=8141
            | 8178
            | 8223 => Self::Damaged,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_conflicts_and_lost_connections_are_tried_again() {
        for (number, message, cause) in [
            (1213, "Deadlock found", Cause::Conflict),
            (9007, "Write conflict", Cause::Conflict),
            (9005, "Region is unavailable", Cause::Conflict),
            (1040, "Too many connections", Cause::Lost),
            (1105, "region error: disk full, store 4", Cause::Full),
            (8025, "entry too large", Cause::Damaged),
            (1406, "Data too long for column", Cause::Damaged),
            (1142, "command denied", Cause::Other),
        ] {
            assert_eq!(
                Cause::of_server(number, message),
                cause,
                "{number} {message}"
            );
        }
        assert_eq!(Cause::of(&sqlx::Error::PoolTimedOut), Cause::Lost);
    }
}
