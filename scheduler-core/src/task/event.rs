//! What happens to a task, and the one place where its transitions are decided.

use std::{fmt, time::Duration};

use bytes::Bytes;

use crate::{
    ErrorCode, LeaseLost, LeaseToken, Timestamp, WorkerId,
    port::store::Ending,
    task::{
        AttemptError, DETAILS_LEN_MAX, ERRORS_MAX, Failure, MESSAGE_LEN_MAX, Outcome,
        state::{Lease, Rules, State, Task},
    },
};

/// The code of an attempt whose lease ran out.
pub const LEASE_EXPIRED: &str = "lease_expired";
/// The code of an attempt that ran longer than its timeout.
pub const TIMEOUT: &str = "timeout";
/// The code of an attempt whose handler was silent for too long.
pub const HEARTBEAT_TIMEOUT: &str = "heartbeat_timeout";
/// What the scheduler itself says of an attempt whose lease ended: code and message.
const OWN: [(&str, &str); 5] = [
    (TIMEOUT, "the attempt ran longer than its timeout"),
    (
        HEARTBEAT_TIMEOUT,
        "the handler gave no heartbeat within its timeout",
    ),
    (LEASE_EXPIRED, "the worker did not renew its lease"),
    (
        EXPIRED,
        "its first attempt did not begin before its expires_at",
    ),
    (TOTAL_TIMEOUT, "it took longer than its total_timeout"),
];
/// The code of a task that did not start before its `expires_at`.
pub const EXPIRED: &str = "expired";
/// The code of a task that took longer than its `total_timeout`.
pub const TOTAL_TIMEOUT: &str = "total_timeout";
/// The code of a record that cannot be a task.
pub const MALFORMED: &str = "malformed";

/// What happens to a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A worker gets it under a token that the shard has just made.
    Leased {
        /// The new token: greater than any before.
        token: LeaseToken,
        /// Who gets it.
        worker: WorkerId,
        /// Whether it is only offered.
        is_offer: bool,
    },
    /// A worker says that it holds it under a token from an earlier owner of the shard.
    Adopted {
        /// That token.
        token: LeaseToken,
        /// Who holds it.
        worker: WorkerId,
    },
    /// A sign of life.
    Renewed {
        /// The lease.
        token: LeaseToken,
        /// Whether the handler itself gave it.
        from_handler: bool,
        /// How far the handler is.
        progress: Option<Bytes>,
    },
    /// The worker says what became of the attempt.
    Reported {
        /// The lease.
        token: LeaseToken,
        /// What became of it.
        outcome: Outcome,
    },
    /// The time has come that the state waits for.
    TimerFired,
    /// Someone wants it to end.
    CancelRequested,
    /// Someone wants a discarded task to run again, with all its attempts.
    Redriven,
}

/// What a transition asks of the shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Nothing has to be saved before the task goes on.
    GoOn,
    /// The new state must be durable before it is shown and before the task is handed out again.
    SaveFirst,
    /// As [`SaveFirst`](Self::SaveFirst), and the worker that had the task must be told that it lost it.
    SaveAndTell(LeaseLost),
}

/// Why an event changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The lease is not the newest one.
    Lost(LeaseLost),
    /// The task has ended, or does not wait for this.
    WrongState,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(why) => write!(f, "lease lost: {why}"),
            Self::WrongState => f.write_str("wrong state"),
        }
    }
}

