//! The service: it takes mail, and sends it in the background until it is sent or cannot be.

use std::time::Duration;

use scheduler_core::{
    Error, Failure, LeasedTask, Outcome, PipelinePath, PipelineSpec, Poll, Report, Scheduler,
    Submit, TaskId, TaskOptions, TaskView, task::retry::RetryPolicy,
};
use serde_json::{Value, json};

/// How often a mail is tried.
const ATTEMPTS: u32 = 3;

/// Sends mail through a scheduler in the same process. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Mailer {
    scheduler: Scheduler,
    path: PipelinePath,
}

impl Mailer {
    /// Starts on a scheduler, and makes the pipeline unless an earlier start did.
    ///
    /// # Errors
    /// What the scheduler says.
    pub async fn start(scheduler: Scheduler) -> Result<Self, Error> {
        let path = scheduler_core::path("default", "shop", "mail")?;
        let spec = PipelineSpec {
            defaults: TaskOptions {
                retry: Some(RetryPolicy {
                    max_attempts: ATTEMPTS,
                    ..RetryPolicy::default()
                }),
                ..TaskOptions::default()
            },
            ..PipelineSpec::default()
        };
        match scheduler.create_pipeline(&path, spec).await {
            Ok(_) | Err(Error::Exists { .. }) => Ok(Self { scheduler, path }),
            Err(err) => Err(err),
        }
    }

    /// Where its tasks are.
    #[must_use]
    pub fn path(&self) -> &PipelinePath {
        &self.path
    }

    /// Takes a mail: once this answers, it is not lost.
    ///
    /// # Errors
    /// What the scheduler says.
    pub async fn send(&self, to: &str) -> Result<TaskId, Error> {
        let data = json!({ "to": to }).to_string();
        let submitted = self.scheduler.submit(&self.path, Submit::new(data)).await?;
        Ok(submitted.id)
    }

    /// Waits until a mail is sent or given up.
    ///
    /// # Errors
    /// What the scheduler says.
    pub async fn wait(&self, id: TaskId, wait: Duration) -> Result<TaskView, Error> {
        self.scheduler.wait(&self.path.tenant, id, wait).await
    }

    /// Sends mail until the scheduler shuts down.
    pub async fn work(self) {
        loop {
            let poll = match "mailer".try_into() {
                Ok(worker) => Poll::new(worker, 8),
                Err(_) => return,
            };
            let Ok(leased) = self.scheduler.lease(&self.path, poll).await else {
                return;
            };
            for task in leased.tasks {
                let (id, token, outcome) = (task.id, task.token, deliver(&task));
                let report = Report { id, token, outcome };
                // Unanswered, the task runs again once its lease is over: delivery is at least once.
                self.scheduler.report(&self.path.tenant, report).await.ok();
            }
        }
    }
}

/// Delivers one mail. Here nobody is reached whose name has an `@` missing; that is no reason to try again.
#[must_use]
pub fn deliver(task: &LeasedTask) -> Outcome {
    let mail: Value = serde_json::from_slice(&task.data).unwrap_or_default();
    match mail["to"].as_str() {
        Some(to) if to.contains('@') => Outcome::Completed {
            result: json!({ "sent_to": to }).to_string().into(),
        },
        _ => match "bad_address".try_into() {
            Ok(code) => Outcome::Failed(Failure {
                code,
                message: "the address has no @".to_owned(),
                retryable: false,
                detail: "".into(),
            }),
            Err(_) => Outcome::Interrupted,
        },
    }
}
