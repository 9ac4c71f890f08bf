//! Which reports settled the newest lease of a task, so that the same report again gets the same answer.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;

use crate::{
    LeaseToken, Offset, Outcome,
    port::store::{Ending, StoredState, StoredTask},
    task::{
        AttemptError,
        event::is_own,
        state::{State, Task},
    },
};

/// Leases that reports settled and whose tasks left no trace in the store, newest kept: all of them
/// completed, since whatever else ends a lease is kept or goes on.
#[derive(Debug)]
pub(super) struct Settled {
    by_offset: FxHashMap<Offset, LeaseToken>,
    order: VecDeque<Offset>,
    n_max: usize,
}

impl Settled {
    pub(super) fn new(n_max: usize) -> Self {
        Self {
            by_offset: FxHashMap::default(),
            order: VecDeque::new(),
            n_max,
        }
    }

    pub(super) fn remember(&mut self, offset: Offset, token: LeaseToken) {
        if self.n_max == 0 {
            return;
        }
        if self.order.len() >= self.n_max
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_offset.remove(&oldest);
        }
        self.by_offset.insert(offset, token);
        self.order.push_back(offset);
    }

    pub(super) fn has(&self, offset: Offset, token: LeaseToken) -> bool {
        self.by_offset.get(&offset) == Some(&token)
    }

    pub(super) fn is_by(&self, offset: Offset, token: LeaseToken, outcome: &Outcome) -> bool {
        matches!(outcome, Outcome::Completed { .. }) && self.has(offset, token)
    }
}

/// What a task shows of its newest lease.
#[derive(Debug)]
pub(super) struct Lapsed<'a> {
    token: LeaseToken,
    is_running: bool,
    ending: Option<&'a Ending>,
    last_error: Option<&'a AttemptError>,
    /// It was an offer that ran out, which leaves no error.
    is_untouched: bool,
}

impl<'a> Lapsed<'a> {
    pub(super) fn of(task: &'a Task) -> Self {
        Self {
            token: task.token,
            is_running: matches!(task.state, State::Running(_)),
            ending: match &task.state {
                State::Ended { ending, .. } => Some(ending),
                _ => None,
            },
            last_error: task.errors().last(),
            is_untouched: task.is_untouched(task.token),
        }
    }

    pub(super) fn of_stored(stored: &'a StoredTask) -> Self {
        Self {
            token: stored.token,
            is_running: matches!(stored.state, StoredState::Running { .. }),
            ending: match &stored.state {
                StoredState::Ended { ending, .. } => Some(ending),
                _ => None,
            },
            last_error: stored.errors.last(),
            is_untouched: false,
        }
    }

    /// Whether a report with this outcome settled the lease.
    pub(super) fn is_by(&self, token: LeaseToken, outcome: &Outcome) -> bool {
        let is_it = self.token == token && token != LeaseToken::NONE && !self.is_running;
        is_it
            && match outcome {
                Outcome::Completed { .. } => matches!(self.ending, Some(Ending::Completed { .. })),
                Outcome::Failed(_) => self.error().is_some_and(|error| !is_own(&error.failure)),
                // What ends a lease without an error and without an end of the task.
                Outcome::Interrupted | Outcome::Snoozed(_) => {
                    self.error().is_none() && self.ending.is_none() && !self.is_untouched
                }
            }
    }

    /// Whether any report settled the lease.
    pub(super) fn is_settled(&self, token: LeaseToken) -> bool {
        if self.token != token || token == LeaseToken::NONE || self.is_running {
            return false;
        }
        match self.error() {
            Some(error) if !is_own(&error.failure) => true,
            Some(_) => matches!(self.ending, Some(Ending::Completed { .. })),
            None => !self.is_untouched && !matches!(self.ending, Some(Ending::Cancelled)),
        }
    }

    /// The error under the newest lease.
    fn error(&self) -> Option<&'a AttemptError> {
        self.last_error.filter(|error| error.token == self.token)
    }
}
