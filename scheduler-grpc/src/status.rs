//! The one table from errors to gRPC codes with `google.rpc` details, and back.
//!
//! Both ways lead through `google.rpc.ErrorInfo`: its `reason` names the variant and never changes, its
//! metadata holds the variant's fields. A status from elsewhere (a proxy, a broken connection) is
//! read by its code alone.

use std::{collections::HashMap, error::Error as _, time::Duration};

use prost::Message as _;
use scheduler_core::{Error, Invalid, LeaseLost};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, RpcStatusExt as _, StatusExt as _};

/// The domain of every `ErrorInfo` of this system.
pub const DOMAIN: &str = "workload";

/// The status that tells an error to a client.
#[must_use]
pub fn to_status(error: &Error) -> Status {
    let row = Row::of(error);
    let mut details = ErrorDetails::with_error_info(row.reason, DOMAIN, row.metadata);
    if let Some((field, rule)) = row.violation {
        details.add_bad_request_violation(field, rule);
    }
    if let Some(retry_after) = error.retry_after() {
        details.set_retry_info(Some(retry_after));
    }
    Status::with_error_details(row.code, error.to_string(), details)
}

/// The error that a status tells.
#[must_use]
pub fn from_status(status: &Status) -> Error {
    let broken = status.source().is_some();
    read(
        status.code(),
        status.message(),
        &status.get_error_details(),
        broken,
    )
}

/// The same as [`to_status`], for one answer inside a batch.
#[must_use]
pub fn to_rpc(error: &Error) -> tonic_types::Status {
    let status = to_status(error);
    // The details of a status are this very message, encoded.
    tonic_types::Status::decode(status.details()).unwrap_or_else(|_| tonic_types::Status {
        code: status.code().into(),
        message: status.message().to_owned(),
        details: Vec::new(),
    })
}

/// What one answer inside a batch says: nothing for code 0.
///
/// # Errors
/// The error that the answer tells.
pub fn from_rpc(status: &tonic_types::Status) -> Result<(), Error> {
    match Code::from_i32(status.code) {
        Code::Ok => Ok(()),
        code => Err(read(
            code,
            &status.message,
            &status.get_error_details(),
            false,
        )),
    }
}

/// One row of the table.
struct Row {
    code: Code,
    reason: &'static str,
    metadata: HashMap<String, String>,
    violation: Option<(String, String)>,
}

impl Row {
    fn of(error: &Error) -> Self {
        match error {
            Error::Malformed(text) => {
                Self::new(Code::InvalidArgument, "MALFORMED").with("text", text)
            }
            Error::Invalid(Invalid { field, rule }) => {
                Self::new(Code::InvalidArgument, "INVALID").violating(field, rule)
            }
            Error::NotFound { what, name } => Self::new(Code::NotFound, "NOT_FOUND")
                .with("what", what)
                .with("name", name),
            Error::Gone(id) => Self::new(Code::NotFound, "GONE").with("name", id),
            Error::Exists { what, name } => Self::new(Code::AlreadyExists, "EXISTS")
                .with("what", what)
                .with("name", name),
            Error::WrongState(text) => {
                Self::new(Code::FailedPrecondition, "WRONG_STATE").with("text", text)
            }
            Error::KeyReused(key) => Self::new(Code::FailedPrecondition, "KEY_REUSED")
                .with("name", key)
                .violating(
                    "options.idempotency_key",
                    "was used with other data or options",
                ),
            Error::StaleRevision { expected, found } => Self::new(Code::Aborted, "STALE_REVISION")
                .with("expected", expected)
                .with("found", found),
            Error::RevisionRequired => Self::new(Code::InvalidArgument, "REVISION_REQUIRED")
                .violating("revision", "is required"),
            Error::TooLarge { what, max } => Self::new(Code::InvalidArgument, "TOO_LARGE")
                .with("what", what)
                .with("max", max)
                .violating(what, &format!("must have at most {max} bytes")),
            Error::Overloaded { what, .. } => {
                Self::new(Code::ResourceExhausted, "OVERLOADED").with("what", what)
            }
            Error::Unavailable { what, .. } => {
                Self::new(Code::Unavailable, "UNAVAILABLE").with("text", what)
            }
            Error::UnknownOutcome { what } => {
                Self::new(Code::Unknown, "UNKNOWN_OUTCOME").with("what", what)
            }
            Error::LeaseLost(why) => {
                Self::new(Code::FailedPrecondition, "LEASE_LOST").with("why", lease_lost_text(*why))
            }
            Error::Internal(text) => Self::new(Code::Internal, "INTERNAL").with("text", text),
            // The enum may grow; a new variant is at least told as what it says.
            other => Self::new(Code::Unknown, "UNKNOWN").with("text", other),
        }
    }

