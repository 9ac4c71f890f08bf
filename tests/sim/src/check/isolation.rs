//! isolation: who polls for one pipeline gets tasks of no other.

use super::{Check, Found, Truth, broken};
use crate::fact::Fact;

#[derive(Debug)]
pub(super) struct Isolation;

impl Check for Isolation {
    fn promise(&self) -> &'static str {
        "isolation"
    }

    fn see(&mut self, fact: &Fact, _truth: Truth<'_>) -> Found {
        match fact {
            Fact::Granted(grant) if grant.pipeline != grant.held.id.shard.pipeline => {
                let asked = grant.pipeline.0;
                broken(
                    grant.held.id,
                    format!("it goes to a worker of pipeline {asked}"),
                )
            }
            _ => Ok(()),
        }
    }
}
