//! no-blocking: tasks that are slow, delayed, failing or malformed stop no others, nor the watermark.

use std::collections::BTreeMap;

use scheduler_core::{ShardId, TaskId};

use super::{Check, Found, Truth, broken};
use crate::{fact::Fact, task::is_stuck};

#[derive(Debug)]
pub(super) struct NoBlocking;

impl Check for NoBlocking {
    fn promise(&self) -> &'static str {
        "no-blocking"
    }

    fn see(&mut self, _fact: &Fact, _truth: Truth<'_>) -> Found {
        Ok(())
    }

    /// Only tasks that run on by intention are left.
    fn at_rest(&mut self, truth: Truth<'_>) -> Found {
        let mut n_above: BTreeMap<ShardId, u64> = BTreeMap::new();
        for (id, body) in truth.log.records() {
            if !has_ended(id, truth) {
                if !is_stuck(body) {
                    return broken(id, "it has not ended, though only stuck tasks may run");
                }
            } else if id.offset >= truth.store.watermark(id.shard) {
                *n_above.entry(id.shard).or_default() += 1;
            }
        }
        let max = truth.config.straggler_after;
        match n_above.into_iter().find(|(_, n)| *n > max) {
            Some((shard, n)) => Err((
                None,
                format!(
                    "a task that runs holds the watermark of shard {shard} below {n} ended ones"
                ),
            )),
            None => Ok(()),
        }
    }
}

fn has_ended(id: TaskId, truth: Truth<'_>) -> bool {
    let row = truth.store.row(id);
    truth.store.is_done(id) && row.is_none_or(|row| row.state.name().is_terminal())
}
