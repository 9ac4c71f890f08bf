//! no-needless-rerun: a task runs again only after a failed attempt, an interrupt, a lease that nobody
//! renewed, or a crash whose lease nobody claimed again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use scheduler_core::{
    Epoch, Held, LeaseToken, Outcome, ShardId, TaskId, TaskOptions, Timestamp,
    port::{log::RecordBody, store::Claimed},
};

use super::{Check, Found, Truth, broken};
use crate::{
    fact::{Fact, Grant, token_name},
    log::Born,
};

/// By how much the clocks of two members may differ.
const SKEW: Duration = Duration::from_millis(3_500);

/// What is known of the newest lease of a task.
#[derive(Debug, Clone, Copy)]
struct Lease {
    token: LeaseToken,
    granted_at: Timestamp,
    /// When an owner last had a reason to believe in it.
    sign_at: Timestamp,
    beat_at: Timestamp,
    sign_epoch: Epoch,
    /// How long it lasts after such a reason.
    lasts: Duration,
    /// Nobody can have touched it: an offer that costs nothing.
    is_untouched: bool,
    /// Its worker gave it back, or said that the attempt failed.
    is_settled: bool,
    /// When its shard was taken over without a word of it.
    forgotten_at: Option<Timestamp>,
}

#[derive(Debug, Default)]
pub(super) struct NoNeedlessRerun {
    /// Leases of each task that may have cost an attempt.
    paid: BTreeMap<TaskId, BTreeSet<LeaseToken>>,
    leases: BTreeMap<TaskId, Lease>,
    owners: BTreeMap<(usize, ShardId), Epoch>,
}

impl Check for NoNeedlessRerun {
    fn promise(&self) -> &'static str {
        "no-needless-rerun"
    }

    fn see(&mut self, fact: &Fact, truth: Truth<'_>) -> Found {
        match fact {
            Fact::Granted(grant) => {
                self.forgive(grant.held.id);
                self.paid(grant)?;
                return self.granted(grant, truth);
            }
            // What is acknowledged is durable, and costs nothing.
            Fact::Reported(_, held, Outcome::Interrupted | Outcome::Snoozed(_), Ok(())) => {
                if let Some(paid) = self.paid.get_mut(&held.id) {
                    paid.remove(&held.token);
                }
            }
            Fact::Started(member, claimed) => self.started(*member, claimed, truth),
            Fact::Heard(_, held, Outcome::Completed { .. }) => self.touch(*held),
            Fact::Heard(_, held, _) | Fact::Ungranted(held) => {
                self.touch(*held);
                self.settle(*held);
            }
            Fact::Renewed(member, held, true) => self.sign(*member, *held, true, truth),
            Fact::Declared(member, held) => self.sign(*member, *held, false, truth),
            // An owner without a proof does not tell what it makes of a sign.
            Fact::Named(member, held) | Fact::Renewed(member, held, false)
                if self.owns(*member, held.id, truth) =>
            {
                self.touch(*held);
            }
            _ => {}
        }
        Ok(())
    }
}

impl NoNeedlessRerun {
    /// An attempt counts at most the leases before it that were not given back.
    fn paid(&mut self, grant: &Grant) -> Found {
        let paid = self.paid.entry(grant.held.id).or_default();
        let n_max = paid.len() + 1;
        paid.insert(grant.held.token);
        if grant.attempt as usize > n_max {
            let why = format!(
                "this is attempt {}, and can be at most {n_max}",
                grant.attempt
            );
            return broken(grant.held.id, why);
        }
        Ok(())
    }

    /// An offer that nobody touched costs no attempt.
    fn forgive(&mut self, id: TaskId) {
        if let Some(lease) = self.leases.get(&id)
            && lease.is_untouched
            && let Some(paid) = self.paid.get_mut(&id)
        {
            paid.remove(&lease.token);
        }
    }

    fn owns(&self, member: usize, id: TaskId, truth: Truth<'_>) -> bool {
        let epoch = self.owners.get(&(member, id.shard));
        epoch == Some(&truth.store.epoch(id.shard))
    }

    fn touch(&mut self, held: Held) {
        if let Some(lease) = self.leases.get_mut(&held.id)
            && lease.token == held.token
        {
            lease.is_untouched = false;
        }
    }

