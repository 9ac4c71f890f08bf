//! A member's clock: anchored near the true time at start, a little fast or slow, never back.

use scheduler_core::Timestamp;

/// What a clock says, in terms of the true time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    since: Timestamp,
    said: u64,
    /// By how many thousandths it is faster than true time.
    drift: i64,
}

impl Clock {
    /// A clock that is so many milliseconds ahead.
    pub(super) fn new(now: Timestamp, ahead: i64, drift: i64) -> Self {
        Self {
            since: now,
            said: now.as_millis().saturating_add_signed(ahead),
            drift,
        }
    }

    pub(super) fn local(&self, now: Timestamp) -> Timestamp {
        let passed = now.as_millis().saturating_sub(self.since.as_millis());
        let rate = 1_000_u64.saturating_add_signed(self.drift);
        Timestamp::from_millis(self.said + passed * rate / 1_000)
    }

    /// From now on it runs at another rate.
    pub(super) fn slew(&mut self, now: Timestamp, drift: i64) {
        *self = Self {
            since: now,
            said: self.local(now).as_millis(),
            drift,
        };
    }

    /// The first true time at which it says `local` or more.
    pub(super) fn when(&self, local: Timestamp) -> Timestamp {
        let ahead = local.as_millis().saturating_sub(self.said);
        let rate = 1_000_u64.saturating_add_signed(self.drift);
        let passed = ahead.saturating_mul(1_000).div_ceil(rate);
        Timestamp::from_millis(self.since.as_millis().saturating_add(passed))
    }
}
