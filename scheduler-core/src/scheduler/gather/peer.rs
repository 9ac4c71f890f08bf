//! What is asked of one other member, in which open calls.

use std::{collections::BTreeMap, time::Duration};

use rustc_hash::FxHashMap;

use crate::Timestamp;

/// The most entries of one call, and the most leases that it names.
const ENTRIES_MAX: usize = 1_000;
const HELD_MAX: usize = 50_000;
/// How long a member that could not be asked is left alone, at first and at most.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long it is known that a member has failed, though nothing is asked of it.
const KEPT: Duration = Duration::from_secs(10);

/// For whom something is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Item {
    /// For polls that offer the same.
    Crowd(u64),
    /// For the leases that one poll named.
    Holder(u64),
}

/// How an item stands with a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stand {
    /// To be asked at a time, and even if no poll waits.
    Due(Timestamp, Anyway),
    /// Asked in a call that is open.
    Asked(u64),
    /// The peer has something, and some polls are looking.
    Trying(Trial),
}

/// Whether something is asked though no poll waits for the answer: so that those that come know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anyway {
    Yes,
    No,
}

/// What became of the polls that were woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Trial {
    pub(super) n_open: usize,
    pub(super) n_got: usize,
    pub(super) n_vain: usize,
}

/// A time to wait that doubles while things do not get better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Pause(Duration);

impl Pause {
    pub(super) fn next(&mut self) -> Duration {
        self.0 = (self.0 * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        self.0
    }

    pub(super) fn reset(&mut self) {
        self.0 = Duration::ZERO;
    }
}

/// One other member.
#[derive(Debug, Default)]
pub(super) struct Peer {
    items: FxHashMap<Item, Stand>,
    /// Items by when they are to be asked.
    due: std::collections::BTreeSet<(Timestamp, Item)>,
    /// What was asked in each open call. Items that stand otherwise by now count no longer.
    calls: BTreeMap<u64, Vec<Item>>,
    /// Not to be asked before this.
    pub(super) not_before: Timestamp,
    pause: Pause,
}

impl Peer {
    pub(super) fn stand(&self, item: Item) -> Option<Stand> {
        self.items.get(&item).copied()
    }

    /// Puts an item where it now stands; tells how it stood.
    pub(super) fn set(&mut self, item: Item, stand: Stand) -> Option<Stand> {
        let before = self.items.insert(item, stand);
        if let Some(Stand::Due(at, _)) = before {
            self.due.remove(&(at, item));
        }
        if let Stand::Due(at, _) = stand {
            self.due.insert((at, item));
        }
        before
    }

    pub(super) fn remove(&mut self, item: Item) -> Option<Stand> {
        let before = self.items.remove(&item);
        if let Some(Stand::Due(at, _)) = before {
            self.due.remove(&(at, item));
        }
        before
    }

    /// When something is to be asked.
    pub(super) fn due_at(&self) -> Option<Timestamp> {
        let (at, _) = self.due.first()?;
        Some((*at).max(self.not_before))
    }

    /// Items that are to be asked now.
    pub(super) fn all_due(&self, now: Timestamp) -> Vec<(Item, Anyway)> {
        let due = self.due.iter().take_while(|(at, _)| *at <= now);
        let anyway = |item: &Item| match self.items.get(item) {
            Some(Stand::Due(_, anyway)) => *anyway,
            _ => Anyway::No,
        };
        due.map(|(_, item)| (*item, anyway(item))).collect()
    }

    /// Open calls in which no more is still asked than `n` items, to which theirs are added: they are taken back
    /// and asked together. So open calls halve in size, and few are open.
    pub(super) fn swallow(&mut self, mut n: usize) -> (Vec<u64>, Vec<Item>) {
        let mut open: Vec<(Vec<Item>, u64)> = Vec::new();
        for (call, items) in &self.calls {
            let asked = |item: &&Item| self.items.get(item) == Some(&Stand::Asked(*call));
            open.push((items.iter().filter(asked).copied().collect(), *call));
        }
        open.sort_unstable_by_key(|(items, call)| (items.len(), *call));
        let (mut calls, mut taken) = (Vec::new(), Vec::new());
        for (items, call) in open {
            if items.len() > n || !items.is_empty() && n + items.len() > ENTRIES_MAX {
                break;
            }
            n += items.len();
            self.calls.remove(&call);
            calls.push(call);
            taken.extend(items);
        }
        (calls, taken)
    }

    pub(super) fn begin(&mut self, call: u64, items: Vec<Item>) {
        for item in &items {
            self.set(*item, Stand::Asked(call));
        }
        self.calls.insert(call, items);
    }

    /// The items of a call that is over, in the order asked; `None` for those that count no longer.
    pub(super) fn end(&mut self, call: u64) -> Vec<Option<Item>> {
        let items = self.calls.remove(&call).unwrap_or_default();
        let asked = |item: Item| self.items.get(&item) == Some(&Stand::Asked(call));
        items
            .into_iter()
            .map(|item| asked(item).then_some(item))
            .collect()
    }

    pub(super) fn worked(&mut self) {
        self.pause.reset();
    }

    pub(super) fn failed(&mut self, now: Timestamp) {
        self.not_before = now + self.pause.next();
    }

    /// Whether there is nothing to know of it, not even that it has failed lately.
    pub(super) fn is_idle(&self, now: Timestamp) -> bool {
        let is_over = self.not_before + KEPT <= now;
        self.items.is_empty() && self.calls.is_empty() && is_over
    }
}

/// Cuts what is to be asked into calls that are not too large: `n_held` tells how many leases an entry names.
pub(super) fn cut<T>(entries: Vec<T>, n_held: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let mut calls: Vec<Vec<T>> = Vec::new();
    let mut n_named = 0;
    for entry in entries {
        let n = n_held(&entry);
        match calls.last_mut() {
            Some(call) if call.len() < ENTRIES_MAX && n_named + n <= HELD_MAX => call.push(entry),
            _ => {
                n_named = 0;
                calls.push(vec![entry]);
            }
        }
        n_named += n;
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_calls_halve_in_size_however_items_come() {
        let mut peer = Peer::default();
        let mut n_sent = 0;
        for n in 0..900_u64 {
            let (_, mut items) = peer.swallow(1);
            items.push(Item::Holder(n));
            n_sent += items.len();
            peer.begin(n, items);
            assert!(peer.calls.len() <= 10, "{} calls", peer.calls.len());
        }
        let n_asked: usize = peer.calls.values().map(Vec::len).sum();
        assert_eq!(n_asked, 900);
        assert!(n_sent <= 900 * 10, "{n_sent} sent");
    }

    #[test]
    fn a_call_in_which_nothing_is_asked_any_more_is_taken_back() {
        let mut peer = Peer::default();
        peer.begin(1, vec![Item::Holder(1), Item::Holder(2)]);
        for n in [1, 2] {
            peer.remove(Item::Holder(n));
        }
        assert_eq!(peer.swallow(1), (vec![1], vec![]));
    }

    #[test]
    fn a_pause_grows_to_a_second() {
        let mut pause = Pause::default();
        let pauses = [(); 6].map(|()| pause.next().as_millis());
        assert_eq!(pauses, [100, 200, 400, 800, 1_000, 1_000]);
    }
}
