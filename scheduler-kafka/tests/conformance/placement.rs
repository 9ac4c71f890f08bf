//! Members of one group.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use scheduler_core::{
    N_SLOTS, Slot,
    port::{Placement, placement::PlacementEvent},
};
use test_servers::{Fault, Kafka};

use crate::support::{LONG, Prefix, in_time};

struct Member {
    placement: Arc<dyn Placement>,
    slots: BTreeSet<Slot>,
}

impl Member {
    fn of(prefix: &Prefix) -> Self {
        Self {
            placement: prefix.kafka().placement(),
            slots: BTreeSet::new(),
        }
    }

    /// Takes the next event; gives slots that are being revoked.
    async fn next(&mut self) -> Vec<Slot> {
        match in_time(self.placement.next()).await.unwrap() {
            PlacementEvent::Assigned(slots) => self.slots.extend(slots),
            PlacementEvent::Lost(slots) => self.slots.retain(|slot| !slots.contains(slot)),
            PlacementEvent::Revoking(slots) => return slots,
        }
        Vec::new()
    }

    async fn release(&mut self, slots: &[Slot]) {
        self.slots.retain(|slot| !slots.contains(slot));
        self.placement.released(slots).await.unwrap();
    }

    async fn has_all(&mut self) {
        while self.slots.len() < usize::from(N_SLOTS) {
            assert_eq!(self.next().await, []);
        }
    }

    /// Proves the membership, which fails for a moment while others come and go.
    async fn proves(&self) {
        let deadline = Instant::now() + LONG;
        while let Err(err) = self.placement.prove().await {
            assert!(Instant::now() < deadline, "{err:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_is_handed_over_only_after_it_was_released() {
    let prefix = Prefix::shared();
    let mut first = Member::of(&prefix);
    assert!(
        first.placement.prove().await.is_err(),
        "it is not a member yet"
    );
    first.has_all().await;
    first.proves().await;

    let mut second = Member::of(&prefix);
    let joining = tokio::spawn(async move {
        while second.slots.is_empty() {
            second.next().await;
        }
        second
    });
    let revoking = first.next().await;
    assert_eq!(revoking.len(), usize::from(N_SLOTS) / 2);
    // Until it lets go, it is the owner, and the group waits.
    first.proves().await;
    let (some, rest) = revoking.split_at(10);
    first.release(some).await;
    first.proves().await;
    assert!(!joining.is_finished());
    first.release(rest).await;
    let mut second = in_time(joining).await.unwrap();
    assert!(first.slots.is_disjoint(&second.slots));
    assert_eq!(second.slots, revoking.into_iter().collect());
    first.proves().await;
    second.proves().await;

    // One that ends leaves at once, so that the other need not wait for the end of a session.
    let started = Instant::now();
    drop(first);
    second.has_all().await;
    let took = started.elapsed();
    assert!(took < Duration::from_secs(5), "it took {took:?}");
    second.proves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_that_are_not_released_in_time_are_lost() {
    let mut prefix = Prefix::shared();
    prefix.config.release_timeout = Duration::from_secs(2);
    let mut first = Member::of(&prefix);
    first.has_all().await;
    let mut second = Member::of(&prefix);
    let joining = tokio::spawn(async move {
        second.next().await;
        second
    });
    let revoking = first.next().await;
    let lost = in_time(first.placement.next()).await.unwrap();
    assert_eq!(lost, PlacementEvent::Lost(revoking.clone()));
    let second = in_time(joining).await.unwrap();
    assert_eq!(second.slots, revoking.into_iter().collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_was_cut_off_loses_its_slots_and_cannot_prove_anything() {
    let kafka = Kafka::start().unwrap();
    let direct = Prefix::on(kafka.bootstrap_servers());
    let mut proxied = direct.clone();
    proxied.config.bootstrap_servers = kafka.proxied_bootstrap_servers();
    proxied.config.request_timeout = Duration::from_secs(3);
    let mut cut_off = Member::of(&proxied);
    cut_off.has_all().await;
    cut_off.proves().await;
    kafka.proxy().set(Fault::BlackHole);
    assert!(cut_off.placement.prove().await.is_err());

    let mut heir = Member::of(&direct);
    heir.has_all().await;
    heir.proves().await;
    assert!(cut_off.placement.prove().await.is_err());
    assert_eq!(cut_off.next().await, []);
    assert!(
        cut_off.slots.is_empty(),
        "it must see itself that its session is over"
    );

    kafka.proxy().set(Fault::None);
    let revoking = heir.next().await;
    assert!(!revoking.is_empty(), "the one that is back gets its share");
    heir.release(&revoking).await;
    while cut_off.slots.is_empty() {
        cut_off.next().await;
    }
    assert!(cut_off.slots.is_disjoint(&heir.slots));
    cut_off.proves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_leaves_is_replaced_at_once_and_can_come_back() {
    let prefix = Prefix::shared();
    let mut leaver = Member::of(&prefix);
    leaver.has_all().await;
    let mut heir = Member::of(&prefix);
    let joining = tokio::spawn(async move {
        while heir.slots.is_empty() {
            heir.next().await;
        }
        heir
    });
    let revoking = leaver.next().await;
    leaver.release(&revoking).await;
    let mut heir = in_time(joining).await.unwrap();

    let started = Instant::now();
    leaver.placement.leave().await.unwrap();
    assert!(leaver.placement.prove().await.is_err());
    assert_eq!(leaver.next().await, [], "what it had is lost");
    assert!(leaver.slots.is_empty());
    heir.has_all().await;
    let took = started.elapsed();
    assert!(
        took < Duration::from_secs(5),
        "nobody waits for the end of a session: {took:?}"
    );
    heir.proves().await;
    assert!(leaver.placement.prove().await.is_err());

    leaver.placement.rejoin().await.unwrap();
    let revoking = heir.next().await;
    heir.release(&revoking).await;
    while leaver.slots.is_empty() {
        leaver.next().await;
    }
    assert_eq!(leaver.slots, revoking.into_iter().collect());
    leaver.proves().await;
    heir.proves().await;
}
