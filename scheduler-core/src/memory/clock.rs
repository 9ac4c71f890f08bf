//! A clock that stands still until a test moves it.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio::sync::Notify;

use super::lock;
use crate::{Timestamp, port::Clock};

/// A clock that shows what it was told. Clones are the same clock.
#[derive(Debug, Clone)]
pub struct ManualClock {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    now: Mutex<Timestamp>,
    moved: Notify,
}

impl ManualClock {
    /// A clock that shows `now`.
    #[must_use]
    pub fn at(now: Timestamp) -> Self {
        Self {
            shared: Arc::new(Shared {
                now: Mutex::new(now),
                moved: Notify::new(),
            }),
        }
    }

    /// Moves the clock forward to `now` and wakes who waited for it; a clock never goes back.
    pub fn move_to(&self, now: Timestamp) {
        {
            let mut shown = lock(&self.shared.now);
            *shown = now.max(*shown);
        }
        self.shared.moved.notify_waiters();
    }
}

#[async_trait]
impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *lock(&self.shared.now)
    }

    async fn sleep_until(&self, deadline: Timestamp) {
        loop {
            // Registered before the look, so that a move in between is not missed.
            let moved = self.shared.moved.notified();
            if self.now() >= deadline {
                return;
            }
            moved.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_sleeper_wakes_when_its_time_has_come_and_not_before() {
        let start = Timestamp::from_millis(1_000);
        let clock = ManualClock::at(start);
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move {
                clock.sleep_until(start + Duration::from_secs(2)).await;
                clock.now()
            }
        });
        tokio::task::yield_now().await;
        clock.move_to(start + Duration::from_secs(1));
        tokio::task::yield_now().await;
        assert!(!sleeper.is_finished());
        clock.move_to(start + Duration::from_secs(3));
        assert_eq!(sleeper.await.unwrap(), start + Duration::from_secs(3));
    }

    #[test]
    fn the_clock_never_goes_back() {
        let clock = ManualClock::at(Timestamp::from_millis(5));
        clock.move_to(Timestamp::from_millis(3));
        assert_eq!(clock.now(), Timestamp::from_millis(5));
    }
}
