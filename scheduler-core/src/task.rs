//! One task: what is submitted, what a worker gets and reports, and the machine between them.

pub mod event;
pub mod options;
pub mod retry;
mod silence;
pub mod state;

use std::time::Duration;

use bytes::Bytes;

pub use self::options::{
    CancelId, ErrorCode, GroupName, IdempotencyKey, Label, OrderingKey, Priority, Retention,
    TaskOptions,
};
use crate::{LeaseToken, Timestamp, WorkerId};

/// The longest message of a failure in bytes; longer ones are cut.
pub const MESSAGE_LEN_MAX: usize = 4 * 1024;
/// The longest detail of a failure in bytes; longer ones are refused.
pub const DETAIL_LEN_MAX: usize = 256 * 1024;

/// How many errors one task keeps, the newest ones.
pub const ERRORS_MAX: usize = 100;

/// How many bytes of details one task keeps, of its newest failures.
pub const DETAILS_LEN_MAX: usize = 4 * DETAIL_LEN_MAX;

/// What a worker says became of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It worked. The result is a JSON value.
    Completed {
        /// The result.
        result: Bytes,
    },
    /// It did not.
    Failed(Failure),
    /// The worker cannot finish it (it shuts down). Costs no attempt; the task is available at once.
    Interrupted,
    /// Not now. Costs no attempt; the task is available again after this time.
    Snoozed(Duration),
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// For programs.
    pub code: ErrorCode,
    /// For people.
    pub message: String,
    /// Whether another attempt can help. Codes listed in `non_retryable` are never retried.
    pub retryable: bool,
    /// A JSON value with more, or empty: an agent puts the steps with their output here.
    pub detail: Bytes,
}

impl Failure {
    /// What failures of one cause have in common: the code, and the message without its words that have digits (ids,
    /// times, sizes), at most 256 of them. FNV-1a, 64 bit.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let words = self.message.split(|c: char| !c.is_alphanumeric());
        let words = words.filter(|word| !word.contains(|c: char| c.is_ascii_digit()));
        let message = words.filter(|word| !word.is_empty()).take(256);
        let all = std::iter::once(self.code.as_str()).chain(message);
        let bytes = all.flat_map(|word| word.bytes().chain(std::iter::once(b' ')));
        fnv1a(bytes)
    }
}

/// FNV-1a, 64 bit.
pub(crate) fn fnv1a(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// What went wrong in one attempt; kept with the task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptError {
    /// Which attempt, from 1.
    pub attempt: u32,
    /// Under which lease.
    pub token: LeaseToken,
    /// Who had it.
    pub worker: WorkerId,
    /// When it was noticed.
    pub at: Timestamp,
    /// What.
    pub failure: Failure,
}

#[cfg(test)]
pub(crate) mod tests;
