//! How many tasks of a pipeline may run at once, and how many may start in a while.

use std::time::Duration;

use crate::Invalid;

/// The longest time that a [`Rate`] may count.
pub const RATE_PER_MAX: Duration = Duration::from_secs(24 * 3600);
/// The most tasks that a [`Rate`] may let start in its time.
pub const RATE_MAX: u32 = 1_000_000;

/// So many starts in so much time: a token bucket that holds `n` tokens and gets `n` in each `per`, so that after a
/// quiet time `n` tasks may start at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Starts: 1 to [`RATE_MAX`].
    pub n: u32,
    /// In this time: a millisecond to [`RATE_PER_MAX`], in whole milliseconds.
    pub per: Duration,
}

/// How much may go on at once. What is `None` has no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limit {
    /// So many tasks run at once.
    pub concurrency: Option<u32>,
    /// So many start in a while.
    pub rate: Option<Rate>,
}

/// The limits of a pipeline. Each partition counts for itself; tasks of one group that have no key are all in one
/// partition, so their limit holds for the whole pipeline.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// For all its tasks.
    pub all: Limit,
    /// For the tasks of each group.
    pub group: Limit,
}

impl Limit {
    /// Whether it limits nothing.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn validate(&self, field: &'static str) -> Result<(), Invalid> {
        if self.concurrency == Some(0) {
            let rule = "must be at least 1; pause the pipeline to start nothing";
            return Err(Invalid::new(format!("{field}.concurrency"), rule));
        }
        if let Some(Rate { n, per }) = self.rate {
            let is_whole = per.subsec_nanos() % 1_000_000 == 0;
            let is_within = (Duration::from_millis(1)..=RATE_PER_MAX).contains(&per);
            if !(1..=RATE_MAX).contains(&n) || !is_within || !is_whole {
                let rule = "must be 1 to 1000000 starts per 1ms to 24h, in whole milliseconds";
                return Err(Invalid::new(format!("{field}.rate"), rule));
            }
        }
        Ok(())
    }
}

impl Limits {
    /// Checks every limit against its documented range.
    ///
    /// # Errors
    /// The first limit out of range.
    pub fn validate(&self) -> Result<(), Invalid> {
        self.all.validate("limits")?;
        self.group.validate("limits.group")
    }
}
