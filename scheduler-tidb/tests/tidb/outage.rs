//! Lost answers, lost connections, lost servers: every call ends in time, and says what is known.

use std::time::{Duration, Instant};

use scheduler_core::{
    Epoch, Offset, Timestamp,
    port::{
        FailureKind,
        catalog::{CatalogVersion, Changed},
        store::{Flushed, KeyRow, Lookup},
    },
};
use scheduler_tidb::{Config, Tidb};
use test_servers::tidb;

use crate::{
    fixture::{Database, claim, claim_of, completing, create, eventually, is_stored, kind, shard},
    proxy::{Break, Proxy},
};

/// Short limits, so that a test that waits for them is short.
fn hasty(config: Config) -> Config {
    Config {
        call_timeout: Duration::from_secs(4),
        statement_timeout: Duration::from_secs(2),
        lock_wait_timeout: Duration::from_secs(1),
        connect_timeout: Duration::from_secs(2),
        ..config
    }
}

async fn behind_a_proxy(database: &Database) -> (Proxy, Tidb) {
    let proxy = Proxy::before(tidb().url()).await;
    let config = database.config_through(&proxy.url());
    let tidb = Tidb::open(config).await.unwrap();
    (proxy, tidb)
}

#[tokio::test]
async fn a_flush_whose_commit_or_answer_is_lost_is_saved_once() {
    let database = Database::shared();
    let (proxy, tidb) = behind_a_proxy(&database).await;
    let store = tidb.store();
    let id = shard(1, 0);
    let epoch = claim(&*store, id).await;
    for (number, what) in [(1, Break::Before), (2, Break::After)] {
        proxy.break_next(what);
        let offsets = number * 10..number * 10 + 5;
        let part = completing(id, epoch, number, offsets.clone());
        assert_eq!(store.flush(&[part]).await.unwrap(), [Flushed::Saved]);
        assert!(proxy.is_spent());
        for offset in offsets {
            assert!(is_stored(&*store, id, offset).await, "{what:?}: {offset}");
        }
        let found = database
            .client()
            .await
            .text("SELECT flush_number FROM shard")
            .await;
        assert_eq!(found, number.to_string());
    }
}

#[tokio::test]
async fn a_lost_flush_of_a_shard_that_was_claimed_meanwhile_is_unknown() {
    let database = Database::shared();
    let (proxy, tidb) = behind_a_proxy(&database).await;
    let store = tidb.store();
    let shards = [shard(1, 0), shard(1, 1)];
    for id in shards {
        claim(&*store, id).await;
    }
    proxy.break_next(Break::HeldAfter);
    let parts = shards.map(|id| completing(id, Epoch(1), 1, 0..3));
    let flush = tokio::spawn({
        let store = tidb.store();
        async move { store.flush(&parts).await }
    });
    proxy.held().await;
    let other = database.tidb().await.store();
    claim(&*other, shards[1]).await;
    proxy.let_go();
    assert_eq!(kind(flush.await.unwrap()), FailureKind::Unknown);
    // Sent again, as after every unknown outcome, it says what it can.
    let parts = shards.map(|id| completing(id, Epoch(1), 1, 0..3));
    let answers = store.flush(&parts).await.unwrap();
    assert_eq!(answers, [Flushed::Saved, Flushed::Fenced]);
}

#[tokio::test]
async fn a_claim_whose_answer_is_lost_takes_the_next_epoch() {
    let database = Database::shared();
    let (proxy, tidb) = behind_a_proxy(&database).await;
    proxy.break_next(Break::After);
    let claims = [claim_of(shard(1, 0), "a:1"), claim_of(shard(1, 1), "a:1")];
    let claimed = tidb.store().claim(&claims).await.unwrap();
    let epochs: Vec<_> = claimed.iter().map(|found| found.epoch).collect();
    assert_eq!(epochs, [Epoch(2), Epoch(2)]);
}

#[tokio::test]
async fn a_change_whose_answer_is_lost_is_unknown_and_not_done_twice() {
    let database = Database::shared();
    let (proxy, tidb) = behind_a_proxy(&database).await;
    let catalog = tidb.catalog();
    for (what, name, n_made) in [(Break::Before, "a", 0), (Break::After, "b", 1)] {
        proxy.break_next(what);
        let changed = catalog.change(create(name)).await;
        assert_eq!(kind(changed), FailureKind::Unknown, "{what:?}");
        let snapshot = catalog.snapshot().await.unwrap();
        assert_eq!(snapshot.pipelines.len(), n_made, "{what:?}");
        assert_eq!(snapshot.version, CatalogVersion(n_made as u64), "{what:?}");
    }
}

#[tokio::test]
async fn every_call_into_a_black_hole_ends_in_time_and_has_changed_nothing() {
    let database = Database::shared();
    let proxy = Proxy::before(tidb().url()).await;
    let config = hasty(database.config_through(&proxy.url()));
    let limit = config.call_timeout + Duration::from_secs(6);
    let tidb = Tidb::open(config).await.unwrap();
    let (store, catalog) = (tidb.store(), tidb.catalog());
    let id = shard(1, 0);
    let epoch = claim(&*store, id).await;
    let version = catalog.snapshot().await.unwrap().version;

    proxy.set_hole(true);
    let began = Instant::now();
    let parts = [completing(id, epoch, 1, 0..3)];
    let claims = [claim_of(id, "b:1")];
    let lookups = [Lookup::Task(id, Offset(0))];
    let released = [(id, epoch)];
    let shards = [id];
    let (flushed, claimed, found, owners, released, forgotten, snapshot, changed, woken) = tokio::join!(
        store.flush(&parts),
        store.claim(&claims),
        store.get(&lookups),
        store.owners(&shards),
        store.release(&released),
        store.forget(id.pipeline),
        catalog.snapshot(),
        catalog.change(create("a")),
        catalog.changed(version),
    );
    assert!(began.elapsed() < limit, "{:?}", began.elapsed());
    let kinds = [
        kind(flushed),
        kind(claimed),
        kind(found),
        kind(owners),
        kind(released),
        kind(forgotten),
        kind(snapshot),
        kind(changed),
        kind(woken),
    ];
    assert_eq!(kinds, [FailureKind::Unavailable; 9]);

    proxy.set_hole(false);
    let parts = [completing(id, epoch, 1, 0..3)];
    let began = Instant::now();
    assert_eq!(store.flush(&parts).await.unwrap(), [Flushed::Saved]);
    assert!(began.elapsed() < limit);
    assert!(matches!(
        catalog.change(create("a")).await.unwrap(),
        Changed::Done(_)
    ));
}

