//! A hierarchical timing wheel: at most one timer per key, armed, moved and disarmed in constant time.
//!
//! The scheme is that of Varghese and Lauck, "Hashed and Hierarchical Timing Wheels" (SOSP 1987):
//! 64 buckets a level, each level 64 times as coarse as the one below; a bucket of a higher level is
//! spread over the lower ones when its time comes.

use crate::Timestamp;

const BITS: u32 = 6;
const BUCKETS: usize = 1 << BITS;
/// 64⁷ ms are 139 years.
const LEVELS: usize = 7;
const LEVELS_BITS: u32 = 7 * BITS;
const NIL: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Node {
    at: u64,
    prev: u32,
    next: u32,
    /// Level and bucket, or `NIL` while not armed.
    place: u32,
}

const IDLE: Node = Node {
    at: 0,
    prev: NIL,
    next: NIL,
    place: NIL,
};

/// Timers by key; keys are small numbers, such as slots of a slab.
#[derive(Debug, Clone)]
pub struct Wheel {
    now: u64,
    nodes: Vec<Node>,
    heads: [[u32; BUCKETS]; LEVELS],
    occupied: [u64; LEVELS],
}

impl Wheel {
    /// Without timers.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self {
            now: now.as_millis(),
            nodes: Vec::new(),
            heads: [[NIL; BUCKETS]; LEVELS],
            occupied: [0; LEVELS],
        }
    }

    /// The time that it last saw.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.now)
    }

    /// Arms the timer of `key`, in place of an earlier one. A time in the past fires at the next
    /// [`pop`](Self::pop). [`Timestamp::NEVER`] disarms.
    pub fn arm(&mut self, key: u32, at: Timestamp) {
        self.disarm(key);
        if at == Timestamp::NEVER {
            return;
        }
        let index = key as usize;
        if index >= self.nodes.len() {
            self.nodes.resize(index + 1, IDLE);
        }
        self.link(key, at.as_millis());
    }

    /// Disarms the timer of `key`, if it has one.
    pub fn disarm(&mut self, key: u32) {
        let Some(&node) = self.nodes.get(key as usize) else {
            return;
        };
        if node.place == NIL {
            return;
        }
        let (level, bucket) = split(node.place);
        if node.prev == NIL {
            self.heads[level][bucket] = node.next;
            if node.next == NIL {
                self.occupied[level] &= !(1 << bucket);
            }
        } else {
            self.nodes[node.prev as usize].next = node.next;
        }
        if node.next != NIL {
            self.nodes[node.next as usize].prev = node.prev;
        }
        self.nodes[key as usize] = IDLE;
    }

    /// Takes one timer whose time has come. Call it until it gives `None`.
    pub fn pop(&mut self, now: Timestamp) -> Option<u32> {
        let now = now.as_millis();
        loop {
            let Some((level, bucket, starts)) = self.first_bucket() else {
                self.now = self.now.max(now);
                return None;
            };
            if starts > now {
                self.now = self.now.max(now);
                return None;
            }
            self.now = self.now.max(starts);
            if level == 0 {
                let key = self.heads[level][bucket];
                self.disarm(key);
                return Some(key);
            }
            self.spread(level, bucket);
        }
    }

    /// A time at or before which no timer fires but the first: when to call [`pop`](Self::pop) next.
    #[must_use]
    pub fn next_at(&self) -> Option<Timestamp> {
        self.first_bucket()
            .map(|(_, _, starts)| Timestamp::from_millis(starts))
    }

    /// Moves a bucket's timers to finer levels.
    fn spread(&mut self, level: usize, bucket: usize) {
        let mut key = std::mem::replace(&mut self.heads[level][bucket], NIL);
        self.occupied[level] &= !(1 << bucket);
        while key != NIL {
            let node = std::mem::replace(&mut self.nodes[key as usize], IDLE);
            self.link(key, node.at);
            key = node.next;
        }
    }

    fn link(&mut self, key: u32, at: u64) {
        // What lies beyond the last level waits in its farthest bucket and is spread again from there.
        let horizon = self.now | ((1 << LEVELS_BITS) - 1);
        let due = at.clamp(self.now, horizon);
        let differs = 63 - ((due ^ self.now) | 1).leading_zeros();
        let level = (differs / BITS) as usize;
        let bucket = bucket_of(due, BITS * (differs / BITS)) as usize;
        let head = std::mem::replace(&mut self.heads[level][bucket], key);
        self.occupied[level] |= 1 << bucket;
        if head != NIL {
            self.nodes[head as usize].prev = key;
        }
        self.nodes[key as usize] = Node {
            at,
            prev: NIL,
            next: head,
            place: join(level, bucket),
        };
    }

    /// The occupied bucket that comes first, and when its time begins.
    fn first_bucket(&self) -> Option<(usize, usize, u64)> {
        // Lower levels lie within the current bucket of the higher ones, so they come first.
        (0..LEVELS)
            .zip((0..).step_by(BITS as usize))
            .find(|(level, _)| self.occupied[*level] != 0)
            .map(|(level, shift)| {
                let current = bucket_of(self.now, shift);
                let ahead = self.occupied[level].rotate_right(current).trailing_zeros();
                let bucket = (current + ahead) as usize % BUCKETS;
                let starts = ((self.now >> shift) + u64::from(ahead)) << shift;
                (level, bucket, starts.max(self.now))
            })
    }
}

