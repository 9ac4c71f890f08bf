//! promptness: a task that can run while an idle worker polls its owner is handed out within a second.

use std::time::Duration;

use scheduler_core::{Offset, ShardId, TaskId, Timestamp};

use super::{Check, Found, Truth, broken};
use crate::fact::Fact;

const WITHIN: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Promptness {
    next: Option<(ShardId, Offset)>,
    waits: Option<(TaskId, Timestamp)>,
}

impl Check for Promptness {
    fn promise(&self) -> &'static str {
        "promptness"
    }

    fn see(&mut self, fact: &Fact, truth: Truth<'_>) -> Found {
        match fact {
            Fact::Probing(..) | Fact::Probed => {
                if let Some((id, _)) = self.waits.take() {
                    return broken(id, "it is not handed out, though workers wait");
                }
                self.next = match fact {
                    Fact::Probing(shard, offset) => Some((*shard, *offset)),
                    _ => None,
                };
            }
            Fact::Appended(id) => {
                let is_it = |(shard, offset): &mut (ShardId, Offset)| {
                    *shard == id.shard && *offset <= id.offset
                };
                if self.next.take_if(is_it).is_some() {
                    self.waits = Some((*id, truth.now));
                }
            }
            Fact::Granted(grant) => {
                let is_it = |(id, _): &mut (TaskId, Timestamp)| *id == grant.held.id;
                if let Some((id, since)) = self.waits.take_if(is_it)
                    && truth.now.since(since) > WITHIN
                {
                    let waited = truth.now.since(since).as_secs_f64();
                    return broken(
                        id,
                        format!("it waits {waited:.3} s, though workers wait, too"),
                    );
                }
            }
            _ => {}
        }
        Ok(())
    }
}
