//! What any scheduler must do at least: take a payload in, queue it, find it by its id, and let it go.

use std::collections::VecDeque;

use bytes::Bytes;
use rustc_hash::FxHashMap;

const BATCH: u64 = 256;

/// Runs `n` lives.
pub(crate) fn run(n: u64) {
    let payload = [b'x'; 200];
    let mut queue = VecDeque::new();
    let mut by_id = FxHashMap::default();
    let mut id = 0_u64;
    while id < n {
        for _ in 0..BATCH {
            by_id.insert(id, Bytes::copy_from_slice(&payload));
            queue.push_back(id);
            id += 1;
        }
        for _ in 0..BATCH {
            let found = queue.pop_front().and_then(|id| by_id.remove(&id));
            std::hint::black_box(found);
        }
    }
}