/// The bucket of a time on the level whose buckets are 2 to the power of `shift` wide.
fn bucket_of(time: u64, shift: u32) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "a bucket is below 64")]
    let bucket = ((time >> shift) % BUCKETS as u64) as u32;
    bucket
}

fn join(level: usize, bucket: usize) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "there are 7 times 64 places"
    )]
    let place = (level * BUCKETS + bucket) as u32;
    place
}

fn split(place: u32) -> (usize, usize) {
    (place as usize / BUCKETS, place as usize % BUCKETS)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Arm(u32, u64),
        Disarm(u32),
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let near = 0u64..200;
        let far = 0u64..10_000_000_000;
        prop_oneof![
            3 => (0u32..40, near.clone()).prop_map(|(key, wait)| Step::Arm(key, wait)),
            2 => (0u32..40, far.clone()).prop_map(|(key, wait)| Step::Arm(key, wait)),
            1 => (0u32..40).prop_map(Step::Disarm),
            3 => near.prop_map(Step::Pass),
            1 => far.prop_map(Step::Pass),
        ]
    }

    proptest! {
        #[test]
        fn fires_what_a_sorted_map_fires(start in 0u64..1_000_000_000, steps in prop::collection::vec(step(), 0..300)) {
            let mut now = start;
            let mut wheel = Wheel::new(Timestamp::from_millis(now));
            let mut model = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Arm(key, wait) => {
                        wheel.arm(key, Timestamp::from_millis(now + wait));
                        model.insert(key, now + wait);
                    }
                    Step::Disarm(key) => {
                        wheel.disarm(key);
                        model.remove(&key);
                    }
                    Step::Pass(wait) => now += wait,
                }
                let mut fired = Vec::new();
                while let Some(key) = wheel.pop(Timestamp::from_millis(now)) {
                    fired.push(key);
                }
                let mut due: Vec<_> = model.extract_if(.., |_, at| *at <= now).collect();
                due.sort_by_key(|(_, at)| *at);
                fired.sort_unstable();
                let mut keys: Vec<_> = due.iter().map(|(key, _)| *key).collect();
                keys.sort_unstable();
                prop_assert_eq!(fired, keys);
                let first = model.values().min().copied();
                prop_assert_eq!(wheel.next_at().is_some(), first.is_some());
                prop_assert!(wheel.next_at().map(Timestamp::as_millis) <= first || first.is_none());
            }
        }
    }
}
