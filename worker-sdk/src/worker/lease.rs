//! The leases that a worker holds: which handler runs under each, and when each is renewed.

use std::{collections::HashMap, sync::Arc, time::Duration};

use scheduler_core::{Heartbeat, Held, LeasedTask};
use tokio::{task::AbortHandle, time::Instant};

use crate::{
    Outcome,
    context::{Beat, Link},
};

/// A lease is renewed after this part of it.
const RENEW_SHARE: u32 = 3;
/// The most heartbeats in one call.
const BATCH_MAX: usize = 1_000;

/// What is done under a lease.
#[derive(Debug)]
pub(super) enum Phase {
    /// A handler runs.
    Running(Running),
    /// The handler is being dropped; this is reported when it is gone.
    Dropping(Option<Outcome>),
    /// The report waits for its answer.
    Reported,
}

/// A handler that runs.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) abort: AbortHandle,
    pub(super) link: Arc<Link>,
    /// When the attempt's time is up.
    pub(super) timeout_at: Option<Instant>,
}

#[derive(Debug)]
struct Lease {
    phase: Phase,
    length: Duration,
    renew_at: Instant,
}

impl Lease {
    /// Whether the worker still claims it. One whose handler is dropped without a report is lost.
    fn is_held(&self) -> bool {
        !matches!(self.phase, Phase::Dropping(None))
    }

    fn has_beat(&self) -> bool {
        matches!(&self.phase, Phase::Running(running) if running.link.has_beat())
    }
}

/// All leases of a worker.
#[derive(Debug, Default)]
pub(super) struct Leases {
    leases: HashMap<Held, Lease>,
}

impl Leases {
    pub(super) fn contains(&self, held: Held) -> bool {
        self.leases.contains_key(&held)
    }

    /// Adds a lease whose handler was started.
    pub(super) fn start(&mut self, task: &LeasedTask, running: Running, now: Instant) {
        let held = Held {
            id: task.id,
            token: task.token,
        };
        let lease = Lease {
            phase: Phase::Running(running),
            length: task.lease,
            renew_at: now + task.lease / RENEW_SHARE,
        };
        self.leases.insert(held, lease);
    }

    /// Handlers that are there, running or being dropped: each takes a slot.
    pub(super) fn n_busy(&self) -> usize {
        let busy = |lease: &&Lease| !matches!(lease.phase, Phase::Reported);
        self.leases.values().filter(busy).count()
    }

    /// What the worker holds.
    pub(super) fn held(&self) -> Vec<Held> {
        let leases = self.leases.iter();
        leases
            .filter(|(_, lease)| lease.is_held())
            .map(|(held, _)| *held)
            .collect()
    }

    pub(super) fn running(&self) -> Vec<Held> {
        self.leases
            .iter()
            .filter(|(_, lease)| matches!(lease.phase, Phase::Running(_)))
            .map(|(held, _)| *held)
            .collect()
    }

    /// Drops a handler; `report` is reported when it is gone. False if none runs.
    pub(super) fn drop_handler(&mut self, held: Held, report: Option<Outcome>) -> bool {
        let Some(lease) = self.leases.get_mut(&held) else {
            return false;
        };
        match &mut lease.phase {
            // Its outcome is on its way, and the scheduler judges it.
            Phase::Running(running) if running.abort.is_finished() => false,
            Phase::Running(running) => {
                // First the word, so that what runs apart from the future hears it in any case.
                running.link.cancel();
                running.abort.abort();
                lease.phase = Phase::Dropping(report);
                true
            }
            Phase::Dropping(reported) => {
                if report.is_none() {
                    *reported = None;
                }
                false
            }
            Phase::Reported => false,
        }
    }

    /// Forgets a lease that is lost while its report waits. The report itself is still answered.
    pub(super) fn forget_reported(&mut self, held: Held) {
        let reported = |lease: &Lease| matches!(lease.phase, Phase::Reported);
        if self.leases.get(&held).is_some_and(reported) {
            self.leases.remove(&held);
        }
    }

