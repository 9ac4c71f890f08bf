//! What a member without a fresh proof must not say: another owner may know better.

use crate::{
    Error,
    action::{Action, Answer},
};

/// Unsays, before it leaves, what only the owner of a shard can know of a lease.
///
/// A worker that is told so by a deposed owner would drop a lease that is good, or go on under one that is not.
/// It asks again, elsewhere. A report that was taken stays taken: a deposed owner cannot save it.
pub(super) fn doubt(out: &mut Vec<Action>) {
    out.retain(|action| !matches!(action, Action::LeaseEnded(..)));
    for action in out {
        match action {
            Action::Answer(_, _, Answer::Renewed(renewed)) => *renewed = Err(Error::moved()),
            Action::Answer(_, _, Answer::Reported(Err(error))) if error.retry_after().is_none() => {
                *error = Error::moved();
            }
            _ => {}
        }
    }
}
