//! When a failed attempt is tried again.

use std::time::Duration;

use crate::Invalid;

/// The most attempts a task may have.
pub const ATTEMPTS_MAX: u32 = 100;

/// How far a wait is spread at random, so that tasks that failed together do not come back together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Jitter {
    /// Wait exactly the computed time.
    None,
    /// Wait anything from zero to the computed time, evenly ("full jitter" of the AWS Architecture
    /// Blog, "Exponential Backoff And Jitter", 2015).
    Full,
}

/// How often and when a task is tried again: before attempt n + 1 it waits `initial · factorⁿ⁻¹`, at most `max`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPolicy {
    /// Attempts in all, the first included: 1 to [`ATTEMPTS_MAX`].
    pub max_attempts: u32,
    /// The wait after the first failure.
    pub initial: Duration,
    /// By how much each wait is longer than the one before: 1 to 100.
    pub factor: f64,
    /// The longest wait, at most 24 hours.
    pub max: Duration,
    /// How waits are spread.
    pub jitter: Jitter,
}

// `factor` is validated to be finite, so equality is total.
impl Eq for RetryPolicy {}

impl Default for RetryPolicy {
    /// 10 attempts, from 1 s doubling up to 5 min, with full jitter.
    fn default() -> Self {
        Self {
            max_attempts: 10,
            initial: Duration::from_secs(1),
            factor: 2.0,
            max: Duration::from_secs(300),
            jitter: Jitter::Full,
        }
    }
}

impl RetryPolicy {
    /// Checks every field against its documented range.
    ///
    /// # Errors
    /// The first field out of range.
    pub fn validate(&self) -> Result<(), Invalid> {
        if !(1..=ATTEMPTS_MAX).contains(&self.max_attempts) {
            return Err(Invalid::new("retry.max_attempts", "must be 1 to 100"));
        }
        if !(1.0..=100.0).contains(&self.factor) {
            return Err(Invalid::new("retry.factor", "must be 1 to 100"));
        }
        if self.max > Duration::from_secs(24 * 3600) {
            return Err(Invalid::new("retry.max", "must be at most 24h"));
        }
        if self.initial > self.max {
            return Err(Invalid::new("retry.initial", "must be at most retry.max"));
        }
        Ok(())
    }

    /// How long to wait after failed attempt number `attempt` (from 1), or `None` if that was the last.
    pub fn wait_after(&self, attempt: u32, rng: &mut fastrand::Rng) -> Option<Duration> {
        (attempt < self.max_attempts).then(|| self.wait(attempt, rng))
    }

    /// How long to wait at most after any attempt.
    pub fn longest_wait(&self, rng: &mut fastrand::Rng) -> Duration {
        self.wait(u32::MAX, rng)
    }

    fn wait(&self, attempt: u32, rng: &mut fastrand::Rng) -> Duration {
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let seconds = self.initial.as_secs_f64() * self.factor.powi(exponent);
        // `min` also takes care of an overflow to infinity.
        let longest = Duration::from_secs_f64(seconds.min(self.max.as_secs_f64()));
        match self.jitter {
            Jitter::None => longest,
            Jitter::Full => longest.mul_f64(rng.f64()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_end() {
        let policy = RetryPolicy {
            max_attempts: 6,
            max: Duration::from_secs(5),
            jitter: Jitter::None,
            ..RetryPolicy::default()
        };
        let mut rng = fastrand::Rng::with_seed(1);
        let waits: Vec<_> = (1..=6)
            .map(|attempt| {
                policy
                    .wait_after(attempt, &mut rng)
                    .map(|wait| wait.as_secs())
            })
            .collect();
        assert_eq!(waits, [Some(1), Some(2), Some(4), Some(5), Some(5), None]);
    }

    proptest! {
        /// The model multiplies once for each attempt, and stops at the longest.
        #[test]
        fn waits_are_those_of_a_loop_that_multiplies(
            n in 1u32..100, initial in 0u64..100_000, factor in 1.0f64..100.0, max in 100_000u64..86_400_000,
        ) {
            let policy = RetryPolicy {
                max_attempts: n + 1,
                initial: Duration::from_millis(initial),
                factor,
                max: Duration::from_millis(max),
                jitter: Jitter::None,
            };
            let mut rng = fastrand::Rng::with_seed(1);
            let mut wait = policy.initial.as_secs_f64();
            for attempt in 1..=n {
                let got = policy.wait_after(attempt, &mut rng);
                let got = got.map(|got| got.as_secs_f64());
                let is_near = got.is_some_and(|got| (got - wait).abs() <= 1e-9 * wait.max(1.0));
                prop_assert!(is_near, "{:?} instead of {} after attempt {}", got, wait, attempt);
                wait = (wait * factor).min(policy.max.as_secs_f64());
            }
            prop_assert_eq!(policy.wait_after(n + 1, &mut rng), None);
        }

        #[test]
        fn a_spread_wait_is_never_longer_than_the_plain_one(
            attempt in 1u32..100, initial in 0u64..100_000, factor in 1.0f64..100.0, seed: u64,
        ) {
            let plain = RetryPolicy {
                max_attempts: 100,
                initial: Duration::from_millis(initial),
                factor,
                max: Duration::from_secs(300),
                jitter: Jitter::None,
            };
            let spread = RetryPolicy { jitter: Jitter::Full, ..plain };
            let mut rng = fastrand::Rng::with_seed(seed);
            let longest = plain.wait_after(attempt, &mut rng);
            prop_assert!(spread.wait_after(attempt, &mut rng) <= longest);
            prop_assert!(longest <= Some(plain.max));
        }
    }
}
