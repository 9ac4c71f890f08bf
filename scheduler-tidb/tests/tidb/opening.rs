//! Opening: migrations that run at once, are cut short, or were made by a newer member; and servers that are none.

use std::time::{Duration, Instant};

use futures::future::join_all;
use scheduler_core::{
    Mode, Offset, Timestamp,
    pipeline::limits::Limits,
    port::store::{Flushed, KeyedPage, Parked, ShardFlush, StoredState},
};
use scheduler_tidb::{Config, OpenError, Tidb};
use test_servers::tidb;

use crate::{
    fixture::{
        Database, claim, claim_of, completing, create, is_stored, keyed_by, part, shard, stored,
    },
    proxy::Proxy,
};

#[tokio::test(flavor = "multi_thread")]
async fn members_that_migrate_at_once_all_open() {
    let database = Database::shared();
    let members = join_all((0..8).map(|_| Tidb::open(database.config()))).await;
    for member in members {
        let catalog = member.unwrap().catalog();
        assert_eq!(catalog.snapshot().await.unwrap().pipelines, []);
    }
    let migrations = database
        .client()
        .await
        .text("SELECT number FROM migration")
        .await;
    assert_eq!(migrations, "1\n2\n3\n4");
}

#[tokio::test]
async fn a_migration_that_was_cut_short_goes_on_and_loses_nothing() {
    let database = Database::shared();
    let store = database.tidb().await.store();
    let epoch = claim(&*store, shard(1, 0)).await;
    let parts = [completing(shard(1, 0), epoch, 1, 0..3)];
    store.flush(&parts).await.unwrap();
    let mut client = database.client().await;
    client.run("DELETE FROM migration").await;
    client.run("DROP TABLE idempotency_key").await;
    client.run("DROP VIEW tasks").await;
    client
        .run("ALTER TABLE pipeline DROP COLUMN paused_reason")
        .await;
    client.run("ALTER TABLE task DROP INDEX ordering_key").await;
    let tidb = database.tidb().await;
    assert_eq!(tidb.catalog().snapshot().await.unwrap().pipelines, []);
    let store = tidb.store();
    assert!(is_stored(&*store, shard(1, 0), 2).await);
    assert_eq!(client.text("SELECT COUNT(*) FROM tasks").await, "3");
    assert_eq!(
        client.text("SELECT COUNT(*) FROM idempotency_key").await,
        "0"
    );
}

#[tokio::test]
async fn rows_from_before_the_second_migration_are_active() {
    let database = Database::shared();
    let catalog = database.tidb().await.catalog();
    catalog.change(create("ocr")).await.unwrap();
    let mut client = database.client().await;
    client.run("DELETE FROM migration WHERE number >= 2").await;
    for column in ["mode", "paused_by", "paused_reason", "paused_at"] {
        let drop = format!("ALTER TABLE pipeline DROP COLUMN {column}");
        client.run(&drop).await;
    }
    let catalog = database.tidb().await.catalog();
    let pipelines = catalog.snapshot().await.unwrap().pipelines;
    assert_eq!(pipelines.len(), 1);
    assert_eq!(pipelines[0].mode, Mode::Active);
}

