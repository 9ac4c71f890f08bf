//! Cases of reading: due, get, list, and what the store forgets by itself.

use super::At;
use crate::{
    LeaseToken, Offset, PipelineNumber, Timestamp,
    conformance::sample::{
        FAR, a_claim, at, claim, completed, ended, error, full_task, get, key, parked, part,
        running, save, shard, stored,
    },
    port::{
        TaskStore,
        store::{
            DuePage, Ending, Found, KeyRow, ListPage, Lookup, Parked, ShardFlush, StateName,
            StoredState, StoredTask,
        },
    },
};

const START: (Timestamp, Offset) = (Timestamp::EPOCH, Offset::ZERO);

/// Claims shard 1/0 and saves these tasks into it.
async fn with_tasks(store: &dyn TaskStore, tasks: Vec<StoredTask>) {
    let epoch = claim(store, shard(1, 0)).await.epoch;
    let part = part(shard(1, 0), epoch, 1);
    save(store, ShardFlush { tasks, ..part }).await;
}

/// In the order of [`StateName::ALL`].
fn every_state() -> Vec<StoredState> {
    let parked = |kind| StoredState::Parked {
        due_at: at(40),
        kind,
    };
    vec![
        parked(Parked::Scheduled),
        parked(Parked::Available),
        running(),
        parked(Parked::Retryable),
        completed(),
        ended(Ending::Cancelled, FAR),
        ended(Ending::Discarded, Timestamp::NEVER),
    ]
}

fn offsets(tasks: &[StoredTask]) -> Vec<u64> {
    tasks.iter().map(|task| task.offset.0).collect()
}

/// By each state's own fields.
pub async fn saved_tasks_are_read_back_in_every_state(home: At<'_>) {
    let store = home.open().await;
    let tasks: Vec<_> = (0..)
        .zip(every_state())
        .map(|(n, state)| stored(n, state))
        .collect();
    with_tasks(&*store, tasks.clone()).await;
    drop(store);
    let store = home.open().await;
    for (offset, task) in (0..).zip(tasks) {
        assert_eq!(get(&*store, shard(1, 0), offset).await, Some(task));
    }
}

/// Options, metadata, trace, errors, tokens, times, and data that is not text.
pub async fn everything_a_task_has_is_read_back(home: At<'_>) {
    let store = home.open().await;
    let full = StoredTask {
        task: full_task(),
        attempt: 3,
        token: LeaseToken::from_u64(u64::MAX),
        started_at: Some(at(2)),
        errors: (1..=3).map(error).collect(),
        ..stored(u64::from(u32::MAX) + 7, completed())
    };
    let mut binary = stored(1, running());
    binary.task.data = vec![0, 255, 128, 10, 39].into();
    let mut large = stored(2, running());
    large.task.data = vec![b'x'; 1 << 20].into();
    let tasks = vec![full, binary, large];
    with_tasks(&*store, tasks.clone()).await;
    drop(store);
    let store = home.open().await;
    for task in tasks {
        assert_eq!(get(&*store, shard(1, 0), task.offset.0).await, Some(task));
    }
}

/// Each page goes on after the last task of the one before.
pub async fn due_tasks_are_paged_in_order_of_due_time_and_offset(home: At<'_>) {
    let store = home.open().await;
    let due = [(9, 10), (1, 30), (5, 20), (3, 20), (8, 20), (2, 40)];
    let tasks = due.map(|(offset, due)| stored(offset, parked(at(due))));
    with_tasks(&*store, tasks.into()).await;
    let mut page = DuePage {
        shard: shard(1, 0),
        from: START,
        until: at(30),
        n_max: 2,
        bytes_max: 1 << 20,
    };
    let mut seen = Vec::new();
    for next_due_at in [Some(at(20)), Some(at(30)), Some(at(40))] {
        let found = store.due(&[page]).await.unwrap().remove(0);
        assert_eq!(found.next_due_at, next_due_at);
        seen.extend(offsets(&found.tasks));
        if let Some(StoredTask {
            state: StoredState::Parked { due_at, .. },
            offset,
            ..
        }) = found.tasks.last()
        {
            page.from = (*due_at, offset.next());
        }
    }
    assert_eq!(seen, [9, 3, 5, 8, 1]);
}

