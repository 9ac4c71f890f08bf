//! explained: a task that waits says why, and what it says is true.

use scheduler_core::{
    OrderingKey, ShardId, StateName, TaskId,
    explain::Waiting,
    port::{log::RecordBody, store::StoredTask},
};

use super::{Check, Found, Truth, broken};
use crate::{fact::Fact, log::Born, plan};

#[derive(Debug)]
pub(super) struct Explained;

impl Check for Explained {
    fn promise(&self) -> &'static str {
        "explained"
    }

    fn see(&mut self, fact: &Fact, truth: Truth<'_>) -> Found {
        let Fact::Seen(task, shard, waits) = fact else {
            return Ok(());
        };
        let id = TaskId {
            shard: *shard,
            offset: task.offset,
        };
        match (task.state.name(), waits) {
            (StateName::Scheduled | StateName::Available | StateName::Retryable, None) => {
                broken(id, "it waits, and nothing says why")
            }
            (_, Some(waits)) => is_true(id, task, waits, truth),
            _ => Ok(()),
        }
    }
}

fn is_true(id: TaskId, task: &StoredTask, waits: &Waiting, truth: Truth<'_>) -> Found {
    let reason = waits.reason.as_ref();
    let lie = |why: &str| broken(id, format!("it is said to wait for {reason}, but {why}"));
    if waits.ahead.is_some_and(|ahead| ahead.about > ahead.at_most) {
        return lie("more tasks are before it than there can be");
    }
    let limits = truth.pipeline(id.shard.pipeline).map(|it| it.spec.limits);
    match reason {
        "scheduled" | "backoff" | "adoption" | "rate" | "aside" if waits.until.is_none() => {
            lie("not until when")
        }
        "key" => {
            let key = task.ordering_key();
            if key.is_none() {
                return lie("it has no key");
            }
            let is_other = |other: &TaskId| *other != id && key_of(*other, truth) == key;
            if waits.tasks.iter().all(is_other) {
                return Ok(());
            }
            lie("what it waits for has another key")
        }
        "concurrency" => match limits {
            Some(limits) if !limits.all.is_none() || !limits.group.is_none() => {
                holders(id.shard, waits, truth).map_or(Ok(()), |why| lie(&why))
            }
            _ => lie("the pipeline has no limit"),
        },
        "failing" if truth.config.discard_credits >= plan::CREDITS_ENOUGH => {
            lie("there is credit enough")
        }
        "paused" => lie("nobody pauses anything here"),
        _ => Ok(()),
    }
}

/// Those that are said to hold a limit are tasks of the shard.
fn holders(shard: ShardId, waits: &Waiting, truth: Truth<'_>) -> Option<String> {
    let is_task = |id: &&TaskId| id.shard == shard && truth.log.born(**id).is_some();
    let mut strangers = waits.tasks.iter().filter(|id| !is_task(id));
    strangers
        .next()
        .map(|id| format!("{id} is no task of its shard"))
}

fn key_of(id: TaskId, truth: Truth<'_>) -> Option<&OrderingKey> {
    match truth.log.born(id)? {
        Born::Record(RecordBody::Task(task)) => task.options.as_ref()?.key.as_ref(),
        Born::Record(RecordBody::Malformed { .. }) | Born::Gap => None,
    }
}
