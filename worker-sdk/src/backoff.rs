//! How long to wait before something that failed is tried again.

use std::time::Duration;

/// The wait after the first failure, and the longest.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// Doubles the wait with every failure, spread by half so that workers that failed together do not
/// come back together.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    n_failures: u32,
}

impl Backoff {
    /// Back to the first wait.
    pub(crate) fn reset(&mut self) {
        self.n_failures = 0;
    }

    /// Counts a failure; answers how long to wait, and at least as long as the other side asked.
    pub(crate) fn failed(&mut self, asked: Option<Duration>) -> Duration {
        let doubled = FIRST.saturating_mul(2_u32.saturating_pow(self.n_failures.min(16)));
        self.n_failures = self.n_failures.saturating_add(1);
        let spread = doubled.min(LONGEST).mul_f64(0.5 + fastrand::f64() / 2.0);
        spread.max(asked.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_the_longest_and_start_again() {
        let mut backoff = Backoff::default();
        assert!(backoff.failed(None) <= FIRST);
        for _ in 0..100 {
            assert!(backoff.failed(None) <= LONGEST);
        }
        assert!(backoff.failed(None) >= LONGEST / 2);
        assert_eq!(backoff.failed(Some(LONGEST * 2)), LONGEST * 2);
        backoff.reset();
        assert!(backoff.failed(None) <= FIRST);
    }
}
