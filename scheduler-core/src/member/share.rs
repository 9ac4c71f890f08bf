//! Who of several tenants goes next: shares of workers by weight, and what each tenant may use at all.
//!
//! A tenant's *service* is the slots that its tasks took, times how long. The tenant with the least service
//! by its weight goes first, where a task that was just started counts as long as tasks usually take.
//! One that was away starts where the others are: it gets no more for having wanted nothing. This is start-time fair
//! queueing (Goyal, Vin and Cheng, 1996), with the real cost of a task settled when it is known.

use std::collections::{BTreeMap, VecDeque};

use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    Member,
    dispatch::{Dispatcher, fleets_of},
};
use crate::{
    Config, Pipeline, ShardId, TenantName, Timestamp,
    pipeline::limits::Limit,
    shard::{
        Service,
        limit::{Closed, Gauge},
    },
};

/// How long a task is thought to take before any has ended, in milliseconds.
const GUESS_MILLIS: u64 = 100;
/// How many starts the mean takes into account, about.
const MEAN_OVER: u64 = 1_024;

/// What one tenant has in one pool.
#[derive(Debug, Default)]
struct Share {
    /// Shards that may have something ready, each at most once.
    ready: VecDeque<ShardId>,
    in_ready: FxHashSet<ShardId>,
    n_slots: u64,
    slot_millis: u64,
    at: Timestamp,
}

impl Share {
    fn count(&mut self, now: Timestamp) {
        let passed = now.as_millis().saturating_sub(self.at.as_millis());
        self.slot_millis += self.n_slots * passed;
        self.at = self.at.max(now);
    }
}

/// The tenants of one pool.
#[derive(Debug, Default)]
pub(super) struct Shares {
    by_tenant: BTreeMap<TenantName, Share>,
    n_ready: usize,
    /// Service by weight that every tenant with something to do has had.
    floor: f64,
    /// What tasks usually take.
    n_started: u64,
    sum_millis: u64,
}

impl Shares {
    pub(super) fn has_ready(&self) -> bool {
        self.n_ready > 0
    }

    /// Whether more than one tenant has something ready.
    pub(super) fn is_contended(&self) -> bool {
        let ready = |share: &&Share| !share.ready.is_empty();
        self.by_tenant.values().filter(ready).nth(1).is_some()
    }

    /// Shards that may have something ready.
    pub(super) fn ready(&self) -> impl Iterator<Item = ShardId> {
        let shares = self.by_tenant.values();
        shares.flat_map(|share| share.ready.iter().copied())
    }

    /// A shard of a tenant may have something ready.
    pub(super) fn note_ready(
        &mut self,
        tenant: &TenantName,
        id: ShardId,
        weight: u32,
        now: Timestamp,
    ) {
        let floor = self.floor;
        let share = self.by_tenant.entry(tenant.clone()).or_default();
        if !share.in_ready.insert(id) {
            return;
        }
        if share.ready.is_empty() && share.n_slots == 0 {
            share.count(now);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "milliseconds of service; a rounded one does no harm"
            )]
            let least = (floor * f64::from(weight)) as u64;
            share.slot_millis = share.slot_millis.max(least);
        }
        share.ready.push_back(id);
        self.n_ready += 1;
    }

    /// The next shard of the tenant that has had the least for its weight, of those that `may` have more.
    pub(super) fn next(
        &mut self,
        now: Timestamp,
        weight: impl Fn(&TenantName) -> u32,
        may: impl Fn(&TenantName) -> bool,
    ) -> Option<(TenantName, ShardId)> {
        let usual = self.sum_millis.checked_div(self.n_started);
        let usual = usual.unwrap_or(GUESS_MILLIS).max(1);
        let mut least: Option<(f64, f64, TenantName)> = None;
        for (tenant, share) in &mut self.by_tenant {
            if share.ready.is_empty() || !may(tenant) {
                continue;
            }
            share.count(now);
            let weight = f64::from(weight(tenant));
            #[expect(clippy::cast_precision_loss, reason = "only compared")]
            let (had, has) = (share.slot_millis as f64, (share.n_slots * usual) as f64);
            let total = (had + has) / weight;
            if least.as_ref().is_none_or(|(other, _, _)| total < *other) {
                least = Some((total, had / weight, tenant.clone()));
            }
        }
        let (_, had, tenant) = least?;
        self.floor = self.floor.max(had);
        let share = self.by_tenant.get_mut(&tenant)?;
        let id = share.ready.pop_front()?;
        share.in_ready.remove(&id);
        self.n_ready -= 1;
        Some((tenant, id))
    }

    /// Counts what a shard of a tenant has used since.
    pub(super) fn count(
        &mut self,
        tenant: &TenantName,
        before: Service,
        after: Service,
        now: Timestamp,
    ) {
        let share = self.by_tenant.entry(tenant.clone()).or_default();
        share.count(now);
        share.n_slots = (share.n_slots + after.n_slots).saturating_sub(before.n_slots);
        self.n_started += after.n_started - before.n_started;
        self.sum_millis += after.slot_millis.saturating_sub(before.slot_millis);
        if self.n_started > MEAN_OVER {
            self.n_started /= 2;
            self.sum_millis /= 2;
        }
    }

    /// A shard is here no longer.
    pub(super) fn forget(&mut self, tenant: &TenantName, id: ShardId) {
        if let Some(share) = self.by_tenant.get_mut(tenant)
            && share.in_ready.remove(&id)
        {
            share.ready.retain(|ready| *ready != id);
            self.n_ready -= 1;
        }
    }
}