    fn new(code: Code, reason: &'static str) -> Self {
        Self {
            code,
            reason,
            metadata: HashMap::new(),
            violation: None,
        }
    }

    fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.metadata.insert(key.to_owned(), value.to_string());
        self
    }

    fn violating(mut self, field: &str, rule: &str) -> Self {
        self.violation = Some((field.to_owned(), rule.to_owned()));
        self
    }
}

fn read(code: Code, message: &str, details: &ErrorDetails, broken: bool) -> Error {
    let Some(info) = details.error_info().filter(|info| info.domain == DOMAIN) else {
        return read_foreign(code, message, details, broken);
    };
    let field = |key: &str| info.metadata.get(key).cloned().unwrap_or_default();
    let number = |key: &str| field(key).parse().unwrap_or_default();
    let what = || field("what").into();
    let retry_after = || {
        details
            .retry_info()
            .and_then(|info| info.retry_delay)
            .unwrap_or(Duration::from_secs(1))
    };
    match info.reason.as_str() {
        "MALFORMED" => Error::Malformed(field("text")),
        "INVALID" => match details
            .bad_request()
            .and_then(|bad| bad.field_violations.first())
        {
            Some(fault) => Invalid::new(fault.field.clone(), fault.description.clone()).into(),
            None => Error::Malformed(message.to_owned()),
        },
        "NOT_FOUND" => Error::NotFound {
            what: what(),
            name: field("name"),
        },
        "GONE" => Error::Gone(field("name")),
        "EXISTS" => Error::Exists {
            what: what(),
            name: field("name"),
        },
        "WRONG_STATE" => Error::WrongState(field("text")),
        "KEY_REUSED" => Error::KeyReused(field("name")),
        "STALE_REVISION" => Error::StaleRevision {
            expected: number("expected"),
            found: number("found"),
        },
        "REVISION_REQUIRED" => Error::RevisionRequired,
        "TOO_LARGE" => Error::TooLarge {
            what: what(),
            max: field("max").parse().unwrap_or_default(),
        },
        "OVERLOADED" => Error::Overloaded {
            what: what(),
            retry_after: retry_after(),
        },
        "UNAVAILABLE" => Error::Unavailable {
            what: field("text"),
            retry_after: retry_after(),
        },
        "UNKNOWN_OUTCOME" => Error::UnknownOutcome { what: what() },
        "LEASE_LOST" => Error::LeaseLost(lease_lost(&field("why"))),
        "INTERNAL" => Error::Internal(field("text")),
        _ => read_foreign(code, message, details, broken),
    }
}

/// A status that this system did not make, or a later version of it.
fn read_foreign(code: Code, message: &str, details: &ErrorDetails, broken: bool) -> Error {
    let retry_after = details
        .retry_info()
        .and_then(|info| info.retry_delay)
        .unwrap_or(Duration::from_secs(1));
    let text = message.to_owned();
    match code {
        Code::Unavailable => Error::Unavailable {
            what: text,
            retry_after,
        },
        Code::ResourceExhausted => Error::Overloaded {
            what: "the server".into(),
            retry_after,
        },
        Code::Unknown | Code::Cancelled | Code::DeadlineExceeded | Code::Aborted => {
            Error::UnknownOutcome {
                what: "the call".into(),
            }
        }
        // A connection that broke in the middle of a call.
        Code::Internal if broken => Error::UnknownOutcome {
            what: "the call".into(),
        },
        Code::Ok | Code::Internal | Code::DataLoss => Error::Internal(text),
        Code::NotFound => Error::NotFound {
            what: "something".into(),
            name: text,
        },
        Code::AlreadyExists => Error::Exists {
            what: "something".into(),
            name: text,
        },
        Code::InvalidArgument | Code::OutOfRange => Error::Malformed(text),
        Code::FailedPrecondition
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::Unimplemented => Error::WrongState(text),
    }
}

fn lease_lost_text(why: LeaseLost) -> &'static str {
    match why {
        LeaseLost::Stale => "stale",
        LeaseLost::Cancelled => "cancelled",
        LeaseLost::TimedOut => "timed_out",
        LeaseLost::Ended => "ended",
    }
}

fn lease_lost(text: &str) -> LeaseLost {
    match text {
        "cancelled" => LeaseLost::Cancelled,
        "timed_out" => LeaseLost::TimedOut,
        "ended" => LeaseLost::Ended,
        _ => LeaseLost::Stale,
    }
}

#[cfg(test)]
mod tests;
