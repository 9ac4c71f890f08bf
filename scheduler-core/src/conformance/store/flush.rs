//! Cases of flushing: what is saved, what is fenced, and that a part is never cut.

use super::At;
use crate::{
    Epoch, Offset, ShardId,
    conformance::sample::{
        FAR, a_claim, at, claim, completed, get, key, parked, part, running, save, shard, stored,
    },
    port::{
        TaskStore,
        store::{Claimed, Flushed, Found, KeyRow, ListPage, Lookup, ShardFlush, StoredTask},
    },
    watermark::DoneChunk,
};

async fn all(store: &dyn TaskStore, shard: ShardId) -> Vec<StoredTask> {
    let page = ListPage {
        shard,
        states: Vec::new(),
        since: at(0),
        below: None,
        n_max: 100_000,
        bytes_max: usize::MAX,
    };
    store.list(&[page]).await.unwrap().remove(0)
}

fn key_row(text: &str, offset: u64) -> KeyRow {
    KeyRow {
        key: key(text),
        offset: Offset(offset),
        fingerprint: u64::MAX - offset,
        keep_until: FAR,
    }
}

/// A part that writes something of every kind, all of it recognisable by `n`.
fn full_part(shard: ShardId, epoch: Epoch, number: u64, n: u64) -> ShardFlush {
    ShardFlush {
        watermark: Offset(n),
        seen_end: Offset(n + 1_000),
        done: vec![DoneChunk {
            index: 100,
            words: [n; 16],
        }],
        tasks: (0..20).map(|i| stored(n + i, completed())).collect(),
        keys: vec![key_row(&format!("key-{n}"), n)],
        ..part(shard, epoch, number)
    }
}

/// Fails if only some of the part `n` is there. Claims the shard to look, so its owner is fenced after.
async fn is_there(store: &dyn TaskStore, shard: ShardId, n: u64) -> bool {
    let claimed: Claimed = claim(store, shard).await;
    let mut found = vec![
        claimed.watermark == Offset(n),
        claimed.seen_end == Offset(n + 1_000),
        claimed.done.iter().any(|chunk| chunk.words == [n; 16]),
    ];
    for i in 0..20 {
        found.push(get(store, shard, n + i).await.is_some());
    }
    let lookup = Lookup::Key(shard, key(&format!("key-{n}")));
    found.push(store.get(&[lookup]).await.unwrap()[0].is_some());
    let n_found = found.iter().filter(|found| **found).count();
    assert!(
        n_found == 0 || n_found == found.len(),
        "a part was cut: {found:?}"
    );
    n_found > 0
}

/// Completely: a task that ran becomes one that ended, and one that waits.
pub async fn a_task_saved_again_replaces_what_was_saved_before(home: At<'_>) {
    let store = home.open().await;
    let epoch = claim(&*store, shard(1, 0)).await.epoch;
    let states = [
        parked(at(5)),
        running(),
        parked(at(9)),
        completed(),
        running(),
    ];
    for (number, state) in (1..).zip(states) {
        let tasks = vec![stored(7, state.clone())];
        let part = part(shard(1, 0), epoch, number);
        save(&*store, ShardFlush { tasks, ..part }).await;
        assert_eq!(get(&*store, shard(1, 0), 7).await, Some(stored(7, state)));
    }
    let claimed = claim(&*store, shard(1, 0)).await;
    assert_eq!(claimed.next_due_at, None);
    assert_eq!(claimed.running.len(), 1);
    assert_eq!(all(&*store, shard(1, 0)).await.len(), 1);
}

/// And forgetting what was never saved is no fault.
pub async fn forgotten_tasks_are_gone(home: At<'_>) {
    let store = home.open().await;
    let epoch = claim(&*store, shard(1, 0)).await.epoch;
    let tasks = (0..4).map(|offset| stored(offset, running())).collect();
    let first = part(shard(1, 0), epoch, 1);
    save(&*store, ShardFlush { tasks, ..first }).await;
    let forgotten = [1, 3, 77].map(Offset).to_vec();
    let second = part(shard(1, 0), epoch, 2);
    save(
        &*store,
        ShardFlush {
            forgotten,
            ..second
        },
    )
    .await;
    drop(store);
    let store = home.open().await;
    let left = [stored(2, running()), stored(0, running())];
    assert_eq!(all(&*store, shard(1, 0)).await, left);
}

