//! What the tables hold, as people and TiDB's own jobs see it.

use std::error::Error as _;

use scheduler_core::{
    CancelFilter, CancelRule, Offset, PipelineNumber, Timestamp,
    port::{
        FailureKind,
        store::{Ending, Flushed, KeyRow, Lookup, Parked, ShardFlush, StoredState},
    },
    watermark::DoneChunk,
};

use crate::fixture::{
    Database, Store, claim, completed, completing, create, ended, is_stored, keyed_by, part, shard,
    stored,
};

/// Something in every table, of pipeline 1.
async fn fill(database: &Database) -> Store {
    let tidb = database.tidb().await;
    tidb.catalog().change(create("ocr")).await.unwrap();
    let store = tidb.store();
    let id = shard(1, 0);
    let epoch = claim(&*store, id).await;
    claim(&*store, shard(1, 1)).await;
    let parked = StoredState::Parked {
        due_at: Timestamp::from_millis(1_000_000_000_000),
        kind: Parked::Retryable,
    };
    let running = StoredState::Running {
        worker: "worker-1".try_into().unwrap(),
        leased_at: Timestamp::from_millis(1_000_000_005_000),
    };
    let mut running = stored(2, running);
    running.task.options = Some(keyed_by("order-7").into());
    let mut failed = stored(3, ended(Ending::Discarded));
    failed.errors = vec![scheduler_core::task::AttemptError {
        attempt: 1,
        token: scheduler_core::LeaseToken::NONE,
        worker: "worker-1".try_into().unwrap(),
        at: Timestamp::from_millis(1_000_000_006_000),
        failure: scheduler_core::Failure {
            code: "exit-1".try_into().unwrap(),
            message: "no such page".to_owned(),
            retryable: true,
            detail: "{}".into(),
        },
    }];
    let key = KeyRow {
        key: "order-7".try_into().unwrap(),
        offset: Offset(4),
        fingerprint: 7,
        keep_until: Timestamp::NEVER,
    };
    let rule = CancelRule {
        id: "customer-7".try_into().unwrap(),
        filter: CancelFilter::default(),
        default_group: None,
        below: Offset(9),
        made_at: Timestamp::from_millis(1_000_000_008_000),
        n_cancelled: 1,
        over_at: None,
    };
    let forever = StoredState::Ended {
        ending: Ending::Completed { result: "1".into() },
        ended_at: Timestamp::from_millis(1_000_000_009_000),
        keep_until: Timestamp::NEVER,
    };
    let full = ShardFlush {
        cancels: Some(vec![rule]),
        watermark: Offset(2),
        seen_end: Offset(2_000),
        done: vec![DoneChunk {
            index: 1,
            words: [3; 16],
        }],
        tasks: vec![
            stored(1, parked),
            running,
            failed,
            stored(4, completed()),
            stored(5, forever),
        ],
        keys: vec![key],
        ..part(id, epoch, 1)
    };
    assert_eq!(store.flush(&[full]).await.unwrap(), [Flushed::Saved]);
    store
}

#[tokio::test]
async fn ended_tasks_and_keys_are_removed_by_the_ttl_some_time_after_they_are_hidden() {
    let database = Database::shared();
    fill(&database).await;
    let mut client = database.client().await;
    for table in ["task", "completed_task", "idempotency_key"] {
        let made = client.text(&format!("SHOW CREATE TABLE {table}")).await;
        // A TTL counts in the time zone of the cluster: 14 hours is the most that one is ahead of UTC.
        for part in [
            "TTL=`keep_until` + INTERVAL 14 HOUR",
            "TTL_ENABLE='ON'",
            "TTL_JOB_INTERVAL='1h'",
        ] {
            assert!(made.contains(part), "{table}: {made}");
        }
    }
    let kept = client
        .text("SELECT offset, keep_until FROM tasks ORDER BY offset")
        .await;
    let far = "2096-10-02 07:06:40.000";
    assert_eq!(
        kept,
        format!("1 | NULL\n2 | NULL\n3 | {far}\n4 | {far}\n5 | NULL")
    );
    let kept = client.text("SELECT keep_until FROM idempotency_key").await;
    assert_eq!(kept, "NULL");
}

#[tokio::test]
async fn a_row_of_a_newer_format_is_named_and_only_it_is_refused() {
    let database = Database::shared();
    let store = fill(&database).await;
    let mut client = database.client().await;
    client
        .run("UPDATE task SET format = 9 WHERE offset = 3")
        .await;
    let lookup = |offset| Lookup::Task(shard(1, 0), Offset(offset));
    let err = store.get(&[lookup(3)]).await.unwrap_err();
    assert_eq!(err.kind(), FailureKind::Damaged);
    let source = err.source().unwrap().to_string();
    assert!(source.contains("1/0 at offset 3"), "{source}");
    assert!(source.contains("format 9"), "{source}");
    assert!(is_stored(&*store, shard(1, 0), 4).await);
    client
        .run("UPDATE task SET format = 1, state = 'asleep' WHERE offset = 3")
        .await;
    let err = store.get(&[lookup(3)]).await.unwrap_err();
    assert_eq!(err.kind(), FailureKind::Damaged);
}

#[tokio::test]
async fn a_task_too_large_for_a_row_is_refused_for_ever_and_leaves_its_part_out() {
    let database = Database::shared();
    let store = database.tidb().await.store();
    let id = shard(1, 0);
    let epoch = claim(&*store, id).await;
    let mut part = completing(id, epoch, 1, 0..3);
    part.tasks[1].task.data = vec![b'x'; 9 << 20].into();
    let err = store.flush(&[part]).await.unwrap_err();
    assert_eq!(err.kind(), FailureKind::Damaged, "{:?}", err.source());
    assert!(!is_stored(&*store, id, 0).await);
    let small = completing(id, epoch, 1, 0..3);
    assert_eq!(store.flush(&[small]).await.unwrap(), [Flushed::Saved]);
}

#[tokio::test]
async fn forgetting_leaves_no_row_of_the_pipeline_in_any_table() {
    let database = Database::shared();
    let store = fill(&database).await;
    let id = shard(1, 1);
    let keys = |n: u64| KeyRow {
        key: format!("it's-{n}-\\").as_str().try_into().unwrap(),
        offset: Offset(n),
        fingerprint: n,
        keep_until: Timestamp::NEVER,
    };
    let many = ShardFlush {
        keys: (0..4_500).map(keys).collect(),
        ..completing(id, scheduler_core::Epoch(1), 1, 0..4_500)
    };
    store.flush(&[many]).await.unwrap();
    store.forget(PipelineNumber(1)).await.unwrap();
    store.forget(PipelineNumber(1)).await.unwrap();
    let mut client = database.client().await;
    for table in ["shard", "done", "task", "completed_task", "idempotency_key"] {
        let n = client.text(&format!("SELECT COUNT(*) FROM {table}")).await;
        assert_eq!(n, "0", "{table}");
    }
}

#[tokio::test]
async fn the_queries_of_the_handbook_find_something() {
    let database = Database::shared();
    fill(&database).await;
    let mut client = database.client().await;
    let page = include_str!("../../../docs/tables.md");
    let queries = page.split("```sql\n").skip(1);
    let queries: Vec<_> = queries
        .filter_map(|rest| rest.split_once("\n```"))
        .collect();
    assert!(
        queries.len() >= 8,
        "only {} queries were found",
        queries.len()
    );
    for (query, _) in queries {
        assert!(
            !client.rows(query.trim_end_matches(';')).await.is_empty(),
            "{query}"
        );
    }
}
