//! one-lease: tokens of one task strictly grow, whoever grants them.

use std::collections::BTreeMap;

use scheduler_core::{LeaseToken, TaskId};

use super::{Check, Found, Truth, broken};
use crate::fact::{Fact, token_name};

#[derive(Debug, Default)]
pub(super) struct OneLease {
    newest: BTreeMap<TaskId, LeaseToken>,
}

impl Check for OneLease {
    fn promise(&self) -> &'static str {
        "one-lease"
    }

    fn see(&mut self, fact: &Fact, _truth: Truth<'_>) -> Found {
        let Fact::Granted(grant) = fact else {
            return Ok(());
        };
        let (id, token) = (grant.held.id, grant.held.token);
        match self.newest.insert(id, token) {
            Some(before) if before >= token => {
                let (new, old) = (token_name(token), token_name(before));
                broken(id, format!("lease {new} is granted after {old}"))
            }
            _ => Ok(()),
        }
    }
}
