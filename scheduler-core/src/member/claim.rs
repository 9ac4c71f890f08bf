//! Which shards the member owns, wants to own, and gives up.

mod release;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use rustc_hash::FxHashSet;

use super::{Deferred, Member, shards_of, share::count_shares};
use crate::{
    Error, Offset, Pipeline, PipelineNumber, ShardId, Slot, Timestamp,
    action::{Action, Answer, Seen},
    port::{FailureKind, log::Bounds, store::Claimed},
    shard::{Service, Shard},
};

/// How long to wait before a shard that could not be claimed is claimed again, at first.
const CLAIM_RETRY: Duration = Duration::from_secs(1);

/// How often that wait doubles.
const CLAIM_DOUBLINGS: u32 = 3;
/// A shard that could not be read from the same place so often is refused.
const PLACE_LOST_MAX: u32 = 3;
/// A shard whose claim has failed so often is claimed alone.
const CLAIMED_ALONE: u32 = 2;

/// What the member knows of its slots and their shards, beside the shards it works on.
#[derive(Debug, Default)]
pub(super) struct Ownership {
    slots: FxHashSet<Slot>,
    /// The placement has spoken: before that, any shard may come.
    was_assigned: bool,
    /// To be claimed, not before a time.
    wanted: BTreeMap<ShardId, Wanted>,
    /// Being claimed.
    claiming: BTreeMap<ShardId, Claiming>,
    refused: BTreeMap<ShardId, String>,
    /// Places that the log lost, and how often: a new claim has not helped there.
    places_lost: BTreeMap<ShardId, (Offset, u32)>,
    /// To be given up as soon as all is saved.
    releasing: BTreeSet<ShardId>,
    /// Given up; the store is being told.
    releases: BTreeSet<ShardId>,
    /// To be given up once none of their shards is left.
    revoking: BTreeSet<Slot>,
}

#[derive(Debug, Clone, Copy)]
struct Wanted {
    at: Timestamp,
    n_failed: u32,
}

/// A claim in flight.
#[derive(Debug, Clone, Copy)]
struct Claiming {
    /// How often it has failed before.
    n_failed: u32,
    /// The slot was given up or lost since: another owner may have written, so the answer counts for nothing.
    is_void: bool,
}

impl Wanted {
    fn at(at: Timestamp) -> Self {
        Self { at, n_failed: 0 }
    }
}

impl Ownership {
    /// Whether a shard that is not here may soon be.
    pub(super) fn is_coming(&self, id: ShardId) -> bool {
        !self.was_assigned || self.claiming.contains_key(&id) || self.wanted.contains_key(&id)
    }

    pub(super) fn is_releasing(&self, id: ShardId) -> bool {
        self.releasing.contains(&id)
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = Slot> {
        let kept = self.slots.iter();
        kept.filter(|slot| !self.revoking.contains(slot)).copied()
    }

    /// Slots that are to be given up.
    pub(super) fn leaving_slots(&self) -> impl Iterator<Item = Slot> {
        self.revoking.iter().copied()
    }

    /// A shard that is wanted or being claimed, if there is one.
    pub(super) fn first_coming(&self) -> Option<ShardId> {
        let coming = self.wanted.keys().chain(self.claiming.keys());
        coming.min().copied()
    }

    pub(super) fn n_coming(&self) -> usize {
        self.wanted.len() + self.claiming.len()
    }

    pub(super) fn is_settled(&self) -> bool {
        !self.slots.is_empty() && self.wanted.is_empty() && self.claiming.is_empty()
    }

    pub(super) fn refused(&self) -> impl Iterator<Item = (ShardId, &str)> {
        self.refused.iter().map(|(id, why)| (*id, why.as_str()))
    }

    pub(super) fn wake_at(&self) -> Option<Timestamp> {
        self.wanted.values().map(|wanted| wanted.at).min()
    }

    fn forget(&mut self, id: ShardId) {
        self.wanted.remove(&id);
        self.claiming.remove(&id);
        self.refused.remove(&id);
        self.releasing.remove(&id);
    }
}

impl Member {
    pub(super) fn set_pipelines(
        &mut self,
        pipelines: Vec<Arc<Pipeline>>,
        now: Timestamp,
        out: &mut Vec<Action>,
    ) {
        let pipelines: BTreeMap<PipelineNumber, Arc<Pipeline>> = pipelines
            .into_iter()
            .map(|pipeline| (pipeline.number, pipeline))
            .collect();
        self.knows_pipelines = true;
        for (number, pipeline) in &self.pipelines.clone() {
            match pipelines.get(number) {
                None => self.drop_pipeline(pipeline, out),
                Some(new) if new.spec.pool != pipeline.spec.pool => self.leave_pool(pipeline),
                Some(_) => {}
            }
        }
        let before = std::mem::replace(&mut self.pipelines, pipelines);
        for pipeline in self.pipelines.clone().into_values() {
            let known = before.get(&pipeline.number);
            if known.is_none_or(|known| *known != pipeline) {
                for id in shards_of(&pipeline) {
                    match self.shards.get_mut(&id) {
                        Some(shard) => {
                            shard.set_pipeline(&pipeline, now);
                            self.touched.insert(id);
                            let used = shard.service();
                            if known.is_some_and(|known| known.spec.pool != pipeline.spec.pool) {
                                let dispatcher = &mut self.dispatcher;
                                count_shares(dispatcher, &pipeline, used.idle(), used, now);
                            }
                        }
                        None => self.want(id, now),
                    }
                }
            }
        }
    }

