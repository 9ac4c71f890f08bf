//! Leases that ended by silence alone: offers that nobody touched, and attempts that go on after all.

use bytes::Bytes;

use crate::{
    LeaseToken, Timestamp, WorkerId,
    task::{
        AttemptError,
        event::{LEASE_EXPIRED, is_own},
        state::{Rules, State, Task, Untouched},
    },
};

/// So many offers in a row may run out. The next one is a lease: a task that kills its workers before they can
/// touch it must use up its attempts.
const UNTOUCHED_MAX: u32 = 3;

impl Task {
    /// Makes the lease that has just begun an offer, unless too many have run out.
    pub(super) fn offer(&mut self, now: Timestamp, rules: &Rules) {
        let n_untouched = self.untouched().map_or(0, |untouched| untouched.n);
        if n_untouched < UNTOUCHED_MAX
            && let State::Running(lease) = &mut self.state
        {
            lease.is_offer = true;
            lease.expires_at = now + rules.offer;
        }
    }

    pub(super) fn forget_untouched(&mut self) {
        if let Some(rare) = &mut self.rare {
            rare.untouched = None;
        }
    }

    /// Whether the newest lease was an offer that ran out.
    pub(crate) fn is_untouched(&self, token: LeaseToken) -> bool {
        let untouched = self.untouched();
        token == self.token && untouched.is_some_and(|untouched| untouched.token == token)
    }

    /// Whether the newest lease ended by the worker's silence alone.
    pub(super) fn has_merely_expired(&self, token: LeaseToken) -> bool {
        let has_expired = |error: &AttemptError| {
            let is_expiry = error.failure.code.as_str() == LEASE_EXPIRED;
            error.token == token && is_expiry && is_own(&error.failure)
        };
        self.is_untouched(token)
            || token == self.token && self.errors().last().is_some_and(has_expired)
    }

    /// Takes up an attempt whose lease expired; its timeouts count from now, since nobody saw the
    /// time in between.
    pub(super) fn resume(&mut self, progress: Option<Bytes>, now: Timestamp, rules: &Rules) {
        let token = self.token;
        if self.is_untouched(token) {
            // It has cost nothing yet.
            let Some(Untouched { worker, .. }) = self.rare_mut().untouched.take() else {
                return;
            };
            self.start(token, worker, now, rules);
        } else {
            // What was noted as an error was none.
            let Some(AttemptError {
                worker, attempt, ..
            }) = self.rare_mut().errors.pop()
            else {
                return;
            };
            // While everybody fails, it was not counted.
            if attempt == self.attempt {
                self.attempt -= 1;
            }
            self.start(token, worker, now, rules);
        }
        if progress.is_some() {
            self.rare_mut().progress = progress;
        }
    }

    /// Nobody touched the offer: most likely its worker never heard of it, so it counts as no attempt.
    pub(super) fn run_out(&mut self, worker: WorkerId) {
        let token = self.token;
        let before = self.rare_mut().untouched.take();
        let n = before.map_or(1, |before| before.n.saturating_add(1));
        self.rare_mut().untouched = Some(Untouched { n, token, worker });
        self.attempt -= 1;
        self.state = State::Available;
    }
}
