//! What a member shows of itself: where tasks are, how many there are, how much there is to do.

use std::collections::{BTreeMap, BTreeSet};

use super::{Member, dispatch::fleets_of};
use crate::{
    Label, Offset, Pipeline, ShardId, StateName, TaskId, Timestamp,
    action::{Action, Answer, CallId, Counts, Seen},
    explain::{Blocker, Scope, Tally, Waits},
    port::store::cut_page,
    shard::{Shard, limit::Closed},
    survey::{Ask, Survey},
};

/// Which tasks in memory to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InMemory {
    /// Only in these states; empty means all.
    pub states: Vec<StateName>,
    /// Per partition, only below this offset.
    pub below: BTreeMap<ShardId, Option<Offset>>,
    /// At most so many per shard.
    pub n_max: usize,
    /// At most so many bytes per shard, but at least one task.
    pub bytes_max: usize,
}

/// How much a member has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Shards that it works on.
    pub n_shards: usize,
    /// Shards that it wants or is claiming.
    pub n_coming: usize,
    /// Shards that it cannot schedule: people must look.
    pub n_refused: usize,
    /// Tasks in memory.
    pub n_tasks: usize,
    /// Bytes of tasks in memory, about.
    pub n_bytes: usize,
    /// Calls that wait for an answer, polls among them.
    pub n_calls: usize,
}

impl Member {
    /// How much it has to do.
    #[must_use]
    pub fn load(&self) -> Load {
        Load {
            n_shards: self.shards.len(),
            n_coming: self.ownership.n_coming(),
            n_refused: self.ownership.refused().count(),
            n_tasks: self.n_tasks,
            n_bytes: self.n_bytes,
            n_calls: 0,
        }
    }

    pub(super) fn look(
        &self,
        to: (CallId, u32),
        task: TaskId,
        now: Timestamp,
        out: &mut Vec<Action>,
    ) {
        let shard = self.shown_shard(task.shard, now);
        let mut seen = shard.map_or(Seen::Nowhere, |shard| shard.see(task.offset));
        if let Seen::Here { waits, .. } = &mut seen {
            *waits = self.explain(task, now).map(|waits| Box::new(waits.into()));
        }
        out.push(Action::Answer(to.0, to.1, Answer::Seen(seen)));
    }

    /// Why a task in memory does not run; `None` if it runs or has ended, or is not in memory here.
    #[must_use]
    pub fn explain(&self, task: TaskId, now: Timestamp) -> Option<Waits> {
        let shard = self.shown_shard(task.shard, now)?;
        let mut waits = shard.explain(task.offset, now)?;
        if waits.blocker == Blocker::Turn
            && let Some(blocker) = self.blocker_of(task, now)
        {
            waits.blocker = blocker;
        }
        Some(waits)
    }

    /// What keeps a task from starting that nothing in its shard does.
    fn blocker_of(&self, task: TaskId, now: Timestamp) -> Option<Blocker> {
        let pipeline = self.pipelines.get(&task.shard.pipeline)?;
        let tenant = &pipeline.path.tenant;
        if let Some(closed) = self.tenants.closed(&self.config, tenant, now) {
            let scope = Scope::Tenant(tenant.clone());
            return Some(match closed {
                Closed::Until(until) => Blocker::Rate { scope, until },
                Closed::Full(max) => Blocker::Concurrency {
                    scope,
                    max,
                    holders: Vec::new(),
                },
            });
        }
        let (labels, cost) = self.shards.get(&task.shard)?.needs(task.offset)?;
        let has_worker = self.has_worker(pipeline, &labels, cost);
        (!has_worker).then_some(Blocker::Worker { labels, cost })
    }

    /// Whether a worker asks that may take tasks of the pipeline with these labels and this cost.
    fn has_worker(&self, pipeline: &Pipeline, labels: &BTreeSet<Label>, cost: u16) -> bool {
        let mut fleets = fleets_of(pipeline);
        fleets.any(|fleet| self.dispatcher.has_worker(&fleet, labels, cost))
            || self.seekers.has_worker(pipeline.number, labels, cost)
    }

    /// What the tasks in memory wait for. Looks at each shard and at each set of needs in it, not at tasks.
    #[must_use]
    pub fn tally(&self, now: Timestamp) -> Tally {
        let mut tally = Tally::default();
        for shard in self.shards.values() {
            tally += self.tally_of(shard, now);
        }
        tally
    }

    fn tally_of(&self, shard: &Shard, now: Timestamp) -> Tally {
        let pipeline = self.pipelines.get(&shard.id().pipeline);
        let closed = pipeline.and_then(|pipeline| {
            self.tenants
                .closed(&self.config, &pipeline.path.tenant, now)
        });
        let has_worker = |labels: &BTreeSet<Label>, cost| {
            pipeline.is_none_or(|pipeline| self.has_worker(pipeline, labels, cost))
        };
        shard.tally(closed, has_worker, now)
    }

    /// How shards stand. Looks at counters, not at tasks.
    pub(super) fn survey(&mut self, ask: &Ask, now: Timestamp) -> Survey {
        let mut survey = Survey::default();
        for id in ask.shards.iter().copied() {
            let Some(shard) = self.shown_shard(id, now) else {
                survey.absent.push(id);
                continue;
            };
            let waiting = self.tally_of(shard, now).waiting().into_iter();
            let waits = waiting.filter(|(_, n)| *n > 0);
            let waits = waits.map(|(reason, n)| (reason.into(), n as u64)).collect();
            let heard = ask.changes.as_ref().map(|heard| heard.get(&id).copied());
            let hands = ask.workers == Some(id.pipeline);
            survey.shards.push(shard.survey(waits, hands, heard, now));
            if heard.is_some() {
                self.with_shard(id, now, |shard| shard.watch(now));
            }
        }
        survey
    }

    /// A shard as it may be shown: without a fresh proof of membership another owner may be ahead of it, and
    /// what that one has shown must not be unsaid here.
    fn shown_shard(&self, id: ShardId, now: Timestamp) -> Option<&Shard> {
        self.shards.get(&id).filter(|_| self.is_proven(now))
    }

    pub(super) fn count(
        &self,
        ids: &[ShardId],
        listed: Option<&InMemory>,
        now: Timestamp,
    ) -> Counts {
        let mut counts = Counts::default();
        for id in ids.iter().copied() {
            let Some(shard) = self.shown_shard(id, now) else {
                counts.absent.push(id);
                continue;
            };
            counts.n_window += shard.n_window() as u64;
            counts.has_parked |= shard.has_parked();
            counts.next_offsets.push((id, shard.next_fetch()));
            if let Some(listed) = listed
                && let Some(below) = listed.below.get(&id)
            {
                let mut tasks = shard.list(&listed.states, *below, listed.n_max);
                cut_page(&mut tasks, listed.n_max, listed.bytes_max);
                counts
                    .tasks
                    .extend(tasks.into_iter().map(|task| (id, task)));
            }
        }
        counts
    }
}
