//! A worker at work: one loop that polls, starts handlers, renews leases and reports.
//!
//! At most one call of each kind is open. A poll is always open, with credit 0 when all slots are
//! busy: it carries the held leases, so that a new owner of their shards learns of them, and answers
//! at once when one is lost.

use std::{collections::HashMap, future::Future, sync::Arc, time::Duration};

use scheduler_core::{Error, Heartbeat, Held, LeaseLost, Leased, LeasedTask, Poll, Report};
use tokio::{
    sync::Notify,
    task::{AbortHandle, Id, JoinError, JoinSet},
    time::{Instant, sleep_until},
};

use super::{
    Config,
    lease::{Leases, Running},
    outbox::Outbox,
    panicked,
};
use crate::{
    Failure, Handler, Outcome, TaskContext, backoff::Backoff, context::Link, transport::Transport,
};

/// The most tasks that one poll asks for.
const CREDIT_MAX: usize = 256;
/// Signs of life of handlers are sent at most so often.
const BEAT_INTERVAL: Duration = Duration::from_millis(200);
/// Where an open poll can be told of more free slots, it is told at most so often.
const CREDIT_INTERVAL: Duration = Duration::from_millis(250);
/// A poll that is answered with nothing before this long counts as failed, so that no server that
/// empties its polls is asked in a tight loop.
const EMPTY_POLL_MIN: Duration = Duration::from_secs(1);
/// How long the loop sleeps when nothing is due.
const IDLE: Duration = Duration::from_secs(3600);

/// What a call answered.
enum Answer {
    Polled {
        n: u64,
        asked_at: Instant,
        result: Result<Leased, Error>,
    },
    Reported(Result<Vec<Result<(), Error>>, Error>),
    Renewed {
        sent_at: Instant,
        sent: Vec<Heartbeat>,
        result: Result<Vec<Result<Duration, Error>>, Error>,
    },
}

/// An open poll.
struct OpenPoll {
    n: u64,
    call: AbortHandle,
    credit: usize,
    asked_at: Instant,
}

/// A worker at work.
pub(super) struct Runner<T, H> {
    transport: Arc<T>,
    handler: Arc<H>,
    config: Config,
    leases: Leases,
    outbox: Outbox,
    handlers: JoinSet<Outcome>,
    ids: HashMap<Id, Held>,
    calls: JoinSet<Answer>,
    wake: Arc<Notify>,
    poll: Option<OpenPoll>,
    n_polls: u64,
    poll_at: Instant,
    poll_backoff: Backoff,
    reporting: bool,
    report_at: Instant,
    report_backoff: Backoff,
    beating: bool,
    beat_at: Instant,
    /// When the scheduler last answered anything.
    heard_at: Instant,
    /// When handlers must have ended, once a shutdown began.
    grace_until: Option<Instant>,
    fatal: Option<Error>,
}

impl<T: Transport, H: Handler> Runner<T, H> {
    pub(super) fn new(transport: Arc<T>, handler: Arc<H>, config: Config) -> Self {
        let now = Instant::now();
        Self {
            transport,
            handler,
            config,
            leases: Leases::default(),
            outbox: Outbox::default(),
            handlers: JoinSet::new(),
            ids: HashMap::new(),
            calls: JoinSet::new(),
            wake: Arc::new(Notify::new()),
            poll: None,
            n_polls: 0,
            poll_at: now,
            poll_backoff: Backoff::default(),
            reporting: false,
            report_at: now,
            report_backoff: Backoff::default(),
            beating: false,
            beat_at: now,
            heard_at: now,
            grace_until: None,
            fatal: None,
        }
    }

    pub(super) async fn run(
        mut self,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), crate::Error> {
        let mut shutdown = std::pin::pin!(shutdown);
        let wake = Arc::clone(&self.wake);
        loop {
            let now = Instant::now();
            self.enforce(now);
            self.start_calls(now);
            if let Some(ended) = self.ended(now) {
                self.calls.shutdown().await;
                self.transport.close().await;
                return ended;
            }
            let due = self.next_due(now);
            // Handlers before answers: work that is done is reported even if its lease was lost just now, since nobody
            // else may have the task.
            tokio::select! {
                biased;
                () = &mut shutdown, if self.grace_until.is_none() => self.drain(),
                Some(ended) = self.handlers.join_next_with_id() => self.handler_ended(ended),
                // A call that was given up has no answer.
                Some(answer) = self.calls.join_next() => if let Ok(answer) = answer { self.answered(answer) },
                () = wake.notified() => {}
                () = sleep_until(due) => {}
            }
        }
    }

    fn drain(&mut self) {
        tracing::info!(n_running = self.leases.n_busy(), "draining");
        self.grace_until = Some(Instant::now() + self.config.grace);
    }

    /// Whether the worker is done, and how it ended.
    fn ended(&self, now: Instant) -> Option<Result<(), crate::Error>> {
        let grace_until = self.grace_until?;
        let idle = self.leases.n_busy() == 0 && self.outbox.is_empty();
        if !idle && now < grace_until + self.config.report_grace {
            return None;
        }
        Some(match (&self.fatal, self.outbox.len()) {
            (Some(err), _) => Err(crate::Error::Refused(err.clone())),
            (None, 0) => Ok(()),
            (None, n) => Err(crate::Error::Unreported { n }),
        })
    }

