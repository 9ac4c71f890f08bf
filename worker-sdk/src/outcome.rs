//! What a handler says became of its task.

use std::{fmt::Display, time::Duration};

use bytes::Bytes;
use scheduler_core::{ErrorCode, task::MESSAGE_LEN_MAX};
use serde::Serialize;

/// The code of a failure that has no other.
const CODE_DEFAULT: &str = "error";
/// The longest code in bytes.
const CODE_LEN_MAX: usize = 64;

/// What became of an attempt.
///
/// A handler may return anything that turns into it: a `Result` of what serialises and what can be
/// displayed, for one.
///
/// ```
/// use worker_sdk::{Failure, Outcome};
///
/// let good: Outcome = Ok::<_, Failure>(42).into();
/// assert_eq!(good, Outcome::completed(&42));
/// let bad: Outcome = Err::<(), _>("no such file").into();
/// assert_eq!(bad, Outcome::Failed(Failure::new("error", "no such file")));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It worked. The result is a JSON value.
    Completed {
        /// The result.
        result: Bytes,
    },
    /// It did not.
    Failed(Failure),
    /// The worker cannot finish it. Costs no attempt; the task is available at once.
    Interrupted,
    /// Not now. Costs no attempt; the task is available again after this time.
    Snoozed(Duration),
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    code: String,
    message: String,
    retryable: bool,
    detail: Bytes,
}

impl Outcome {
    /// It worked, with this result. A result that is no JSON makes it a failure.
    #[must_use]
    pub fn completed<T: Serialize + ?Sized>(result: &T) -> Self {
        match serde_json::to_vec(result) {
            Ok(result) => Self::Completed {
                result: result.into(),
            },
            Err(err) => Self::Failed(Failure::new("result_not_json", err).not_retryable()),
        }
    }

    /// It did not work.
    #[must_use]
    pub fn failed(code: &str, message: impl Display) -> Self {
        Self::Failed(Failure::new(code, message))
    }
}

impl Failure {
    /// A failure that another attempt may mend. The code is for programs: what is not printable
    /// ASCII in it becomes `_`, and it is cut after 64 bytes.
    #[must_use]
    pub fn new(code: &str, message: impl Display) -> Self {
        let graphic = |c: char| if c.is_ascii_graphic() { c } else { '_' };
        let mut code: String = code.chars().map(graphic).take(CODE_LEN_MAX).collect();
        if code.is_empty() {
            CODE_DEFAULT.clone_into(&mut code);
        }
        let mut message = message.to_string();
        message.truncate(message.floor_char_boundary(MESSAGE_LEN_MAX));
        Self {
            code,
            message,
            retryable: true,
            detail: Bytes::new(),
        }
    }

    /// The same failure, which no further attempt can mend.
    #[must_use]
    pub fn not_retryable(self) -> Self {
        Self {
            retryable: false,
            ..self
        }
    }

    /// The same failure with more to say, in JSON. What does not serialise is left out.
    #[must_use]
    pub fn with_detail<T: Serialize + ?Sized>(self, detail: &T) -> Self {
        let detail = serde_json::to_vec(detail).unwrap_or_default().into();
        Self { detail, ..self }
    }

    /// The code, for programs.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.code
    }

    /// The message, for people.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether another attempt can help.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.retryable
    }

    /// More, as JSON; or nothing.
    #[must_use]
    pub fn detail(&self) -> &Bytes {
        &self.detail
    }
}

// `Failure` does not implement `Display` itself, so this leaves `From<Failure>` to the language.
impl<E: Display> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(CODE_DEFAULT, error)
    }
}

impl From<Failure> for Outcome {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl<T: Serialize, E: Into<Failure>> From<Result<T, E>> for Outcome {
    fn from(result: Result<T, E>) -> Self {
        match result {
            Ok(result) => Self::completed(&result),
            Err(failure) => Self::Failed(failure.into()),
        }
    }
}

impl From<Outcome> for scheduler_core::Outcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Completed { result } => Self::Completed { result },
            Outcome::Interrupted => Self::Interrupted,
            Outcome::Snoozed(delay) => Self::Snoozed(delay),
            Outcome::Failed(failure) => match ErrorCode::try_from(failure.code.as_str()) {
                Ok(code) => Self::Failed(scheduler_core::Failure {
                    code,
                    message: failure.message,
                    retryable: failure.retryable,
                    detail: failure.detail,
                }),
                Err(_) => unreachable!("a failure's code is made valid when it is made"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_code_becomes_a_valid_one() {
        for code in ["", "exit code", "é", &"x".repeat(100)] {
            let outcome = Outcome::failed(code, "x");
            assert!(matches!(
                scheduler_core::Outcome::from(outcome),
                scheduler_core::Outcome::Failed(_)
            ));
        }
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let failure = Failure::new("x", "é".repeat(MESSAGE_LEN_MAX));
        assert!(failure.message().len() <= MESSAGE_LEN_MAX);
    }
}
