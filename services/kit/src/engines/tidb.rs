//! TiDB from settings.

use scheduler_tidb::Config;

use crate::{Key, Reader};

/// The settings under `tidb`.
pub(super) fn keys() -> Vec<Key> {
    vec![
        Key {
            name: "tidb.url",
            default: "",
            meaning: "where TiDB is: mysql://USER:PASSWORD@HOST:PORT/DATABASE; the database is made if it is missing",
        },
        Key {
            name: "tidb.n_connections",
            default: "16",
            meaning: "connections at once, at most",
        },
        Key {
            name: "tidb.call_timeout",
            default: "10s",
            meaning: "how long a call may take, with all its statements",
        },
        Key {
            name: "tidb.statement_timeout",
            default: "5s",
            meaning: "a statement without an answer is given up after this",
        },
        Key {
            name: "tidb.lock_wait_timeout",
            default: "2s",
            meaning: "a statement that waits longer for another transaction is tried again",
        },
        Key {
            name: "tidb.connect_timeout",
            default: "3s",
            meaning: "how long a connection may take to be made",
        },
        Key {
            name: "tidb.poll_interval",
            default: "300ms",
            meaning: "how often the catalogue is looked at for changes by other processes",
        },
    ]
}

/// Reads how TiDB is reached; faults go to the reader.
pub(super) fn config(reader: &mut Reader<'_>) -> Config {
    let config = Config {
        n_connections: reader.number("tidb.n_connections"),
        call_timeout: reader.duration("tidb.call_timeout"),
        statement_timeout: reader.duration("tidb.statement_timeout"),
        lock_wait_timeout: reader.duration("tidb.lock_wait_timeout"),
        connect_timeout: reader.duration("tidb.connect_timeout"),
        poll_interval: reader.duration("tidb.poll_interval"),
        ..Config::new(reader.required("tidb.url"))
    };
    if let Err(err) = config.validate() {
        reader.fault(format!("tidb: {err}"));
    }
    config
}