    /// Drops handlers whose time is up, all of them after the grace or when no scheduler is reached.
    fn enforce(&mut self, now: Instant) {
        for held in self.leases.timed_out(now) {
            tracing::warn!(task_id = %held.id, "attempt timed out");
            let failure = Failure::new("timeout", "the attempt ran longer than its timeout");
            self.leases
                .drop_handler(held, Some(Outcome::Failed(failure)));
        }
        if self.grace_until.is_some_and(|until| until <= now) {
            for held in self.leases.running() {
                self.leases.drop_handler(held, Some(Outcome::Interrupted));
            }
        }
        if now >= self.heard_at + self.config.orphan_timeout {
            for held in self.leases.running() {
                tracing::error!(task_id = %held.id, "no scheduler is reached; handler is dropped");
                self.leases.drop_handler(held, None);
            }
        }
    }

    /// When something is to be done that no call, handler or shutdown brings about.
    fn next_due(&self, now: Instant) -> Instant {
        let mut due = vec![now + IDLE, self.poll_at, self.report_at];
        due.extend(self.leases.next_due(now));
        due.push(self.beat_at);
        due.extend(self.grace_until);
        due.extend(
            self.grace_until
                .map(|until| until + self.config.report_grace),
        );
        due.push(self.heard_at + self.config.orphan_timeout);
        due.extend(self.credit_at());
        // What was due before was done, or waits for a call that is open.
        let ahead = due.into_iter().filter(|at| *at > now);
        ahead.min().unwrap_or(now + IDLE)
    }

    fn start_calls(&mut self, now: Instant) {
        self.start_poll(now);
        if !self.reporting
            && now >= self.report_at
            && let Some(reports) = self.outbox.batch()
        {
            self.reporting = true;
            let transport = Arc::clone(&self.transport);
            self.calls
                .spawn(async move { Answer::Reported(transport.report(reports).await) });
        }
        if !self.beating
            && now >= self.beat_at
            && (self.leases.renewal_due(now) || self.leases.has_beat())
        {
            self.start_heartbeat(now);
        }
    }

    fn credit(&self) -> usize {
        if self.grace_until.is_some() {
            return 0;
        }
        let n_busy = self.leases.n_busy();
        let free = self.config.concurrency.saturating_sub(n_busy);
        free.min(self.outbox.room(n_busy)).min(CREDIT_MAX)
    }

    /// When the open poll is to be told of more free slots, if it can be.
    fn credit_at(&self) -> Option<Instant> {
        let open = self.poll.as_ref()?;
        let has_more = self.credit() > open.credit && self.transport.keeps_polls();
        has_more.then(|| open.asked_at + CREDIT_INTERVAL)
    }

    fn start_poll(&mut self, now: Instant) {
        let credit = self.credit();
        let draining = self.grace_until.is_some();
        let is_outgrown = self.credit_at().is_some_and(|at| at <= now);
        match &self.poll {
            // An open poll without credit holds back free slots, one with credit must not while
            // draining. Any other goes on where giving up a poll may give up a task on its way.
            Some(open)
                if is_outgrown
                    || (open.credit == 0) != (credit == 0) && (credit > 0 || draining) =>
            {
                open.call.abort();
                self.poll = None;
            }
            Some(_) => return,
            None => {}
        }
        let held = self.leases.held();
        // One without credit takes back what an open stream was told.
        let has_reason = !draining || !held.is_empty() || self.transport.keeps_polls();
        if now < self.poll_at || !has_reason {
            return;
        }
        let poll = Poll {
            wait: self.config.poll_wait,
            held,
            ..Poll::new(self.config.worker.clone(), credit)
        };
        self.n_polls += 1;
        let n = self.n_polls;
        let transport = Arc::clone(&self.transport);
        let call = self.calls.spawn(async move {
            Answer::Polled {
                n,
                asked_at: now,
                result: transport.poll(poll).await,
            }
        });
        self.poll = Some(OpenPoll {
            n,
            call,
            credit,
            asked_at: now,
        });
    }

    fn start_heartbeat(&mut self, now: Instant) {
        let sent = self.leases.heartbeats(now);
        // A call that hangs must leave time for another one.
        let patience = self.leases.shortest().unwrap_or(super::LEASE_DEFAULT) / 3;
        self.beating = true;
        self.beat_at = now + BEAT_INTERVAL;
        let transport = Arc::clone(&self.transport);
        self.calls.spawn(async move {
            let call = tokio::time::timeout(patience, transport.heartbeat(sent.clone()));
            let late = Err(Error::UnknownOutcome {
                what: "the call".into(),
            });
            let result = call.await.unwrap_or(late);
            Answer::Renewed {
                sent_at: now,
                sent,
                result,
            }
        });
    }

