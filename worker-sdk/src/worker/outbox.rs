//! Reports that were not acknowledged yet: kept, bounded, and sent again until they are answered.

use std::{collections::VecDeque, time::Duration};

use scheduler_core::{Error, Held, Outcome, Report};

use crate::{Failure, Outcome as Said};

/// The most reports that are kept; then the worker takes no more tasks.
pub(super) const REPORTS_MAX: usize = 1_000;
/// The most bytes of reports that are kept.
pub(super) const BYTES_MAX: usize = 16 << 20;
/// The most reports in one call, and their most bytes.
const BATCH_MAX: usize = 256;
const BATCH_BYTES_MAX: usize = 4 << 20;
/// The largest result or detail that is sent at all; what the scheduler takes may be less.
const REPORT_BYTES_MAX: usize = 8 << 20;
/// What a report takes beside its result.
const REPORT_BYTES_MIN: usize = 256;
/// The code of an outcome that cannot be reported as it is.
const REFUSED: &str = "outcome_refused";

/// The reports, oldest first.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    reports: VecDeque<Report>,
    bytes: usize,
    /// How many of the first are in a call now.
    n_sent: usize,
    /// After a call that was refused as a whole: find out which report it was.
    one_by_one: bool,
}

impl Outbox {
    pub(super) fn len(&self) -> usize {
        self.reports.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.reports.is_empty()
    }

    /// Whether so much waits that no more should be started. `n_running` handlers will still report.
    pub(super) fn room(&self, n_running: usize) -> usize {
        if self.bytes >= BYTES_MAX {
            return 0;
        }
        REPORTS_MAX.saturating_sub(self.reports.len() + n_running)
    }

    /// Keeps a report.
    pub(super) fn push(&mut self, report: Report) {
        let report = if size(&report) > REPORT_BYTES_MAX {
            let rule = format!("the outcome has more than {REPORT_BYTES_MAX} bytes");
            refused(&report, &rule)
        } else {
            report
        };
        self.bytes += size(&report);
        self.reports.push_back(report);
    }

    /// The reports for one call, if there are any and none are in a call already.
    pub(super) fn batch(&mut self) -> Option<Vec<Report>> {
        if self.n_sent > 0 || self.reports.is_empty() {
            return None;
        }
        let n_max = if self.one_by_one { 1 } else { BATCH_MAX };
        let mut bytes = 0;
        let fits = |report: &&Report| {
            bytes += size(report);
            bytes <= BATCH_BYTES_MAX
        };
        let n = self.reports.iter().take(n_max).take_while(fits).count();
        self.n_sent = n.max(1);
        Some(self.reports.iter().take(self.n_sent).cloned().collect())
    }

    /// The call was answered: one answer each. Answers which reports are done with, and how long to
    /// wait if some are not.
    pub(super) fn answered(
        &mut self,
        answers: Vec<Result<(), Error>>,
    ) -> (Vec<Held>, Option<Duration>) {
        let mut done = Vec::new();
        let mut again = Vec::new();
        let mut wait = None;
        let mut answers = answers.into_iter();
        for _ in 0..std::mem::take(&mut self.n_sent) {
            let Some(report) = self.reports.pop_front() else {
                break;
            };
            self.bytes -= size(&report);
            let unanswered = || {
                Err(Error::UnknownOutcome {
                    what: "the report".into(),
                })
            };
            let fate = fate(&report, answers.next().unwrap_or_else(unanswered));
            match fate {
                Fate::Done => done.push(held(&report)),
                Fate::Again(asked) => {
                    wait = wait.max(Some(asked));
                    again.push(report);
                }
                Fate::Instead(other) => {
                    wait = wait.max(Some(Duration::ZERO));
                    again.push(other);
                }
            }
        }
        self.one_by_one = false;
        for report in again.into_iter().rev() {
            self.bytes += size(&report);
            self.reports.push_front(report);
        }
        (done, wait)
    }

    /// The whole call failed; nothing is known of its reports.
    pub(super) fn unanswered(&mut self, error: &Error) -> (Vec<Held>, Option<Duration>) {
        let n_sent = self.n_sent;
        let refused = matches!(
            error,
            Error::Malformed(_) | Error::Invalid(_) | Error::TooLarge { .. }
        );
        if refused && n_sent == 1 {
            return self.answered(vec![Err(error.clone())]);
        }
        self.n_sent = 0;
        self.one_by_one = refused;
        (Vec::new(), Some(error.retry_after().unwrap_or_default()))
    }
}

/// What becomes of a report by its answer.
enum Fate {
    Done,
    Again(Duration),
    Instead(Report),
}

