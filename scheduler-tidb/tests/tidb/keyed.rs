//! Ordering keys: more pages than one statement takes, and tasks that leave their key.

use scheduler_core::{
    Offset, ShardId, Timestamp,
    port::store::{Flushed, KeyedPage, Parked, ShardFlush, StoredState, StoredTask},
};

use crate::fixture::{Database, claim, claim_of, completed, keyed_by, part, shard, stored};

fn keyed(offset: u64, key: &str, state: StoredState) -> StoredTask {
    let mut task = stored(offset, state);
    task.task.options = Some(keyed_by(key).into());
    task
}

fn behind() -> StoredState {
    StoredState::Parked {
        due_at: Timestamp::EPOCH,
        kind: Parked::Available,
    }
}

fn page(shard: ShardId, key: &str, n_max: usize) -> KeyedPage {
    KeyedPage {
        shard,
        key: key.try_into().unwrap(),
        from: Offset::ZERO,
        n_max,
        bytes_max: 1 << 20,
    }
}

#[tokio::test]
async fn many_pages_are_answered_in_the_order_asked() {
    let database = Database::shared();
    let store = database.tidb().await.store();
    let name = |n: u64| format!("it's-{}", n % 75);
    for id in [shard(1, 0), shard(1, 1)] {
        let epoch = claim(&*store, id).await;
        let tasks = (0..150).map(|n| keyed(n, &name(n), behind())).collect();
        let part = part(id, epoch, 1);
        let saved = store.flush(&[ShardFlush { tasks, ..part }]).await;
        assert_eq!(saved.unwrap(), [Flushed::Saved]);
    }
    let mut pages = Vec::new();
    let mut expected = Vec::new();
    for n in (0..75).rev() {
        for (partition, n_max) in [(1, 9), (0, 1), (0, 9), (1, 0), (0, 1)] {
            pages.push(page(shard(1, partition), &name(n), n_max));
            let all = [n, n + 75];
            expected.push(if n_max == 9 {
                (all.to_vec(), None)
            } else {
                (vec![n], Some(n + 75))
            });
        }
    }
    let found = store.keyed(&pages).await.unwrap();
    let offsets = found.iter().map(|found| {
        let tasks = found.tasks.iter().map(|task| task.offset.0);
        (tasks.collect::<Vec<_>>(), found.next.map(|next| next.0))
    });
    assert_eq!(offsets.collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn a_key_is_left_by_what_ends_or_is_forgotten() {
    let database = Database::shared();
    let store = database.tidb().await.store();
    let id = shard(1, 0);
    let epoch = claim(&*store, id).await;
    let first = ShardFlush {
        tasks: (0..3).map(|n| keyed(n, "a", behind())).collect(),
        ..part(id, epoch, 1)
    };
    let second = ShardFlush {
        tasks: vec![keyed(0, "a", completed())],
        forgotten: vec![Offset(1)],
        ..part(id, epoch, 2)
    };
    store.flush(&[first, second]).await.unwrap();
    let found = store.keyed(&[page(id, "a", 9)]).await.unwrap();
    let expected = keyed(2, "a", behind());
    assert_eq!(found[0].tasks, [expected]);
    let last = ShardFlush {
        forgotten: vec![Offset(2)],
        ..part(id, epoch, 3)
    };
    store.flush(&[last]).await.unwrap();
    let claimed = store.claim(&[claim_of(id, "b:1")]).await.unwrap();
    assert!(!claimed[0].has_keyed);
}
