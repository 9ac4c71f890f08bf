//! The port of time.

use std::fmt::Debug;

use async_trait::async_trait;

use crate::Timestamp;

/// Tells the time and waits for it.
///
/// # Contract
/// - `now` MUST never go back while the process runs, and MUST follow the wall clock by running a
///   little faster or slower, never by a jump.
/// - `sleep_until` MUST NOT return before `now` has reached the deadline.
#[cfg_attr(feature = "mocks", mockall::automock)]
#[async_trait]
pub trait Clock: Debug + Send + Sync {
    /// The time now.
    fn now(&self) -> Timestamp;

    /// Waits until `deadline`.
    ///
    /// # Cancel safety
    /// Dropping it has no effect.
    async fn sleep_until(&self, deadline: Timestamp);
}
