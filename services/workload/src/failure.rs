//! Why a command failed, and the exit code that says so to scripts.

use std::{fmt, process::ExitCode};

use serde_json::Value;

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The server refused: exit code 1.
    Refused {
        /// The HTTP status.
        status: u16,
        /// The `problem+json`.
        problem: Value,
    },
    /// The command line or a file it names is wrong: exit code 2.
    Usage(String),
    /// The server cannot be reached: exit code 3.
    Unreachable(String),
    /// The task ended, but not completed: exit code 4.
    NotCompleted(String),
    /// The task has not ended in time: exit code 5.
    NotEnded,
    /// A service could not start or broke: exit code 6.
    Service(String),
    /// It went some way and no further: exit code 7.
    Halted(String),
}

impl Failure {
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Refused { .. } => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
            Self::NotCompleted(_) => 4,
            Self::NotEnded => 5,
            Self::Service(_) => 6,
            Self::Halted(_) => 7,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { status, problem } => {
                let detail = problem["detail"].as_str().unwrap_or("no detail");
                write!(f, "refused ({status}): {detail}")
            }
            Self::Usage(what)
            | Self::Unreachable(what)
            | Self::Service(what)
            | Self::Halted(what) => f.write_str(what),
            Self::NotCompleted(state) => write!(f, "the task is {state}"),
            Self::NotEnded => f.write_str("the task has not ended yet"),
        }
    }
}