    /// The shards of a pipeline no longer count where they did.
    fn leave_pool(&mut self, pipeline: &Pipeline) {
        for id in shards_of(pipeline) {
            if let Some(used) = self.shards.get(&id).map(Shard::service) {
                count_shares(&mut self.dispatcher, pipeline, used, used.idle(), used.at);
                self.forget_ready(id);
            }
        }
    }

    fn want(&mut self, id: ShardId, now: Timestamp) {
        let owned = self.ownership.slots.contains(&id.slot());
        let known = self.ownership.is_coming(id) || self.ownership.refused.contains_key(&id);
        if owned && !known && !self.shards.contains_key(&id) {
            self.ownership.wanted.insert(id, Wanted::at(now));
        }
    }

    fn drop_pipeline(&mut self, pipeline: &Pipeline, out: &mut Vec<Action>) {
        for id in shards_of(pipeline) {
            self.ownership.forget(id);
            self.drop_shard(id, out);
        }
        for call in self.dispatcher.drop_pipeline(pipeline.number) {
            let gone = Answer::Leased(Err(Error::not_found("pipeline", &pipeline.path)));
            out.push(Action::Answer(call, 0, gone));
        }
    }

    /// Calls that waited for a shard which does not come, or not soon.
    pub(super) fn give_up_deferred(&mut self, id: ShardId, out: &mut Vec<Action>) {
        for (call, deferred) in self.deferred.remove(&id).unwrap_or_default() {
            match deferred {
                Deferred::Call(deferred) => self.refuse_absent(call, &deferred, out),
                Deferred::Look(part, _) => {
                    out.push(Action::Answer(call, part, Answer::Seen(Seen::Nowhere)));
                }
            }
        }
    }

    pub(super) fn drop_shard(&mut self, id: ShardId, out: &mut Vec<Action>) {
        self.give_up_deferred(id, out);
        if let Some(shard) = self.shards.remove(&id) {
            self.seekers.has_left = true;
            self.n_bytes -= shard.n_bytes();
            self.n_tasks -= shard.n_window();
            self.touched.insert(id);
            let used = shard.service();
            self.count_service(id, used, used.idle(), used.at);
            self.forget_ready(id);
            shard.abandon(out);
        }
    }

    pub(super) fn assigned(&mut self, slots: &[Slot], now: Timestamp, out: &mut Vec<Action>) {
        self.ownership.slots.extend(slots);
        self.ownership.was_assigned = true;
        self.reach.came_back();
        // A slot that comes back while it was being given up stays.
        self.ownership.revoking.retain(|slot| !slots.contains(slot));
        let stay = |id: &ShardId| slots.contains(&id.slot());
        let staying: Vec<_> = self
            .ownership
            .releasing
            .iter()
            .copied()
            .filter(stay)
            .collect();
        for id in staying {
            self.ownership.releasing.remove(&id);
            self.touched.insert(id);
        }
        for pipeline in self.pipelines.clone().into_values() {
            for id in shards_of(&pipeline) {
                self.want(id, now);
            }
        }
        // What waited for the first assignment and is not part of it is someone else's.
        let not_here: Vec<_> = self.deferred.keys().copied().collect();
        for id in not_here {
            if !self.ownership.is_coming(id) {
                self.give_up_deferred(id, out);
            }
        }
        self.run_claims(now, out);
    }

