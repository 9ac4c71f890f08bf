//! What workers ask for, and cancels.

use std::time::Duration;

use serde::de::IgnoredAny;

use super::{Scheduler, Shared, survey::lock_roster};
use crate::{
    Error, Invalid, Outcome, Pipeline, PipelineNumber, PipelinePath, PoolName, TaskId, TenantName,
    WorkerId,
    call::{Heartbeat, Held, Leased, Poll, Report, TaskView},
    driver::stopping,
    member::Fleet,
    task::{
        DETAIL_LEN_MAX,
        options::{DELAY_MAX, LABELS_MAX},
    },
};

/// The most tasks of one poll.
const CREDIT_MAX: usize = 256;
/// The most leases that one poll, report or heartbeat names.
const HELD_MAX: usize = 4_096;

/// A worker that asks. Dropped, it asks no longer.
#[derive(Debug)]
struct Here<'a> {
    shared: &'a Shared,
    pipeline: PipelineNumber,
    worker: WorkerId,
}

impl<'a> Here<'a> {
    fn begin(shared: &'a Shared, pipeline: &Pipeline, poll: &Poll) -> Self {
        let now = shared.ports.clock.now();
        let number = pipeline.number;
        lock_roster(shared).begin(number, poll, now);
        Self {
            shared,
            pipeline: number,
            worker: poll.worker.clone(),
        }
    }
}

impl Drop for Here<'_> {
    fn drop(&mut self) {
        let now = self.shared.ports.clock.now();
        lock_roster(self.shared).end(self.pipeline, &self.worker, now);
    }
}

impl Scheduler {
    /// Leases tasks to a worker, whichever member owns them: answers as soon as there is one, or one of its leases is
    /// lost, or the wait is over.
    ///
    /// # Errors
    /// `NotFound`, `Invalid`, `Overloaded`.
    ///
    /// # Cancel safety
    /// Tasks that were granted to a dropped call are taken back at once and cost no attempt.
    pub async fn lease(&self, path: &PipelinePath, poll: Poll) -> Result<Leased, Error> {
        let pipeline = self.find_pipeline(path)?;
        check_poll(&poll)?;
        let foreign = |held: &Held| held.id.shard.pipeline != pipeline.number;
        if let Some(held) = poll.held.iter().find(|held| foreign(held)) {
            return Err(Error::not_found("task", held.id));
        }
        let _here = Here::begin(&self.shared, &pipeline, &poll);
        match &self.shared.gather {
            Some(gather) => gather.lease(&pipeline, poll).await,
            None => {
                let fleet = Fleet::Pipeline(pipeline.number);
                self.driver()?.poll(fleet, poll).await
            }
        }
    }

    /// Leases tasks of all pipelines in a pool, whoever owns them, by the weights of their tenants. For workers in
    /// this process that serve several tenants: [`owner_of`](Self::owner_of) tells for whom a task is to be reported.
    /// Tasks of other members are for workers of these.
    ///
    /// # Errors
    /// `Invalid`, `Overloaded`. A pool without pipelines waits for one.
    ///
    /// # Cancel safety
    /// As [`lease`](Self::lease).
    pub async fn lease_from_pool(&self, pool: &PoolName, poll: Poll) -> Result<Leased, Error> {
        check_poll(&poll)?;
        self.driver()?.poll(Fleet::Pool(pool.clone()), poll).await
    }

    /// Reports what became of an attempt; answered when that is durable. The same report again gets
    /// the same answer.
    ///
    /// # Errors
    /// `LeaseLost` changes nothing, and nothing can be done about it. `Invalid` and `TooLarge` changed nothing either: report
    /// a failure instead. After any other error, report again.
    pub async fn report(&self, tenant: &TenantName, report: Report) -> Result<(), Error> {
        let answers = self.report_batch(tenant, vec![report]).await;
        answers
            .into_iter()
            .next()
            .unwrap_or_else(|| Err(stopping()))
    }

    /// Reports many: one answer each, in their order.
    pub async fn report_batch(
        &self,
        tenant: &TenantName,
        reports: Vec<Report>,
    ) -> Vec<Result<(), Error>> {
        let mut answers = Vec::with_capacity(reports.len());
        let mut places = Vec::new();
        let mut good = Vec::new();
        for report in reports {
            let checked = self.check_report(tenant, &report);
            if checked.is_ok() {
                places.push(answers.len());
                let held = Held {
                    id: report.id,
                    token: report.token,
                };
                good.push((held, report.outcome));
            }
            answers.push(checked);
        }
        let answered = self.shared.route.report(good).await;
        for (at, answer) in places.into_iter().zip(answered) {
            answers[at] = answer;
        }
        answers
    }

