//! What is to happen when: in the order of time, and of asking where times are equal.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
};

use scheduler_core::Timestamp;

/// A queue of things to come.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    heap: BinaryHeap<Reverse<Entry<T>>>,
    n_pushed: u64,
}

#[derive(Debug)]
struct Entry<T> {
    at: Timestamp,
    n: u64,
    what: T,
}

impl<T> Entry<T> {
    fn order(&self) -> (Timestamp, u64) {
        (self.at, self.n)
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}

impl<T> Eq for Entry<T> {}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order().cmp(&other.order())
    }
}

impl<T> Queue<T> {
    pub(crate) fn new() -> Self {
        Self {
            heap: BinaryHeap::new(),
            n_pushed: 0,
        }
    }

    pub(crate) fn push(&mut self, at: Timestamp, what: T) {
        self.n_pushed += 1;
        let n = self.n_pushed;
        self.heap.push(Reverse(Entry { at, n, what }));
    }

    /// The next thing, unless it comes after `until`.
    pub(crate) fn pop(&mut self, until: Timestamp) -> Option<(Timestamp, T)> {
        if self.heap.peek()?.0.at > until {
            return None;
        }
        let Reverse(entry) = self.heap.pop()?;
        Some((entry.at, entry.what))
    }
}
