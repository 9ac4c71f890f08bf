//! Cases of bulk cancels: what a claim finds of them.

use super::At;
use crate::{
    CancelFilter, CancelRule, Epoch, Offset, StateName,
    conformance::sample::{FAR, a_claim, at, claim, part, save, shard},
    port::store::{Flushed, ShardFlush},
};

/// A rule of which every single thing is set.
fn full(id: &str) -> CancelRule {
    let metadata = [("customer", "ä'7\\"), ("empty", "")];
    CancelRule {
        id: id.try_into().unwrap(),
        filter: CancelFilter {
            key: Some("order-7'\"\\".try_into().unwrap()),
            group: Some("group-3".try_into().unwrap()),
            states: [StateName::Scheduled, StateName::Retryable].into(),
            accepted_from: Some(at(1)),
            accepted_before: Some(FAR),
            metadata: metadata
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
        },
        default_group: Some("group-4".try_into().unwrap()),
        below: Offset(1 << 40),
        made_at: at(7),
        n_cancelled: 1 << 35,
        over_at: Some(at(8)),
    }
}

/// A rule of which nothing is set.
fn plain(id: &str) -> CancelRule {
    CancelRule {
        filter: CancelFilter::default(),
        default_group: None,
        over_at: None,
        ..full(id)
    }
}

/// Of their own shard, in their order, also for who opens the store anew.
pub async fn bulk_cancels_come_back_from_a_claim(home: At<'_>) {
    let store = home.open().await;
    let epoch = claim(&*store, shard(1, 0)).await.epoch;
    let other = claim(&*store, shard(1, 1)).await;
    assert_eq!(other.cancels, []);
    let rules = vec![full("b"), plain("a")];
    let first = ShardFlush {
        cancels: Some(rules.clone()),
        ..part(shard(1, 0), epoch, 1)
    };
    save(&*store, first).await;
    // A part that says nothing of them leaves them as they are.
    save(&*store, part(shard(1, 0), epoch, 2)).await;
    drop(store);
    let store = home.open().await;
    let claims = [shard(1, 1), shard(1, 0)].map(a_claim);
    let claimed = store.claim(&claims).await.unwrap();
    assert_eq!(claimed[0].cancels, []);
    assert_eq!(claimed[1].cancels, rules);
}

/// All of them, so that those that are not named are forgotten.
pub async fn bulk_cancels_are_replaced_by_those_of_a_later_part(home: At<'_>) {
    let store = home.open().await;
    let epoch = claim(&*store, shard(1, 0)).await.epoch;
    let with = |number, cancels| ShardFlush {
        cancels: Some(cancels),
        ..part(shard(1, 0), epoch, number)
    };
    save(&*store, with(1, vec![plain("a"), plain("b")])).await;
    save(&*store, with(2, vec![full("b")])).await;
    // A repeated part is not applied again.
    save(&*store, with(1, vec![plain("c")])).await;
    assert_eq!(claim(&*store, shard(1, 0)).await.cancels, [full("b")]);
    let last = ShardFlush {
        cancels: Some(Vec::new()),
        ..part(shard(1, 0), Epoch(2), 1)
    };
    save(&*store, last).await;
    assert_eq!(claim(&*store, shard(1, 0)).await.cancels, []);
}

/// As everything else of a part.
pub async fn bulk_cancels_of_a_stale_epoch_are_fenced(home: At<'_>) {
    let store = home.open().await;
    let epoch = claim(&*store, shard(1, 0)).await.epoch;
    let mine = ShardFlush {
        cancels: Some(vec![plain("a")]),
        ..part(shard(1, 0), epoch, 1)
    };
    save(&*store, mine.clone()).await;
    claim(&*store, shard(1, 0)).await;
    let stale = ShardFlush {
        number: 2,
        cancels: Some(vec![full("b")]),
        ..mine
    };
    assert_eq!(store.flush(&[stale]).await.unwrap(), [Flushed::Fenced]);
    assert_eq!(claim(&*store, shard(1, 0)).await.cancels, [plain("a")]);
}