    fn answered(&mut self, answer: Answer) {
        match answer {
            Answer::Polled {
                n,
                asked_at,
                result,
            } => {
                // An answer can overtake the word that its poll was given up; its tasks count.
                if self.poll.as_ref().is_some_and(|open| open.n == n) {
                    self.poll = None;
                }
                self.polled(asked_at, result);
            }
            Answer::Reported(result) => {
                self.reporting = false;
                let (done, wait) = match result {
                    Ok(answers) => {
                        self.heard();
                        self.outbox.answered(answers)
                    }
                    Err(err) => {
                        self.failed(&err, "cannot report");
                        self.outbox.unanswered(&err)
                    }
                };
                done.into_iter().for_each(|held| self.leases.release(held));
                match wait {
                    Some(wait) => {
                        self.report_at = Instant::now() + self.report_backoff.failed(Some(wait))
                    }
                    None => self.report_backoff.reset(),
                }
            }
            Answer::Renewed {
                sent_at,
                sent,
                result,
            } => {
                self.beating = false;
                self.renewed(sent_at, &sent, result);
            }
        }
    }

    fn polled(&mut self, asked_at: Instant, result: Result<Leased, Error>) {
        let now = Instant::now();
        match result {
            Ok(leased) => {
                self.heard();
                let early = now < asked_at + EMPTY_POLL_MIN;
                if early && leased.tasks.is_empty() && leased.lost.is_empty() {
                    self.poll_at = now + self.poll_backoff.failed(None);
                } else {
                    self.poll_backoff.reset();
                }
                for (held, why) in leased.lost {
                    self.lost(held, why);
                }
                for task in leased.tasks {
                    self.start(task, now);
                }
            }
            Err(err @ (Error::Malformed(_) | Error::Invalid(_))) => {
                tracing::error!(%err, "the scheduler refuses this worker");
                self.fatal = Some(err);
                self.poll_at = now + IDLE;
                if self.grace_until.is_none() {
                    self.drain();
                }
            }
            Err(err) => {
                self.failed(&err, "cannot poll");
                self.poll_at = now + self.poll_backoff.failed(err.retry_after());
            }
        }
    }

    fn renewed(
        &mut self,
        sent_at: Instant,
        sent: &[Heartbeat],
        result: Result<Vec<Result<Duration, Error>>, Error>,
    ) {
        let again_at = Instant::now() + Duration::from_secs(1);
        let answers = match result {
            Ok(answers) => {
                self.heard();
                answers
            }
            Err(err) => {
                self.failed(&err, "cannot renew leases");
                vec![Err(err); sent.len()]
            }
        };
        for (heartbeat, answer) in sent.iter().zip(answers) {
            let held = Held {
                id: heartbeat.id,
                token: heartbeat.token,
            };
            match answer {
                Ok(length) => self.leases.renewed(held, length, sent_at),
                Err(Error::LeaseLost(why)) => self.lost(held, why),
                Err(Error::NotFound { .. } | Error::Gone(_)) => self.lost(held, LeaseLost::Ended),
                Err(_) => self.leases.not_renewed(heartbeat, again_at),
            }
        }
    }

    fn lost(&mut self, held: Held, why: LeaseLost) {
        if self.leases.drop_handler(held, None) {
            tracing::warn!(task_id = %held.id, token = held.token.to_u64(), %why, "lease is lost; handler is dropped");
        }
        self.leases.forget_reported(held);
    }

    fn start(&mut self, task: LeasedTask, now: Instant) {
        let held = Held {
            id: task.id,
            token: task.token,
        };
        if self.leases.contains(held) {
            return;
        }
        let link = Arc::new(Link::new(Arc::clone(&self.wake)));
        let timeout_at = task.timeout.map(|timeout| now + timeout);
        let ctx = TaskContext::new(task.clone(), timeout_at, Arc::clone(&link));
        let handler = Arc::clone(&self.handler);
        let abort = self.handlers.spawn(async move { handler.run(ctx).await });
        self.ids.insert(abort.id(), held);
        self.leases.start(
            &task,
            Running {
                abort,
                link,
                timeout_at,
            },
            now,
        );
    }

    fn handler_ended(&mut self, ended: Result<(Id, Outcome), JoinError>) {
        let (id, outcome) = match ended {
            Ok((id, outcome)) => (id, Some(outcome)),
            Err(err) => (err.id(), err.is_panic().then(|| panicked(err))),
        };
        let Some(held) = self.ids.remove(&id) else {
            return;
        };
        if let Some(outcome) = self.leases.finished(held, outcome) {
            let outcome = outcome.into();
            self.outbox.push(Report {
                id: held.id,
                token: held.token,
                outcome,
            });
        }
    }

    fn heard(&mut self) {
        self.heard_at = Instant::now();
    }

    /// A call failed. An error that only a scheduler can give is an answer all the same.
    fn failed(&mut self, err: &Error, what: &'static str) {
        if !matches!(
            err,
            Error::Unavailable { .. } | Error::UnknownOutcome { .. }
        ) {
            self.heard();
        }
        tracing::warn!(%err, "{what}");
    }
}

#[cfg(test)]
mod tests;