    pub(super) fn revoking(&mut self, slots: &[Slot], out: &mut Vec<Action>) {
        self.forsake(slots, out);
        self.ownership.revoking.extend(slots);
        let leaving = self.shards.keys().filter(|id| slots.contains(&id.slot()));
        self.ownership.releasing.extend(leaving);
    }

    pub(super) fn lost(&mut self, slots: &[Slot], out: &mut Vec<Action>) {
        self.forsake(slots, out);
        self.ownership.revoking.retain(|slot| !slots.contains(slot));
        let mut gone: Vec<_> = self
            .shards
            .keys()
            .copied()
            .filter(|id| slots.contains(&id.slot()))
            .collect();
        gone.sort_unstable();
        for id in gone {
            self.ownership.forget(id);
            self.drop_shard(id, out);
        }
    }

    /// Wants nothing more of these slots: to claim a shard of theirs would fence its new owner.
    fn forsake(&mut self, slots: &[Slot], out: &mut Vec<Action>) {
        for slot in slots {
            self.ownership.slots.remove(slot);
        }
        let is_theirs = |id: &ShardId| slots.contains(&id.slot());
        self.ownership.wanted.retain(|id, _| !is_theirs(id));
        self.ownership.refused.retain(|id, _| !is_theirs(id));
        for (id, claiming) in &mut self.ownership.claiming {
            claiming.is_void |= is_theirs(id);
        }
        let waiting: Vec<_> = self.deferred.keys().copied().filter(is_theirs).collect();
        for id in waiting {
            self.give_up_deferred(id, out);
        }
    }

    /// Asks for the shards whose time has come.
    pub(super) fn run_claims(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        if self.stopping {
            self.ownership.wanted.clear();
            for id in self.deferred.keys().copied().collect::<Vec<_>>() {
                self.give_up_deferred(id, out);
            }
            return;
        }
        // Without a proof the slots may be another's by now, and a claim would depose it.
        if !self.is_proven(now) {
            return;
        }
        let due = self
            .ownership
            .wanted
            .extract_if(.., |_, wanted| wanted.at <= now);
        // One shard that cannot be claimed fails all that are claimed with it, so what has failed is
        // claimed by pipeline and then alone.
        let mut together: BTreeMap<_, Vec<ShardId>> = BTreeMap::new();
        for (id, Wanted { n_failed, .. }) in due {
            let with = match n_failed {
                0 => (None, None),
                1 => (Some(id.pipeline), None),
                _ => (Some(id.pipeline), Some(id.partition)),
            };
            together.entry(with).or_default().push(id);
            let claiming = Claiming {
                n_failed,
                is_void: false,
            };
            self.ownership.claiming.insert(id, claiming);
        }
        out.extend(together.into_values().map(Action::Claim));
    }

    pub(super) fn claim_failed(
        &mut self,
        id: ShardId,
        kind: FailureKind,
        now: Timestamp,
        out: &mut Vec<Action>,
    ) {
        let claiming = self.ownership.claiming.remove(&id);
        if let Some(Claiming { n_failed, is_void }) = claiming
            && self.ownership.slots.contains(&id.slot())
        {
            if is_void {
                self.want(id, now);
                return;
            }
            if kind == FailureKind::Damaged && n_failed >= CLAIMED_ALONE {
                self.refuse(
                    id,
                    "its log or what is stored of it is damaged".to_owned(),
                    out,
                );
            } else {
                let wanted = Wanted {
                    at: now + CLAIM_RETRY * (1 << n_failed.min(CLAIM_DOUBLINGS)),
                    n_failed: n_failed.saturating_add(1),
                };
                self.ownership.wanted.insert(id, wanted);
            }
        }
        self.give_up_deferred(id, out);
    }

    pub(super) fn refuse(&mut self, id: ShardId, why: String, out: &mut Vec<Action>) {
        out.push(Action::Refused(id, why.clone()));
        self.ownership.refused.insert(id, why);
        self.give_up_deferred(id, out);
    }

