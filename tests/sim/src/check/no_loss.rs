//! no-loss: what is in the log ends in exactly one terminal state, and counts as done no sooner than it
//! is ended or stored.

use std::collections::BTreeSet;

use scheduler_core::{
    Outcome, Retention, TaskId,
    port::{log::RecordBody, store::ShardFlush},
};

use super::{Check, Found, Truth, broken};
use crate::{fact::Fact, log::Born, store::Applied};

#[derive(Debug, Default)]
pub(super) struct NoLoss {
    /// Tasks that a member may take as ended: it was told that they worked, or asked to cancel them.
    may_end: BTreeSet<TaskId>,
}

impl Check for NoLoss {
    fn promise(&self) -> &'static str {
        "no-loss"
    }

    fn see(&mut self, fact: &Fact, truth: Truth<'_>) -> Found {
        match fact {
            Fact::Heard(_, held, Outcome::Completed { .. }) => {
                self.may_end.insert(held.id);
                Ok(())
            }
            Fact::CancelAsked(id) => {
                self.may_end.insert(*id);
                Ok(())
            }
            Fact::Saved(parts, at, applied) => self.saved(&parts[*at], applied, truth),
            Fact::Trimmed(shard, below) if *below > truth.store.watermark(*shard) => Err((
                None,
                format!(
                    "shard {shard} is trimmed below {}, above its watermark",
                    below.0
                ),
            )),
            Fact::Refused(shard, why) => Err((None, format!("shard {shard} is refused: {why}"))),
            Fact::NotReady(member) => {
                let why = format!("member {member} is not ready long after all faults");
                Err((None, why))
            }
            _ => Ok(()),
        }
    }

    fn at_end(&mut self, truth: Truth<'_>) -> Found {
        for (id, _) in truth.log.records() {
            if !truth.store.is_done(id) {
                return broken(id, "it has not ended and is not stored");
            }
        }
        if let Some((id, row)) = truth.store.live_rows().next() {
            return broken(id, format!("it is left as {}", row.state.name().as_str()));
        }
        for (id, _) in truth.log.records() {
            let watermark = truth.store.watermark(id.shard);
            if watermark < truth.log.end(id.shard) {
                let why = format!(
                    "the watermark of shard {} stays at {}",
                    id.shard, watermark.0
                );
                return Err((None, why));
            }
        }
        Ok(())
    }
}

impl NoLoss {
    fn saved(&self, part: &ShardFlush, applied: &Applied, truth: Truth<'_>) -> Found {
        for offset in &applied.newly_done {
            let id = TaskId {
                shard: part.shard,
                offset: *offset,
            };
            if truth.store.row(id).is_none() && !self.may_be_absent(id, truth) {
                return broken(id, "it counts as done and is neither ended nor stored");
            }
        }
        for row in &applied.before {
            let id = TaskId {
                shard: part.shard,
                offset: row.offset,
            };
            let is_gone = truth.store.row(id).is_none();
            if is_gone && !row.state.name().is_terminal() && !self.may_end.contains(&id) {
                return broken(id, "its row is deleted and it has not ended");
            }
        }
        Ok(())
    }

    /// Whether an offset may be done without leaving a trace.
    fn may_be_absent(&self, id: TaskId, truth: Truth<'_>) -> bool {
        let Some(Born::Record(RecordBody::Task(task))) = truth.log.born(id) else {
            // A gap; a record that is no task leaves a dead letter.
            return truth.log.born(id) == Some(&Born::Gap);
        };
        let options = task.options.as_deref();
        let key = options.and_then(|options| options.idempotency_key.as_ref());
        let row = key.and_then(|key| truth.store.key(id.shard, key));
        let is_repetition = row.is_some_and(|row| row.offset != id.offset);
        let retention = options.and_then(|options| options.retention);
        let is_unkept = matches!(retention, Some(Retention::None | Retention::Failures(_)));
        is_repetition || (is_unkept && self.may_end.contains(&id))
    }
}
