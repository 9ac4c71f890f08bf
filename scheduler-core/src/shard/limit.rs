//! Counts what a limit counts: tasks that run, and starts by a token bucket.

use std::collections::BTreeSet;

use crate::{
    Offset, Timestamp,
    explain::HOLDERS_MAX,
    pipeline::limits::{Limit, Rate},
};

/// What keeps a limit closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closed {
    /// So many run, which is the limit: it opens when one of them ends.
    Full(u32),
    /// It opens at this time.
    Until(Timestamp),
}

/// What one limit has counted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gauge {
    n_running: u32,
    /// Those that run, where a limit makes them worth knowing.
    holders: BTreeSet<Offset>,
    bucket: Option<Bucket>,
}

/// Tokens, in parts of which `per` (in milliseconds) make one, so that nothing is rounded.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    n_parts: u64,
    at: Timestamp,
}

impl Bucket {
    /// The tokens at `now`.
    fn filled(self, rate: Rate, now: Timestamp) -> Self {
        let passed = now.as_millis().saturating_sub(self.at.as_millis());
        let n_parts = passed.saturating_mul(u64::from(rate.n));
        Self {
            n_parts: self.n_parts.saturating_add(n_parts).min(size(rate)),
            at: self.at.max(now),
        }
    }
}

/// Parts of one token.
fn token(rate: Rate) -> u64 {
    u64::try_from(rate.per.as_millis())
        .unwrap_or(u64::MAX)
        .max(1)
}

fn size(rate: Rate) -> u64 {
    token(rate).saturating_mul(u64::from(rate.n))
}

impl Gauge {
    /// What keeps another task from starting, if anything does.
    pub(crate) fn closed(&self, limit: &Limit, now: Timestamp) -> Option<Closed> {
        if let Some(max) = limit.concurrency
            && self.n_running >= max
        {
            return Some(Closed::Full(max));
        }
        let rate = limit.rate?;
        let missing = token(rate).checked_sub(self.bucket?.filled(rate, now).n_parts)?;
        (missing > 0).then(|| {
            let wait = missing.div_ceil(u64::from(rate.n));
            Closed::Until(Timestamp::from_millis(now.as_millis().saturating_add(wait)))
        })
    }

    /// How many tasks may start now.
    pub(crate) fn room(&self, limit: &Limit, now: Timestamp) -> usize {
        let room = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let free = limit.concurrency.map_or(usize::MAX, |max| {
            room(u64::from(max.saturating_sub(self.n_running)))
        });
        let tokens = limit.rate.map_or(usize::MAX, |rate| {
            let bucket = self.bucket.map(|bucket| bucket.filled(rate, now).n_parts);
            room(bucket.unwrap_or(size(rate)) / token(rate))
        });
        free.min(tokens)
    }

    /// Counts a task that starts. A start is never refused here: one that an earlier owner made counts, too.
    pub(crate) fn started(&mut self, limit: &Limit, now: Timestamp) {
        self.n_running += 1;
        self.bucket = limit.rate.map(|rate| {
            let full = Bucket {
                n_parts: size(rate),
                at: now,
            };
            let mut bucket = self.bucket.unwrap_or(full).filled(rate, now);
            bucket.n_parts = bucket.n_parts.saturating_sub(token(rate));
            bucket
        });
    }

    pub(crate) fn stopped(&mut self) {
        self.n_running = self.n_running.saturating_sub(1);
    }

    /// Remembers which task it is that starts, so that those who wait can be told.
    pub(super) fn note_holder(&mut self, limit: &Limit, offset: Offset) {
        if limit.concurrency.is_some() {
            self.holders.insert(offset);
        }
    }

    pub(super) fn forget_holder(&mut self, offset: Offset) {
        self.holders.remove(&offset);
    }

    /// Some of those that run.
    pub(super) fn holders(&self) -> Vec<Offset> {
        self.holders.iter().take(HOLDERS_MAX).copied().collect()
    }

    pub(super) fn n_running(&self) -> u32 {
        self.n_running
    }

    /// Whether it remembers nothing that a new one would not say.
    pub(super) fn is_fresh(&self, limit: &Limit, now: Timestamp) -> bool {
        let is_full = match (self.bucket, limit.rate) {
            (Some(bucket), Some(rate)) => bucket.filled(rate, now).n_parts == size(rate),
            (None, _) | (_, None) => true,
        };
        self.n_running == 0 && is_full
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// In no stretch of time do more start than the bucket holds and gets in it, and whoever waits until the time
        /// that is told can start, and not before.
        #[test]
        fn starts_are_as_many_as_the_rate_says(
            n in 1u32..20, per in 1u64..5_000, waits in prop::collection::vec(0u64..2_000, 1..200),
        ) {
            let rate = Rate { n, per: Duration::from_millis(per) };
            let limit = Limit { concurrency: None, rate: Some(rate) };
            let mut gauge = Gauge::default();
            let mut now = 1_000_000;
            let mut starts = Vec::new();
            for wait in waits {
                now += wait;
                match gauge.closed(&limit, Timestamp::from_millis(now)) {
                    None => {
                        gauge.started(&limit, Timestamp::from_millis(now));
                        starts.push(now);
                    }
                    Some(Closed::Until(at)) => {
                        prop_assert!(at > Timestamp::from_millis(now));
                        let before = Timestamp::from_millis(at.as_millis() - 1);
                        prop_assert!(gauge.closed(&limit, before).is_some());
                        prop_assert_eq!(gauge.closed(&limit, at), None);
                    }
                    Some(Closed::Full(_)) => prop_assert!(false),
                }
            }
            for (i, first) in starts.iter().enumerate() {
                for (j, last) in starts.iter().enumerate().skip(i) {
                    let n_started = (j - i + 1) as u64;
                    let n_allowed = u64::from(n) + (last - first) * u64::from(n) / per;
                    prop_assert!(n_started <= n_allowed, "{n_started} in {} ms", last - first);
                }
            }
        }

        #[test]
        fn no_more_run_than_may(max in 1u32..10, steps in prop::collection::vec(any::<bool>(), 0..200)) {
            let limit = Limit { concurrency: Some(max), rate: None };
            let mut gauge = Gauge::default();
            let mut n_running = 0;
            for is_start in steps {
                let now = Timestamp::EPOCH;
                prop_assert_eq!(gauge.closed(&limit, now), (n_running == max).then_some(Closed::Full(max)));
                if is_start && n_running < max {
                    gauge.started(&limit, now);
                    n_running += 1;
                } else if !is_start && n_running > 0 {
                    gauge.stopped();
                    n_running -= 1;
                }
            }
        }
    }
}