fn fate(report: &Report, answer: Result<(), Error>) -> Fate {
    let (task_id, token) = (report.id, report.token.to_u64());
    match answer {
        Ok(()) => Fate::Done,
        Err(err @ (Error::LeaseLost(_) | Error::NotFound { .. } | Error::Gone(_))) => {
            tracing::warn!(%task_id, token, %err, "report changed nothing");
            Fate::Done
        }
        Err(
            err @ (Error::Malformed(_)
            | Error::Invalid(_)
            | Error::TooLarge { .. }
            | Error::WrongState(_)),
        ) => {
            if matches!(&report.outcome, Outcome::Failed(failure) if failure.code.as_str() == REFUSED)
            {
                tracing::error!(%task_id, token, %err, "report is refused in any form");
                return Fate::Done;
            }
            tracing::error!(%task_id, token, %err, "outcome is refused; reporting that instead");
            Fate::Instead(refused(report, &err.to_string()))
        }
        Err(err) => {
            tracing::debug!(%task_id, token, %err, "report is not acknowledged yet");
            Fate::Again(err.retry_after().unwrap_or_default())
        }
    }
}

/// The same report with a failure that says why the outcome itself cannot be reported.
fn refused(report: &Report, why: &str) -> Report {
    let failure = Failure::new(REFUSED, why).not_retryable();
    Report {
        outcome: Said::Failed(failure).into(),
        ..report.clone()
    }
}

fn held(report: &Report) -> Held {
    Held {
        id: report.id,
        token: report.token,
    }
}

fn size(report: &Report) -> usize {
    REPORT_BYTES_MIN
        + match &report.outcome {
            Outcome::Completed { result } => result.len(),
            Outcome::Failed(failure) => failure.detail.len() + failure.message.len(),
            Outcome::Interrupted | Outcome::Snoozed(_) => 0,
        }
}

#[cfg(test)]
mod tests {
    use scheduler_core::{
        Invalid, LeaseLost, LeaseToken, Offset, Partition, PipelineNumber, ShardId, TaskId,
    };

    use super::*;

    fn report(n: u64, len: usize) -> Report {
        let shard = ShardId {
            pipeline: PipelineNumber(1),
            partition: Partition(0),
        };
        Report {
            id: TaskId {
                shard,
                offset: Offset(n),
            },
            token: LeaseToken::from_u64(n),
            outcome: Outcome::Completed {
                result: vec![b'1'; len].into(),
            },
        }
    }

    #[test]
    fn a_full_outbox_has_no_room() {
        let mut outbox = Outbox::default();
        assert_eq!(outbox.room(10), REPORTS_MAX - 10);
        (0..4).for_each(|n| outbox.push(report(n, 4 << 20)));
        assert_eq!(outbox.room(0), 0);
    }

    #[test]
    fn what_is_not_answered_is_sent_again_in_order() {
        let mut outbox = Outbox::default();
        (0..3).for_each(|n| outbox.push(report(n, 1)));
        let sent = outbox.batch().unwrap();
        assert!(outbox.batch().is_none());
        let away = Error::Unavailable {
            what: "away".into(),
            retry_after: Duration::from_secs(1),
        };
        let (done, wait) = outbox.answered(vec![
            Err(away.clone()),
            Err(Error::LeaseLost(LeaseLost::Stale)),
            Ok(()),
        ]);
        assert_eq!(done, [held(&sent[1]), held(&sent[2])]);
        assert_eq!(wait, Some(Duration::from_secs(1)));
        assert_eq!(outbox.batch().unwrap(), sent[..1]);
        assert_eq!(outbox.unanswered(&away).0, []);
        assert_eq!(outbox.batch().unwrap(), sent[..1]);
    }

    #[test]
    fn a_refused_outcome_is_reported_as_a_failure_once() {
        let mut outbox = Outbox::default();
        outbox.push(report(1, 1));
        for expected_left in [1, 0] {
            outbox.batch().unwrap();
            let refusal = Invalid::new("result", "must be JSON").into();
            outbox.answered(vec![Err(refusal)]);
            assert_eq!(outbox.len(), expected_left);
        }
    }

    #[test]
    fn a_refused_batch_is_sent_one_by_one() {
        let mut outbox = Outbox::default();
        (0..3).for_each(|n| outbox.push(report(n, 1)));
        assert_eq!(outbox.batch().unwrap().len(), 3);
        outbox.unanswered(&Error::Malformed("message too large".into()));
        assert_eq!(outbox.batch().unwrap().len(), 1);
    }

    #[test]
    fn an_outcome_beyond_any_limit_becomes_a_failure() {
        let mut outbox = Outbox::default();
        outbox.push(report(1, REPORT_BYTES_MAX + 1));
        let sent = outbox.batch().unwrap();
        assert!(
            matches!(&sent[0].outcome, Outcome::Failed(failure) if failure.code.as_str() == REFUSED)
        );
    }
}
