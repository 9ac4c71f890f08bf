//! Where a task stands: its state, its lease, and the limits that apply to it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{
    ErrorCode, LeaseToken, Offset, Retention, StateName, TaskOptions, Timestamp, WorkerId,
    port::{log::NewTask, store::Ending},
    task::{
        AttemptError, GroupName, Label, Priority,
        event::{EXPIRED, TOTAL_TIMEOUT, is_own},
        retry::RetryPolicy,
    },
};

/// Where a task stands, in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Not before `due_at`.
    Scheduled {
        /// When it becomes available.
        due_at: Timestamp,
    },
    /// Can run.
    Available,
    /// A worker has it.
    Running(Lease),
    /// Failed; tried again at `due_at`.
    Retryable {
        /// When it becomes available.
        due_at: Timestamp,
    },
    /// Ended. Nothing moves it any more, but a discarded task can be redriven.
    Ended {
        /// How.
        ending: Ending,
        /// When.
        ended_at: Timestamp,
    },
}

impl State {
    /// The state's name.
    #[must_use]
    pub const fn name(&self) -> StateName {
        match self {
            Self::Scheduled { .. } => StateName::Scheduled,
            Self::Available => StateName::Available,
            Self::Running(_) => StateName::Running,
            Self::Retryable { .. } => StateName::Retryable,
            Self::Ended { ending, .. } => match ending {
                Ending::Completed { .. } => StateName::Completed,
                Ending::Cancelled => StateName::Cancelled,
                Ending::Discarded => StateName::Discarded,
            },
        }
    }
}

/// One holder's claim on a running task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Who has it.
    pub worker: WorkerId,
    /// When this attempt began.
    pub leased_at: Timestamp,
    /// When the lease ends unless it is renewed.
    pub expires_at: Timestamp,
    /// When the attempt times out.
    pub times_out_at: Timestamp,
    /// When the handler has been silent for too long.
    pub silent_at: Timestamp,
    /// It is only offered: its worker gave no sign yet that it has the task.
    pub is_offer: bool,
}

impl Lease {
    /// The first of its deadlines.
    #[must_use]
    pub fn deadline(&self) -> Timestamp {
        self.expires_at.min(self.times_out_at).min(self.silent_at)
    }
}

/// What a pipeline and the member say about tasks that say nothing themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// How long a lease lasts without a heartbeat.
    pub lease: Duration,
    /// How long an offer lasts, at most as long as a lease.
    pub offer: Duration,
    /// The pipeline's defaults.
    pub defaults: TaskOptions,
    /// Whether a task whose attempts are used up may be discarded; otherwise it is tried again.
    pub may_discard: bool,
}

/// A task in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Its place in the log.
    pub offset: Offset,
    /// When the log took it.
    pub accepted_at: Timestamp,
    /// What was submitted.
    pub submitted: NewTask,
    /// Where it stands. Changed by [`apply`](Self::apply) only.
    pub(crate) state: State,
    /// Attempts begun and counted.
    pub(crate) attempt: u32,
    /// The newest token granted for it.
    pub(crate) token: LeaseToken,
    /// When its first attempt began, or [`Timestamp::NEVER`].
    pub(crate) started_at: Timestamp,
    /// What most tasks never have.
    pub(crate) rare: Option<Box<Rare>>,
}

/// The part of a task that most tasks do without.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rare {
    /// What went wrong in each failed attempt, oldest first.
    pub errors: Vec<AttemptError>,
    /// What the handler last said of its progress.
    pub progress: Option<Bytes>,
    /// The offers that ran out since somebody last had the task.
    pub untouched: Option<Untouched>,
}

/// Offers that nobody touched, one after the other. Not stored: they cost nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Untouched {
    /// How many.
    pub n: u32,
    /// The newest one.
    pub token: LeaseToken,
    /// To whom.
    pub worker: WorkerId,
}

