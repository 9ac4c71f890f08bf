//! What can be wrong with a request: one enum, from which HTTP and gRPC make their answers.

use std::{borrow::Cow, time::Duration};

use crate::port::FailureKind;

/// A value that breaks a rule: which field, and what the rule is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {rule}")]
pub struct Invalid {
    /// The field as users spell it, with dots for nesting: `options.retry.max`.
    pub field: Cow<'static, str>,
    /// The rule that was broken and what would keep it, as the end of a sentence.
    pub rule: Cow<'static, str>,
}

impl Invalid {
    /// A broken `rule` of `field`.
    pub fn new(field: impl Into<Cow<'static, str>>, rule: impl Into<Cow<'static, str>>) -> Self {
        Self {
            field: field.into(),
            rule: rule.into(),
        }
    }

    /// The same fault seen from outside: `retry.max` within `options` is `options.retry.max`.
    #[must_use]
    pub fn within(self, outer: &str) -> Self {
        Self {
            field: format!("{outer}.{}", self.field).into(),
            rule: self.rule,
        }
    }
}

/// Why a request was not done. Unless the variant says otherwise, nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The request cannot be read at all.
    #[error("the request cannot be read: {0}")]
    Malformed(String),
    /// A value breaks a rule.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// There is no such thing, or it belongs to another tenant.
    #[error("there is no {what} {name:?}")]
    NotFound {
        /// What was looked for: `application`, `pipeline`, `task`.
        what: Cow<'static, str>,
        /// As the caller named it.
        name: String,
    },
    /// The task ended and is no longer kept.
    #[error("task {0} ended, and its result is no longer kept")]
    Gone(String),
    /// The name is taken.
    #[error("{what} {name:?} exists already")]
    Exists {
        /// What has the name.
        what: Cow<'static, str>,
        /// The name.
        name: String,
    },
    /// The thing is not in a state that allows this.
    #[error("{0}")]
    WrongState(String),
    /// The idempotency key was used with another payload.
    #[error(
        "idempotency key {0:?} was used with other data or options; use a new key for a new task"
    )]
    KeyReused(String),
    /// Someone else changed it first.
    #[error("the revision is {found} and not {expected}; read it again and repeat the change")]
    StaleRevision {
        /// What the caller expected.
        expected: u64,
        /// What is there.
        found: u64,
    },
    /// A change needs the revision that it is based on.
    #[error("say which revision this change is based on (If-Match)")]
    RevisionRequired,
    /// Something is over its limit.
    #[error("{what} is larger than {max} bytes")]
    TooLarge {
        /// What is too large.
        what: Cow<'static, str>,
        /// The limit.
        max: usize,
    },
    /// A queue with a limit is full.
    #[error("{what} is full; try again later")]
    Overloaded {
        /// Which limit was reached, by its config key.
        what: Cow<'static, str>,
        /// When trying again makes sense.
        retry_after: Duration,
    },
    /// A part that is needed cannot be reached.
    #[error("{what}; try again later")]
    Unavailable {
        /// What cannot be reached, and why.
        what: String,
        /// When trying again makes sense.
        retry_after: Duration,
    },
    /// It may have happened or not. With an idempotency key the same call can be repeated safely.
    #[error(
        "{what}: it may have happened or not; repeat it with the same idempotency key, or look before you repeat"
    )]
    UnknownOutcome {
        /// What may have happened.
        what: Cow<'static, str>,
    },
    /// The lease is not, or no longer, the caller's: its work must stop, and its report changes nothing.
    #[error("the lease is no longer held: {0}")]
    LeaseLost(LeaseLost),
    /// A broken invariant or damaged data; people must look.
    #[error("internal error: {0}")]
    Internal(String),
}

/// Why a lease is not the caller's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum LeaseLost {
    /// It ran out, or a newer one was granted.
    #[error("it expired or another worker has the task")]
    Stale,
    /// The task was cancelled.
    #[error("the task was cancelled")]
    Cancelled,
    /// The attempt ran longer than its timeout.
    #[error("the attempt timed out")]
    TimedOut,
    /// The task has ended.
    #[error("the task has ended")]
    Ended,
}

impl Error {
    /// A missing `what`, as the caller named it.
    pub fn not_found(what: &'static str, name: impl ToString) -> Self {
        Self::NotFound {
            what: what.into(),
            name: name.to_string(),
        }
    }

    /// The shard has, or may have, another owner.
    #[must_use]
    pub fn moved() -> Self {
        Self::Unavailable {
            what: "the shard is moving to another owner".to_owned(),
            retry_after: Duration::from_secs(1),
        }
    }

    /// What a submitter is told when the log did not take a task.
    #[must_use]
    pub fn of_append(kind: FailureKind) -> Self {
        let unavailable = |what: &str, seconds| Self::Unavailable {
            what: what.to_owned(),
            retry_after: Duration::from_secs(seconds),
        };
        match kind {
            FailureKind::Unavailable => unavailable("the log cannot be reached", 1),
            FailureKind::Closed => {
                Self::WrongState("the pipeline is being deleted: it takes no more tasks".to_owned())
            }
            FailureKind::Full => unavailable("the log has no room for more tasks", 10),
            FailureKind::Unknown => Self::UnknownOutcome {
                what: "the submit".into(),
            },
            FailureKind::Damaged => Self::Internal("the log is damaged".to_owned()),
        }
    }

    /// How long a caller should wait before it tries again, if trying again can help.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Overloaded { retry_after, .. } | Self::Unavailable { retry_after, .. } => {
                Some(*retry_after)
            }
            _ => None,
        }
    }
}
