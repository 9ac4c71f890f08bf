//! Why a worker cannot run, or stopped.

use scheduler_core::Invalid;

/// Why a worker cannot run, or stopped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A name or number that was set breaks a rule.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The endpoint is none.
    #[error("{0}")]
    Endpoint(String),
    /// The scheduler refused what this worker asks for; asking again cannot help.
    #[error("the scheduler refused this worker")]
    Refused(#[source] scheduler_core::Error),
    /// The worker had to stop before all its reports were acknowledged. Their tasks run again.
    #[error("{n} reports were not acknowledged in time")]
    Unreported {
        /// How many.
        n: usize,
    },
}
