//! bounded: memory stays within the limits, and tasks that merely wait cost no rows.

use scheduler_core::{
    LeaseToken, Offset, TaskId,
    member::Load,
    port::{
        log::RecordBody,
        store::{Parked, ShardFlush, StoredState, StoredTask},
    },
};

use super::{Check, Found, Truth, broken};
use crate::{fact::Fact, log::Born, store::Applied};

#[derive(Debug)]
pub(super) struct Bounded;

impl Check for Bounded {
    fn promise(&self) -> &'static str {
        "bounded"
    }

    fn see(&mut self, fact: &Fact, truth: Truth<'_>) -> Found {
        match fact {
            Fact::Loaded(member, load) => within(*member, *load, truth),
            Fact::Saved(parts, at, applied) => {
                rows(&parts[*at], applied, truth)?;
                stragglers(&parts[*at], truth)
            }
            Fact::Counted(shard, n_window, next) => {
                let max = (2 * truth.config.window_tasks_max + BESIDE_MAX) as u64;
                let is_ahead = next.is_some_and(|next| next > truth.log.end(*shard));
                if *n_window > max || is_ahead {
                    return Err((
                        None,
                        format!("shard {shard} shows {n_window} tasks in memory"),
                    ));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Tasks that calls bring in, one at a time, and a page of tasks that wait for one key, whatever room there is.
const BESIDE_MAX: usize = 128;

/// A page of the log and pages of parked tasks can be under way at once.
fn within(member: usize, load: Load, truth: Truth<'_>) -> Found {
    let max = load.n_shards * (2 * truth.config.window_tasks_max + BESIDE_MAX);
    if load.n_tasks > max {
        let n = load.n_tasks;
        return Err((
            None,
            format!("member {member} has {n} tasks in memory, more than {max}"),
        ));
    }
    Ok(())
}

/// A task that merely waits is stored only where it holds the watermark below many done offsets.
fn rows(part: &ShardFlush, applied: &Applied, truth: Truth<'_>) -> Found {
    for row in part.tasks.iter().filter(|row| merely_waits(row)) {
        if applied
            .before
            .iter()
            .any(|before| before.offset == row.offset)
        {
            continue;
        }
        let id = |offset| TaskId {
            shard: part.shard,
            offset,
        };
        let end = truth.log.end(part.shard).0;
        let above = (row.offset.0 + 1..end).map(|offset| id(Offset(offset)));
        let is_past = |id: &TaskId| {
            truth.store.is_done(*id) && !truth.store.row(*id).is_some_and(merely_waits)
        };
        let n_past = above.filter(is_past).count() as u64;
        if n_past < truth.config.straggler_after {
            return broken(
                id(row.offset),
                "it merely waits, and is stored all the same",
            );
        }
    }
    Ok(())
}

/// A task that holds the watermark below many done offsets is stored, unless it may be a repetition.
fn stragglers(part: &ShardFlush, truth: Truth<'_>) -> Found {
    let id = TaskId {
        shard: part.shard,
        offset: part.watermark,
    };
    let may_be_repetition = match truth.log.born(id) {
        Some(Born::Record(RecordBody::Task(task))) => {
            let options = task.options.as_ref();
            options.is_some_and(|options| options.idempotency_key.is_some())
        }
        _ => false,
    };
    let is_long = part.tasks.len() >= 2 * truth.config.flush_tasks_max;
    let is_unread = part.seen_end <= part.watermark;
    let n_above = truth.store.n_done_above(part.shard);
    let is_many = n_above > truth.config.straggler_after;
    if is_many && !may_be_repetition && !is_long && !is_unread {
        return broken(
            id,
            format!("it holds the watermark below {n_above} done offsets"),
        );
    }
    Ok(())
}

fn merely_waits(row: &StoredTask) -> bool {
    let is_available = matches!(
        row.state,
        StoredState::Parked {
            kind: Parked::Available,
            ..
        }
    );
    // One that waits behind its key may be stored, so that a long line takes no room; so may one of a group that is at
    // its limit.
    let options = row.task.options.as_ref();
    let has_line = options.is_some_and(|options| options.key.is_some() || options.group.is_some());
    is_available && row.token == LeaseToken::NONE && !has_line
}
