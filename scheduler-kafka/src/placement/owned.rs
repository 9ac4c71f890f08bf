//! Which slots this member has, and what it was told of them. Pure.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Instant,
};

use scheduler_core::{Slot, port::placement::PlacementEvent};

/// The slots of this member.
#[derive(Debug, Default)]
pub(super) struct Owned {
    owned: BTreeSet<Slot>,
    revoking: BTreeSet<Slot>,
    released: BTreeSet<Slot>,
    revoking_since: Option<Instant>,
    /// What was lost while the group waited for it to be let go.
    gone: BTreeSet<Slot>,
    is_member: bool,
    /// Grows whenever slots are lost.
    n_losses: u64,
    events: VecDeque<PlacementEvent>,
}

impl Owned {
    pub(super) fn next_event(&mut self) -> Option<PlacementEvent> {
        self.events.pop_front()
    }

    /// These are this member's from now on. None is news too: it is a member then.
    pub(super) fn assign(&mut self, slots: BTreeSet<Slot>) {
        self.is_member = true;
        self.gone.clear();
        let new: Vec<_> = slots.difference(&self.owned).copied().collect();
        self.owned.extend(slots);
        if !new.is_empty() {
            self.events.push_back(PlacementEvent::Assigned(new));
        }
    }

    /// These go to another member once they were released.
    pub(super) fn revoke(&mut self, slots: BTreeSet<Slot>, now: Instant) {
        self.gone.clear();
        self.revoking_since.get_or_insert(now);
        let new: Vec<_> = slots.intersection(&self.owned).copied().collect();
        // What is not owned needs no release.
        self.released.extend(slots.difference(&self.owned));
        self.revoking.extend(slots);
        if !new.is_empty() {
            self.events.push_back(PlacementEvent::Revoking(new));
        }
    }

    pub(super) fn release(&mut self, slots: &[Slot]) {
        let given_up = slots.iter().filter(|slot| self.revoking.contains(slot));
        self.released.extend(given_up);
    }

    /// What the group may have now: all that is being revoked, since the group takes it in one piece.
    /// After too long it takes what was not released too.
    pub(super) fn let_go(&mut self, too_long: impl Fn(Instant) -> bool) -> Option<BTreeSet<Slot>> {
        if !self.gone.is_empty() {
            return Some(std::mem::take(&mut self.gone));
        }
        let since = self.revoking_since?;
        let late: Vec<_> = self.revoking.difference(&self.released).copied().collect();
        if !late.is_empty() {
            if !too_long(since) {
                return None;
            }
            self.n_losses += 1;
            self.events.push_back(PlacementEvent::Lost(late));
        }
        let gone = std::mem::take(&mut self.revoking);
        self.owned.retain(|slot| !gone.contains(slot));
        self.released.clear();
        self.revoking_since = None;
        Some(gone)
    }

    /// All slots are gone already; false if there were none.
    pub(super) fn lose_all(&mut self) -> bool {
        self.is_member = false;
        self.n_losses += 1;
        self.gone.append(&mut self.revoking);
        self.released.clear();
        self.revoking_since = None;
        let lost: Vec<_> = std::mem::take(&mut self.owned).into_iter().collect();
        let is_news = !lost.is_empty();
        if is_news {
            self.events.push_back(PlacementEvent::Lost(lost));
        }
        is_news
    }

    /// The group has taken everything back, so nothing is left to be let go.
    pub(super) fn taken(&mut self) -> bool {
        let is_news = self.lose_all();
        self.gone.clear();
        is_news
    }

    /// A slot to prove the membership by, and what must not change until it is proven.
    pub(super) fn to_prove(&self) -> Option<(Slot, u64)> {
        let slot = self.owned.first().copied().unwrap_or(Slot(0));
        self.is_member.then_some((slot, self.n_losses))
    }

    pub(super) fn is_still(&self, n_losses: u64) -> bool {
        self.is_member && self.n_losses == n_losses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots<const N: usize>(slots: [u8; N]) -> BTreeSet<Slot> {
        slots.map(Slot).into()
    }

    fn events(owned: &mut Owned) -> Vec<PlacementEvent> {
        std::iter::from_fn(|| owned.next_event()).collect()
    }

    #[test]
    fn revoked_slots_are_kept_until_all_of_them_are_released() {
        let mut owned = Owned::default();
        owned.assign(slots([1, 2, 3]));
        owned.revoke(slots([1, 2]), Instant::now());
        assert_eq!(owned.let_go(|_| false), None);
        owned.release(&[Slot(1), Slot(3)]);
        assert_eq!(owned.let_go(|_| false), None);
        owned.release(&[Slot(2)]);
        assert_eq!(owned.let_go(|_| false), Some(slots([1, 2])));
        assert_eq!(owned.let_go(|_| false), None);
        let expected = [
            PlacementEvent::Assigned(vec![Slot(1), Slot(2), Slot(3)]),
            PlacementEvent::Revoking(vec![Slot(1), Slot(2)]),
        ];
        assert_eq!(events(&mut owned), expected);
        assert_eq!(owned.to_prove(), Some((Slot(3), 0)));
    }

    #[test]
    fn what_is_not_released_in_time_is_lost() {
        let mut owned = Owned::default();
        owned.assign(slots([1, 2]));
        owned.revoke(slots([1, 2]), Instant::now());
        owned.release(&[Slot(1)]);
        let (_, before) = owned.to_prove().unwrap();
        assert_eq!(owned.let_go(|_| true), Some(slots([1, 2])));
        assert_eq!(
            events(&mut owned).last(),
            Some(&PlacementEvent::Lost(vec![Slot(2)]))
        );
        assert!(!owned.is_still(before));
    }

    #[test]
    fn a_loss_takes_everything_and_is_told_once() {
        let mut owned = Owned::default();
        assert_eq!(owned.to_prove(), None, "it has not joined yet");
        owned.assign(slots([1, 2]));
        owned.revoke(slots([2]), Instant::now());
        events(&mut owned);
        assert!(owned.lose_all());
        assert!(!owned.lose_all());
        assert_eq!(
            events(&mut owned),
            [PlacementEvent::Lost(vec![Slot(1), Slot(2)])]
        );
        assert_eq!(owned.to_prove(), None);
        assert_eq!(
            owned.let_go(|_| false),
            Some(slots([2])),
            "the group waits for it"
        );
        assert_eq!(owned.let_go(|_| true), None);
        owned.assign(slots([2]));
        assert_eq!(
            events(&mut owned),
            [PlacementEvent::Assigned(vec![Slot(2)])]
        );
    }
}
