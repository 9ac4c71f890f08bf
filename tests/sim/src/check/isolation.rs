//! isolation: who polls for one pipeline gets tasks of no other, and who polls for a pool gets tasks of no other pool.

use scheduler_core::member::Fleet;

use super::{Check, Found, Truth, broken};
use crate::fact::Fact;

#[derive(Debug)]
pub(super) struct Isolation;

impl Check for Isolation {
    fn promise(&self) -> &'static str {
        "isolation"
    }

    fn see(&mut self, fact: &Fact, truth: Truth<'_>) -> Found {
        let Fact::Granted(grant) = fact else {
            return Ok(());
        };
        let number = grant.held.id.shard.pipeline;
        let is_theirs = match &grant.fleet {
            Fleet::Pipeline(asked) => *asked == number,
            Fleet::Pool(pool) => {
                let pipeline = truth.pipeline(number);
                pipeline.is_some_and(|pipeline| pipeline.spec.pool.as_ref() == Some(pool))
            }
        };
        if is_theirs {
            return Ok(());
        }
        let asked = &grant.fleet;
        broken(grant.held.id, format!("it goes to a worker of {asked:?}"))
    }
}
