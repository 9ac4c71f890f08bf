//! One call of a port: how long it may take, how often it tries, and what its failure means.

use std::{
    sync::atomic::{AtomicU8, AtomicU32, Ordering},
    time::Duration,
};

use scheduler_core::port::{FailureKind, PortError};
use tokio::time::{Instant, sleep, timeout_at};

use crate::error::Cause;

/// A transaction is tried at most so often.
const TRIES_MAX: u32 = 8;
const WAIT_FIRST: Duration = Duration::from_millis(10);
const WAIT_LAST: Duration = Duration::from_millis(500);

const NOTHING: u8 = 0;
const UNSURE: u8 = 1;
const COMMITTED: u8 = 2;

/// Whether a transaction whose outcome is unknown may be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// Doing it twice is as doing it once.
    Safe,
    /// Doing it twice is something else.
    Unsafe,
}

/// One call of a port.
#[derive(Debug)]
pub(crate) struct Call {
    operation: &'static str,
    repeat: Repeat,
    ends_at: Instant,
    changed: AtomicU8,
    n_tries: AtomicU32,
}

impl Call {
    pub(crate) fn new(operation: &'static str, repeat: Repeat, timeout: Duration) -> Self {
        Self {
            operation,
            repeat,
            ends_at: Instant::now() + timeout,
            changed: AtomicU8::new(NOTHING),
            n_tries: AtomicU32::new(1),
        }
    }

    /// Does the work of the call, within its time. What is cut short is rolled back, unless its commit was on its way.
    pub(crate) async fn run<T>(
        &self,
        work: impl Future<Output = Result<T, PortError>>,
    ) -> Result<T, PortError> {
        let done = timeout_at(self.ends_at, work).await;
        done.unwrap_or_else(|_| {
            let kind = self.kind(FailureKind::Unavailable);
            Err(PortError::new(self.operation, kind).caused_by("there was no answer in time"))
        })
    }

    /// Notes that a COMMIT is on its way, and gives what to go back to if it surely fails.
    pub(crate) fn committing(&self) -> u8 {
        self.changed.fetch_max(UNSURE, Ordering::Relaxed)
    }

    /// Notes that a transaction has changed something, and that the next one begins to count its tries.
    pub(crate) fn committed(&self) {
        self.changed.store(COMMITTED, Ordering::Relaxed);
        self.n_tries.store(1, Ordering::Relaxed);
    }

    pub(crate) fn not_committed(&self, before: u8) {
        self.changed.store(before, Ordering::Relaxed);
    }

    /// Whether the outcome of the last COMMIT is unknown.
    pub(crate) fn is_unsure(&self) -> bool {
        self.changed.load(Ordering::Relaxed) == UNSURE
    }

    /// The failure of a call that is not tried again.
    pub(crate) fn failed(&self, err: sqlx::Error) -> PortError {
        let kind = self.kind(Cause::of(&err).kind());
        PortError::new(self.operation, kind).caused_by(err)
    }

    /// A failure whose outcome nobody can know.
    pub(crate) fn unknown(&self, what: &'static str) -> PortError {
        PortError::new(self.operation, FailureKind::Unknown).caused_by(what)
    }

    /// What is stored and must not be.
    pub(crate) fn damaged(&self, what: String) -> PortError {
        PortError::new(self.operation, FailureKind::Damaged).caused_by(what)
    }

    fn kind(&self, cause: FailureKind) -> FailureKind {
        match cause {
            // Once something was or may have been changed, nobody may think that nothing was.
            FailureKind::Unavailable | FailureKind::Full
                if self.changed.load(Ordering::Relaxed) != NOTHING =>
            {
                FailureKind::Unknown
            }
            kind => kind,
        }
    }

    /// Waits before another try of a transaction that failed, or says that there is none.
    pub(crate) async fn again(&self, err: sqlx::Error) -> Result<(), PortError> {
        let cause = Cause::of(&err);
        let n_tries = self.n_tries.fetch_add(1, Ordering::Relaxed);
        let is_unsure = self.is_unsure();
        let may_repeat = !is_unsure || self.repeat == Repeat::Safe;
        // After a COMMIT that nobody knows about, only another try tells what became of it.
        let can_help = cause.may_pass() || is_unsure && cause != Cause::Damaged;
        if !can_help || !may_repeat || n_tries >= TRIES_MAX {
            return Err(self.failed(err));
        }
        let wait = WAIT_LAST.min(WAIT_FIRST * (1 << n_tries.min(6)));
        tracing::debug!(%err, operation = self.operation, n_tries, "transaction tried again");
        sleep(wait.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        Ok(())
    }
}
