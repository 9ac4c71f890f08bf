//! Cases of claiming and releasing shards.

use super::At;
use crate::{
    Epoch, Offset,
    conformance::sample::{
        a_claim, at, claim, completed, parked, part, running, save, shard, stored,
    },
    port::store::{Claim, Claimed, ShardFlush},
    watermark::DoneChunk,
};

fn chunk(index: u64, word: u64) -> DoneChunk {
    let mut words = [0; 16];
    words[0] = word;
    words[15] = u64::MAX;
    DoneChunk { index, words }
}

/// And with nothing else.
pub async fn a_first_claim_starts_at_epoch_1_and_watermark_0(home: At<'_>) {
    let store = home.open().await;
    let expected = Claimed {
        shard: shard(1, 0),
        epoch: Epoch(1),
        incarnation: "log-1".into(),
        watermark: Offset::ZERO,
        done: Vec::new(),
        seen_end: Offset::ZERO,
        running: Vec::new(),
        next_due_at: None,
        has_keyed: false,
        cancels: Vec::new(),
        released: false,
    };
    assert_eq!(claim(&*store, shard(1, 0)).await, expected);
}

/// Of its own shard only.
pub async fn every_claim_raises_the_epoch(home: At<'_>) {
    let store = home.open().await;
    for epoch in 1..=5 {
        assert_eq!(claim(&*store, shard(1, 0)).await.epoch, Epoch(epoch));
    }
    assert_eq!(claim(&*store, shard(1, 1)).await.epoch, Epoch(1));
}

/// Whatever the process before did not write.
pub async fn every_claim_after_a_reopen_raises_the_epoch(home: At<'_>) {
    for epoch in 1..=3 {
        let store = home.open().await;
        assert_eq!(claim(&*store, shard(1, 0)).await.epoch, Epoch(epoch));
    }
}

/// Also when some shards are new and others not.
pub async fn a_claim_answers_in_the_order_asked(home: At<'_>) {
    let store = home.open().await;
    claim(&*store, shard(2, 0)).await;
    let shards = [shard(3, 0), shard(2, 0), shard(1, 7), shard(1, 2)];
    let claimed = store.claim(&shards.map(a_claim)).await.unwrap();
    let answers: Vec<_> = claimed.iter().map(|found| found.shard).collect();
    assert_eq!(answers, shards);
    let epochs: Vec<_> = claimed.iter().map(|found| found.epoch.0).collect();
    assert_eq!(epochs, [1, 2, 1, 1]);
}

/// For every process, and only of shards that were ever claimed.
pub async fn the_newest_owner_of_each_shard_is_known(home: At<'_>) {
    let store = home.open().await;
    let claimed_by = |shard, address: &str| Claim {
        address: address.into(),
        ..a_claim(shard)
    };
    let first = [
        claimed_by(shard(1, 0), "a:1"),
        claimed_by(shard(2, 3), "a:1"),
    ];
    store.claim(&first).await.unwrap();
    store
        .claim(&[claimed_by(shard(2, 3), "b:2")])
        .await
        .unwrap();
    drop(store);
    let store = home.open().await;
    let asked = [shard(2, 3), shard(7, 0), shard(1, 0), shard(2, 3)];
    let owners = store.owners(&asked).await.unwrap();
    let owners: Vec<_> = owners.iter().map(Option::as_deref).collect();
    assert_eq!(owners, [Some("b:2"), None, Some("a:1"), Some("b:2")]);
    assert_eq!(store.owners(&[]).await.unwrap(), []);
}

/// So that a log that was deleted and made again is noticed.
pub async fn the_incarnation_of_the_first_claim_stays(home: At<'_>) {
    let store = home.open().await;
    claim(&*store, shard(1, 0)).await;
    let mut other = a_claim(shard(1, 0));
    other.incarnation = "log-2".into();
    for _ in 0..2 {
        let store = home.open().await;
        let claimed = store.claim(std::slice::from_ref(&other)).await.unwrap();
        assert_eq!(&*claimed[0].incarnation, "log-1");
    }
}

/// With their tokens; tasks in other states do not.
pub async fn running_tasks_come_back_from_a_claim(home: At<'_>) {
    let store = home.open().await;
    for partition in 0..2 {
        let epoch = claim(&*store, shard(1, partition)).await.epoch;
        let mut tasks = vec![stored(1, running()), stored(5, running())];
        tasks.extend([stored(2, parked(at(1))), stored(3, completed())]);
        let part = part(shard(1, partition), epoch, 1);
        save(&*store, ShardFlush { tasks, ..part }).await;
    }
    drop(store);
    let store = home.open().await;
    let shards = [shard(1, 0), shard(1, 1)].map(a_claim);
    for mut claimed in store.claim(&shards).await.unwrap() {
        claimed.running.sort_by_key(|task| task.offset);
        let expected = [stored(1, running()), stored(5, running())];
        assert_eq!(claimed.running, expected);
    }
    let part = ShardFlush {
        tasks: vec![stored(1, completed())],
        ..part(shard(1, 0), Epoch(2), 1)
    };
    save(&*store, part).await;
    let claimed = claim(&*store, shard(1, 0)).await;
    assert_eq!(claimed.running, [stored(5, running())]);
}

