//! Why a task does not run, and what will change that.

mod tally;

use std::{borrow::Cow, collections::BTreeSet, fmt};

pub use self::tally::Tally;
use crate::{
    TaskId, TenantName, Timestamp,
    task::{GroupName, Label, OrderingKey},
};

/// How many tasks a [`Blocker`] names at most.
pub const HOLDERS_MAX: usize = 8;

/// Whose limit it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// The pipeline's, in this partition.
    Pipeline,
    /// The pipeline's for one group.
    Group(GroupName),
    /// The tenant's, on this member.
    Tenant(TenantName),
}

/// What a task waits for before anything else.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Blocker {
    /// Its shard has not read it yet, since so many are before it.
    Backlog,
    /// It was asked to run later, or its worker put it off.
    Scheduled {
        /// Until then.
        until: Timestamp,
    },
    /// It failed, and is tried again later.
    Backoff {
        /// Until then.
        until: Timestamp,
    },
    /// Its last change is being saved.
    Saving,
    /// It is being looked up whether its idempotency key makes it a repetition.
    Repetition,
    /// Its shard has moved after a crash: a worker may still have it, and has until then to say so.
    Adoption {
        /// Until then.
        until: Timestamp,
    },
    /// The pipeline is paused.
    Paused {
        /// By whom.
        by: String,
        /// Why.
        reason: String,
        /// Since when.
        since: Timestamp,
    },
    /// Everything fails in this pipeline, so that only one task after the other is tried.
    Failing {
        /// Since when.
        since: Timestamp,
        /// The code of the failure that showed it.
        code: String,
        /// Its message.
        message: String,
        /// When the next task is tried.
        probe_at: Timestamp,
    },
    /// Another task with its ordering key goes first.
    Key {
        /// The key.
        key: OrderingKey,
        /// The task that holds the key, or is next; unknown while the store is asked.
        behind: Option<TaskId>,
    },
    /// So many run as may.
    Concurrency {
        /// Whose limit it is.
        scope: Scope,
        /// The limit.
        max: u32,
        /// Some of those that run, at most [`HOLDERS_MAX`].
        holders: Vec<TaskId>,
    },
    /// So many have started lately as may.
    Rate {
        /// Whose limit it is.
        scope: Scope,
        /// When the next may start.
        until: Timestamp,
    },
    /// It was moved out of the way of others that workers can take, since no worker took it.
    Aside {
        /// It is looked at again then.
        until: Timestamp,
    },
    /// No worker asks that has its labels and so many slots free.
    Worker {
        /// The labels.
        labels: BTreeSet<Label>,
        /// The slots.
        cost: u16,
    },
    /// Others go first.
    Turn,
}

impl Blocker {
    /// Its stable name, for programs and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Backlog => "backlog",
            Self::Scheduled { .. } => "scheduled",
            Self::Backoff { .. } => "backoff",
            Self::Saving => "saving",
            Self::Repetition => "repetition",
            Self::Adoption { .. } => "adoption",
            Self::Paused { .. } => "paused",
            Self::Failing { .. } => "failing",
            Self::Key { .. } => "key",
            Self::Concurrency { .. } => "concurrency",
            Self::Rate { .. } => "rate",
            Self::Aside { .. } => "aside",
            Self::Worker { .. } => "worker",
            Self::Turn => "turn",
        }
    }

    /// When it surely ends by itself, if that is known.
    #[must_use]
    pub const fn until(&self) -> Option<Timestamp> {
        match self {
            Self::Scheduled { until }
            | Self::Backoff { until }
            | Self::Adoption { until }
            | Self::Rate { until, .. }
            | Self::Aside { until } => Some(*until),
            Self::Failing { probe_at, .. } => Some(*probe_at),
            Self::Backlog
            | Self::Saving
            | Self::Repetition
            | Self::Paused { .. }
            | Self::Key { .. }
            | Self::Concurrency { .. }
            | Self::Worker { .. }
            | Self::Turn => None,
        }
    }

    /// Tasks that it waits for.
    #[must_use]
    pub fn tasks(&self) -> &[TaskId] {
        match self {
            Self::Key { behind, .. } => behind.as_slice(),
            Self::Concurrency { holders, .. } => holders,
            _ => &[],
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pipeline => f.write_str("the pipeline"),
            Self::Group(group) => write!(f, "group {group}"),
            Self::Tenant(tenant) => write!(f, "tenant {tenant}"),
        }
    }
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backlog => f.write_str("it waits in the log, where others are before it"),
            Self::Scheduled { .. } => f.write_str("it was asked to run later"),
            Self::Backoff { .. } => f.write_str("it failed and is tried again later"),
            Self::Saving => f.write_str("its last change is being saved"),
            Self::Repetition => f.write_str("its idempotency key is being looked up"),
            Self::Adoption { .. } => f.write_str(
                "its scheduler has changed after a crash, and a worker may still have it",
            ),
            Self::Paused { by, reason, .. } => {
                write!(f, "the pipeline was paused by {by}: {reason}")
            }
            Self::Failing { code, message, .. } => write!(
                f,
                "all tasks of the pipeline fail, so only one at a time is tried; last: {code}: {message}"
            ),
            Self::Key { key, .. } => write!(f, "another task with the key {key} goes first"),
            Self::Concurrency { scope, max, .. } => {
                write!(f, "{max} tasks of {scope} run, which is the limit")
            }
            Self::Rate { scope, .. } => {
                write!(f, "as many tasks of {scope} have started lately as may")
            }
            Self::Aside { .. } => {
                f.write_str("no worker took it, so it makes room for others for a while")
            }
            Self::Worker { labels, cost } => {
                let labels: Vec<_> = labels.iter().map(Label::as_str).collect();
                let labels = labels.join(", ");
                write!(
                    f,
                    "no worker asks that has {cost} free slots and the labels [{labels}]"
                )
            }
            Self::Turn => f.write_str("others go first"),
        }
    }
}

/// Why a task waits, and about how many are before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waits {
    /// The first thing that it waits for.
    pub blocker: Blocker,
    /// How many tasks of its shard that can run go before it, about; `None` where that says nothing.
    pub ahead: Option<Ahead>,
}

/// How many go before a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ahead {
    /// About so many, if priorities are mixed evenly.
    pub about: u64,
    /// At most so many of those that wait now.
    pub at_most: u64,
}

/// What is told of [`Waits`], in the same words everywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// [`Blocker::name`].
    pub reason: Cow<'static, str>,
    /// For people: a sentence without its full stop.
    pub text: String,
    /// When it surely ends by itself, if that is known.
    pub until: Option<Timestamp>,
    /// Tasks that it waits for, at most [`HOLDERS_MAX`].
    pub tasks: Vec<TaskId>,
    /// How many go before it.
    pub ahead: Option<Ahead>,
}

impl Waiting {
    /// Whether its last change is being saved, so that the store may know more of it than its owner shows.
    #[must_use]
    pub fn is_saving(&self) -> bool {
        self.reason == Blocker::Saving.name()
    }
}

impl From<Waits> for Waiting {
    fn from(waits: Waits) -> Self {
        let blocker = &waits.blocker;
        Self {
            reason: blocker.name().into(),
            text: blocker.to_string(),
            until: blocker.until(),
            tasks: blocker.tasks().to_vec(),
            ahead: waits.ahead,
        }
    }
}

impl From<Blocker> for Waits {
    fn from(blocker: Blocker) -> Self {
        Self {
            blocker,
            ahead: None,
        }
    }
}