    fn check_report(&self, tenant: &TenantName, report: &Report) -> Result<(), Error> {
        self.pipeline_of(tenant, report.id)?;
        let is_json = |bytes: &[u8]| serde_json::from_slice::<IgnoredAny>(bytes).is_ok();
        match &report.outcome {
            Outcome::Completed { result } => {
                let max = self.shared.config.result_bytes_max;
                if result.len() > max {
                    return Err(Error::TooLarge {
                        what: "the result".into(),
                        max,
                    });
                }
                if !is_json(result) {
                    return Err(Invalid::new("result", "must be a JSON value").into());
                }
            }
            Outcome::Failed(failure) => {
                if failure.detail.len() > DETAIL_LEN_MAX {
                    return Err(Error::TooLarge {
                        what: "the failure's detail".into(),
                        max: DETAIL_LEN_MAX,
                    });
                }
                if !failure.detail.is_empty() && !is_json(&failure.detail) {
                    return Err(Invalid::new("detail", "must be a JSON value or empty").into());
                }
            }
            Outcome::Snoozed(wait) if *wait > DELAY_MAX => {
                return Err(Invalid::new("snooze", "must be at most 8760h").into());
            }
            Outcome::Snoozed(_) | Outcome::Interrupted => {}
        }
        Ok(())
    }

    /// Renews leases: each answer is how long the lease lasts from now, or that it is lost.
    pub async fn heartbeat(
        &self,
        tenant: &TenantName,
        heartbeats: Vec<Heartbeat>,
    ) -> Vec<Result<Duration, Error>> {
        let mut answers = Vec::with_capacity(heartbeats.len());
        let mut places = Vec::new();
        let mut good = Vec::new();
        for beat in heartbeats {
            let len = beat.progress.as_ref().map_or(0, bytes::Bytes::len);
            let checked = match self.pipeline_of(tenant, beat.id) {
                Ok(_) if len > DETAIL_LEN_MAX => Err(Error::TooLarge {
                    what: "the progress".into(),
                    max: DETAIL_LEN_MAX,
                }),
                Ok(_) => Ok(Duration::ZERO),
                Err(error) => Err(error),
            };
            if checked.is_ok() {
                places.push(answers.len());
                let held = Held {
                    id: beat.id,
                    token: beat.token,
                };
                good.push((held, beat.from_handler, beat.progress));
            }
            answers.push(checked);
        }
        let answered = self.shared.route.renew(good).await;
        for (at, answer) in places.into_iter().zip(answered) {
            answers[at] = answer;
        }
        answers
    }

    /// Cancels a task, wherever it is; answered when that is durable. A running task's worker is told
    /// to stop. Cancelling a cancelled task again is no fault.
    ///
    /// # Errors
    /// `NotFound`, `Gone`; `WrongState` if it has ended otherwise.
    pub async fn cancel(&self, tenant: &TenantName, id: TaskId) -> Result<TaskView, Error> {
        let mut before = self.get(tenant, id).await?;
        self.shared.route.cancel(id).await?;
        match self.get(tenant, id).await {
            // It is cancelled, but of a pipeline that keeps no results.
            Err(Error::Gone(_)) => {
                before.state = crate::StateName::Cancelled;
                before.worker = None;
                before.ended_at = Some(self.shared.ports.clock.now());
                Ok(before)
            }
            after => after,
        }
    }

    /// Lets a discarded task run again, with all its attempts and the same id; answered when that is durable.
    ///
    /// # Errors
    /// `NotFound`, `Gone`; `WrongState` if it is not discarded, or a malformed record.
    pub async fn redrive(&self, tenant: &TenantName, id: TaskId) -> Result<TaskView, Error> {
        self.get(tenant, id).await?;
        self.shared.route.redrive(id).await?;
        self.get(tenant, id).await
    }
}

fn check_poll(poll: &Poll) -> Result<(), Invalid> {
    if poll.credit > CREDIT_MAX {
        return Err(Invalid::new("credit", "must be at most 256"));
    }
    if poll.held.len() > HELD_MAX {
        return Err(Invalid::new("held", "must be at most 4096 leases"));
    }
    if poll.labels.len() > LABELS_MAX {
        return Err(Invalid::new("labels", "must be at most 16"));
    }
    Ok(())
}
