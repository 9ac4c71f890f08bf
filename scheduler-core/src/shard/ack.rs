//! Who is told when a flush of a shard is durable, and what.

use crate::{
    Error, LeaseLost, TaskId,
    action::{Action, Answer, CallId},
    call::Held,
};

/// Who is told when a flush is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ack {
    Report((CallId, u32)),
    Cancel(CallId),
    Redrive(CallId),
    /// The cancel came too late, which may be said only now.
    CancelRefused(CallId),
    Submit(CallId, TaskId, bool),
    /// A worker whose lease ended with its task.
    Lost(Held, LeaseLost),
}

impl Ack {
    /// What to tell once it is durable.
    pub(super) fn done(self) -> Action {
        match self {
            Self::Report((call, part)) => Action::Answer(call, part, Answer::Reported(Ok(()))),
            Self::Cancel(call) => Action::Answer(call, 0, Answer::Cancelled(Ok(()))),
            Self::Redrive(call) => Action::Answer(call, 0, Answer::Redriven(Ok(()))),
            Self::CancelRefused(call) => {
                let refused = Answer::Cancelled(Err(super::load::has_ended()));
                Action::Answer(call, 0, refused)
            }
            Self::Submit(call, id, repeated) => {
                Action::Answer(call, 0, Answer::Submitted(Ok((id, repeated))))
            }
            Self::Lost(held, why) => Action::LeaseEnded(held, why),
        }
    }

    /// What to tell if another owner has the shard.
    pub(super) fn abandoned(self) -> Option<Action> {
        let moved = Error::moved();
        Some(match self {
            Self::Report((call, part)) => Action::Answer(call, part, Answer::Reported(Err(moved))),
            Self::Cancel(call) | Self::CancelRefused(call) => {
                Action::Answer(call, 0, Answer::Cancelled(Err(moved)))
            }
            Self::Redrive(call) => Action::Answer(call, 0, Answer::Redriven(Err(moved))),
            Self::Submit(call, _, _) => {
                let what = "the submit".into();
                let unknown = Answer::Submitted(Err(Error::UnknownOutcome { what }));
                Action::Answer(call, 0, unknown)
            }
            // Whoever owns the shard next will say so if it is.
            Self::Lost(..) => return None,
        })
    }
}
