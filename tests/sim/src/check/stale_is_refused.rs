//! stale-is-refused: an old token changes nothing and its holder is told so; the same report again gets
//! the same answer.

use std::collections::{BTreeMap, BTreeSet};

use scheduler_core::{
    Epoch, Error, Held, LeaseLost, LeaseToken, Outcome, Retention, ShardId, TaskId,
};

use super::{Check, Found, Truth, broken};
use crate::{
    fact::{Fact, token_name},
    log::Born,
};

#[derive(Debug, Default)]
pub(super) struct StaleIsRefused {
    newest: BTreeMap<TaskId, LeaseToken>,
    owners: BTreeMap<(usize, ShardId), Epoch>,
    cancelled: BTreeSet<TaskId>,
    /// Successes that were said while their token was the newest.
    in_time: BTreeSet<(TaskId, LeaseToken)>,
    /// Reports that were acknowledged.
    settled: BTreeSet<(TaskId, LeaseToken, &'static str)>,
}

impl Check for StaleIsRefused {
    fn promise(&self) -> &'static str {
        "stale-is-refused"
    }

    fn see(&mut self, fact: &Fact, truth: Truth<'_>) -> Found {
        match fact {
            Fact::Granted(grant) => {
                self.newest.insert(grant.held.id, grant.held.token);
                Ok(())
            }
            Fact::Started(member, claimed) => {
                self.owners.insert((*member, claimed.shard), claimed.epoch);
                Ok(())
            }
            Fact::CancelAsked(id) => {
                self.cancelled.insert(*id);
                Ok(())
            }
            Fact::Renewed(member, held, true) if self.knows_newer(*member, *held) => {
                let token = token_name(held.token);
                broken(held.id, format!("old lease {token} is renewed"))
            }
            Fact::Heard(member, held, Outcome::Completed { .. }) => {
                if !self.knows_newer(*member, *held) {
                    self.in_time.insert((held.id, held.token));
                }
                Ok(())
            }
            Fact::Reported(_, held, outcome, Ok(())) => {
                let is_success = matches!(outcome, Outcome::Completed { .. });
                if is_success && !self.in_time.contains(&(held.id, held.token)) {
                    let token = token_name(held.token);
                    return broken(held.id, format!("a report under old lease {token} counts"));
                }
                self.settled.insert((held.id, held.token, name(outcome)));
                Ok(())
            }
            Fact::Reported(_, held, outcome, Err(Error::LeaseLost(why))) => {
                self.refused(*held, outcome, *why, truth)
            }
            _ => Ok(()),
        }
    }
}

impl StaleIsRefused {
    fn is_old(&self, held: Held) -> bool {
        self.newest.get(&held.id) > Some(&held.token)
    }

    /// Whether there is a newer lease, and it is not one that died with an earlier owner.
    fn knows_newer(&self, member: usize, held: Held) -> bool {
        let newest = self.newest.get(&held.id);
        let newest = newest.filter(|newest| **newest > held.token);
        let epoch = self.owners.get(&(member, held.id.shard));
        newest.is_some_and(|newest| Some(&newest.epoch()) >= epoch)
    }

    fn refused(&self, held: Held, outcome: &Outcome, why: LeaseLost, truth: Truth<'_>) -> Found {
        let is_same = self.settled.contains(&(held.id, held.token, name(outcome)));
        let is_cancelled = why == LeaseLost::Cancelled || self.cancelled.contains(&held.id);
        if is_same && !is_cancelled && !self.is_old(held) && is_kept(held.id, truth) {
            let token = token_name(held.token);
            let why = format!("the same report under {token} was taken and is refused");
            return broken(held.id, why);
        }
        Ok(())
    }
}

fn name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Completed { .. } => "completed",
        Outcome::Failed(_) => "failed",
        Outcome::Interrupted => "interrupted",
        Outcome::Snoozed(_) => "snoozed",
    }
}

fn is_kept(id: TaskId, truth: Truth<'_>) -> bool {
    use scheduler_core::port::log::RecordBody;

    let Some(Born::Record(RecordBody::Task(task))) = truth.log.born(id) else {
        return false;
    };
    let retention = task.options.as_ref().and_then(|options| options.retention);
    matches!(retention, None | Some(Retention::For(_)))
}