impl Task {
    /// A task as it comes from the log.
    #[must_use]
    pub fn accepted(
        offset: Offset,
        accepted_at: Timestamp,
        submitted: NewTask,
        now: Timestamp,
    ) -> Self {
        let run_at = submitted
            .options
            .as_ref()
            .and_then(|options| options.run_at);
        let state = match run_at {
            Some(due_at) if due_at > now => State::Scheduled { due_at },
            _ => State::Available,
        };
        Self {
            offset,
            accepted_at,
            submitted,
            state,
            attempt: 0,
            token: LeaseToken::NONE,
            started_at: Timestamp::NEVER,
            rare: None,
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Attempts begun and counted.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The newest token granted for it.
    #[must_use]
    pub fn token(&self) -> LeaseToken {
        self.token
    }

    /// What went wrong in each failed attempt, oldest first.
    #[must_use]
    pub fn errors(&self) -> &[AttemptError] {
        self.rare.as_ref().map_or(&[], |rare| &rare.errors)
    }

    /// The offers that ran out since somebody last had it.
    pub(crate) fn untouched(&self) -> Option<&Untouched> {
        self.rare.as_ref()?.untouched.as_ref()
    }

    pub(crate) fn rare_mut(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Its own options.
    #[must_use]
    pub fn options(&self) -> Option<&Arc<TaskOptions>> {
        self.submitted.options.as_ref()
    }

    fn option<T>(&self, rules: &Rules, get: impl Fn(&TaskOptions) -> Option<T>) -> Option<T> {
        self.options()
            .and_then(|options| get(options))
            .or_else(|| get(&rules.defaults))
    }

    /// How long an attempt may take.
    #[must_use]
    pub fn timeout(&self, rules: &Rules) -> Option<Duration> {
        self.option(rules, |options| options.timeout)
    }

    /// How long its handler may be silent.
    #[must_use]
    pub fn heartbeat_timeout(&self, rules: &Rules) -> Option<Duration> {
        self.option(rules, |options| options.heartbeat_timeout)
    }

    /// When it is tried again.
    #[must_use]
    pub fn retry(&self, rules: &Rules) -> RetryPolicy {
        self.option(rules, |options| options.retry)
            .unwrap_or_default()
    }

    /// How long its result is kept.
    #[must_use]
    pub fn retention(&self, rules: &Rules) -> Retention {
        self.option(rules, |options| options.retention)
            .unwrap_or_default()
    }

    /// How much it is preferred.
    #[must_use]
    pub fn priority(&self, rules: &Rules) -> Priority {
        self.option(rules, |options| options.priority)
            .unwrap_or_default()
    }

    /// How many slots of a worker it takes.
    #[must_use]
    pub fn cost(&self, rules: &Rules) -> u16 {
        self.option(rules, |options| options.cost).unwrap_or(1)
    }

    /// Labels that its worker must have, if any.
    #[must_use]
    pub fn labels<'a>(&'a self, rules: &'a Rules) -> Option<&'a BTreeSet<Label>> {
        let own = self.options().and_then(|options| options.labels.as_ref());
        let labels = own.or(rules.defaults.labels.as_ref());
        labels.filter(|labels| !labels.is_empty())
    }

    /// With whom it shares limits.
    #[must_use]
    pub fn group<'a>(&'a self, rules: &'a Rules) -> Option<&'a GroupName> {
        let own = self.options().and_then(|options| options.group.as_ref());
        own.or(rules.defaults.group.as_ref())
    }

    /// Whether a next attempt would be its last one, after others.
    #[must_use]
    pub fn is_on_last_attempt(&self, rules: &Rules) -> bool {
        self.attempt > 0 && self.attempt + 1 >= self.retry(rules).max_attempts
    }

    /// Whether it takes part in the order of its key: not before it is due for the first time, and not once it has
    /// ended.
    pub(crate) fn is_in_line(&self) -> bool {
        match self.state {
            State::Scheduled { .. } => self.token != LeaseToken::NONE,
            State::Available | State::Running(_) | State::Retryable { .. } => true,
            State::Ended { .. } => false,
        }
    }

    /// When it is discarded unless it has started by then, or ended: [`Timestamp::NEVER`] if never.
    #[must_use]
    pub fn deadline(&self, rules: &Rules) -> Timestamp {
        if self.started_at != Timestamp::NEVER {
            let total = self.option(rules, |options| options.total_timeout);
            return total.map_or(Timestamp::NEVER, |total| self.started_at + total);
        }
        // A task that was leased or discarded before is here because someone wants it to run.
        let is_new = self.token == LeaseToken::NONE && self.errors().is_empty();
        let own = self.options().filter(|_| is_new);
        own.and_then(|options| options.expires_at)
            .unwrap_or(Timestamp::NEVER)
    }

    pub(crate) fn is_retryable(&self, code: &ErrorCode, rules: &Rules) -> bool {
        let own = self
            .options()
            .and_then(|options| options.non_retryable.as_deref());
        let codes = own.or(rules.defaults.non_retryable.as_deref());
        !codes.is_some_and(|codes| codes.contains(code))
    }

    /// Whether its last attempt was spent on a failure that another attempt could have mended.
    pub(crate) fn is_exhausted(&self, rules: &Rules) -> bool {
        self.errors().last().is_some_and(|error| {
            let failure = &error.failure;
            let is_final =
                is_own(failure) && [EXPIRED, TOTAL_TIMEOUT].contains(&failure.code.as_str());
            let is_last = self.attempt >= self.retry(rules).max_attempts;
            is_last && failure.retryable && self.is_retryable(&failure.code, rules) && !is_final
        })
    }

    /// Bytes that it keeps in memory beyond its own size: data, options, errors, progress, result.
    #[must_use]
    pub fn n_bytes(&self) -> usize {
        let options = self.options().map_or(0, |options| options.n_bytes());
        let result = match &self.state {
            State::Ended {
                ending: Ending::Completed { result },
                ..
            } => result.len(),
            _ => 0,
        };
        let rare = self.rare.as_ref().map_or(0, |rare| {
            let errors = rare.errors.iter();
            let errors: usize = errors
                .map(|error| error.failure.message.len() + error.failure.detail.len())
                .sum();
            errors + rare.progress.as_ref().map_or(0, Bytes::len)
        });
        self.submitted.data.len() + options + rare + result
    }
}