/// What all tenants use of this member, as far as they are limited.
#[derive(Debug, Default)]
pub(super) struct Tenants {
    gauges: FxHashMap<TenantName, Gauge>,
}

impl Tenants {
    fn limit<'a>(config: &'a Config, tenant: &TenantName) -> Option<&'a Limit> {
        let limit = config.tenant_limits.get(tenant)?;
        (!limit.is_none()).then_some(limit)
    }

    /// How many tasks of a tenant may start.
    pub(super) fn room(&self, config: &Config, tenant: &TenantName, now: Timestamp) -> usize {
        match (Self::limit(config, tenant), self.gauges.get(tenant)) {
            (Some(limit), Some(gauge)) => gauge.room(limit, now),
            (Some(limit), None) => Gauge::default().room(limit, now),
            (None, _) => usize::MAX,
        }
    }

    /// What keeps a tenant from starting another task, if anything does.
    pub(super) fn closed(
        &self,
        config: &Config,
        tenant: &TenantName,
        now: Timestamp,
    ) -> Option<Closed> {
        let limit = Self::limit(config, tenant)?;
        self.gauges.get(tenant)?.closed(limit, now)
    }

    pub(super) fn count(
        &mut self,
        config: &Config,
        tenant: &TenantName,
        before: Service,
        after: Service,
        now: Timestamp,
    ) {
        let Some(limit) = Self::limit(config, tenant) else {
            return;
        };
        let gauge = self.gauges.entry(tenant.clone()).or_default();
        let n_started = after.n_started - before.n_started;
        for _ in 0..n_started {
            gauge.started(limit, now);
        }
        let n_stopped = (before.n_running + n_started).saturating_sub(after.n_running);
        for _ in 0..n_stopped {
            gauge.stopped();
        }
    }

    /// When the first tenant may start tasks again that waits for time alone.
    pub(super) fn wake_at(&self, config: &Config, now: Timestamp) -> Option<Timestamp> {
        let closed = self.gauges.iter().filter_map(|(tenant, gauge)| {
            match gauge.closed(Self::limit(config, tenant)?, now)? {
                Closed::Until(at) => Some(at),
                Closed::Full(_) => None,
            }
        });
        closed.min()
    }
}

impl Member {
    /// Counts for a tenant what a shard of it has used.
    pub(super) fn count_service(
        &mut self,
        id: ShardId,
        before: Service,
        after: Service,
        now: Timestamp,
    ) {
        let Some(pipeline) = self.pipelines.get(&id.pipeline) else {
            return;
        };
        let tenant = &pipeline.path.tenant;
        count_shares(&mut self.dispatcher, pipeline, before, after, now);
        if !self.config.tenant_limits.is_empty() {
            let config = &self.config;
            self.tenants.count(config, tenant, before, after, now);
            self.tenants_at = self.tenants.wake_at(config, now);
            if after.n_running < before.n_running {
                self.dispatcher.stir_all();
            }
        }
    }
}