    /// The handler is gone; `ended` is what it said, if it ended by itself. Answers what to report.
    pub(super) fn finished(&mut self, held: Held, ended: Option<Outcome>) -> Option<Outcome> {
        let lease = self.leases.get_mut(&held)?;
        let report = match std::mem::replace(&mut lease.phase, Phase::Reported) {
            Phase::Running(_) => ended.or(Some(Outcome::Interrupted)),
            // It ended in the moment when it was to be dropped: what it says is worth more.
            Phase::Dropping(Some(report)) => Some(ended.unwrap_or(report)),
            Phase::Dropping(None) | Phase::Reported => None,
        };
        if report.is_none() {
            self.leases.remove(&held);
        }
        report
    }

    /// The lease has ended with its report.
    pub(super) fn release(&mut self, held: Held) {
        self.leases.remove(&held);
    }

    /// Handlers whose time is up.
    pub(super) fn timed_out(&self, now: Instant) -> Vec<Held> {
        let up = |lease: &Lease| match &lease.phase {
            Phase::Running(running) => running.timeout_at.is_some_and(|at| at <= now),
            Phase::Dropping(_) | Phase::Reported => false,
        };
        let leases = self.leases.iter();
        leases
            .filter(|(_, lease)| up(lease))
            .map(|(held, _)| *held)
            .collect()
    }

    /// When something is due next, after `now`: a renewal or a timeout.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        let timeout = |lease: &Lease| match &lease.phase {
            Phase::Running(running) => running.timeout_at,
            Phase::Dropping(_) | Phase::Reported => None,
        };
        let held = self.leases.values().filter(|lease| lease.is_held());
        held.flat_map(|lease| [Some(lease.renew_at), timeout(lease)])
            .flatten()
            .filter(|at| *at > now)
            .min()
    }

    /// Whether a renewal is due.
    pub(super) fn renewal_due(&self, now: Instant) -> bool {
        let mut held = self.leases.values().filter(|lease| lease.is_held());
        held.any(|lease| lease.renew_at <= now)
    }

    /// Whether a handler gave a sign that was not sent.
    pub(super) fn has_beat(&self) -> bool {
        self.leases.values().any(Lease::has_beat)
    }

    /// The heartbeats to send now: of all leases that are due or soon will be, and of all handlers
    /// that gave a sign.
    pub(super) fn heartbeats(&mut self, now: Instant) -> Vec<Heartbeat> {
        let mut heartbeats = Vec::new();
        for (held, lease) in &mut self.leases {
            let soon = lease.renew_at <= now + lease.length / (2 * RENEW_SHARE);
            if heartbeats.len() == BATCH_MAX || !lease.is_held() || !(soon || lease.has_beat()) {
                continue;
            }
            let beat = match &lease.phase {
                Phase::Running(running) => running.link.take_beat(),
                Phase::Dropping(_) | Phase::Reported => Beat::default(),
            };
            lease.renew_at = now + lease.length / RENEW_SHARE;
            heartbeats.push(Heartbeat {
                id: held.id,
                token: held.token,
                from_handler: beat.given,
                progress: beat.progress,
            });
        }
        heartbeats
    }

    /// A lease lasts `length` from `sent_at` on.
    pub(super) fn renewed(&mut self, held: Held, length: Duration, sent_at: Instant) {
        if let Some(lease) = self.leases.get_mut(&held) {
            lease.length = length;
            lease.renew_at = sent_at + length / RENEW_SHARE;
        }
    }

    /// A heartbeat was not answered: it is sent again at `at`.
    pub(super) fn not_renewed(&mut self, unsent: &Heartbeat, at: Instant) {
        let held = Held {
            id: unsent.id,
            token: unsent.token,
        };
        let Some(lease) = self.leases.get_mut(&held) else {
            return;
        };
        lease.renew_at = lease.renew_at.min(at);
        if let Phase::Running(running) = &lease.phase {
            running.link.put_back(Beat {
                given: unsent.from_handler,
                progress: unsent.progress.clone(),
            });
        }
    }

    /// The shortest lease, which says how long a call for renewal may take.
    pub(super) fn shortest(&self) -> Option<Duration> {
        self.leases.values().map(|lease| lease.length).min()
    }
}