#[tokio::test]
async fn rows_from_before_the_third_migration_have_no_limits_and_no_keys() {
    let database = Database::shared();
    let tidb = database.tidb().await;
    tidb.catalog().change(create("ocr")).await.unwrap();
    let store = tidb.store();
    let epoch = claim(&*store, shard(1, 0)).await;
    let due_at = Timestamp::EPOCH;
    let kind = Parked::Available;
    let waiting = |offset| stored(offset, StoredState::Parked { due_at, kind });
    let tasks = vec![waiting(7)];
    let first = part(shard(1, 0), epoch, 1);
    store.flush(&[ShardFlush { tasks, ..first }]).await.unwrap();
    let mut client = database.client().await;
    client.run("DELETE FROM migration WHERE number >= 3").await;
    for drop in [
        "shard DROP COLUMN cancels",
        "pipeline DROP COLUMN limits",
        "pipeline DROP COLUMN pool",
        "task DROP INDEX ordering_key",
        "task DROP COLUMN ordering_key",
    ] {
        client.run(&format!("ALTER TABLE {drop}")).await;
    }
    let tidb = database.tidb().await;
    let pipelines = tidb.catalog().snapshot().await.unwrap().pipelines;
    assert_eq!(pipelines.len(), 1);
    assert_eq!(pipelines[0].spec.limits, Limits::default());
    assert_eq!(pipelines[0].spec.pool, None);
    let store = tidb.store();
    let claimed = store.claim(&[claim_of(shard(1, 0), "b:1")]).await.unwrap();
    assert!(!claimed[0].has_keyed);
    let page = KeyedPage {
        shard: shard(1, 0),
        key: "a".try_into().unwrap(),
        from: Offset::ZERO,
        n_max: 10,
        bytes_max: 1 << 20,
    };
    let mut task = waiting(9);
    task.task.options = Some(keyed_by("a").into());
    let tasks = vec![task.clone()];
    let second = part(shard(1, 0), claimed[0].epoch, 1);
    store
        .flush(&[ShardFlush { tasks, ..second }])
        .await
        .unwrap();
    let found = store.keyed(&[page]).await.unwrap().remove(0);
    assert_eq!((found.tasks, found.next), (vec![task], None));
}

#[tokio::test]
async fn a_member_works_on_while_a_newer_one_adds_columns_and_after() {
    let database = Database::shared();
    let store = database.tidb().await.store();
    let epoch = claim(&*store, shard(1, 0)).await;
    store
        .flush(&[completing(shard(1, 0), epoch, 1, 0..3)])
        .await
        .unwrap();
    let mut client = database.client().await;
    for table in ["task", "completed_task", "shard", "pipeline"] {
        client
            .run(&format!(
                "ALTER TABLE {table} ADD COLUMN color VARCHAR(8) NOT NULL DEFAULT 'red'"
            ))
            .await;
    }
    client
        .run("INSERT INTO migration (number, done_at) VALUES (99, UTC_TIMESTAMP(3))")
        .await;
    let saved = store
        .flush(&[completing(shard(1, 0), epoch, 2, 3..6)])
        .await;
    assert_eq!(saved.unwrap(), [Flushed::Saved]);
    let store = database.tidb().await.store();
    for offset in 0..6 {
        assert!(is_stored(&*store, shard(1, 0), offset).await);
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_and_its_password_is_not() {
    let config = Config::new("mysql://root:hunter2@127.0.0.1:1/workload");
    let err = Tidb::open(config).await.unwrap_err();
    assert!(matches!(err, OpenError::Unreachable { .. }), "{err:?}");
    let shown = format!("{err} {err:?}");
    assert!(shown.contains("127.0.0.1:1"), "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[tokio::test]
async fn a_wrong_password_is_told() {
    let url = tidb().url().replace("root@", "nobody:wrong@");
    let err = Tidb::open(Config::new(format!("{url}/workload"))).await;
    assert!(matches!(err, Err(OpenError::Unreachable { .. })), "{err:?}");
}

#[tokio::test]
async fn opening_into_a_black_hole_ends_in_time() {
    let proxy = Proxy::before(tidb().url()).await;
    proxy.set_hole(true);
    let config = Config {
        connect_timeout: Duration::from_millis(300),
        ..Config::new(format!("{}/workload", proxy.url()))
    };
    let began = Instant::now();
    let err = Tidb::open(config).await;
    assert!(matches!(err, Err(OpenError::Unreachable { .. })), "{err:?}");
    assert!(began.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn a_wrong_configuration_opens_nothing() {
    let config = Config {
        n_connections: 0,
        ..Config::new("mysql://root@127.0.0.1:1/workload")
    };
    let err = Tidb::open(config).await;
    assert!(matches!(err, Err(OpenError::Config(_))), "{err:?}");
}
