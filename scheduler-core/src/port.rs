//! The five ports through which the scheduler reaches the world, and nothing else.
//!
//! Each does I/O in batches and fits on a screen. Implementations pass the suites of
//! `conformance` (a feature). The feature `mocks` adds a mock of each, for failures that no honest port shows.

pub mod catalog;
pub mod clock;
pub mod log;
pub mod placement;
pub mod store;

pub use self::{
    catalog::Catalog, clock::Clock, log::TaskLog, placement::Placement, store::TaskStore,
};

#[cfg(feature = "mocks")]
pub use self::{
    catalog::MockCatalog, clock::MockClock, log::MockTaskLog, placement::MockPlacement,
    store::MockTaskStore,
};

use std::{error::Error, fmt};

/// What people read when a port fails.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// What callers decide on when a port fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// Nothing has changed, and the same call may succeed later.
    Unavailable,
    /// Nothing has changed, because there is no room; reading still works.
    Full,
    /// Nothing has changed, and the same call will never succeed: the log takes nothing more.
    Closed,
    /// It may have happened or not: read back before deciding.
    Unknown,
    /// What is stored contradicts itself or was shortened. Never retry: people must look.
    Damaged,
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unavailable => "unavailable",
            Self::Full => "no room left",
            Self::Closed => "closed for ever",
            Self::Unknown => "outcome unknown",
            Self::Damaged => "damaged",
        })
    }
}

/// A failed call to a port. Decide on [`kind`](Self::kind); the source is for people to read.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation}: {kind}")]
pub struct PortError {
    operation: &'static str,
    kind: FailureKind,
    source: Option<BoxError>,
}

impl PortError {
    /// A failure of `operation` (a verb and its object: `append records`).
    #[must_use]
    pub fn new(operation: &'static str, kind: FailureKind) -> Self {
        Self {
            operation,
            kind,
            source: None,
        }
    }

    /// The same failure with what caused it.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What to decide on.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        self.kind
    }
}