impl Task {
    /// Applies one event.
    ///
    /// Does no I/O and reads no clock: equal inputs give equal outputs.
    ///
    /// # Errors
    /// Refuses an event that the current state does not allow; then nothing has changed.
    pub fn apply(
        &mut self,
        event: Event,
        now: Timestamp,
        rules: &Rules,
        rng: &mut fastrand::Rng,
    ) -> Result<Effect, Refusal> {
        #[cfg(test)]
        let taken = super::tests::edges::begin(self, &event);
        let applied = match (&self.state, event) {
            (
                State::Available,
                Event::Leased {
                    token,
                    worker,
                    is_offer,
                },
            ) if token > self.token => {
                self.start(token, worker, now, rules);
                if is_offer {
                    self.offer(now, rules);
                }
                Ok(Effect::GoOn)
            }
            (
                State::Scheduled { .. }
                | State::Available
                | State::Running(_)
                | State::Retryable { .. }
                | State::Ended { .. },
                Event::Leased { .. },
            ) => Err(Refusal::WrongState),

            // The store may not know yet that a scheduled or retried task became available and was leased.
            (
                State::Scheduled { .. } | State::Available | State::Retryable { .. },
                Event::Adopted { token, worker },
            ) if token > self.token => {
                self.start(token, worker, now, rules);
                self.forget_untouched();
                Ok(Effect::GoOn)
            }
            (State::Running(_), Event::Adopted { token, worker }) if token > self.token => {
                // Two workers believe to hold it: the highest token wins, the attempt stays one.
                self.attempt -= 1;
                self.start(token, worker, now, rules);
                Ok(Effect::GoOn)
            }
            (
                State::Scheduled { .. }
                | State::Available
                | State::Running(_)
                | State::Retryable { .. },
                Event::Adopted { .. },
            ) => Err(Refusal::Lost(LeaseLost::Stale)),
            (State::Ended { ending, .. }, Event::Adopted { .. }) => Err(lost_by(ending)),

            (
                State::Running(_),
                Event::Renewed {
                    token,
                    from_handler,
                    progress,
                },
            ) if token == self.token => {
                self.renew(from_handler, progress, now, rules);
                Ok(Effect::GoOn)
            }
            // Its worker was only silent for too long, and nobody else has it: the attempt goes on.
            (
                State::Available | State::Retryable { .. },
                Event::Renewed {
                    token, progress, ..
                },
            ) if self.has_merely_expired(token) => {
                self.resume(progress, now, rules);
                Ok(Effect::GoOn)
            }
            (
                State::Scheduled { .. }
                | State::Available
                | State::Running(_)
                | State::Retryable { .. },
                Event::Renewed { .. },
            ) => Err(Refusal::Lost(LeaseLost::Stale)),
            (State::Ended { ending, .. }, Event::Renewed { .. }) => Err(lost_by(ending)),

            (State::Running(_), Event::Reported { token, outcome }) if token == self.token => {
                self.settle(outcome, now, rules, rng);
                Ok(Effect::SaveFirst)
            }
            // Nobody else has it, so a success that comes too late is still a success.
            (
                State::Available | State::Retryable { .. },
                Event::Reported {
                    token,
                    outcome: Outcome::Completed { result },
                },
            ) if token == self.token && token != LeaseToken::NONE => {
                self.end(Ending::Completed { result }, now);
                Ok(Effect::SaveFirst)
            }
            (
                State::Scheduled { .. }
                | State::Available
                | State::Running(_)
                | State::Retryable { .. },
                Event::Reported { .. },
            ) => Err(Refusal::Lost(LeaseLost::Stale)),
            (State::Ended { ending, .. }, Event::Reported { .. }) => Err(lost_by(ending)),

            (
                State::Scheduled { .. } | State::Available | State::Retryable { .. },
                Event::TimerFired,
            ) if self.deadline(rules) <= now => {
                self.expire(now);
                Ok(Effect::SaveFirst)
            }
            (State::Scheduled { due_at } | State::Retryable { due_at }, Event::TimerFired)
                if *due_at <= now =>
            {
                self.state = State::Available;
                Ok(Effect::GoOn)
            }
            (State::Running(lease), Event::TimerFired) if lease.deadline() <= now => {
                Ok(self.overdue(now, rules, rng))
            }
            (
                State::Scheduled { .. }
                | State::Available
                | State::Running(_)
                | State::Retryable { .. }
                | State::Ended { .. },
                Event::TimerFired,
            ) => Err(Refusal::WrongState),

            (
                State::Scheduled { .. } | State::Available | State::Retryable { .. },
                Event::CancelRequested,
            ) => {
                self.end(Ending::Cancelled, now);
                Ok(Effect::SaveFirst)
            }
            (State::Running(_), Event::CancelRequested) => {
                self.end(Ending::Cancelled, now);
                Ok(Effect::SaveAndTell(LeaseLost::Cancelled))
            }
            (State::Ended { .. }, Event::CancelRequested) => Err(Refusal::WrongState),

            (
                State::Ended {
                    ending: Ending::Discarded,
                    ..
                },
                Event::Redriven,
            ) if !self.is_malformed() => {
                self.attempt = 0;
                self.started_at = Timestamp::NEVER;
                self.state = State::Available;
                Ok(Effect::SaveFirst)
            }
            (
                State::Scheduled { .. }
                | State::Available
                | State::Running(_)
                | State::Retryable { .. }
                | State::Ended { .. },
                Event::Redriven,
            ) => Err(Refusal::WrongState),
        };
        #[cfg(test)]
        super::tests::edges::end(taken, self, applied.is_ok());
        applied
    }

