//! Cases of ordering keys: which stored tasks are found by their key.

use std::sync::Arc;

use super::At;
use crate::{
    LeaseToken, Offset, TaskOptions, Timestamp,
    conformance::sample::{at, claim, completed, part, running, save, shard, stored},
    port::{
        TaskStore,
        store::{DuePage, Ending, KeyedPage, Parked, ShardFlush, StoredState, StoredTask},
    },
};

fn keyed(offset: u64, key: &str, state: StoredState) -> StoredTask {
    let mut task = stored(offset, state);
    task.task.options = Some(Arc::new(TaskOptions {
        key: Some(key.try_into().unwrap()),
        ..TaskOptions::default()
    }));
    task
}

fn waiting(due_at: Timestamp, kind: Parked) -> StoredState {
    StoredState::Parked { due_at, kind }
}

fn behind() -> StoredState {
    waiting(Timestamp::EPOCH, Parked::Available)
}

fn page(key: &str, from: u64) -> KeyedPage {
    KeyedPage {
        shard: shard(1, 0),
        key: key.try_into().unwrap(),
        from: Offset(from),
        n_max: 100,
        bytes_max: 1 << 20,
    }
}

async fn offsets(store: &dyn TaskStore, page: KeyedPage) -> (Vec<u64>, Option<u64>) {
    let mut found = store.keyed(&[page]).await.unwrap();
    assert_eq!(found.len(), 1, "one page has one answer");
    let found = found.remove(0);
    let offsets = found.tasks.iter().map(|task| task.offset.0).collect();
    (offsets, found.next.map(|next| next.0))
}

async fn with_tasks(store: &dyn TaskStore, tasks: Vec<StoredTask>) {
    let epoch = claim(store, shard(1, 0)).await.epoch;
    let part = part(shard(1, 0), epoch, 1);
    save(store, ShardFlush { tasks, ..part }).await;
}

/// Whole tasks, within the limits of the page, and none of another key or shard.
pub async fn tasks_of_a_key_are_paged_by_offset(home: At<'_>) {
    let store = home.open().await;
    let mut tasks: Vec<_> = (0..10).map(|n| keyed(n * 2, "a", behind())).collect();
    tasks.push(keyed(5, "A", behind()));
    tasks.push(keyed(7, "a%", behind()));
    tasks.push(stored(9, behind()));
    with_tasks(&*store, tasks.clone()).await;
    assert_eq!(
        offsets(&*store, page("a", 7)).await,
        (vec![8, 10, 12, 14, 16, 18], None)
    );
    let mut few = page("a", 0);
    few.n_max = 3;
    assert_eq!(
        offsets(&*store, few.clone()).await,
        (vec![0, 2, 4], Some(6))
    );
    few.from = Offset(6);
    few.bytes_max = 1;
    let (found, next) = offsets(&*store, few).await;
    assert_eq!(
        (found, next),
        (vec![6], Some(8)),
        "one task whatever its size"
    );
    let pages = ["A", "b", "a%"].map(|key| page(key, 0));
    let found = store.keyed(&pages).await.unwrap();
    let found: Vec<_> = found.into_iter().map(|found| found.tasks).collect();
    assert_eq!(
        found,
        [vec![tasks[10].clone()], vec![], vec![tasks[11].clone()]]
    );
    let elsewhere = KeyedPage {
        shard: shard(1, 1),
        ..page("a", 0)
    };
    assert_eq!(offsets(&*store, elsewhere).await, (vec![], None));
}

/// A task in any other state is.
pub async fn tasks_of_a_key_that_have_ended_or_are_to_come_are_not_found(home: At<'_>) {
    let store = home.open().await;
    let leased = |task: StoredTask| StoredTask {
        token: LeaseToken::from_u64(77),
        ..task
    };
    let kept = Timestamp::NEVER;
    let ended = |ending| StoredState::Ended {
        ending,
        ended_at: at(3),
        keep_until: kept,
    };
    let tasks = vec![
        keyed(0, "a", completed()),
        keyed(1, "a", ended(Ending::Cancelled)),
        keyed(2, "a", ended(Ending::Discarded)),
        keyed(3, "a", waiting(at(50), Parked::Scheduled)),
        leased(keyed(4, "a", waiting(at(50), Parked::Scheduled))),
        leased(keyed(5, "a", waiting(at(50), Parked::Retryable))),
        leased(keyed(6, "a", running())),
        keyed(7, "a", waiting(at(50), Parked::Available)),
        keyed(8, "a", behind()),
    ];
    with_tasks(&*store, tasks).await;
    assert_eq!(
        offsets(&*store, page("a", 0)).await,
        (vec![4, 5, 6, 7, 8], None)
    );
}

/// Since such a task must not be overtaken.
pub async fn a_claim_tells_whether_tasks_with_a_key_are_stored(home: At<'_>) {
    let store = home.open().await;
    with_tasks(&*store, vec![keyed(4, "a", behind()), stored(5, behind())]).await;
    drop(store);
    let store = home.open().await;
    assert!(claim(&*store, shard(1, 0)).await.has_keyed);
}

/// Tasks that wait behind their keys have no time, and come before all that have one.
pub async fn tasks_due_at_the_epoch_are_due_first(home: At<'_>) {
    let store = home.open().await;
    let later = stored(1, waiting(at(20), Parked::Retryable));
    let tasks = vec![later, keyed(3, "a", behind()), keyed(0, "b", behind())];
    with_tasks(&*store, tasks).await;
    let claimed = claim(&*store, shard(1, 0)).await;
    assert_eq!(claimed.next_due_at, Some(Timestamp::EPOCH));
    let mut page = DuePage {
        shard: shard(1, 0),
        from: (Timestamp::EPOCH, Offset::ZERO),
        until: at(60),
        n_max: 100,
        bytes_max: 1 << 20,
    };
    let due = store.due(&[page]).await.unwrap().remove(0);
    let found: Vec<_> = due.tasks.iter().map(|task| task.offset.0).collect();
    assert_eq!((found, due.next_due_at), (vec![0, 3, 1], None));
    page.from = (Timestamp::from_millis(1), Offset::ZERO);
    let due = store.due(&[page]).await.unwrap().remove(0);
    let found: Vec<_> = due.tasks.iter().map(|task| task.offset.0).collect();
    assert_eq!(found, [1], "they are passed by");
}
