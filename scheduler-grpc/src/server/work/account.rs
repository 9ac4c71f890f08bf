//! What a worker on a stream can take, what it was sent, and what it holds.

use std::collections::HashSet;

use scheduler_core::{Held, Invalid, LeasedTask};

use super::super::HELD_MAX;
use crate::pb;

/// The most slots that a worker may say it has free.
const SLOTS_MAX: u32 = 4_096;
/// The most tasks of one batch.
const BATCH_TASKS_MAX: usize = 256;
/// The most bytes of data in one batch, unless its only task has more.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// A worker's side of the books.
#[derive(Debug)]
pub(super) struct Account {
    held: HashSet<Held>,
    /// The number of the last batch.
    sent: u64,
    /// Its tasks, until the worker says that it has seen them. Nothing else is sent meanwhile.
    unseen: Option<Vec<Held>>,
    slots: usize,
    bytes: usize,
}

impl Account {
    pub(super) fn new(held: Vec<Held>) -> Self {
        Self {
            held: held.into_iter().collect(),
            sent: 0,
            unseen: None,
            slots: 0,
            bytes: BATCH_BYTES_MAX,
        }
    }

    /// The worker says what it has seen, and what it can take.
    pub(super) fn credit(&mut self, credit: pb::WorkCredit) -> Result<(), Invalid> {
        if credit.tasks > SLOTS_MAX {
            let rule = format!("must be at most {SLOTS_MAX}");
            return Err(Invalid::new("tasks", rule));
        }
        if credit.seen > self.sent {
            let rule = format!("must be a batch that was sent: the last is {}", self.sent);
            return Err(Invalid::new("seen", rule));
        }
        // One that has crossed with a batch on its way says nothing about the batch.
        if credit.seen < self.sent {
            return Ok(());
        }
        self.held.extend(self.unseen.take().into_iter().flatten());
        self.slots = usize::try_from(credit.tasks).unwrap_or(usize::MAX);
        self.bytes = match usize::try_from(credit.bytes) {
            Ok(0) | Err(_) => BATCH_BYTES_MAX,
            Ok(bytes) => bytes.min(BATCH_BYTES_MAX),
        };
        Ok(())
    }

    /// The slots and bytes to lease for. `None` if there is nothing to wait for: the worker has to say something first.
    pub(super) fn wanted(&self) -> Option<(usize, usize)> {
        let room = HELD_MAX.saturating_sub(self.held.len());
        let slots = self.slots.min(room).min(BATCH_TASKS_MAX);
        let has_something = slots > 0 || !self.held.is_empty();
        (self.unseen.is_none() && has_something).then_some((slots, self.bytes))
    }

    /// What the worker holds.
    pub(super) fn held(&self) -> Vec<Held> {
        self.held.iter().copied().collect()
    }

    /// A batch goes out, and the credit with it; answers its number.
    pub(super) fn send(&mut self, tasks: &[LeasedTask]) -> u64 {
        self.sent += 1;
        self.unseen = Some(tasks.iter().map(Held::from).collect());
        self.slots = 0;
        self.sent
    }

    /// The number of the last batch.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// These leases are over.
    pub(super) fn ended(&mut self, ended: &[Held]) {
        for held in ended {
            self.held.remove(held);
            // Who reports a task has seen it.
            if let Some(unseen) = &mut self.unseen {
                unseen.retain(|unseen| unseen != held);
            }
        }
    }

    /// The tasks of the last batch, if the worker has not said that it has seen them.
    pub(super) fn take_unseen(&mut self) -> Vec<Held> {
        self.unseen.take().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use scheduler_core::{
        LeaseToken, Offset, Partition, PipelineNumber, Revision, ShardId, TaskId, TaskOptions,
    };

    use super::*;

    fn task(n: u64) -> LeasedTask {
        let shard = ShardId {
            pipeline: PipelineNumber(1),
            partition: Partition(0),
        };
        let offset = Offset(n);
        LeasedTask {
            id: TaskId { shard, offset },
            token: LeaseToken::from_u64(n),
            attempt: 1,
            max_attempts: 1,
            data: "{}".into(),
            options: Some(Arc::new(TaskOptions::default())),
            traceparent: None,
            lease: Duration::from_secs(5),
            timeout: None,
            heartbeat_timeout: None,
            revision: Revision(1),
        }
    }

    fn credit(seen: u64, tasks: u32) -> pb::WorkCredit {
        let bytes = 0;
        pb::WorkCredit { seen, tasks, bytes }
    }

    #[test]
    fn nothing_is_sent_before_the_last_batch_was_seen() {
        let mut account = Account::new(Vec::new());
        assert_eq!(account.wanted(), None);
        account.credit(credit(0, 3)).unwrap();
        assert_eq!(account.wanted(), Some((3, BATCH_BYTES_MAX)));
        assert_eq!(account.send(&[task(1), task(2)]), 1);
        assert_eq!(account.wanted(), None);
        // It crossed with the batch.
        account.credit(credit(0, 5)).unwrap();
        assert_eq!(account.wanted(), None);
        account.credit(credit(1, 1)).unwrap();
        assert_eq!(account.wanted(), Some((1, BATCH_BYTES_MAX)));
        assert_eq!(account.held().len(), 2);
        assert_eq!(account.take_unseen(), []);
    }

    #[test]
    fn a_worker_without_credit_waits_for_its_leases_alone() {
        let held = Held::from(&task(1));
        let mut account = Account::new(vec![held]);
        assert_eq!(account.wanted(), Some((0, BATCH_BYTES_MAX)));
        account.ended(&[held]);
        assert_eq!(account.wanted(), None);
    }

    #[test]
    fn bytes_and_slots_are_bounded() {
        let mut account = Account::new(Vec::new());
        let big = pb::WorkCredit {
            bytes: u64::MAX,
            ..credit(0, SLOTS_MAX)
        };
        account.credit(big).unwrap();
        assert_eq!(account.wanted(), Some((BATCH_TASKS_MAX, BATCH_BYTES_MAX)));
        let small = pb::WorkCredit {
            bytes: 7,
            ..credit(0, 1)
        };
        account.credit(small).unwrap();
        assert_eq!(account.wanted(), Some((1, 7)));
        let fault = account.credit(credit(0, SLOTS_MAX + 1)).unwrap_err();
        assert_eq!(fault.field, "tasks");
        let fault = account.credit(credit(1, 1)).unwrap_err();
        assert_eq!(fault.field, "seen");
    }

    #[test]
    fn a_worker_never_holds_more_than_a_lease_can_name() {
        let n_held = u64::try_from(HELD_MAX).unwrap() - 1;
        let held = (0..n_held).map(|n| Held::from(&task(n))).collect();
        let mut account = Account::new(held);
        account.credit(credit(0, 9)).unwrap();
        assert_eq!(account.wanted(), Some((1, BATCH_BYTES_MAX)));
    }

    #[test]
    fn a_task_that_was_reported_has_been_seen() {
        let mut account = Account::new(Vec::new());
        account.credit(credit(0, 2)).unwrap();
        account.send(&[task(1), task(2)]);
        account.ended(&[Held::from(&task(1))]);
        assert_eq!(account.take_unseen(), [Held::from(&task(2))]);
    }
}