/// The earliest of all parked tasks.
pub async fn the_next_due_time_comes_back_from_a_claim(home: At<'_>) {
    let store = home.open().await;
    let epoch = claim(&*store, shard(1, 0)).await.epoch;
    let tasks = vec![
        stored(1, parked(at(300))),
        stored(2, parked(at(100))),
        stored(3, parked(at(200))),
    ];
    let first = part(shard(1, 0), epoch, 1);
    save(&*store, ShardFlush { tasks, ..first }).await;
    let claimed = claim(&*store, shard(1, 0)).await;
    assert_eq!(claimed.next_due_at, Some(at(100)));
    let tasks = vec![stored(2, running())];
    let first = part(shard(1, 0), claimed.epoch, 1);
    save(&*store, ShardFlush { tasks, ..first }).await;
    let claimed = claim(&*store, shard(1, 0)).await;
    assert_eq!(claimed.next_due_at, Some(at(200)));
}

/// The claim after that finds no release of the owner between.
pub async fn a_release_is_told_once_to_the_next_claim(home: At<'_>) {
    let store = home.open().await;
    let shards = [shard(1, 0), shard(1, 1)];
    let claimed = store.claim(&shards.map(a_claim)).await.unwrap();
    store
        .release(&[(shards[0], claimed[0].epoch)])
        .await
        .unwrap();
    drop(store);
    let store = home.open().await;
    for expected in [[true, false], [false, false]] {
        let claimed = store.claim(&shards.map(a_claim)).await.unwrap();
        let released: Vec<_> = claimed.iter().map(|found| found.released).collect();
        assert_eq!(released, expected);
    }
}

/// As is a release of a shard that nobody ever claimed.
pub async fn a_release_under_a_stale_epoch_is_ignored(home: At<'_>) {
    let store = home.open().await;
    let stale = claim(&*store, shard(1, 0)).await.epoch;
    claim(&*store, shard(1, 0)).await;
    let releases = [(shard(1, 0), stale), (shard(1, 1), Epoch(1))];
    store.release(&releases).await.unwrap();
    assert!(!claim(&*store, shard(1, 0)).await.released);
    let other = claim(&*store, shard(1, 1)).await;
    assert_eq!((other.released, other.epoch), (false, Epoch(1)));
}

/// As they were last saved, with watermark and end.
pub async fn done_chunks_come_back_from_a_claim(home: At<'_>) {
    let store = home.open().await;
    let epoch = claim(&*store, shard(1, 0)).await.epoch;
    let first = ShardFlush {
        watermark: Offset(3),
        seen_end: Offset(9_000),
        done: vec![chunk(0, 1 << 63), chunk(8, 5)],
        ..part(shard(1, 0), epoch, 1)
    };
    save(&*store, first).await;
    let second = ShardFlush {
        watermark: Offset(4),
        seen_end: Offset(9_001),
        done: vec![chunk(8, 7), chunk(2, u64::MAX)],
        ..part(shard(1, 0), epoch, 2)
    };
    save(&*store, second).await;
    drop(store);
    let store = home.open().await;
    let mut claimed = claim(&*store, shard(1, 0)).await;
    claimed.done.sort_by_key(|chunk| chunk.index);
    let expected = [chunk(0, 1 << 63), chunk(2, u64::MAX), chunk(8, 7)];
    assert_eq!(claimed.done, expected);
    assert_eq!(
        (claimed.watermark, claimed.seen_end),
        (Offset(4), Offset(9_001))
    );
}

/// Wholly below it, that is: the chunk in which the watermark lies stays.
pub async fn chunks_below_the_watermark_are_forgotten(home: At<'_>) {
    let store = home.open().await;
    let mut epoch = claim(&*store, shard(1, 0)).await.epoch;
    let done = (0..5).map(|index| chunk(index, 1)).collect();
    let first = part(shard(1, 0), epoch, 1);
    save(&*store, ShardFlush { done, ..first }).await;
    for (number, watermark, left) in [(2, 2_047, 1), (1, 2_048, 2), (1, 5_000, 4)] {
        let next = ShardFlush {
            watermark: Offset(watermark),
            ..part(shard(1, 0), epoch, number)
        };
        save(&*store, next).await;
        let claimed = claim(&*store, shard(1, 0)).await;
        epoch = claimed.epoch;
        let mut indexes: Vec<_> = claimed.done.iter().map(|chunk| chunk.index).collect();
        indexes.sort_unstable();
        assert_eq!(indexes, (left..5).collect::<Vec<_>>());
    }
}