    pub(super) fn start(
        &mut self,
        token: LeaseToken,
        worker: WorkerId,
        now: Timestamp,
        rules: &Rules,
    ) {
        let after = |wait: Option<Duration>| wait.map_or(Timestamp::NEVER, |wait| now + wait);
        self.attempt += 1;
        self.token = token;
        self.started_at = self.started_at.min(now);
        self.state = State::Running(Lease {
            worker,
            leased_at: now,
            expires_at: now + rules.lease,
            times_out_at: after(self.timeout(rules)).min(self.deadline(rules)),
            silent_at: after(self.heartbeat_timeout(rules)),
            is_offer: false,
        });
    }

    fn renew(
        &mut self,
        from_handler: bool,
        progress: Option<Bytes>,
        now: Timestamp,
        rules: &Rules,
    ) {
        let silent_at = self.heartbeat_timeout(rules).map(|wait| now + wait);
        if let State::Running(lease) = &mut self.state {
            lease.expires_at = now + rules.lease;
            lease.is_offer = false;
            if from_handler {
                lease.silent_at = silent_at.unwrap_or(Timestamp::NEVER);
            }
        }
        self.forget_untouched();
        if progress.is_some() {
            self.rare_mut().progress = progress;
        }
    }

    fn settle(&mut self, outcome: Outcome, now: Timestamp, rules: &Rules, rng: &mut fastrand::Rng) {
        self.forget_untouched();
        match outcome {
            Outcome::Completed { result } => self.end(Ending::Completed { result }, now),
            Outcome::Failed(failure) => self.fail(failure, now, rules, rng),
            Outcome::Interrupted => {
                self.attempt -= 1;
                self.state = State::Available;
            }
            Outcome::Snoozed(wait) => {
                self.attempt -= 1;
                self.state = State::Scheduled { due_at: now + wait };
            }
        }
    }

    /// A deadline of the lease has passed.
    fn overdue(&mut self, now: Timestamp, rules: &Rules, rng: &mut fastrand::Rng) -> Effect {
        let State::Running(lease) = &self.state else {
            return Effect::GoOn;
        };
        if self.deadline(rules) <= now {
            self.expire(now);
            return Effect::SaveAndTell(LeaseLost::TimedOut);
        }
        if lease.is_offer {
            let worker = lease.worker.clone();
            self.run_out(worker);
            return Effect::SaveAndTell(LeaseLost::Stale);
        }
        let [timeout, silence, expiry, ..] = OWN;
        let ((code, message), told) = if lease.times_out_at <= now {
            (timeout, LeaseLost::TimedOut)
        } else if lease.silent_at <= now {
            (silence, LeaseLost::TimedOut)
        } else {
            (expiry, LeaseLost::Stale)
        };
        self.fail(own_failure(code, message), now, rules, rng);
        Effect::SaveAndTell(told)
    }

