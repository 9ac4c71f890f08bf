//! Runs one step: one call of its executor, whose events go into the record.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use scheduler_core::Step;
use scheduler_grpc::{
    convert,
    pb::{
        Command, ExecuteResponse, ExecuteStart, command_ended::How, command_output::Stream,
        execute_response::Event,
    },
};
use tokio::time::{Instant, sleep_until};
use tonic::Status;
use worker_sdk::Failure;

use super::{GivenUp, Job, interrupted};
use crate::{
    execution::Execution,
    executors::Connections,
    record::{End, Record},
    workspace::Workspace,
};

/// Progress is told at most so often.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

/// One step of one job.
pub(super) struct StepRun<'a> {
    pub(super) step: &'a Step,
    pub(super) job: &'a Job,
    pub(super) workspace: &'a Workspace,
    pub(super) given_up: &'a GivenUp,
    /// The most bytes of standard output that are kept whole.
    pub(super) stdout_max: usize,
}

impl StepRun<'_> {
    /// Runs the commands. When it answers, none of their processes is left.
    pub(super) async fn run(
        &self,
        connections: &Connections,
        commands: Vec<Vec<String>>,
        record: &mut Record,
    ) -> Result<(), Failure> {
        let executor = &self.step.executor;
        let channel = connections.to(executor).ok_or_else(|| {
            let text = format!(
                "there is no executor {executor:?} here",
                executor = executor.as_str()
            );
            Failure::new("executor_unavailable", text)
        })?;
        let start = self.start(commands)?;
        let started = Execution::start(channel, start, self.given_up).await;
        let started = started.map_err(|status| self.unavailable(&status))?;
        let mut execution = started.ok_or_else(interrupted)?;
        let mut progress_at = Instant::now();
        let mut is_told = false;
        let mut n_good = 0;
        let mut failed = None;
        loop {
            let response = tokio::select! {
                biased;
                () = self.given_up.wait() => {
                    execution.kill().await;
                    return Err(interrupted());
                }
                () = sleep_until(progress_at), if !is_told => {
                    (self.job.progress)(record);
                    is_told = true;
                    progress_at = Instant::now() + PROGRESS_EVERY;
                    continue;
                }
                response = execution.next() => response.map_err(|status| self.unavailable(&status))?,
            };
            let Some(response) = response else {
                break;
            };
            is_told = false;
            match self.note(response, record) {
                Noted::Going => {}
                Noted::Good => n_good += 1,
                // The executor ends the call when everything is gone.
                Noted::Failed(failure) => failed = Some(failure),
                Noted::TooMuch(failure) => {
                    execution.kill().await;
                    return Err(failure);
                }
            }
        }
        match failed {
            Some(failure) => Err(failure),
            None if n_good == self.step.commands.len() => Ok(()),
            None => Err(self.unavailable(&Status::unknown("it ended the call too early"))),
        }
    }

    fn start(&self, commands: Vec<Vec<String>>) -> Result<ExecuteStart, Failure> {
        let left = self
            .job
            .deadline
            .map(|at| at.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            return Err(timed_out());
        }
        let commands = commands.into_iter().map(|arguments| Command { arguments });
        let environment: BTreeMap<_, _> = self.job.environment.clone();
        Ok(ExecuteStart {
            commands: commands.collect(),
            environment,
            working_directory: self.workspace.path().to_string_lossy().into_owned(),
            timeout: left.map(convert::duration),
        })
    }

    fn note(&self, response: ExecuteResponse, record: &mut Record) -> Noted {
        let command = usize::try_from(response.command).ok();
        let command = command.and_then(|n| self.step.commands.get(n));
        let source = command.map_or("", |command| command.source());
        match response.event {
            None => Noted::Going,
            Some(Event::Started(started)) => {
                record.begin_command(source, time(started.at));
                Noted::Going
            }
            Some(Event::Output(output)) => match output.stream() {
                Stream::Stderr => {
                    record.stderr(&output.chunk);
                    Noted::Going
                }
                Stream::Stdout | Stream::Unspecified => {
                    if record.stdout(&output.chunk) <= self.stdout_max {
                        return Noted::Going;
                    }
                    let max = self.stdout_max;
                    let text = format!("the last step wrote more than {max} bytes");
                    Noted::TooMuch(Failure::new("output_too_large", text).not_retryable())
                }
            },
            Some(Event::Ended(ended)) => {
                let (end, failure) = self.judge(source, ended.how);
                record.end_command(end, time(ended.at));
                failure.map_or(Noted::Good, Noted::Failed)
            }
        }
    }

    /// How a command ended, and the failure that this is.
    fn judge(&self, source: &str, how: Option<How>) -> (End, Option<Failure>) {
        match how {
            Some(How::ExitCode(0)) => (End::Exited(0), None),
            Some(How::ExitCode(code)) => {
                let text = format!("`{source}` exited with {code}");
                (End::Exited(code), Some(Failure::new("exit_code", text)))
            }
            Some(How::Signal(signal)) => {
                let text = format!("`{source}` was killed by signal {signal}");
                (
                    End::Signalled(signal),
                    Some(Failure::new("exit_code", text)),
                )
            }
            Some(How::TimedOut(_)) => (End::Failed("timed out".to_owned()), Some(timed_out())),
            Some(How::ProgramNotFound(why)) => {
                let text = format!("{why} at executor {}", self.step.executor);
                let failure = Failure::new("program_not_found", text).not_retryable();
                (End::Failed(why), Some(failure))
            }
            Some(How::NotStarted(why)) => {
                let failure = Failure::new("program_not_started", &why);
                (End::Failed(why), Some(failure))
            }
            Some(How::Cancelled(_)) | None => {
                let failure = self.unavailable(&Status::unavailable("it has killed the command"));
                (End::Failed("the executor ended".to_owned()), Some(failure))
            }
        }
    }

    fn unavailable(&self, status: &Status) -> Failure {
        let text = format!("executor {}: {}", self.step.executor, status.message());
        Failure::new("executor_unavailable", text)
    }
}

/// What an event means for the step.
enum Noted {
    Going,
    Good,
    Failed(Failure),
    TooMuch(Failure),
}

fn timed_out() -> Failure {
    Failure::new("timeout", "the attempt ran longer than its timeout")
}

fn time(at: Option<prost_types::Timestamp>) -> Timestamp {
    let at = at.unwrap_or_default();
    Timestamp::new(at.seconds, at.nanos).unwrap_or(Timestamp::UNIX_EPOCH)
}
