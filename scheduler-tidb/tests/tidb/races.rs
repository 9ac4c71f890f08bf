//! Several members at once: one owner per shard, and no transaction blocks another for ever.

use std::{collections::HashSet, sync::Arc};

use futures::future::join_all;
use scheduler_core::{
    Offset, Timestamp,
    port::store::{Claimed, Flushed, ShardFlush, StoredState},
};

use scheduler_tidb::Tidb;
use test_servers::tidb;

use crate::{
    fixture::{Database, Store, claim, claim_of, completing, is_stored, part, shard, stored},
    proxy::{Break, Proxy},
};

const N_SHARDS: u16 = 12;

async fn claim_all(store: &Store, address: &str, every: usize) -> Vec<Claimed> {
    let shards = (0..N_SHARDS).step_by(every);
    let claims: Vec<_> = shards.map(|n| claim_of(shard(1, n), address)).collect();
    store.claim(&claims).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_flush_saved_is_seen_by_the_claim_that_fences_it_and_what_was_fenced_is_not() {
    let database = Database::shared();
    let (one, other) = (database.tidb().await.store(), database.tidb().await.store());
    for round in 1..=20_u64 {
        let owned = claim_all(&one, "one:1", 1).await;
        let first = round * 1_000;
        let part = |found: &Claimed| ShardFlush {
            watermark: Offset(first),
            ..completing(found.shard, found.epoch, 1, first..first + 20)
        };
        let parts: Vec<_> = owned.iter().map(part).collect();
        let flush = one.flush(&parts);
        // The claims come from early to late in the flush.
        let claim = async {
            for _ in 0..round {
                tokio::task::yield_now().await;
            }
            claim_all(&other, "other:1", 2).await
        };
        let (answers, claimed) = tokio::join!(flush, claim);
        let answers = answers.unwrap();
        for (found, answer) in owned.iter().zip(&answers) {
            let saved = *answer == Flushed::Saved;
            assert_eq!(is_stored(&*one, found.shard, first + 19).await, saved);
            let taken = claimed.iter().find(|taken| taken.shard == found.shard);
            match taken {
                Some(taken) => assert_eq!(taken.watermark == Offset(first), saved, "{taken:?}"),
                None => assert!(saved, "nobody claimed shard {}", found.shard),
            }
        }
    }
}

/// Two members with a connection of their own each; the COMMITs of the first go through a proxy.
async fn two_members(database: &Database) -> (Proxy, Store, Store) {
    let proxy = Proxy::before(tidb().url()).await;
    let config = database.config_through(&proxy.url());
    let held = Tidb::open(config).await.unwrap().store();
    (proxy, held, database.tidb().await.store())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_that_comes_upon_a_claim_before_its_commit_is_fenced_in_that_shard_only() {
    let database = Database::shared();
    let (proxy, other, one) = two_members(&database).await;
    let owned = claim_all(&one, "one:1", 1).await;
    proxy.break_next(Break::HeldBefore);
    let claim = tokio::spawn(async move { claim(&*other, shard(1, 3)).await });
    proxy.held().await;
    let part = |found: &Claimed| completing(found.shard, found.epoch, 1, 0..3);
    let parts: Vec<_> = owned.iter().map(part).collect();
    let flushing = Arc::clone(&one);
    let flush = tokio::spawn(async move { flushing.flush(&parts).await.unwrap() });
    database.until_waiting("SELECT pipeline").await;
    proxy.let_go();
    claim.await.unwrap();
    for (found, answer) in owned.iter().zip(flush.await.unwrap()) {
        let is_fenced = found.shard == shard(1, 3);
        let expected = if is_fenced {
            Flushed::Fenced
        } else {
            Flushed::Saved
        };
        assert_eq!(answer, expected, "shard {}", found.shard);
        assert_eq!(is_stored(&*one, found.shard, 2).await, !is_fenced);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_comes_upon_a_flush_before_its_commit_finds_all_of_it() {
    let database = Database::shared();
    let (proxy, one, other) = two_members(&database).await;
    let id = shard(1, 0);
    let epoch = claim(&*one, id).await;
    proxy.break_next(Break::HeldBefore);
    let running = StoredState::Running {
        worker: "worker-1".try_into().unwrap(),
        leased_at: Timestamp::EPOCH,
    };
    let parts = [ShardFlush {
        watermark: Offset(7),
        tasks: vec![stored(9, running)],
        ..part(id, epoch, 1)
    }];
    let flush = tokio::spawn(async move { one.flush(&parts).await.unwrap() });
    proxy.held().await;
    let claim = tokio::spawn(async move { other.claim(&[claim_of(id, "b:1")]).await.unwrap() });
    database.until_waiting("INSERT INTO shard").await;
    proxy.let_go();
    assert_eq!(flush.await.unwrap(), [Flushed::Saved]);
    let claimed = claim.await.unwrap().remove(0);
    assert_eq!((claimed.watermark, claimed.running.len()), (Offset(7), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_of_one_new_shard_at_once_get_an_epoch_each() {
    let database = Database::shared();
    let tidb = database.tidb().await;
    let claims = (0..8).map(|n| {
        let store = tidb.store();
        async move {
            let claims = [0, 1].map(|partition| claim_of(shard(1, partition), &format!("m:{n}")));
            store.claim(&claims).await.unwrap()
        }
    });
    let claimed = join_all(claims).await;
    for at in 0..2 {
        let epochs: HashSet<_> = claimed.iter().map(|found| found[at].epoch.0).collect();
        assert_eq!(epochs, (1..=8).collect());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lanes_that_flush_the_same_shards_in_opposite_orders_all_end() {
    let database = Database::shared();
    let tidb = database.tidb().await;
    let owned = claim_all(&tidb.store(), "one:1", 1).await;
    let lanes = (0..6_u64).map(|lane| {
        let (store, owned) = (tidb.store(), owned.clone());
        async move {
            for round in 0..5 {
                // Numbers that others have passed answer as saved, too.
                let number = 1 + round * 6 + lane;
                let first = number * 100;
                let part = |found: &Claimed| {
                    completing(found.shard, found.epoch, number, first..first + 5)
                };
                let mut parts: Vec<_> = owned.iter().map(part).collect();
                if lane % 2 == 0 {
                    parts.reverse();
                }
                let answers = store.flush(&parts).await.unwrap();
                assert!(answers.iter().all(|answer| *answer == Flushed::Saved));
            }
        }
    });
    join_all(lanes).await;
}
