//! Why a cluster cannot be used, and how failures of Kafka become failures of a port.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use scheduler_core::port::{BoxError, FailureKind, PortError};

/// Why a [`Kafka`](crate::Kafka) cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The configuration has faults; all of them are told.
    #[error("the configuration of Kafka is not usable: {}", faults.join("; "))]
    Config {
        /// What is wrong, one sentence each.
        faults: Vec<String>,
    },
    /// The client refuses the settings, or the system refuses a thread.
    #[error("cannot make a client of Kafka")]
    Client {
        /// What was said.
        source: BoxError,
    },
}

impl OpenError {
    pub(crate) fn client(source: impl Into<BoxError>) -> Self {
        Self::Client {
            source: source.into(),
        }
    }
}

/// Nothing has changed; it may succeed later.
pub(crate) fn unavailable(operation: &'static str, cause: impl Into<BoxError>) -> PortError {
    PortError::new(operation, FailureKind::Unavailable).caused_by(cause)
}

/// It may have happened.
pub(crate) fn unknown(operation: &'static str, cause: impl Into<BoxError>) -> PortError {
    PortError::new(operation, FailureKind::Unknown).caused_by(cause)
}

/// A call that did not end in time.
pub(crate) fn late(operation: &'static str) -> PortError {
    unavailable(operation, "Kafka did not answer in time")
}

/// The code of a failure.
pub(crate) fn code_of(err: &KafkaError) -> RDKafkaErrorCode {
    err.rdkafka_error_code()
        .unwrap_or(RDKafkaErrorCode::Unknown)
}
