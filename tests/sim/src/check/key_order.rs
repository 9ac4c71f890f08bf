//! key-order: a task starts only after all that were accepted before it under its key have ended, durably.

use scheduler_core::{OrderingKey, TaskId, TaskOptions, port::log::RecordBody};

use super::{Check, Found, Truth, broken};
use crate::{fact::Fact, log::Born};

#[derive(Debug)]
pub(super) struct KeyOrder;

impl Check for KeyOrder {
    fn promise(&self) -> &'static str {
        "key-order"
    }

    fn see(&mut self, fact: &Fact, truth: Truth<'_>) -> Found {
        let Fact::Granted(grant) = fact else {
            return Ok(());
        };
        let id = grant.held.id;
        let Some(key) = options_of(id, truth).and_then(|options| options.key.as_ref()) else {
            return Ok(());
        };
        let before = (0..id.offset.0).map(|offset| TaskId {
            offset: scheduler_core::Offset(offset),
            ..id
        });
        for other in before {
            if goes_before(other, key, truth) && !has_ended(other, truth) {
                let other = other.offset.0;
                return broken(
                    id,
                    format!("it starts before {other}, which has the same key"),
                );
            }
        }
        Ok(())
    }
}

fn options_of(id: TaskId, truth: Truth<'_>) -> Option<&TaskOptions> {
    match truth.log.born(id)? {
        Born::Record(RecordBody::Task(task)) => task.options.as_deref(),
        Born::Record(RecordBody::Malformed { .. }) | Born::Gap => None,
    }
}

/// One that was asked to run later joins its key only then.
fn goes_before(id: TaskId, key: &OrderingKey, truth: Truth<'_>) -> bool {
    let options = options_of(id, truth);
    options.is_some_and(|options| options.key.as_ref() == Some(key) && options.run_at.is_none())
}

fn has_ended(id: TaskId, truth: Truth<'_>) -> bool {
    match truth.store.row(id) {
        Some(row) => row.state.name().is_terminal(),
        None => truth.store.is_done(id),
    }
}
