//! Runs leased tasks: between the worker's task and a job of the runner.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use scheduler_core::Revision;
use tokio::time::Instant;
use worker_sdk::{Failure, Handler, Outcome, PROGRESS_LEN_MAX, TaskContext};

use crate::{
    record::Record,
    run::{Job, Runner},
    source::Source,
};

/// Commands are ended by this part of the attempt's time before it is up, at most
/// [`MARGIN_MAX`], so that the report with what they said still counts.
const MARGIN_SHARE: u32 = 10;
const MARGIN_MAX: Duration = Duration::from_millis(250);
/// When the steps cannot be read, the task comes again after this time.
const SNOOZE: Duration = Duration::from_secs(1);

/// Runs each task's steps.
#[derive(Debug)]
pub(crate) struct Steps {
    pub(crate) runner: Arc<Runner>,
    pub(crate) source: Arc<Source>,
}

impl Handler for Steps {
    async fn run(&self, ctx: TaskContext) -> Outcome {
        let steps = match self.source.steps(Revision(ctx.pipeline_revision())).await {
            Ok(steps) => steps,
            Err(err) => {
                tracing::warn!(task_id = %ctx.id(), %err, "cannot read the pipeline's steps");
                return Outcome::Snoozed(SNOOZE);
            }
        };
        if steps.is_empty() {
            let text = "the pipeline has no steps; its tasks are for embedded workers";
            return Failure::new("no_steps", text).not_retryable().into();
        }
        let job = Job {
            name: format!("{}-{}", ctx.id(), ctx.lease_token()),
            steps,
            data: ctx.data_bytes().clone(),
            environment: environment(&ctx),
            deadline: ctx.deadline().map(|at| before(at, Instant::now())),
            progress: {
                let ctx = ctx.clone();
                Box::new(move |record: &Record| tell(&ctx, record))
            },
        };
        self.runner.run(job).await.into()
    }
}

fn tell(ctx: &TaskContext, record: &Record) {
    let Some(progress) = record.progress(PROGRESS_LEN_MAX) else {
        return ctx.alive();
    };
    if let Err(err) = ctx.heartbeat(&progress) {
        tracing::debug!(task_id = %ctx.id(), %err, "progress is not shown");
    }
}

fn before(deadline: Instant, now: Instant) -> Instant {
    let left = deadline.saturating_duration_since(now);
    now + (left - (left / MARGIN_SHARE).min(MARGIN_MAX))
}

fn environment(ctx: &TaskContext) -> BTreeMap<String, String> {
    let mut environment = BTreeMap::from([
        ("WORKLOAD_TASK_ID".to_owned(), ctx.id().to_string()),
        ("WORKLOAD_ATTEMPT".to_owned(), ctx.attempt().to_string()),
        (
            "WORKLOAD_LEASE_TOKEN".to_owned(),
            ctx.lease_token().to_string(),
        ),
    ]);
    if let Some(traceparent) = ctx.traceparent() {
        environment.insert("TRACEPARENT".to_owned(), traceparent.to_owned());
    }
    environment
}
