//! Runs a pipeline once: fills its commands, has them run step by step, and gathers what they said.

mod step;

use std::{collections::BTreeMap, fmt, sync::Arc};

use bytes::Bytes;
use scheduler_core::Step;
use serde_json::{Map, Value};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use worker_sdk::Failure;

use self::step::StepRun;
use crate::{
    executors::Connections,
    record::Record,
    workspace::{Workspace, Workspaces},
};

/// The most bytes of a failure's detail.
const DETAIL_MAX: usize = scheduler_core::task::DETAIL_LEN_MAX;

/// One run that is asked for.
pub(crate) struct Job {
    /// Its own: names its directory.
    pub(crate) name: String,
    pub(crate) steps: Arc<[Step]>,
    /// A JSON object.
    pub(crate) data: Bytes,
    pub(crate) environment: BTreeMap<String, String>,
    /// When all commands must have ended.
    pub(crate) deadline: Option<Instant>,
    /// Is told how far it is, now and then.
    pub(crate) progress: Box<dyn Fn(&Record) + Send + Sync>,
}

/// Runs jobs.
#[derive(Debug)]
pub(crate) struct Runner {
    connections: Connections,
    workspaces: Workspaces,
    result_bytes_max: usize,
    /// Held by every job, so that it can be waited for until there is none.
    busy: mpsc::Sender<()>,
}

/// Turns out when whoever asked for a job wants it no more.
#[derive(Debug, Clone)]
pub(crate) struct GivenUp(watch::Receiver<()>);

impl GivenUp {
    pub(crate) async fn wait(&self) {
        let mut here = self.0.clone();
        // Nothing is ever sent: it ends when the other side is dropped.
        while here.changed().await.is_ok() {}
    }

    pub(crate) fn is_so(&self) -> bool {
        self.0.has_changed().is_err()
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Runner {
    /// A runner, and what ends when it and all its jobs are gone.
    pub(crate) fn new(
        connections: Connections,
        workspaces: Workspaces,
        result_bytes_max: usize,
    ) -> (Self, mpsc::Receiver<()>) {
        let (busy, idle) = mpsc::channel(1);
        let runner = Self {
            connections,
            workspaces,
            result_bytes_max,
            busy,
        };
        (runner, idle)
    }

    pub(crate) fn connections(&self) -> &Connections {
        &self.connections
    }

    /// Runs a job and answers its result.
    ///
    /// # Errors
    /// What failed, with the steps so far as its detail.
    ///
    /// # Cancel safety
    /// Dropping the future has the commands killed and the files removed, apart from it; until that
    /// is done, no other job gets the shared directory.
    pub(crate) async fn run(self: &Arc<Self>, job: Job) -> Result<Value, Failure> {
        let (here, given_up) = watch::channel(());
        let work = tokio::spawn(Arc::clone(self).work(job, GivenUp(given_up)));
        let worked = work.await;
        drop(here);
        match worked {
            Ok(outcome) => outcome,
            Err(err) => match err.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(Failure::new("interrupted", "the agent ends")),
            },
        }
    }

    async fn work(self: Arc<Self>, job: Job, given_up: GivenUp) -> Result<Value, Failure> {
        let _busy = self.busy.clone();
        let turn = tokio::select! {
            turn = self.workspaces.turn() => turn,
            () = given_up.wait() => return Err(interrupted()),
        };
        let opened = self.workspaces.open(turn, &job.name).await;
        let workspace = opened.map_err(|err| {
            Failure::new("no_directory", format!("cannot make a directory: {err}"))
        })?;
        let outcome = self.run_steps(&job, &workspace, &given_up).await;
        if let Err(err) = workspace.close().await {
            tracing::warn!(job = job.name, %err, "cannot remove a task's files");
        }
        outcome
    }

    async fn run_steps(
        &self,
        job: &Job,
        workspace: &Workspace,
        given_up: &GivenUp,
    ) -> Result<Value, Failure> {
        let filled = fill(job, workspace)?;
        let mut record = Record::new(job.steps.len());
        for (step, commands) in job.steps.iter().zip(filled) {
            if given_up.is_so() {
                return Err(interrupted());
            }
            record.begin_step(step);
            let ran = StepRun {
                step,
                job,
                workspace,
                given_up,
                stdout_max: self.result_bytes_max,
            };
            if let Err(failure) = ran.run(&self.connections, commands, &mut record).await {
                return Err(with_steps(failure, &record));
            }
            (job.progress)(&record);
        }
        record.result(self.result_bytes_max).ok_or_else(|| {
            let max = self.result_bytes_max;
            let text = format!("the result has more than {max} bytes of JSON");
            with_steps(
                Failure::new("output_too_large", text).not_retryable(),
                &record,
            )
        })
    }
}

/// The system's limit of one argument, with the NUL that ends it.
const ARGUMENT_LEN_MAX: usize = 128 * 1024 - 1;

/// All commands of all steps with their placeholders filled, before the first is run.
fn fill(job: &Job, workspace: &Workspace) -> Result<Vec<Vec<Vec<String>>>, Failure> {
    let data: Map<String, Value> = serde_json::from_slice(&job.data).map_err(|err| {
        Failure::new("bad_data", format!("the data are no JSON object: {err}")).not_retryable()
    })?;
    let fill_step = |step: &Step| {
        let commands = step.commands.iter();
        commands
            .map(|command| workspace.place(command).fill(&data))
            .collect::<Result<Vec<_>, _>>()
    };
    let filled = job.steps.iter().map(fill_step).collect::<Result<_, _>>();
    let filled: Vec<Vec<Vec<String>>> =
        filled.map_err(|fault| Failure::new("missing_field", fault).not_retryable())?;
    let mut arguments = filled.iter().flatten().flatten();
    if arguments.any(|argument| argument.len() > ARGUMENT_LEN_MAX) {
        let text = format!("an argument of a command has more than {ARGUMENT_LEN_MAX} bytes");
        return Err(Failure::new("argument_too_long", text).not_retryable());
    }
    Ok(filled)
}

fn with_steps(failure: Failure, record: &Record) -> Failure {
    match record.summary(DETAIL_MAX) {
        Some(steps) => failure.with_detail(&steps),
        None => failure,
    }
}

/// Nobody hears it: it goes to whoever has given the job up.
fn interrupted() -> Failure {
    Failure::new("interrupted", "the task was given up")
}