    fn settle(&mut self, held: Held) {
        if let Some(lease) = self.leases.get_mut(&held.id)
            && lease.token == held.token
        {
            lease.is_settled = true;
        }
    }

    /// The owner of the shard knows that a worker has the lease.
    fn sign(&mut self, member: usize, held: Held, is_beat: bool, truth: Truth<'_>) {
        let owns = self.owns(member, held.id, truth);
        if let Some(lease) = self.leases.get_mut(&held.id)
            && lease.token == held.token
            && owns
        {
            lease.sign_at = truth.now;
            lease.lasts = truth.config.lease;
            lease.is_untouched = false;
            lease.sign_epoch = truth.store.epoch(held.id.shard);
            lease.forgotten_at = None;
            if is_beat {
                lease.beat_at = truth.now;
            }
        }
    }

    /// Stored leases last a full lease from now; of others the new owner knows nothing, unless the old one
    /// said that there are none.
    fn started(&mut self, member: usize, claimed: &Claimed, truth: Truth<'_>) {
        let now = truth.now;
        let shard = claimed.shard;
        self.owners.insert((member, shard), claimed.epoch);
        let first = TaskId {
            shard,
            offset: scheduler_core::Offset::ZERO,
        };
        let last = TaskId {
            shard,
            offset: scheduler_core::Offset(u64::MAX),
        };
        for (id, lease) in self.leases.range_mut(first..=last) {
            let is_it = |row: &&scheduler_core::port::store::StoredTask| {
                row.offset == id.offset && row.token == lease.token
            };
            if claimed.running.iter().any(|row| is_it(&row)) {
                lease.sign_at = now;
                lease.beat_at = now;
                lease.sign_epoch = claimed.epoch;
                lease.lasts = truth.config.lease;
                lease.is_untouched = false;
                lease.forgotten_at = None;
            } else if !claimed.released && lease.sign_epoch < claimed.epoch {
                lease.forgotten_at = Some(now);
                // Whether somebody tells the new owner of it is not always seen.
                lease.is_untouched = false;
            }
        }
    }

    fn granted(&mut self, grant: &Grant, truth: Truth<'_>) -> Found {
        let (id, now) = (grant.held.id, truth.now);
        let lease = Lease {
            token: grant.held.token,
            granted_at: now,
            sign_at: now,
            beat_at: now,
            sign_epoch: grant.held.token.epoch(),
            lasts: grant.lasts,
            is_untouched: grant.lasts < truth.config.lease,
            is_settled: false,
            forgotten_at: None,
        };
        let Some(before) = self.leases.insert(id, lease) else {
            return Ok(());
        };
        // Clocks of two members may differ, and run at slightly other rates.
        let waited = |since: Timestamp, wait: Option<Duration>, skew: Duration| {
            wait.is_some_and(|wait| now.since(since) + skew >= wait.mul_f64(0.98))
        };
        let (options, hardly) = (options_of(id, truth), Duration::from_millis(50));
        // Workers had their time to say that they hold it.
        let is_over = |forgotten_at: Option<Timestamp>| {
            forgotten_at.is_some_and(|at| waited(at, Some(truth.config.adoption_window), hardly))
        };
        let has_reason = before.is_settled
            || is_over(before.forgotten_at)
            || waited(before.sign_at, Some(before.lasts), hardly)
            || waited(
                before.granted_at,
                options.and_then(|options| options.timeout),
                SKEW,
            )
            || waited(
                before.beat_at,
                options.and_then(|options| options.heartbeat_timeout),
                hardly,
            );
        if has_reason {
            return Ok(());
        }
        let (new, old) = (token_name(grant.held.token), token_name(before.token));
        let ago = now.since(before.sign_at).as_secs_f64();
        let lasts = before.lasts.as_secs_f64();
        broken(
            id,
            format!(
                "lease {new} is granted though {old} was good {ago:.3} s ago and lasts {lasts} s"
            ),
        )
    }
}

fn options_of(id: TaskId, truth: Truth<'_>) -> Option<&TaskOptions> {
    match truth.log.born(id)? {
        Born::Record(RecordBody::Task(task)) => task.options.as_deref(),
        Born::Record(_) | Born::Gap => None,
    }
}