    /// Starts a shard, unless its log is not the one it was, or was shortened.
    pub(super) fn claimed(
        &mut self,
        claimed: Claimed,
        bounds: &Bounds,
        now: Timestamp,
        out: &mut Vec<Action>,
    ) {
        let id = claimed.shard;
        let claiming = self.ownership.claiming.remove(&id);
        let is_ours = self.ownership.slots.contains(&id.slot());
        let Some(claiming) = claiming.filter(|_| is_ours && !self.stopping) else {
            return;
        };
        // Without a proof since, the claim may have come after that of a new owner, who would be ahead of it.
        if claiming.is_void || !self.is_proven(now) {
            self.want(id, now);
            return;
        }
        let Some(pipeline) = self.pipelines.get(&id.pipeline) else {
            return;
        };
        if let Some(why) = fault_of(&claimed, bounds) {
            self.refuse(id, why, out);
            return;
        }
        let config = Arc::clone(&self.config);
        let shard = Shard::new(claimed, bounds.end, pipeline, config, now);
        self.n_bytes += shard.n_bytes();
        self.n_tasks += shard.n_window();
        self.count_service(id, Service::default(), shard.service(), now);
        self.shards.insert(id, shard);
        self.touched.insert(id);
        for (call, deferred) in self.deferred.remove(&id).unwrap_or_default() {
            match deferred {
                Deferred::Call(deferred) => self.call(call, deferred, now, out),
                Deferred::Look(part, task) => self.look((call, part), task, now, out),
            }
        }
        // Workers that asked before the shard was here have said what they hold.
        let mut all_held = self.dispatcher.held_in(id);
        all_held.extend(self.seekers.held_in(id));
        all_held.sort_unstable_by_key(|(held, _)| (held.id, held.token));
        for (held, worker) in all_held {
            self.with_shard(id, now, |shard| shard.declare(held, worker, now, out));
        }
    }

    /// Someone else owns the shard. If its slot is still ours, it is claimed again after a while.
    pub(super) fn fenced(&mut self, id: ShardId, now: Timestamp, out: &mut Vec<Action>) {
        self.drop_shard(id, out);
        self.ownership.forget(id);
        if self.ownership.slots.contains(&id.slot()) {
            let wanted = Wanted::at(now + CLAIM_RETRY);
            self.ownership.wanted.insert(id, wanted);
        }
    }

    /// What the shard was to read next is gone: a new claim compares the log with what is stored, and
    /// refuses the shard unless nothing is missing.
    pub(super) fn log_lost(
        &mut self,
        id: ShardId,
        from: Offset,
        why: &str,
        now: Timestamp,
        out: &mut Vec<Action>,
    ) {
        let reads_on_there = |shard: &Shard| shard.next_fetch() == from;
        if !self.shards.get(&id).is_some_and(reads_on_there) {
            return;
        }
        let known = self.ownership.places_lost.get(&id);
        let n_lost = known.map_or(1, |(at, n)| if *at == from { n + 1 } else { 1 });
        if n_lost < PLACE_LOST_MAX {
            self.ownership.places_lost.insert(id, (from, n_lost));
            out.push(Action::LogLost(id, why.to_owned()));
            self.fenced(id, now, out);
        } else {
            // The log holds the place, says the claim, and still cannot give it.
            self.ownership.places_lost.remove(&id);
            self.drop_shard(id, out);
            let why = format!("the log cannot be read from offset {}: {why}", from.0);
            self.refuse(id, why, out);
        }
    }
}

fn fault_of(claimed: &Claimed, bounds: &Bounds) -> Option<String> {
    if claimed.incarnation != bounds.incarnation {
        Some(format!(
            "the log is not the one that was scheduled before: it was deleted and made again ({} and now {})",
            claimed.incarnation, bounds.incarnation
        ))
    } else if bounds.start > claimed.watermark {
        Some(format!(
            "the log starts at {}, but only tasks below {} are known to be done or stored",
            bounds.start.0, claimed.watermark.0
        ))
    } else if bounds.end < claimed.seen_end {
        Some(format!(
            "the log ends at {}, but records up to {} were read from it",
            bounds.end.0, claimed.seen_end.0
        ))
    } else {
        None
    }
}
