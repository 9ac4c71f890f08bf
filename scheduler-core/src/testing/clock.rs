//! The time of a paused tokio runtime as a port.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::Instant;

use crate::{Timestamp, port::Clock};

/// What every virtual clock shows first: 2023-11-14T22:13:20Z.
const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// The virtual time of the runtime that it was made in. Clones are the same clock.
#[derive(Debug, Clone)]
pub struct VirtualClock {
    start: Instant,
    n_looks: Arc<AtomicU64>,
}

impl VirtualClock {
    /// A clock that shows 2023-11-14T22:13:20Z, and goes on as the runtime's time does.
    #[must_use]
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            n_looks: Arc::default(),
        }
    }

    /// How often anyone has looked at it.
    pub(super) fn n_looks(&self) -> u64 {
        self.n_looks.load(Ordering::Relaxed)
    }
}

impl Default for VirtualClock {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        self.n_looks.fetch_add(1, Ordering::Relaxed);
        // A begun millisecond has not passed.
        let passed = self.start.elapsed().as_millis();
        let passed = u64::try_from(passed).unwrap_or(u64::MAX);
        START + Duration::from_millis(passed)
    }

    async fn sleep_until(&self, deadline: Timestamp) {
        match self.start.checked_add(deadline.since(START)) {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            // Later than anything that happens.
            None => std::future::pending().await,
        }
    }
}
