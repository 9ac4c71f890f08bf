//! outage-is-not-failure: while whatever runs fails, no more tasks become dead letters of it than there are credits.
//!
//! What an owner has of credits is bounded from outside: it starts with all of them, and each success that it hears
//! of earns one.

use std::collections::BTreeMap;

use scheduler_core::{
    Offset, Outcome, ShardId, TaskId,
    port::store::{Ending, ShardFlush, StoredState, StoredTask},
};

use super::{Check, Found, Truth, broken};
use crate::{fact::Fact, store::Applied, task::OUTAGE};

#[derive(Debug, Default)]
pub(super) struct OutageIsNotFailure {
    /// An outage has begun.
    has_begun: bool,
    shards: BTreeMap<ShardId, Counts>,
}

/// Since the outage began.
#[derive(Debug, Default)]
struct Counts {
    n_owners: u32,
    n_successes: u32,
    n_discarded: u32,
}

impl Check for OutageIsNotFailure {
    fn promise(&self) -> &'static str {
        "outage-is-not-failure"
    }

    fn see(&mut self, fact: &Fact, truth: Truth<'_>) -> Found {
        match fact {
            Fact::Outage(true) => self.has_begun = true,
            _ if !self.has_begun => {}
            Fact::Started(_, claimed) => self.counts(claimed.shard).n_owners += 1,
            Fact::Heard(_, held, Outcome::Completed { .. }) => {
                self.counts(held.id.shard).n_successes += 1;
            }
            Fact::Saved(parts, at, applied) => return self.saved(&parts[*at], applied, truth),
            _ => {}
        }
        Ok(())
    }
}

impl OutageIsNotFailure {
    fn counts(&mut self, shard: ShardId) -> &mut Counts {
        self.shards.entry(shard).or_default()
    }

    fn saved(&mut self, part: &ShardFlush, applied: &Applied, truth: Truth<'_>) -> Found {
        if !applied.is_new {
            return Ok(());
        }
        let was_discarded = |offset: Offset| {
            let mut before = applied.before.iter();
            before.any(|before| before.offset == offset && is_discarded(before))
        };
        for row in &part.tasks {
            if !is_discarded(row) || !is_of_outage(row) || was_discarded(row.offset) {
                continue;
            }
            let n_partitions = truth
                .pipeline(part.shard.pipeline)
                .map_or(1, |pipeline| pipeline.spec.n_partitions);
            let credits = (truth.config.discard_credits / u32::from(n_partitions)).max(1);
            let counts = self.counts(part.shard);
            counts.n_discarded += 1;
            let n_allowed = credits
                .saturating_mul(1 + counts.n_owners)
                .saturating_add(counts.n_successes);
            if counts.n_discarded > n_allowed {
                let id = TaskId {
                    shard: part.shard,
                    offset: row.offset,
                };
                let n = counts.n_discarded;
                let why = format!("it is dead letter {n} of an outage, of {n_allowed} that may be");
                return broken(id, why);
            }
        }
        Ok(())
    }
}

fn is_discarded(row: &StoredTask) -> bool {
    matches!(
        row.state,
        StoredState::Ended {
            ending: Ending::Discarded,
            ..
        }
    )
}

fn is_of_outage(row: &StoredTask) -> bool {
    let last = row.errors.last();
    last.is_some_and(|error| error.failure.code.as_str() == OUTAGE)
}