/// But gives one task at least.
pub async fn due_keeps_to_its_byte_limit(home: At<'_>) {
    let store = home.open().await;
    let large = |offset| {
        let mut task = stored(offset, parked(at(offset)));
        task.task.data = vec![b'x'; 1_000].into();
        task
    };
    with_tasks(&*store, (1..10).map(large).collect()).await;
    for (bytes_max, n) in [(1, 1), (2_500, 2), (1 << 20, 9)] {
        let page = DuePage {
            shard: shard(1, 0),
            from: START,
            until: FAR,
            n_max: 100,
            bytes_max,
        };
        let found = store.due(&[page]).await.unwrap().remove(0);
        assert!(
            (1..=n).contains(&found.tasks.len()),
            "{}",
            found.tasks.len()
        );
        let next = u64::try_from(found.tasks.len()).unwrap() + 1;
        assert_eq!(found.next_due_at, (next < 10).then_some(at(next)));
    }
}

/// Also when nothing is due yet, and a page per shard in the order asked.
pub async fn due_tells_when_the_next_is_due(home: At<'_>) {
    let store = home.open().await;
    with_tasks(&*store, vec![stored(3, parked(at(50)))]).await;
    let page = |partition, from| DuePage {
        shard: shard(1, partition),
        from,
        until: at(10),
        n_max: 5,
        bytes_max: 1 << 20,
    };
    let pages = [
        page(1, START),
        page(0, START),
        page(0, (at(50), Offset(3))),
        page(0, (at(50), Offset(4))),
    ];
    let found = store.due(&pages).await.unwrap();
    assert!(found.iter().all(|page| page.tasks.is_empty()));
    let next: Vec<_> = found.iter().map(|page| page.next_due_at).collect();
    assert_eq!(next, [None, Some(at(50)), Some(at(50)), None]);
}

/// Neither running nor ended ones.
pub async fn tasks_that_are_not_parked_are_not_due(home: At<'_>) {
    let store = home.open().await;
    let tasks = (0..).zip(every_state()).map(|(n, state)| stored(n, state));
    with_tasks(&*store, tasks.collect()).await;
    let page = DuePage {
        shard: shard(1, 0),
        from: START,
        until: FAR,
        n_max: 100,
        bytes_max: 1 << 20,
    };
    let found = store.due(&[page]).await.unwrap().remove(0);
    assert_eq!(offsets(&found.tasks), [0, 1, 3]);
    assert_eq!(found.next_due_at, None);
}

fn list_page(n_max: usize) -> ListPage {
    ListPage {
        shard: shard(1, 0),
        states: Vec::new(),
        since: Timestamp::EPOCH,
        below: None,
        n_max,
        bytes_max: usize::MAX,
    }
}

/// A page per shard.
pub async fn a_list_is_newest_first_and_paged_by_offset(home: At<'_>) {
    let store = home.open().await;
    let tasks = [4, 1, 300, 2, 70_000].map(|offset| stored(offset, completed()));
    with_tasks(&*store, tasks.into()).await;
    let pages = [
        list_page(2),
        ListPage {
            below: Some(Offset(300)),
            ..list_page(2)
        },
        ListPage {
            shard: shard(1, 1),
            ..list_page(2)
        },
        ListPage {
            below: Some(Offset(2)),
            ..list_page(2)
        },
    ];
    let found = store.list(&pages).await.unwrap();
    let found: Vec<_> = found.iter().map(|page| offsets(page)).collect();
    assert_eq!(found, [vec![70_000, 300], vec![4, 2], vec![], vec![1]]);
}

