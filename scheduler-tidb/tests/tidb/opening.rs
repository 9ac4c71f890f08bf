//! Opening: migrations that run at once, are cut short, or were made by a newer member; and servers that are none.

use std::time::{Duration, Instant};

use futures::future::join_all;
use scheduler_core::{Mode, port::store::Flushed};
use scheduler_tidb::{Config, OpenError, Tidb};
use test_servers::tidb;

use crate::{
    fixture::{Database, claim, completing, create, is_stored, shard},
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
    assert_eq!(migrations, "1\n2");
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
    client.run("DELETE FROM migration WHERE number = 2").await;
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