#[tokio::test]
async fn a_flush_whose_commit_falls_into_a_black_hole_is_unknown_in_time() {
    let database = Database::shared();
    let proxy = Proxy::before(tidb().url()).await;
    let config = hasty(database.config_through(&proxy.url()));
    let limit = config.call_timeout + Duration::from_secs(6);
    let store = Tidb::open(config).await.unwrap().store();
    let id = shard(1, 0);
    let epoch = claim(&*store, id).await;
    proxy.break_next(Break::HoleAfter);
    let parts = [completing(id, epoch, 1, 0..3)];
    let began = Instant::now();
    assert_eq!(kind(store.flush(&parts).await), FailureKind::Unknown);
    assert!(began.elapsed() < limit);
    proxy.set_hole(false);
    assert_eq!(store.flush(&parts).await.unwrap(), [Flushed::Saved]);
    assert!(is_stored(&*store, id, 2).await);
}

#[tokio::test]
async fn rows_held_by_a_member_that_has_gone_silent_are_waited_for_no_longer_than_a_call() {
    let database = Database::shared();
    let config = hasty(database.config());
    let limit = config.call_timeout + Duration::from_secs(6);
    let store = Tidb::open(config).await.unwrap().store();
    let id = shard(1, 0);
    let epoch = claim(&*store, id).await;
    let mut silent = database.client().await;
    silent.run("BEGIN PESSIMISTIC").await;
    silent.run("UPDATE shard SET seen_end = 1").await;
    let parts = [completing(id, epoch, 1, 0..3)];
    let began = Instant::now();
    assert_eq!(kind(store.flush(&parts).await), FailureKind::Unavailable);
    assert!(began.elapsed() < limit);
    silent.run("ROLLBACK").await;
    assert_eq!(store.flush(&parts).await.unwrap(), [Flushed::Saved]);
}

#[tokio::test]
async fn a_flush_dropped_in_its_middle_is_rolled_back_and_its_connection_not_used_again() {
    let database = Database::shared();
    let config = Config {
        n_connections: 1,
        ..database.config()
    };
    let store = Tidb::open(config).await.unwrap().store();
    let id = shard(1, 0);
    let epoch = claim(&*store, id).await;
    let mut other = database.client().await;
    other.run("BEGIN PESSIMISTIC").await;
    other
        .run("INSERT INTO idempotency_key VALUES (1, 0, 'k', 1, 1, NULL)")
        .await;
    let mut part = completing(id, epoch, 1, 0..3);
    part.keys = vec![KeyRow {
        key: "k".try_into().unwrap(),
        offset: Offset(0),
        fingerprint: 1,
        keep_until: Timestamp::NEVER,
    }];
    let parts = [part];
    tokio::select! {
        answer = store.flush(&parts) => panic!("the key is held: {answer:?}"),
        () = database.until_waiting("REPLACE INTO idempotency_key") => {}
    }
    other.run("ROLLBACK").await;
    assert!(!is_stored(&*store, id, 0).await);
    assert_eq!(store.flush(&parts).await.unwrap(), [Flushed::Saved]);
    assert!(is_stored(&*store, id, 0).await);
}

#[tokio::test]
async fn a_server_that_was_killed_and_started_again_is_found_again() {
    let mut server = test_servers::Tidb::start().unwrap();
    let database = Database::on(server.url());
    let tidb = Tidb::open(hasty(database.config())).await.unwrap();
    let (store, catalog) = (tidb.store(), tidb.catalog());
    let id = shard(1, 0);
    let epoch = claim(&*store, id).await;
    let part = completing(id, epoch, 1, 0..3);
    assert_eq!(store.flush(&[part]).await.unwrap(), [Flushed::Saved]);
    let seen = catalog.snapshot().await.unwrap().version;
    server.kill().unwrap();
    let part = completing(id, epoch, 2, 3..6);
    assert_eq!(kind(store.flush(&[part]).await), FailureKind::Unavailable);
    assert_eq!(kind(catalog.changed(seen).await), FailureKind::Unavailable);
    server.restart().unwrap();
    // Not what was saved just before: the embedded engine keeps locks in memory, and a transaction that it has
    // acknowledged is partly in them for a moment. TiKV has them on disk.
    let claims = [claim_of(id, "a:1")];
    let claimed = eventually("a shard is claimed", async || {
        store.claim(&claims).await.ok()
    });
    let epoch = claimed.await[0].epoch;
    let part = completing(id, epoch, 1, 6..9);
    assert_eq!(store.flush(&[part]).await.unwrap(), [Flushed::Saved]);
    assert!(is_stored(&*store, id, 8).await);
    let changed = catalog.change(create("b")).await.unwrap();
    assert!(matches!(changed, Changed::Done(_)));
}
