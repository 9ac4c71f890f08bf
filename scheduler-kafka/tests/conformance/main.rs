//! The ports on a real Kafka: the suites that every port passes, and what only Kafka can do.
#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod backlog;
mod behind;
mod closing;
mod outage;
mod placement;
mod plain;
mod support;
mod transactions;

mod log {
    scheduler_core::task_log_conformance!(crate::support::empty);
}
