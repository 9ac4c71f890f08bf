//! Giving up shards in good order, and slots that have none left.

use std::collections::BTreeSet;

use crate::{ShardId, Timestamp, action::Action, member::Member, shard::Urgency};

impl Member {
    /// Gives up shards that have saved everything.
    pub(in crate::member) fn run_releases(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        if self.stopped {
            return;
        }
        if self.stopping {
            self.ownership.releasing.extend(self.shards.keys());
        }
        let mut released = Vec::new();
        for id in self.ownership.releasing.clone() {
            match self.shards.get(&id) {
                Some(shard) if shard.is_clean() => {
                    // Without this note the next owner gives workers an adoption window of its own.
                    if !shard.is_adopting(now) {
                        released.push((id, shard.epoch()));
                    }
                    self.ownership.releasing.remove(&id);
                    self.drop_shard(id, out);
                }
                Some(_) => self.lanes.note(id, Urgency::Now, now),
                None => {
                    self.ownership.releasing.remove(&id);
                }
            }
        }
        if !released.is_empty() {
            self.ownership
                .releases
                .extend(released.iter().map(|(id, _)| *id));
            out.push(Action::Release(released));
        }
        self.give_up_slots(out);
        let idle = self.shards.is_empty() && self.ownership.releases.is_empty();
        if self.stopping && idle && self.ownership.claiming.is_empty() {
            self.stopped = true;
            out.push(Action::Stopped);
        }
    }

    /// Lets go of revoked slots that have no shard left.
    fn give_up_slots(&mut self, out: &mut Vec<Action>) {
        if self.ownership.revoking.is_empty() {
            return;
        }
        let busy: BTreeSet<_> = self
            .shards
            .keys()
            .chain(&self.ownership.releases)
            .chain(self.ownership.claiming.keys())
            .map(|id| id.slot())
            .collect();
        let free: Vec<_> = self
            .ownership
            .revoking
            .extract_if(.., |slot| !busy.contains(slot))
            .collect();
        if !free.is_empty() {
            out.push(Action::GiveUp(free));
        }
    }

    pub(in crate::member) fn released(&mut self, shards: &[ShardId]) {
        for id in shards {
            self.ownership.releases.remove(id);
        }
    }
}
