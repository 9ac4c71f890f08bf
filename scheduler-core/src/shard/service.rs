//! What a shard has used of workers: slots, and for how long.

use crate::Timestamp;

/// What a shard has used of workers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Service {
    /// Slots that its tasks take now.
    pub n_slots: u64,
    /// Slots times milliseconds, until `at`.
    pub slot_millis: u64,
    /// When that was counted.
    pub at: Timestamp,
    /// Tasks that were started so far.
    pub n_started: u64,
    /// Tasks that run.
    pub n_running: u64,
}

impl Service {
    fn count(&mut self, now: Timestamp) {
        let passed = now.as_millis().saturating_sub(self.at.as_millis());
        self.slot_millis += self.n_slots * passed;
        self.at = self.at.max(now);
    }

    /// The same, but that nothing runs.
    #[must_use]
    pub fn idle(self) -> Self {
        Self {
            n_slots: 0,
            n_running: 0,
            ..self
        }
    }

    pub(super) fn started(&mut self, cost: u16, now: Timestamp) {
        self.count(now);
        self.n_slots += u64::from(cost);
        self.n_started += 1;
        self.n_running += 1;
    }

    pub(super) fn stopped(&mut self, cost: u16, now: Timestamp) {
        self.count(now);
        self.n_slots = self.n_slots.saturating_sub(u64::from(cost));
        self.n_running = self.n_running.saturating_sub(1);
    }
}
