//! What a submitter may ask for a task, and a pipeline for all its tasks.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use crate::{Invalid, Timestamp, task::retry::RetryPolicy};

/// The longest `timeout` and `heartbeat_timeout`.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// The longest `retention`.
pub const RETENTION_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
/// How far ahead `run_at` may lie.
pub const DELAY_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
/// The most labels a task may ask for, and a worker may have.
pub const LABELS_MAX: usize = 16;
/// The most slots a task may take.
pub const COST_MAX: u16 = 256;

macro_rules! bounded_texts {
    ($($(#[$doc:meta])* $name:ident, $field:literal, $max:literal, $rule:literal;)+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// As text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<&str> for $name {
            type Error = Invalid;

            fn try_from(text: &str) -> Result<Self, Invalid> {
                if (1..=$max).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
                    Ok(Self(text.into()))
                } else {
                    Err(Invalid::new($field, $rule))
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )+};
}

bounded_texts! {
    /// Makes repeated submits one task: 1 to 255 printable ASCII characters without spaces.
    IdempotencyKey, "idempotency_key", 255, "must be 1 to 255 printable ASCII characters without spaces";
    /// Tasks with one ordering key start one at a time, in the order in which they were accepted: 1 to 255
    /// printable ASCII characters without spaces. It is the key of the task's Kafka record.
    OrderingKey, "key", 255, "must be 1 to 255 printable ASCII characters without spaces";
    /// Tasks of one group share limits, in no order: 1 to 64 printable ASCII characters without spaces.
    GroupName, "group", 64, "must be 1 to 64 printable ASCII characters without spaces";
    /// What a worker must have to get a task, such as `gpu` or `zone=eu`: 1 to 64 printable ASCII characters
    /// without spaces.
    Label, "labels", 64, "must each be 1 to 64 printable ASCII characters without spaces";
    /// Names a bulk cancel, so that a repeated call is the same one: 1 to 64 printable ASCII characters without spaces.
    CancelId, "id", 64, "must be 1 to 64 printable ASCII characters without spaces";
    /// A failure's stable name, for programs: 1 to 64 printable ASCII characters without spaces.
    ErrorCode, "code", 64, "must be 1 to 64 printable ASCII characters without spaces";
}

impl ErrorCode {
    /// One of the scheduler's own codes.
    pub(crate) fn own(code: &'static str) -> Self {
        Self(code.into())
    }
}

/// How much a task is preferred to others that wait: 0 to 9, of which 9 goes first.
///
/// Each step is worth the same head start in age, so a task of low priority waits at most
/// [`Config::priority_wait_max`](crate::Config::priority_wait_max) longer than one of high priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(u8);

impl Priority {
    /// Goes first.
    pub const HIGHEST: Self = Self(9);

    /// As a number.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl Default for Priority {
    /// 4, so that there is room on both sides.
    fn default() -> Self {
        Self(4)
    }
}

impl TryFrom<u32> for Priority {
    type Error = Invalid;

    fn try_from(number: u32) -> Result<Self, Invalid> {
        match u8::try_from(number) {
            Ok(number) if number <= Self::HIGHEST.0 => Ok(Self(number)),
            _ => Err(Invalid::new(
                "priority",
                "must be 0 to 9, of which 9 goes first",
            )),
        }
    }
}

/// How long the result of an ended task can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// Every ended task is kept this long.
    For(Duration),
    /// Only what failed is kept, this long: `discarded` and `cancelled`.
    Failures(Duration),
    /// Nothing is kept but what was discarded, which is a dead letter and needs someone's eyes.
    None,
}

impl Default for Retention {
    /// Seven days.
    fn default() -> Self {
        Self::For(Duration::from_secs(7 * 24 * 3600))
    }
}

/// What is asked for one task; what is `None` comes from the pipeline, then from the system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskOptions {
    /// Not before this time.
    pub run_at: Option<Timestamp>,
    /// How much it is preferred to others; without it, [`Priority::default`].
    pub priority: Option<Priority>,
    /// Tasks with the same key start one at a time, in the order in which they were accepted, across retries. One
    /// that is scheduled joins its key when it is due.
    pub key: Option<OrderingKey>,
    /// Shares the pipeline's limits for groups with the others of its name.
    pub group: Option<GroupName>,
    /// Repeated submits with one key are one task.
    pub idempotency_key: Option<IdempotencyKey>,
    /// If its first attempt has not begun by then, it is discarded.
    pub expires_at: Option<Timestamp>,
    /// How long it may take from the begin of its first attempt, over all attempts and the waits between.
    pub total_timeout: Option<Duration>,
    /// Labels that a worker must have, all of them.
    pub labels: Option<BTreeSet<Label>>,
    /// How many slots of a worker it takes: 1 to [`COST_MAX`]. Without it, 1.
    pub cost: Option<u16>,
    /// How long one attempt may take. Without it an attempt may take as long as its lease is renewed.
    pub timeout: Option<Duration>,
    /// How long the handler itself may be silent. Without it, only the worker's lease must be renewed.
    pub heartbeat_timeout: Option<Duration>,
    /// When failed attempts are tried again.
    pub retry: Option<RetryPolicy>,
    /// Failures that no further attempt can mend.
    pub non_retryable: Option<Vec<ErrorCode>>,
    /// How long the result is kept.
    pub retention: Option<Retention>,
    /// Small values that travel with the task and are shown with it.
    pub metadata: BTreeMap<String, String>,
}

