//! Whether the store can be reached, and what follows if it cannot for long.

use std::time::Duration;

use super::Member;
use crate::{Timestamp, action::Action, port::FailureKind};

/// A member that cannot reach the store for so long is not ready.
pub(super) const UNREADY_AFTER: Duration = Duration::from_secs(5);

/// What the store's answers have shown.
#[derive(Debug, Default)]
pub(super) struct Reach {
    failing_since: Option<Timestamp>,
    /// The member has left, and was given nothing since.
    has_left: bool,
}

impl Reach {
    pub(super) fn unreached_for(&self, now: Timestamp) -> Duration {
        self.failing_since
            .map_or(Duration::ZERO, |since| now.since(since))
    }

    /// The member has slots again: patience begins anew, or one that can read and not write would come and go all the time.
    pub(super) fn came_back(&mut self) {
        if std::mem::take(&mut self.has_left) {
            self.failing_since = None;
        }
    }

    /// Only what is written is looked at: a store that can be read and not written is of no use to an owner. One that
    /// is full is so for every member.
    fn note(&mut self, answer: Result<(), FailureKind>, now: Timestamp) {
        match answer {
            Err(FailureKind::Unavailable | FailureKind::Unknown) => {
                self.failing_since.get_or_insert(now);
            }
            Ok(()) | Err(FailureKind::Damaged | FailureKind::Full | FailureKind::Closed) => {
                self.failing_since = None;
            }
        }
    }
}

impl Member {
    /// What is asked of nobody any more says nothing: a claim that failed, of a shard that went elsewhere.
    pub(super) fn forget_unasked(&mut self) {
        if !self.lanes.are_saving() && self.ownership.n_coming() == 0 {
            self.reach.failing_since = None;
        }
    }

    fn any_shard(&self) -> Option<crate::ShardId> {
        let worked_on = self.shards.keys().min().copied();
        worked_on.or_else(|| self.ownership.first_coming())
    }

    /// Notes whether the store answers. If it has not for too long, the member lets go of everything and leaves.
    ///
    /// It must have let go before others are told, since they may then own its slots at once, while the proof of its
    /// membership is still young enough to hand out leases by.
    pub(super) fn store_answered(
        &mut self,
        answer: Result<(), FailureKind>,
        now: Timestamp,
        out: &mut Vec<Action>,
    ) {
        self.reach.note(answer, now);
        let is_patient = self.reach.unreached_for(now) < self.config.leave_after;
        if self.stopping || self.reach.has_left || is_patient {
            return;
        }
        let Some(shard) = self.any_shard() else {
            return;
        };
        let mut slots: Vec<_> = self.slots().collect();
        slots.extend(self.ownership.leaving_slots());
        slots.sort_unstable();
        self.lost(&slots, out);
        self.proven_at = None;
        self.reach.has_left = true;
        out.push(Action::Leave(shard));
    }
}