/// Counts it where several tenants may compete.
pub(super) fn count_shares(
    dispatcher: &mut Dispatcher,
    pipeline: &Pipeline,
    before: Service,
    after: Service,
    now: Timestamp,
) {
    if pipeline.spec.pool.is_some() {
        for fleet in fleets_of(pipeline) {
            let shares = dispatcher.shares(&fleet);
            shares.count(&pipeline.path.tenant, before, after, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Partition, PipelineNumber};

    const N_TENANTS: usize = 4;
    const MILLIS_MAX: u64 = 500;

    #[derive(Debug, Clone)]
    enum Step {
        /// The tenant whose turn it is has a task that takes so long.
        Serve(u64),
        /// A tenant has nothing more, or has something again.
        Toggle(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            12 => (1..=MILLIS_MAX).prop_map(Step::Serve),
            1 => (0..N_TENANTS).prop_map(Step::Toggle),
        ]
    }

    fn tenant(n: usize) -> TenantName {
        format!("t{n}").as_str().try_into().unwrap()
    }

    fn shard(n: usize) -> ShardId {
        let number = u32::try_from(n).unwrap();
        ShardId {
            pipeline: PipelineNumber(number),
            partition: Partition(0),
        }
    }

    proptest! {
        /// One worker, one task after the other. In every stretch of time in which two tenants want something, what they
        /// get by their weights differs by no more than one task of each: the bound of start-time fair queueing, from
        /// which it also follows that one that was away gets nothing for it, and that none starves.
        #[test]
        fn service_by_weight_differs_by_one_task_of_each(
            weights in prop::collection::vec(1u32..10, N_TENANTS),
            steps in prop::collection::vec(step(), 1..400),
        ) {
            let mut shares = Shares::default();
            let mut now = Timestamp::from_millis(1_000);
            let mut wants = [true; N_TENANTS];
            for (n, weight) in weights.iter().enumerate() {
                shares.note_ready(&tenant(n), shard(n), *weight, now);
            }
            // Service by weight that the first of a pair had beyond the second since both want: its least and most.
            let mut leads: BTreeMap<(usize, usize), (f64, f64, f64)> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Toggle(n) => {
                        wants[n] = !wants[n];
                        if wants[n] {
                            shares.note_ready(&tenant(n), shard(n), weights[n], now);
                        } else {
                            shares.forget(&tenant(n), shard(n));
                        }
                        leads.retain(|(one, other), _| *one != n && *other != n);
                    }
                    Step::Serve(millis) => {
                        let weight = |name: &TenantName| {
                            let n = (0..N_TENANTS).find(|n| tenant(*n) == *name);
                            weights[n.unwrap()]
                        };
                        let next = shares.next(now, weight, |_| true);
                        let n = next.map(|(_, id)| id.pipeline.0 as usize);
                        prop_assert_eq!(n.is_some(), wants.contains(&true));
                        let Some(n) = n else { continue };
                        prop_assert!(wants[n], "{} wants nothing", n);
                        let idle = Service::default();
                        let busy = Service { n_slots: 1, n_started: 1, n_running: 1, ..idle };
                        shares.count(&tenant(n), idle, busy, now);
                        shares.note_ready(&tenant(n), shard(n), weights[n], now);
                        now = now + std::time::Duration::from_millis(millis);
                        let done = Service { n_started: 1, slot_millis: millis, ..idle };
                        shares.count(&tenant(n), busy, done, now);
                        let got = millis as f64 / f64::from(weights[n]);
                        for other in (0..N_TENANTS).filter(|other| *other != n && wants[*other]) {
                            for (pair, got) in [((n, other), got), ((other, n), -got)] {
                                let (lead, least, most) = leads.entry(pair).or_default();
                                *lead += got;
                                *least = least.min(*lead);
                                *most = most.max(*lead);
                                let task = |n: usize| (MILLIS_MAX + 1) as f64 / f64::from(weights[n]);
                                prop_assert!(
                                    *most - *least <= task(n) + task(other),
                                    "{} and {} are {} apart", pair.0, pair.1, *most - *least
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}
