//! poison-alone: a task on its last attempt, after others have failed, is handed out alone.

use super::{Check, Found, Truth, broken};
use crate::fact::Fact;

#[derive(Debug)]
pub(super) struct PoisonAlone;

impl Check for PoisonAlone {
    fn promise(&self) -> &'static str {
        "poison-alone"
    }

    fn see(&mut self, fact: &Fact, _truth: Truth<'_>) -> Found {
        let Fact::Granted(grant) = fact else {
            return Ok(());
        };
        let is_last = grant.attempt > 1 && grant.attempt >= grant.max_attempts;
        if is_last && grant.n_mates > 0 {
            let (attempt, n) = (grant.attempt, grant.n_mates);
            let why = format!("it goes out on attempt {attempt}, its last, with {n} others");
            return broken(grant.held.id, why);
        }
        Ok(())
    }
}
