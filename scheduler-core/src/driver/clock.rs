//! The real clock: anchored to the wall clock at start, then only ever slewed towards it.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use tokio::time::Instant;

use crate::{Timestamp, port::Clock};

/// How often the wall clock is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How much faster or slower than real time the clock may run: a part in so many.
const SLEW: i64 = 200;

#[derive(Debug)]
struct Anchor {
    /// At this instant the clock said `millis`.
    instant: Instant,
    millis: i64,
    /// How far the wall clock was ahead then.
    ahead: i64,
}

/// A clock that follows the machine's wall clock without ever jumping or going back: after a jump of
/// the wall clock it runs at most half a percent faster or slower until both agree again.
#[derive(Debug)]
pub struct SystemClock {
    anchor: Mutex<Anchor>,
}

impl SystemClock {
    /// Starts at the wall clock's time.
    #[must_use]
    pub fn new() -> Self {
        Self {
            anchor: Mutex::new(Anchor {
                instant: Instant::now(),
                millis: wall_millis(),
                ahead: 0,
            }),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

fn wall_millis() -> i64 {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the wall clock"
    )]
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    since_epoch.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}

impl Anchor {
    fn at(&self, instant: Instant) -> i64 {
        let passed = instant.saturating_duration_since(self.instant).as_millis();
        let passed = i64::try_from(passed).unwrap_or(i64::MAX);
        let slew = passed / SLEW;
        self.millis + passed + self.ahead.clamp(-slew, slew)
    }
}

#[async_trait]
impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let instant = Instant::now();
        let mut anchor = self.anchor.lock().unwrap_or_else(PoisonError::into_inner);
        let millis = anchor.at(instant);
        if instant.saturating_duration_since(anchor.instant) >= LOOK_EVERY {
            *anchor = Anchor {
                instant,
                millis,
                ahead: wall_millis() - millis,
            };
        }
        Timestamp::from_millis(millis.unsigned_abs())
    }

    async fn sleep_until(&self, deadline: Timestamp) {
        loop {
            let wait = deadline.since(self.now());
            if wait.is_zero() {
                return;
            }
            #[expect(
                clippy::disallowed_methods,
                reason = "this is what everyone else sleeps through"
            )]
            tokio::time::sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_of_the_wall_clock_is_slewed() {
        let instant = Instant::now();
        let mut anchor = Anchor {
            instant,
            millis: 1_000_000,
            ahead: 3_600_000,
        };
        let hour = Duration::from_secs(3600);
        assert_eq!(anchor.at(instant), 1_000_000);
        assert_eq!(anchor.at(instant + hour), 1_000_000 + 3_600_000 + 18_000);
        anchor.ahead = -3_600_000;
        assert_eq!(anchor.at(instant + hour), 1_000_000 + 3_600_000 - 18_000);
    }
}
