//! Real Kafka and TiDB for tests: fetched or built once and cached, started as processes of their own,
//! stopped, continued, killed and restarted, and reached through a proxy that breaks the network.
//!
//! [`kafka`] and [`tidb`] give one server for all tests of a process, or the one that
//! `KAFKA_BOOTSTRAP_SERVERS` and `TIDB_URL` name. Tests that break a server start one of their own.
#![expect(
    clippy::print_stdout,
    reason = "who waits for a first build wants to know why"
)]

mod cache;
mod kafka;
mod process;
mod proxy;
mod tidb;

use std::sync::OnceLock;

pub use self::{
    cache::{fetch_kafka, fetch_tidb},
    kafka::{Kafka, SECURED_USER, Secured},
    process::free_ports,
    proxy::{Fault, Proxy},
    tidb::Tidb,
};

/// The Kafka that all tests of this process share.
///
/// # Panics
/// If there is none and none can be started: a test without its server fails, and says how to get it.
pub fn kafka() -> &'static Kafka {
    static KAFKA: OnceLock<Kafka> = OnceLock::new();
    KAFKA.get_or_init(|| {
        let found = Kafka::from_environment().map_or_else(Kafka::start, Ok);
        found.unwrap_or_else(|err| {
            panic!("no Kafka: {err:#}\nset KAFKA_BOOTSTRAP_SERVERS, or let `cargo xtask servers` fetch one")
        })
    })
}

/// The TiDB that all tests of this process share.
///
/// # Panics
/// If there is none and none can be started: a test without its server fails, and says how to get it.
pub fn tidb() -> &'static Tidb {
    static TIDB: OnceLock<Tidb> = OnceLock::new();
    TIDB.get_or_init(|| {
        let found = Tidb::from_environment().map_or_else(Tidb::start, Ok);
        found.unwrap_or_else(|err| {
            panic!("no TiDB: {err:#}\nset TIDB_URL, or let `cargo xtask servers` build one")
        })
    })
}
