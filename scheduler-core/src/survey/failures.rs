//! How tasks fail: failures of one cause are counted together.

use std::{collections::BTreeMap, time::Duration};

use crate::{ErrorCode, Failure, TaskId, Timestamp};

/// So many causes are kept of one shard, those that were seen last.
const GROUPS_MAX: usize = 64;
/// So many characters of a message are kept.
const MESSAGE_CHARS_MAX: usize = 256;

/// A cause is forgotten when it was not seen for so long.
pub const FAILURES_KEPT: Duration = Duration::from_secs(3_600);

/// Failures of one cause: those with one [fingerprint](Failure::fingerprint).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailureGroup {
    /// What they have in common.
    pub fingerprint: u64,
    /// The code.
    pub code: ErrorCode,
    /// The beginning of the newest one's message.
    pub message: String,
    /// How many there were since `first_at`.
    pub n: u64,
    /// When the first was noticed.
    pub first_at: Timestamp,
    /// When the newest was.
    pub last_at: Timestamp,
    /// Whose the newest was.
    pub last: TaskId,
}

impl FailureGroup {
    /// Adds what another shard has seen of the same cause.
    pub fn add(&mut self, other: Self) {
        self.n = self.n.saturating_add(other.n);
        self.first_at = self.first_at.min(other.first_at);
        if other.last_at > self.last_at {
            self.message = other.message;
            self.last_at = other.last_at;
            self.last = other.last;
        }
    }
}

/// The failures of a shard.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    groups: BTreeMap<u64, FailureGroup>,
}

impl Failures {
    pub(crate) fn note(&mut self, failure: &Failure, task: TaskId, at: Timestamp) {
        let fingerprint = failure.fingerprint();
        let group = FailureGroup {
            fingerprint,
            code: failure.code.clone(),
            message: failure.message.chars().take(MESSAGE_CHARS_MAX).collect(),
            n: 1,
            first_at: at,
            last_at: at,
            last: task,
        };
        match self.groups.get_mut(&fingerprint) {
            Some(known) if is_kept(known, at) => known.add(group),
            Some(known) => *known = group,
            None => {
                if self.groups.len() >= GROUPS_MAX {
                    self.forget_oldest();
                }
                self.groups.insert(fingerprint, group);
            }
        }
    }

    fn forget_oldest(&mut self) {
        let groups = self.groups.values();
        let oldest = groups.min_by_key(|group| (group.last_at, group.fingerprint));
        if let Some(fingerprint) = oldest.map(|group| group.fingerprint) {
            self.groups.remove(&fingerprint);
        }
    }

    pub(crate) fn read(&self, now: Timestamp) -> Vec<FailureGroup> {
        let groups = self.groups.values();
        groups
            .filter(|group| is_kept(group, now))
            .cloned()
            .collect()
    }
}

fn is_kept(group: &FailureGroup, now: Timestamp) -> bool {
    now.since(group.last_at) < FAILURES_KEPT
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Offset, Partition, PipelineNumber, ShardId};

    fn note(failures: &mut Failures, message: &str, offset: u64, s: u64) {
        let failure = Failure {
            code: "http".try_into().unwrap(),
            message: message.to_owned(),
            retryable: true,
            detail: "".into(),
        };
        failures.note(&failure, task(offset), at(s));
    }

    fn task(offset: u64) -> TaskId {
        let shard = ShardId {
            pipeline: PipelineNumber(1),
            partition: Partition(0),
        };
        let offset = Offset(offset);
        TaskId { shard, offset }
    }

    fn at(s: u64) -> Timestamp {
        Timestamp::from_millis(1_000 * s)
    }

    #[test]
    fn failures_of_one_cause_are_counted_together() {
        let mut failures = Failures::default();
        note(&mut failures, "GET /orders/17: 503", 1, 1);
        note(&mut failures, "GET /users/3: 503", 2, 2);
        note(&mut failures, "GET /orders/18: 503", 3, 3);
        let mut told = failures.read(at(3));
        told.sort_by_key(|group| group.n);
        assert_eq!((told[0].n, told[1].n), (1, 2));
        let orders = &told[1];
        assert_eq!(orders.message, "GET /orders/18: 503");
        assert_eq!((orders.first_at, orders.last_at), (at(1), at(3)));
        assert_eq!(orders.last, task(3));
    }

    #[test]
    fn only_the_newest_causes_are_kept_and_not_for_ever() {
        let mut failures = Failures::default();
        let word = |n: u64| "x".repeat(usize::try_from(n).unwrap() + 1);
        for n in 0..1_000 {
            note(&mut failures, &word(n), n, n);
        }
        let told = failures.read(at(1_000));
        assert_eq!(told.len(), GROUPS_MAX);
        assert!(told.iter().all(|group| group.last_at >= at(936)));
        assert!(
            told.iter()
                .all(|group| group.message.len() <= MESSAGE_CHARS_MAX)
        );
        assert_eq!(failures.read(at(5_000)), []);
        // One that comes again after that begins anew.
        note(&mut failures, &word(999), 1, 6_000);
        let told = failures.read(at(6_000));
        assert_eq!((told[0].n, told[0].first_at), (1, at(6_000)));
    }
}
