//! Cancelling many tasks at once: which ones, and the rule that each shard keeps of it.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Invalid, LeaseToken, Offset, StateName, Timestamp,
    task::{CancelId, GroupName, OrderingKey, TaskOptions},
};

/// The most metadata entries of one filter.
const METADATA_MAX: usize = 8;

/// Which tasks a bulk cancel is about: those that fit everything that is set. Nothing set means all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CancelFilter {
    /// Only tasks with this ordering key.
    pub key: Option<OrderingKey>,
    /// Only tasks of this group, be it their own or that of the pipeline's defaults when the call is made.
    pub group: Option<GroupName>,
    /// Only tasks that are in one of these states when they are found. What is in one of them at the call is found so;
    /// what comes into one later, while the rule is not over, may be.
    pub states: BTreeSet<StateName>,
    /// Only tasks accepted at or after this time.
    pub accepted_from: Option<Timestamp>,
    /// Only tasks accepted before this time.
    pub accepted_before: Option<Timestamp>,
    /// Only tasks that have all of these among their own metadata: at most 8.
    pub metadata: BTreeMap<String, String>,
}

impl CancelFilter {
    /// Whether it leaves out nothing.
    #[must_use]
    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }

    /// Checks what it asks for.
    ///
    /// # Errors
    /// The first field that no task can fit, or that is too large.
    pub fn validate(&self) -> Result<(), Invalid> {
        if self.states.iter().any(|state| state.is_terminal()) {
            let rule = "must be among scheduled, available, running and retryable: what has ended cannot be cancelled";
            return Err(Invalid::new("states", rule));
        }
        let from = self.accepted_from.unwrap_or(Timestamp::EPOCH);
        if self.accepted_before.is_some_and(|before| before <= from) {
            return Err(Invalid::new(
                "accepted_before",
                "must be later than accepted_from",
            ));
        }
        let too_long =
            |(key, value): (&String, &String)| !(1..=64).contains(&key.len()) || value.len() > 1024;
        if self.metadata.len() > METADATA_MAX || self.metadata.iter().any(too_long) {
            let rule =
                "must have at most 8 entries, keys of 1 to 64 and values of at most 1024 bytes";
            return Err(Invalid::new("metadata", rule));
        }
        Ok(())
    }

    /// Whether a task fits, but for its state. `group` is the one that it is in.
    #[must_use]
    pub fn fits(
        &self,
        accepted_at: Timestamp,
        options: Option<&TaskOptions>,
        group: Option<&GroupName>,
    ) -> bool {
        let key = options.and_then(|options| options.key.as_ref());
        let metadata = options.map(|options| &options.metadata);
        let has = |(name, value)| metadata.and_then(|all| all.get(name)) == Some(value);
        (self.key.is_none() || self.key.as_ref() == key)
            && (self.group.is_none() || self.group.as_ref() == group)
            && self.accepted_from.is_none_or(|from| accepted_at >= from)
            && self
                .accepted_before
                .is_none_or(|before| accepted_at < before)
            && self.metadata.iter().all(has)
    }

    /// Whether it takes tasks in this state.
    #[must_use]
    pub fn takes(&self, state: StateName) -> bool {
        !state.is_terminal() && (self.states.is_empty() || self.states.contains(&state))
    }
}

/// What a shard keeps of a bulk cancel: see ADR 9.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CancelRule {
    /// Which bulk cancel it is.
    pub id: CancelId,
    /// Which tasks.
    pub filter: CancelFilter,
    /// The group of tasks that name none, when the rule was made.
    pub default_group: Option<GroupName>,
    /// Only tasks below this offset: the end of the log when the call was made.
    pub below: Offset,
    /// When it was made.
    pub made_at: Timestamp,
    /// How many tasks it has cancelled.
    pub n_cancelled: u64,
    /// Since when there are no more for it.
    pub over_at: Option<Timestamp>,
}

impl CancelRule {
    /// Whether it is about this task, whatever its state.
    #[must_use]
    pub fn covers(
        &self,
        offset: Offset,
        accepted_at: Timestamp,
        options: Option<&TaskOptions>,
    ) -> bool {
        let own = options.and_then(|options| options.group.as_ref());
        let group = own.or(self.default_group.as_ref());
        offset < self.below && self.filter.fits(accepted_at, options, group)
    }

    /// Whether it takes a task that it finds in this state, with this newest token. A task that was still to wait for
    /// its time when the rule was made, and never was leased, was scheduled then.
    #[must_use]
    pub fn takes(
        &self,
        state: StateName,
        token: LeaseToken,
        options: Option<&TaskOptions>,
    ) -> bool {
        let run_at = options.and_then(|options| options.run_at);
        let was_scheduled = run_at.is_some_and(|run_at| run_at > self.made_at);
        let is_unchanged = state == StateName::Available && token == LeaseToken::NONE;
        self.filter.takes(if is_unchanged && was_scheduled {
            StateName::Scheduled
        } else {
            state
        })
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> CancelProgress {
        CancelProgress {
            n_cancelled: self.n_cancelled,
            is_over: self.over_at.is_some(),
        }
    }
}

/// How far a bulk cancel is, in one shard or in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CancelProgress {
    /// How many tasks it has cancelled, durably.
    pub n_cancelled: u64,
    /// Whether all are cancelled that there were.
    pub is_over: bool,
}

impl CancelProgress {
    /// Adds what another shard said.
    pub fn add(&mut self, other: Self) {
        self.n_cancelled += other.n_cancelled;
        self.is_over &= other.is_over;
    }
}

/// A bulk cancel as an owner is asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CancelRequest {
    /// Which bulk cancel it is.
    pub id: CancelId,
    /// Which tasks.
    pub filter: CancelFilter,
    /// Only tasks below this offset. Where the rule is known already, its own bound stays.
    pub below: Offset,
}