/// By what its tasks hold, and after at least one.
pub async fn a_list_is_cut_by_bytes(home: At<'_>) {
    let store = home.open().await;
    with_tasks(
        &*store,
        (0..5).map(|offset| stored(offset, completed())).collect(),
    )
    .await;
    let n_bytes = stored(0, completed()).n_bytes();
    for (bytes_max, n) in [
        (0, 1),
        (1, 1),
        (n_bytes, 1),
        (n_bytes + 1, 2),
        (4 * n_bytes, 4),
    ] {
        for states in [vec![], vec![StateName::Completed, StateName::Running]] {
            let page = ListPage {
                states,
                bytes_max,
                ..list_page(100)
            };
            let found = store.list(&[page]).await.unwrap().remove(0);
            assert_eq!(found.len(), n, "of {bytes_max} bytes");
        }
    }
}

/// Each state alone, some together, and only what was accepted since.
pub async fn a_list_keeps_to_its_states_and_time(home: At<'_>) {
    let store = home.open().await;
    let n_states = u64::try_from(StateName::ALL.len()).unwrap();
    let states = every_state();
    let task = |offset: u64| {
        let state = usize::try_from(offset % n_states).unwrap();
        stored(offset, states[state].clone())
    };
    with_tasks(&*store, (0..21).map(task).collect()).await;
    for (state, n) in StateName::ALL.into_iter().zip(0..) {
        let page = ListPage {
            states: vec![state],
            ..list_page(100)
        };
        let found = store.list(&[page]).await.unwrap().remove(0);
        assert_eq!(offsets(&found), [n + 14, n + 7, n], "{state:?}");
        assert!(found.iter().all(|task| task.state.name() == state));
    }
    let page = ListPage {
        states: vec![StateName::Discarded, StateName::Completed],
        since: at(11),
        ..list_page(3)
    };
    let found = store.list(&[page]).await.unwrap().remove(0);
    assert_eq!(offsets(&found), [20, 18, 13]);
}

/// Then they can be used again.
pub async fn keys_are_found_until_their_time_is_over(home: At<'_>) {
    let store = home.open().await;
    let epoch = claim(&*store, shard(1, 0)).await.epoch;
    let row = |text, offset, keep_until| KeyRow {
        key: key(text),
        offset: Offset(offset),
        fingerprint: 1 << 63,
        keep_until,
    };
    let first = ShardFlush {
        keys: vec![
            row("live", 1, FAR),
            row("over", 2, at(1)),
            row("again", 3, at(1)),
        ],
        ..part(shard(1, 0), epoch, 1)
    };
    save(&*store, first).await;
    let second = ShardFlush {
        keys: vec![row("again", 4, Timestamp::NEVER)],
        ..part(shard(1, 0), epoch, 2)
    };
    save(&*store, second).await;
    let lookups =
        ["live", "over", "again", "never"].map(|text| Lookup::Key(shard(1, 0), key(text)));
    drop(store);
    let store = home.open().await;
    let found = store.get(&lookups).await.unwrap();
    let expected = [
        Some(Found::Key(row("live", 1, FAR))),
        None,
        Some(Found::Key(row("again", 4, Timestamp::NEVER))),
        None,
    ];
    assert_eq!(found, expected);
}

/// Neither by get nor by list after that.
pub async fn ended_tasks_are_found_until_their_time_is_over(home: At<'_>) {
    let store = home.open().await;
    let until = |offset, keep_until| stored(offset, ended(Ending::Cancelled, keep_until));
    let tasks = vec![until(1, FAR), until(2, at(1)), until(3, Timestamp::NEVER)];
    with_tasks(&*store, tasks).await;
    assert_eq!(get(&*store, shard(1, 0), 2).await, None);
    let found = store.list(&[list_page(9)]).await.unwrap().remove(0);
    assert_eq!(found, [until(3, Timestamp::NEVER), until(1, FAR)]);
}

