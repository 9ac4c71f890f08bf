//! The mode of a pipeline: whether it takes tasks and starts them.

use std::fmt;

use crate::Timestamp;

/// Whether a pipeline takes tasks and starts them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// It takes tasks and starts them.
    Active,
    /// It takes tasks and starts none.
    Paused {
        /// Who paused it.
        by: String,
        /// Why.
        reason: String,
        /// When.
        at: Timestamp,
    },
    /// It takes no tasks; those that it has come to their end.
    Draining,
    /// As draining; once its last task has ended it is deleted. There is no way back.
    Deleting,
}

impl Mode {
    /// The one word for it, the same in tables, HTTP and logs.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused { .. } => "paused",
            Self::Draining => "draining",
            Self::Deleting => "deleting",
        }
    }

    /// Why it takes no tasks, if it does not.
    #[must_use]
    pub fn refusal(&self) -> Option<&'static str> {
        match self {
            Self::Active | Self::Paused { .. } => None,
            Self::Draining => {
                Some("the pipeline is draining: it takes no tasks until it is resumed")
            }
            Self::Deleting => Some("the pipeline is being deleted: it takes no more tasks"),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