/// Neither while the owner lives nor after a reopening.
pub async fn a_stale_epoch_is_fenced_and_changes_nothing(home: At<'_>) {
    let store = home.open().await;
    let stale = claim(&*store, shard(1, 0)).await.epoch;
    save(&*store, full_part(shard(1, 0), stale, 1, 40)).await;
    let newest = claim(&*store, shard(1, 0)).await.epoch;
    for epoch in [stale, Epoch::NEVER, Epoch(newest.0 + 1)] {
        let part = full_part(shard(1, 0), epoch, 2, 90);
        assert_eq!(store.flush(&[part]).await.unwrap(), [Flushed::Fenced]);
    }
    let forget = ShardFlush {
        forgotten: vec![Offset(40)],
        ..part(shard(1, 0), stale, 3)
    };
    assert_eq!(store.flush(&[forget]).await.unwrap(), [Flushed::Fenced]);
    drop(store);
    let store = home.open().await;
    assert!(!is_there(&*store, shard(1, 0), 90).await);
    assert!(is_there(&*store, shard(1, 0), 40).await);
}

/// Whatever epoch it names.
pub async fn a_shard_never_claimed_is_fenced(home: At<'_>) {
    let store = home.open().await;
    for epoch in [Epoch::NEVER, Epoch(1)] {
        let part = full_part(shard(1, 0), epoch, 1, 40);
        assert_eq!(store.flush(&[part]).await.unwrap(), [Flushed::Fenced]);
    }
    assert_eq!(get(&*store, shard(1, 0), 40).await, None);
    assert_eq!(claim(&*store, shard(1, 0)).await.epoch, Epoch(1));
}

/// Wherever in the flush it is.
pub async fn a_fenced_part_leaves_the_others_alone(home: At<'_>) {
    for fenced in 0..3_u16 {
        let store = home.open().await;
        let shards: Vec<_> = (0..3).map(|partition| shard(1, partition)).collect();
        let claims: Vec<_> = shards.iter().copied().map(a_claim).collect();
        let claimed = store.claim(&claims).await.unwrap();
        claim(&*store, shards[usize::from(fenced)]).await;
        let n = 100 * u64::from(fenced) + 100;
        let parts: Vec<_> = claimed
            .iter()
            .map(|found| full_part(found.shard, found.epoch, 1, n))
            .collect();
        let answers = store.flush(&parts).await.unwrap();
        for (partition, answer) in (0..3).zip(answers) {
            let expected = if partition == fenced {
                Flushed::Fenced
            } else {
                Flushed::Saved
            };
            assert_eq!(answer, expected);
            let saved = is_there(&*store, shard(1, partition), n).await;
            assert_eq!(saved, expected == Flushed::Saved);
        }
    }
}

/// By the same owner; the next owner counts from 1 again.
pub async fn a_repeated_part_is_saved_but_not_applied_again(home: At<'_>) {
    let store = home.open().await;
    let first_epoch = claim(&*store, shard(1, 0)).await.epoch;
    let with = |epoch, number, state| ShardFlush {
        tasks: vec![stored(7, state)],
        ..part(shard(1, 0), epoch, number)
    };
    save(&*store, with(first_epoch, 1, running())).await;
    save(&*store, with(first_epoch, 2, completed())).await;
    for number in [2, 1, 2] {
        save(&*store, with(first_epoch, number, running())).await;
    }
    assert_eq!(
        get(&*store, shard(1, 0), 7).await,
        Some(stored(7, completed()))
    );
    let epoch = claim(&*store, shard(1, 0)).await.epoch;
    save(&*store, with(epoch, 1, running())).await;
    assert_eq!(
        get(&*store, shard(1, 0), 7).await,
        Some(stored(7, running()))
    );
    // Both in one call: the second is the first again.
    let twice = [with(epoch, 2, completed()), with(epoch, 2, running())];
    let answers = store.flush(&twice).await.unwrap();
    assert_eq!(answers, [Flushed::Saved, Flushed::Saved]);
    assert_eq!(
        get(&*store, shard(1, 0), 7).await,
        Some(stored(7, completed()))
    );
}

