//! durable-reply: what a reply, read or notice says is durable as it leaves, and is never unsaid.

use std::collections::{BTreeMap, BTreeSet};

use scheduler_core::{
    Held, IdempotencyKey, Outcome, StateName, TaskId, Timestamp,
    port::store::{StoredState, StoredTask},
};

use super::{Check, Found, Truth, broken};
use crate::fact::{By, Fact};

#[derive(Debug, Default)]
pub(super) struct DurableReply {
    /// Ends that somebody was told, and when first.
    told: BTreeMap<TaskId, (StateName, Timestamp)>,
    /// Tasks of which somebody was told that they start no more.
    stopped: BTreeSet<TaskId>,
}

impl Check for DurableReply {
    fn promise(&self) -> &'static str {
        "durable-reply"
    }

    fn see(&mut self, fact: &Fact, truth: Truth<'_>) -> Found {
        match fact {
            Fact::Reported(_, held, outcome, Ok(())) => self.reported(*held, outcome, truth),
            Fact::Cancelled(id) => {
                if !is_durably(*id, StateName::Cancelled, truth) {
                    return broken(*id, "its cancel is confirmed and not durable");
                }
                self.tell(*id, StateName::Cancelled, truth.now)
            }
            Fact::CancelledMany(shard, request) => {
                self.stopped.extend(truth.log.covered(*shard, request));
                Ok(())
            }
            Fact::AnsweredKeyed(shard, key, id) => {
                let key = IdempotencyKey::try_from(&**key).ok();
                let row = key.and_then(|key| truth.store.key(*shard, &key));
                if row.is_none_or(|row| row.offset != id.offset) {
                    return broken(*id, "its key is answered and not durable");
                }
                Ok(())
            }
            Fact::Ended(_, ids) => ids.iter().try_for_each(|id| {
                let row = truth.store.row(*id);
                let lives = row.is_some_and(|row| !row.state.name().is_terminal());
                if lives || !truth.store.is_done(*id) {
                    return broken(*id, "it is said to have ended, which is not durable");
                }
                Ok(())
            }),
            Fact::Watermark(shard, watermark) if *watermark > truth.store.watermark(*shard) => {
                let why = format!("watermark {} of shard {shard} is not durable", watermark.0);
                Err((None, why))
            }
            Fact::Seen(task, shard, _) => {
                let id = TaskId {
                    shard: *shard,
                    offset: task.offset,
                };
                let state = task.state.name();
                if state.is_terminal() && !is_durably(id, state, truth) {
                    return broken(id, format!("it is shown as {} too early", state.as_str()));
                }
                Ok(())
            }
            Fact::Shown(id, began_at, state, by) => {
                self.shown(*id, *began_at, *state, truth)?;
                match state {
                    Some(state) if state.is_terminal() && *by == By::Owner => {
                        self.tell(*id, *state, truth.now)
                    }
                    _ => Ok(()),
                }
            }
            Fact::Granted(grant) => match self.told.get(&grant.held.id) {
                Some((state, _)) => {
                    let why = format!("it was told to be {} and runs again", state.as_str());
                    broken(grant.held.id, why)
                }
                None if self.stopped.contains(&grant.held.id) => {
                    broken(grant.held.id, "a bulk cancel covers it and it starts")
                }
                None => Ok(()),
            },
            Fact::Saved(parts, at, applied) => applied.before.iter().try_for_each(|before| {
                let id = TaskId {
                    shard: parts[*at].shard,
                    offset: before.offset,
                };
                unsaid(id, before, truth)
            }),
            _ => Ok(()),
        }
    }
}

impl DurableReply {
    fn reported(&mut self, held: Held, outcome: &Outcome, truth: Truth<'_>) -> Found {
        let (id, token) = (held.id, held.token);
        let row = truth.store.row(id);
        let is_left = row.is_none() && truth.store.is_done(id);
        let is_durable = match outcome {
            Outcome::Completed { .. } => is_durably(id, StateName::Completed, truth),
            Outcome::Failed(_) => {
                let has_error = |row: &StoredTask| row.errors.iter().any(|err| err.token == token);
                is_left || row.is_some_and(has_error)
            }
            Outcome::Interrupted | Outcome::Snoozed(_) => {
                let still_runs =
                    |row: &StoredTask| matches!(row.state, StoredState::Running { .. });
                is_left
                    || row.is_some_and(|row| {
                        row.token > token || (row.token == token && !still_runs(row))
                    })
            }
        };
        if !is_durable {
            return broken(id, "its report is acknowledged and not durable");
        }
        match outcome {
            Outcome::Completed { .. } => self.tell(id, StateName::Completed, truth.now),
            _ => Ok(()),
        }
    }

    fn tell(&mut self, id: TaskId, state: StateName, now: Timestamp) -> Found {
        let told = self.told.entry(id).or_insert((state, now));
        if told.0 == state {
            return Ok(());
        }
        let why = format!(
            "it was told to be {} and is {}",
            told.0.as_str(),
            state.as_str()
        );
        broken(id, why)
    }

    /// A read that began after somebody was told how the task ended says the same.
    fn shown(
        &self,
        id: TaskId,
        began_at: Timestamp,
        state: Option<StateName>,
        truth: Truth<'_>,
    ) -> Found {
        if let Some((told, at)) = self.told.get(&id)
            && *at < began_at
            && let Some(state) = state
            && state != *told
        {
            let why = format!(
                "it was told to be {} and is shown as {}",
                told.as_str(),
                state.as_str()
            );
            return broken(id, why);
        }
        match state {
            Some(_) => Ok(()),
            None if truth.store.is_done(id) => Ok(()),
            None => broken(id, "it is shown as gone and has not ended"),
        }
    }
}

/// Whether the store knows that a task ended so, or that it ended and nothing of it is kept.
fn is_durably(id: TaskId, state: StateName, truth: Truth<'_>) -> bool {
    match truth.store.row(id) {
        Some(row) => row.state.name() == state,
        None => truth.store.is_done(id),
    }
}

/// What has ended stays as it is.
fn unsaid(id: TaskId, before: &StoredTask, truth: Truth<'_>) -> Found {
    let (state, now) = (before.state.name(), truth.store.row(id));
    let now = now.map(|row| row.state.name());
    if state.is_terminal() && now != Some(state) {
        let why = format!("it was durably {} and is now {now:?}", state.as_str());
        return broken(id, why);
    }
    Ok(())
}
