//! A new owner of a shard with many parked tasks: how long until it works, and what it takes.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use scheduler_core::{
    Config, LeaseToken, Offset, PipelineSpec, Slot, Timestamp,
    action::Action,
    member::{Event, Member},
    memory::{ManualClock, Store},
    port::{
        TaskStore,
        log::{Bounds, NewTask},
        store::{Claim, Parked, ShardFlush, StoredState, StoredTask},
    },
};

use crate::{
    allocation::{core_time, resident_bytes},
    lives::{SHARD, config, pipeline},
};

/// Tasks of one flush.
const PART: u64 = 4_096;
/// When the clock starts, in milliseconds.
const START: u64 = 1_000_000;

/// What the recovery of one shard took.
pub(crate) struct Recovery {
    /// From the claim until tasks can be handed out.
    pub(crate) ready: Duration,
    /// From when all are due until all are in memory.
    pub(crate) loaded: Duration,
    /// What each loaded task takes in memory beside what the store has of it.
    pub(crate) bytes_each: f64,
    /// What the member takes before any is due.
    pub(crate) bytes_idle: u64,
}

fn task(offset: u64, due_at: Timestamp) -> StoredTask {
    StoredTask {
        offset: Offset(offset),
        accepted_at: Timestamp::from_millis(START),
        task: NewTask {
            data: Bytes::copy_from_slice(&[b'x'; 200]),
            options: None,
            traceparent: None,
        },
        state: StoredState::Parked {
            due_at,
            kind: Parked::Scheduled,
        },
        attempt: 0,
        token: LeaseToken::NONE,
        started_at: None,
        errors: Vec::new(),
    }
}

fn claim() -> [Claim; 1] {
    [Claim {
        shard: SHARD,
        address: "bench".into(),
        incarnation: "a".into(),
    }]
}

/// Parks `n` tasks that are all due at the same time.
async fn park(store: &Store, n: u64, due_at: Timestamp) {
    let claimed = store.claim(&claim()).await.expect("memory never fails");
    for (number, from) in (1..).zip((0..n).step_by(usize::try_from(PART).unwrap_or(1))) {
        let to = (from + PART).min(n);
        let part = ShardFlush {
            shard: SHARD,
            epoch: claimed[0].epoch,
            number,
            watermark: Offset(to),
            seen_end: Offset(to),
            done: Vec::new(),
            tasks: (from..to).map(|offset| task(offset, due_at)).collect(),
            forgotten: Vec::new(),
            keys: Vec::new(),
            cancels: None,
        };
        store.flush(&[part]).await.expect("memory never fails");
    }
    let release = [(SHARD, claimed[0].epoch)];
    store.release(&release).await.expect("memory never fails");
}

/// A member that has just claimed the shard.
struct Owner<'a> {
    store: &'a Store,
    member: Member,
    now: Timestamp,
}

impl<'a> Owner<'a> {
    async fn claim(store: &'a Store, config: Config, n: u64, now: Timestamp) -> Self {
        let mut owner = Self {
            store,
            member: Member::new(Arc::new(config)),
            now,
        };
        let spec = PipelineSpec::default();
        owner.handle(Event::Proven(now)).await;
        let pipelines = vec![Arc::new(pipeline(spec))];
        owner.handle(Event::Pipelines(pipelines)).await;
        let claimed = store.claim(&claim()).await.expect("memory never fails");
        let slots = (0..=255).map(Slot).collect();
        owner.handle(Event::Assigned(slots)).await;
        let bounds = Bounds {
            start: Offset(n),
            end: Offset(n),
            incarnation: "a".into(),
        };
        for claimed in claimed {
            owner.handle(Event::Claimed(claimed, bounds.clone())).await;
        }
        owner
    }

    /// Handles an event and all that follows from it without time, page after page.
    async fn handle(&mut self, event: Event) {
        let mut next = Some(event);
        while let Some(event) = next {
            let mut out = Vec::new();
            self.member.handle(event, self.now, &mut out);
            self.member.settle(self.now, &mut out);
            next = self.perform(out).await;
            let wake_at = self.member.wake_at(self.now);
            if next.is_none() && wake_at.is_some_and(|at| at <= self.now) {
                next = Some(Event::Tick);
            }
        }
    }

    /// There is at most one read or flush at a time, as there is one shard and one lane.
    async fn perform(&self, out: Vec<Action>) -> Option<Event> {
        let mut result = None;
        for action in out {
            result = match action {
                Action::ReadDue(epoch, page) => {
                    let read = self.store.due(&[page]).await;
                    let page = read.expect("memory never fails").pop();
                    Some(Event::DueRead(SHARD, epoch, page))
                }
                Action::Flush(lane, parts) => {
                    let saved = self.store.flush(&parts).await;
                    Some(Event::Flushed(lane, saved.map_err(|err| err.kind())))
                }
                _ => continue,
            };
        }
        result
    }
}

/// A shard of which `n` tasks were parked is claimed, and then they are all due at once.
#[expect(clippy::cast_precision_loss, reason = "sizes are far below 2⁵³")]
pub(crate) async fn run(n: u64) -> Recovery {
    let start = Timestamp::from_millis(START);
    let due_at = start + Duration::from_secs(60);
    let store = Store::new(Arc::new(ManualClock::at(start)));
    park(&store, n, due_at).await;
    let room = usize::try_from(2 * n).unwrap_or(usize::MAX);

    let before = resident_bytes();
    let began = core_time();
    let mut owner = Owner::claim(&store, config(room), n, start).await;
    let ready = core_time() - began;
    assert!(owner.member.is_ready(owner.now), "the shard is claimed");
    let bytes_idle = resident_bytes().saturating_sub(before);

    owner.now = due_at;
    let before = resident_bytes();
    let began = core_time();
    owner.handle(Event::Proven(due_at)).await;
    let loaded = core_time() - began;
    assert_eq!(owner.member.load().n_tasks as u64, n, "all are in memory");
    Recovery {
        ready,
        loaded,
        bytes_each: resident_bytes().saturating_sub(before) as f64 / n as f64,
        bytes_idle,
    }
}
