//! one key, one task: submits with one idempotency key are one task, and no other record of it runs.

use std::{collections::BTreeMap, sync::Arc};

use scheduler_core::{ShardId, TaskId, port::log::RecordBody};

use super::{Check, Found, Truth, broken};
use crate::{fact::Fact, log::Born, task::name_of};

#[derive(Debug, Default)]
pub(super) struct OneKeyOneTask {
    accepted: BTreeMap<(ShardId, Arc<str>), TaskId>,
    ran: BTreeMap<(ShardId, Arc<str>), TaskId>,
}

impl Check for OneKeyOneTask {
    fn promise(&self) -> &'static str {
        "one key, one task"
    }

    fn see(&mut self, fact: &Fact, truth: Truth<'_>) -> Found {
        match fact {
            Fact::AcceptedKeyed(shard, key, payload, id) => {
                let first = self
                    .accepted
                    .entry((*shard, Arc::clone(key)))
                    .or_insert(*id);
                if first != id {
                    let other = first.offset.0;
                    return broken(*id, format!("{key} stands for it and for {other}"));
                }
                match truth.log.born(*id) {
                    Some(Born::Record(RecordBody::Task(task)))
                        if name_of(&task.data) == &**payload =>
                    {
                        Ok(())
                    }
                    _ => broken(*id, format!("{payload} is answered with it")),
                }
            }
            Fact::Granted(grant) => {
                let Some(key) = key_of(&grant.name) else {
                    return Ok(());
                };
                let id = grant.held.id;
                let first = self.ran.entry((id.shard, key.into())).or_insert(id);
                if *first != id {
                    let other = first.offset.0;
                    return broken(id, format!("it runs under the same key as {other}"));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// The key in the name of a task that was submitted with one.
fn key_of(name: &str) -> Option<&str> {
    name.strip_prefix("keyed-")?.split('-').next()
}