    /// Its deadline has passed: a dead letter, whatever attempts are left.
    fn expire(&mut self, now: Timestamp) {
        let [.., expired, total] = OWN;
        let has_started = self.started_at != Timestamp::NEVER;
        let (code, message) = if has_started { total } else { expired };
        let failure = own_failure(code, message);
        self.note_error(failure, now);
        self.end(Ending::Discarded, now);
    }

    fn fail(&mut self, failure: Failure, now: Timestamp, rules: &Rules, rng: &mut fastrand::Rng) {
        let may_retry = failure.retryable && self.is_retryable(&failure.code, rules);
        let policy = self.retry(rules);
        let mut wait = policy.wait_after(self.attempt, rng);
        self.note_error(failure, now);
        if wait.is_none() && may_retry && !rules.may_discard {
            // Everybody fails, so this attempt said nothing about the task.
            self.attempt -= 1;
            wait = Some(policy.longest_wait(rng));
        }
        match wait.map(|wait| now + wait) {
            // There is no sense in a wait that ends too late.
            Some(due_at) if may_retry && due_at < self.deadline(rules) => {
                self.state = State::Retryable { due_at };
            }
            _ => self.end(Ending::Discarded, now),
        }
    }

    /// Keeps what went wrong in the present attempt, or with the task itself.
    fn note_error(&mut self, mut failure: Failure, now: Timestamp) {
        cut(&mut failure.message);
        let worker = match &self.state {
            State::Running(lease) => lease.worker.clone(),
            _ => WorkerId::nobody(),
        };
        let error = AttemptError {
            attempt: self.attempt,
            token: self.token,
            worker,
            at: now,
            failure,
        };
        let errors = &mut self.rare_mut().errors;
        errors.push(error);
        // A row must stay small enough to be saved with others, however often the task fails.
        if errors.len() > ERRORS_MAX {
            errors.remove(0);
        }
        let mut n_left = DETAILS_LEN_MAX;
        for error in errors.iter_mut().rev() {
            match n_left.checked_sub(error.failure.detail.len()) {
                Some(rest) => n_left = rest,
                None => error.failure.detail = Bytes::new(),
            }
        }
    }

    /// Whether it is a record that cannot be a task.
    fn is_malformed(&self) -> bool {
        let first = self.errors().first();
        first.is_some_and(|error| error.attempt == 0 && error.failure.code.as_str() == MALFORMED)
    }

    fn end(&mut self, ending: Ending, now: Timestamp) {
        if let Some(rare) = &mut self.rare {
            rare.progress = None;
            rare.untouched = None;
        }
        self.state = State::Ended {
            ending,
            ended_at: now,
        };
    }

    /// Ends a record that cannot be a task: a dead letter with its reason.
    pub(crate) fn discard_malformed(&mut self, reason: &str, now: Timestamp) {
        self.note_error(own_failure(MALFORMED, reason), now);
        self.end(Ending::Discarded, now);
    }
}

fn lost_by(ending: &Ending) -> Refusal {
    Refusal::Lost(match ending {
        Ending::Cancelled => LeaseLost::Cancelled,
        Ending::Completed { .. } | Ending::Discarded => LeaseLost::Ended,
    })
}

/// Whether a failure of an attempt is the scheduler's own finding and no worker's report; a worker may
/// use the same code.
pub(crate) fn is_own(failure: &Failure) -> bool {
    OWN.contains(&(failure.code.as_str(), &failure.message))
}

fn own_failure(code: &'static str, message: &str) -> Failure {
    let mut message = message.to_owned();
    cut(&mut message);
    Failure {
        code: ErrorCode::own(code),
        message,
        retryable: true,
        detail: Bytes::new(),
    }
}

/// Cuts a message to its limit, at a character's border.
fn cut(message: &mut String) {
    message.truncate(message.floor_char_boundary(MESSAGE_LEN_MAX));
}
