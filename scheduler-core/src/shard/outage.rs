//! An outage is no failure: whether tasks whose attempts are used up become dead letters.
//!
//! Each success earns a credit and each such discard costs one, up to a limit, with which a shard starts. Without
//! credit the failures say nothing about the tasks: these wait, and the shard starts one task after the
//! other as a probe, less and less often, until one succeeds. A probe that takes long is not waited for, since it may
//! be a task that runs for hours. The idea of success tokens is uForwarder's.

use std::time::Duration;

use crate::{Offset, Timestamp, task::Failure};

/// The wait before the first probe; it doubles up to the longest.
const PROBE_FIRST: Duration = Duration::from_secs(1);
const PROBE_LAST: Duration = Duration::from_secs(60);
/// How long a probe may run before another one starts beside it.
const PROBE_ALONE: Duration = Duration::from_secs(30);

/// What a shard knows of the dependencies of its tasks.
#[derive(Debug)]
pub(super) struct Outage {
    n_credits: u32,
    credits_max: u32,
    probing: Option<Probing>,
}

/// Everybody fails.
#[derive(Debug, Clone)]
pub(super) struct Probing {
    pub(super) since: Timestamp,
    /// The failure that was not believed.
    pub(super) code: String,
    pub(super) message: String,
    /// The next probe starts then, or some time after the one that runs has ended.
    pub(super) probe_at: Timestamp,
    /// The newest that runs.
    probe: Option<Offset>,
    wait: Duration,
}

impl Outage {
    pub(super) fn new(credits_max: u32) -> Self {
        Self {
            n_credits: credits_max,
            credits_max,
            probing: None,
        }
    }

    pub(super) fn may_discard(&self) -> bool {
        self.n_credits > 0
    }

    /// Whether another task may start.
    pub(super) fn is_open(&self, now: Timestamp) -> bool {
        let may_probe = |probing: &Probing| probing.probe_at <= now;
        self.probing.as_ref().is_none_or(may_probe)
    }

    pub(super) fn wake_at(&self) -> Option<Timestamp> {
        self.probing.as_ref().map(|probing| probing.probe_at)
    }

    pub(super) fn probing(&self) -> Option<&Probing> {
        self.probing.as_ref()
    }

    pub(super) fn started(&mut self, offset: Offset, now: Timestamp) {
        if let Some(probing) = &mut self.probing
            && probing.probe_at <= now
        {
            probing.probe = Some(offset);
            probing.probe_at = now + probing.wait.max(PROBE_ALONE);
        }
    }

    /// A task runs no longer, whatever became of it.
    pub(super) fn stopped(&mut self, offset: Offset, now: Timestamp) {
        if let Some(probing) = &mut self.probing
            && probing.probe == Some(offset)
        {
            probing.probe = None;
            probing.probe_at = now + probing.wait;
            probing.wait = (probing.wait * 2).min(PROBE_LAST);
        }
    }

    pub(super) fn succeeded(&mut self) {
        self.n_credits = (self.n_credits + 1).min(self.credits_max);
        self.probing = None;
    }

    pub(super) fn discarded(&mut self) {
        self.n_credits = self.n_credits.saturating_sub(1);
    }

    /// A task would have been discarded, and there was no credit.
    pub(super) fn denied(&mut self, failure: &Failure, now: Timestamp) {
        if self.probing.is_none() {
            self.probing = Some(Probing {
                since: now,
                code: failure.code.to_string(),
                message: failure.message.clone(),
                probe_at: now + PROBE_FIRST,
                probe: None,
                wait: PROBE_FIRST * 2,
            });
        }
    }
}