/// And the same part can be sent again to learn which.
pub async fn a_flush_dropped_at_any_point_is_saved_whole_or_not_at_all(home: At<'_>) {
    for n_polls in 0..12_u64 {
        let store = home.open().await;
        let epoch = claim(&*store, shard(1, 0)).await.epoch;
        let n = 1_000 + 100 * n_polls;
        let part = [full_part(shard(1, 0), epoch, 1, n)];
        let flush = store.flush(&part);
        tokio::select! {
            biased;
            _ = flush => {}
            () = yield_times(n_polls) => {}
        }
        if n_polls % 2 == 0 {
            assert_eq!(store.flush(&part).await.unwrap(), [Flushed::Saved]);
        }
        drop(store);
        let store = home.open().await;
        let saved = is_there(&*store, shard(1, 0), n).await;
        assert!(saved || n_polls % 2 == 1, "what was answered saved is gone");
    }
}

async fn yield_times(n: u64) {
    for _ in 0..n {
        tokio::task::yield_now().await;
    }
}

/// In one call, each under its own epoch.
pub async fn many_shards_flush_at_once(home: At<'_>) {
    let store = home.open().await;
    let claims: Vec<_> = (0..300)
        .map(|n| a_claim(shard(1 + n / 100, u16::try_from(n % 100).unwrap())))
        .collect();
    let claimed = store.claim(&claims).await.unwrap();
    for number in 1..=3 {
        let part = |found: &Claimed| ShardFlush {
            tasks: vec![stored(number, completed())],
            ..part(found.shard, found.epoch, number)
        };
        let parts: Vec<_> = claimed.iter().map(part).collect();
        let answers = store.flush(&parts).await.unwrap();
        assert_eq!(answers, vec![Flushed::Saved; 300]);
    }
    for found in &claimed {
        assert_eq!(all(&*store, found.shard).await.len(), 3);
    }
}

/// With 10,000 tasks, 500 chunks and 3,000 keys.
pub async fn a_large_flush_is_saved_whole(home: At<'_>) {
    let store = home.open().await;
    let epoch = claim(&*store, shard(1, 0)).await.epoch;
    let words = [u64::MAX; 16];
    let large = ShardFlush {
        tasks: (0..10_000)
            .map(|offset| stored(offset, completed()))
            .collect(),
        done: (0..500).map(|index| DoneChunk { index, words }).collect(),
        keys: (0..3_000).map(|n| key_row(&format!("k{n}"), n)).collect(),
        ..part(shard(1, 0), epoch, 1)
    };
    save(&*store, large).await;
    let forget = ShardFlush {
        forgotten: (0..5_000).map(Offset).collect(),
        ..part(shard(1, 0), epoch, 2)
    };
    save(&*store, forget).await;
    drop(store);
    let store = home.open().await;
    let tasks = all(&*store, shard(1, 0)).await;
    assert_eq!(tasks.len(), 5_000);
    assert_eq!(tasks[0], stored(9_999, completed()));
    assert_eq!(claim(&*store, shard(1, 0)).await.done.len(), 500);
    let lookups: Vec<_> = (0..3_000)
        .map(|n| Lookup::Key(shard(1, 0), key(&format!("k{n}"))))
        .collect();
    for (n, found) in (0..).zip(store.get(&lookups).await.unwrap()) {
        assert_eq!(found, Some(Found::Key(key_row(&format!("k{n}"), n))));
    }
}