impl TaskOptions {
    /// Checks every option against its documented range.
    ///
    /// # Errors
    /// The first option out of range.
    pub fn validate(&self) -> Result<(), Invalid> {
        let within = |field: &'static str, value: Option<Duration>, max: Duration| match value {
            Some(value) if value < Duration::from_millis(10) || value > max => {
                let rule = format!("must be 10ms to {}h", max.as_secs() / 3600);
                Err(Invalid::new(field, rule))
            }
            _ => Ok(()),
        };
        within("timeout", self.timeout, TIMEOUT_MAX)?;
        within("heartbeat_timeout", self.heartbeat_timeout, TIMEOUT_MAX)?;
        within("total_timeout", self.total_timeout, RETENTION_MAX)?;
        if self
            .cost
            .is_some_and(|cost| !(1..=COST_MAX).contains(&cost))
        {
            return Err(Invalid::new("cost", "must be 1 to 256 slots"));
        }
        if self
            .labels
            .as_ref()
            .is_some_and(|labels| labels.len() > LABELS_MAX)
        {
            return Err(Invalid::new("labels", "must be at most 16"));
        }
        let never_starts = |expires_at| self.run_at.is_some_and(|run_at| expires_at <= run_at);
        if self.expires_at.is_some_and(never_starts) {
            return Err(Invalid::new("expires_at", "must be later than run_at"));
        }
        if let Some(Retention::For(kept) | Retention::Failures(kept)) = self.retention {
            within("retention", Some(kept), RETENTION_MAX)?;
        }
        if let Some(retry) = self.retry {
            retry.validate()?;
        }
        if self
            .non_retryable
            .as_ref()
            .is_some_and(|codes| codes.len() > 64)
        {
            return Err(Invalid::new("non_retryable", "must have at most 64 codes"));
        }
        let too_many = self.metadata.len() > 32;
        let too_long =
            |(key, value): (&String, &String)| !(1..=64).contains(&key.len()) || value.len() > 1024;
        if too_many || self.metadata.iter().any(too_long) {
            let rule =
                "must have at most 32 entries, keys of 1 to 64 and values of at most 1024 bytes";
            return Err(Invalid::new("metadata", rule));
        }
        Ok(())
    }

    /// Bytes of its texts.
    #[must_use]
    pub fn n_bytes(&self) -> usize {
        let metadata = self.metadata.iter();
        let metadata: usize = metadata.map(|(key, value)| key.len() + value.len()).sum();
        let codes = self.non_retryable.iter().flatten();
        let codes: usize = codes.map(|code| code.as_str().len()).sum();
        let labels = self.labels.iter().flatten();
        let labels: usize = labels.map(|label| label.as_str().len()).sum();
        let names = [
            self.idempotency_key.as_ref().map(IdempotencyKey::as_str),
            self.key.as_ref().map(OrderingKey::as_str),
            self.group.as_ref().map(GroupName::as_str),
        ];
        let names: usize = names.into_iter().flatten().map(str::len).sum();
        metadata + codes + labels + names
    }

    /// Whether nothing is asked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