/// Tasks and keys mixed, found and not found.
pub async fn lookups_answer_in_the_order_asked(home: At<'_>) {
    let store = home.open().await;
    let epoch = claim(&*store, shard(1, 0)).await.epoch;
    let row = KeyRow {
        key: key("k"),
        offset: Offset(5),
        fingerprint: 7,
        keep_until: FAR,
    };
    let first = ShardFlush {
        tasks: (0..50).map(|offset| stored(offset, running())).collect(),
        keys: vec![row.clone()],
        ..part(shard(1, 0), epoch, 1)
    };
    save(&*store, first).await;
    let mut lookups = Vec::new();
    let mut expected = Vec::new();
    for offset in (0..100).rev() {
        lookups.push(Lookup::Task(shard(1, 0), Offset(offset)));
        let found = || Found::Task(Box::new(stored(offset, running())));
        expected.push((offset < 50).then(found));
        if offset % 10 == 0 {
            lookups.push(Lookup::Key(shard(1, 0), key("k")));
            expected.push(Some(Found::Key(row.clone())));
        }
    }
    assert_eq!(store.get(&lookups).await.unwrap(), expected);
}

/// Neither their tasks nor their keys.
pub async fn shards_do_not_see_each_other(home: At<'_>) {
    let store = home.open().await;
    let shards = [shard(1, 0), shard(1, 1), shard(2, 0), shard(65_537, 0)];
    for claimed in store.claim(&shards.map(a_claim)).await.unwrap() {
        let mine = u64::from(claimed.shard.pipeline.0) * 10 + u64::from(claimed.shard.partition.0);
        let row = KeyRow {
            key: key("k"),
            offset: Offset(mine),
            fingerprint: mine,
            keep_until: FAR,
        };
        let part = ShardFlush {
            tasks: vec![stored(mine, running()), stored(3, parked(at(mine)))],
            keys: vec![row],
            ..part(claimed.shard, claimed.epoch, 1)
        };
        save(&*store, part).await;
    }
    for id in shards {
        let mine = u64::from(id.pipeline.0) * 10 + u64::from(id.partition.0);
        let page = ListPage {
            shard: id,
            ..list_page(9)
        };
        assert_eq!(offsets(&store.list(&[page]).await.unwrap()[0]), [mine, 3]);
        match &store.get(&[Lookup::Key(id, key("k"))]).await.unwrap()[0] {
            Some(Found::Key(row)) => assert_eq!(row.fingerprint, mine),
            other => panic!("expected a key and found {other:?}"),
        }
        assert_eq!(claim(&*store, id).await.next_due_at, Some(at(mine)));
    }
}

/// Its shards start again, and a flush of its old owner is fenced.
pub async fn a_forgotten_pipeline_leaves_nothing_and_touches_no_other(home: At<'_>) {
    let store = home.open().await;
    let shards = [shard(1, 0), shard(1, 65_535), shard(2, 0)];
    for claimed in store.claim(&shards.map(a_claim)).await.unwrap() {
        let part = ShardFlush {
            watermark: Offset(3),
            tasks: (10..3_000)
                .map(|offset| stored(offset, running()))
                .collect(),
            ..part(claimed.shard, claimed.epoch, 1)
        };
        save(&*store, part).await;
    }
    store.forget(PipelineNumber(1)).await.unwrap();
    store.forget(PipelineNumber(7)).await.unwrap();
    let late = part(shards[0], crate::Epoch(1), 2);
    let fenced = store.flush(&[late]).await.unwrap();
    assert_eq!(fenced, [crate::port::store::Flushed::Fenced]);
    drop(store);
    let store = home.open().await;
    assert_eq!(get(&*store, shards[0], 10).await, None);
    assert!(get(&*store, shards[2], 10).await.is_some());
    let claimed = store.claim(&shards.map(a_claim)).await.unwrap();
    let watermarks: Vec<_> = claimed.iter().map(|found| found.watermark.0).collect();
    assert_eq!(watermarks, [0, 0, 3]);
    let n_running: Vec<_> = claimed.iter().map(|found| found.running.len()).collect();
    assert_eq!(n_running, [0, 0, 2_990]);
}
