//! What became of each step and command: the task's progress, its result, or the detail of its failure.

use jiff::Timestamp;
use scheduler_core::Step;
use serde_json::{Map, Value, json};

use crate::output::{Kept, TAIL_MAX, cut_to};

/// How much of each stream is shown at most, tried in turn until a whole record fits its limit.
const TAILS: [usize; 6] = [TAIL_MAX, 16 * 1024, 4 * 1024, 1024, 128, 0];

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// With an exit code.
    Exited(i32),
    /// By a signal that nobody here sent.
    Signalled(i32),
    /// Otherwise, and why.
    Failed(String),
}

/// One command that was begun.
#[derive(Debug, Clone)]
struct CommandRecord {
    source: String,
    started_at: Timestamp,
    ended: Option<(End, Timestamp)>,
    stdout: Kept,
    stderr: Kept,
}

#[derive(Debug, Clone)]
struct StepRecord {
    executor: String,
    n_commands: usize,
    commands: Vec<CommandRecord>,
}

/// The steps of one run, as far as they are.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    steps: Vec<StepRecord>,
    n_steps: usize,
}

impl Record {
    /// Nothing of so many steps.
    pub(crate) fn new(n_steps: usize) -> Self {
        Self {
            steps: Vec::new(),
            n_steps,
        }
    }

    pub(crate) fn begin_step(&mut self, step: &Step) {
        self.steps.push(StepRecord {
            executor: step.executor.to_string(),
            n_commands: step.commands.len(),
            commands: Vec::new(),
        });
    }

    pub(crate) fn begin_command(&mut self, source: &str, at: Timestamp) {
        if let Some(step) = self.steps.last_mut() {
            step.commands.push(CommandRecord {
                source: source.to_owned(),
                started_at: at,
                ended: None,
                stdout: Kept::default(),
                stderr: Kept::default(),
            });
        }
    }

    pub(crate) fn end_command(&mut self, end: End, at: Timestamp) {
        let commands = self.steps.last_mut().map(|step| &mut step.commands);
        if let Some(command) = commands.and_then(|commands| commands.last_mut()) {
            command.ended = Some((end, at));
        }
    }

    /// Adds to the running command's standard output. The last step's is kept whole: answers how many
    /// bytes it has now.
    pub(crate) fn stdout(&mut self, chunk: &[u8]) -> usize {
        let is_last = self.steps.len() == self.n_steps;
        let Some(step) = self.steps.last_mut() else {
            return 0;
        };
        if let Some(command) = step.commands.last_mut() {
            command.stdout.push(chunk);
        }
        if is_last {
            return step
                .commands
                .iter()
                .map(|command| command.stdout.len())
                .sum();
        }
        cut_to(
            step.commands.iter_mut().map(|command| &mut command.stdout),
            TAIL_MAX,
        );
        0
    }

    /// Adds to the running command's standard error.
    pub(crate) fn stderr(&mut self, chunk: &[u8]) {
        let Some(step) = self.steps.last_mut() else {
            return;
        };
        if let Some(command) = step.commands.last_mut() {
            command.stderr.push(chunk);
        }
        cut_to(
            step.commands.iter_mut().map(|command| &mut command.stderr),
            TAIL_MAX,
        );
    }

    /// The result: the last step's standard output whole, as much of the rest as fits into `max`
    /// bytes of JSON. `None` if not even the former does.
    pub(crate) fn result(&self, max: usize) -> Option<Value> {
        self.fitting(&TAILS, max, true)
    }

    /// As much of the end of all output as fits into `max` bytes of JSON.
    pub(crate) fn summary(&self, max: usize) -> Option<Value> {
        self.fitting(&TAILS, max, false)
    }

    /// The same with little of the output: to be sent often.
    pub(crate) fn progress(&self, max: usize) -> Option<Value> {
        self.fitting(&TAILS[2..], max, false)
    }

    fn fitting(&self, tails: &[usize], max: usize, last_whole: bool) -> Option<Value> {
        tails.iter().find_map(|tail| {
            let value = self.value(*tail, last_whole);
            let size = serde_json::to_vec(&value).map_or(usize::MAX, |json| json.len());
            (size <= max).then_some(value)
        })
    }

    fn value(&self, tail: usize, last_whole: bool) -> Value {
        let steps = self.steps.iter().enumerate().map(|(i, step)| {
            let whole = last_whole && i + 1 == self.n_steps;
            let stdout_max = if whole { usize::MAX } else { tail };
            let commands = step.commands.iter();
            json!({
                "executor": step.executor,
                "state": step.state(),
                "commands": commands.map(|command| command.value(stdout_max, tail)).collect::<Vec<_>>(),
            })
        });
        json!({ "steps": steps.collect::<Vec<_>>() })
    }
}

impl StepRecord {
    fn state(&self) -> &'static str {
        let good = |command: &CommandRecord| matches!(command.ended, Some((End::Exited(0), _)));
        let ended = |command: &CommandRecord| command.ended.is_some();
        if self.commands.len() == self.n_commands && self.commands.iter().all(good) {
            "completed"
        } else if self
            .commands
            .iter()
            .any(|command| ended(command) && !good(command))
        {
            "failed"
        } else {
            "running"
        }
    }
}

impl CommandRecord {
    fn value(&self, stdout_max: usize, stderr_max: usize) -> Value {
        let mut value = Map::new();
        let mut put = |key: &str, field: Value| value.insert(key.to_owned(), field);
        put("command", self.source.as_str().into());
        put("started_at", self.started_at.to_string().into());
        if let Some((end, at)) = &self.ended {
            put("ended_at", at.to_string().into());
            match end {
                End::Exited(code) => put("exit_code", (*code).into()),
                End::Signalled(signal) => put("signal", (*signal).into()),
                End::Failed(why) => put("error", why.as_str().into()),
            };
        }
        for (name, kept, max) in [
            ("stdout", &self.stdout, stdout_max),
            ("stderr", &self.stderr, stderr_max),
        ] {
            let text = kept.text(max);
            put(name, text.text.into());
            if text.is_base64 {
                put(&format!("{name}_encoding"), "base64".into());
            }
            if text.is_truncated {
                put(&format!("{name}_truncated"), true.into());
            }
        }
        value.into()
    }
}

#[cfg(test)]
mod tests {
    use scheduler_core::pipeline::command::CommandTemplate;

    use super::*;

    fn step() -> Step {
        Step {
            executor: "sh".try_into().unwrap(),
            commands: vec![CommandTemplate::parse("cat x").unwrap()],
        }
    }

    fn ran(stdouts: &[&[u8]]) -> Record {
        let mut record = Record::new(stdouts.len());
        for stdout in stdouts {
            record.begin_step(&step());
            record.begin_command("cat x", Timestamp::UNIX_EPOCH);
            record.stdout(stdout);
            record.end_command(End::Exited(0), Timestamp::UNIX_EPOCH);
        }
        record
    }

    fn stdout(value: &Value, step: usize) -> &Value {
        &value["steps"][step]["commands"][0]
    }

    #[test]
    fn only_the_last_steps_output_is_kept_whole() {
        let long = vec![b'x'; 100_000];
        let result = ran(&[&long, &long]).result(1 << 20).unwrap();
        assert_eq!(
            stdout(&result, 0)["stdout"].as_str().unwrap().len(),
            TAIL_MAX
        );
        assert_eq!(stdout(&result, 0)["stdout_truncated"], true);
        assert_eq!(
            stdout(&result, 1)["stdout"].as_str().unwrap().len(),
            100_000
        );
        assert_eq!(stdout(&result, 1).get("stdout_truncated"), None);
    }

    #[test]
    fn other_output_makes_way_for_the_last_steps() {
        let long = vec![b'x'; 60_000];
        let result = ran(&[&long, &long]).result(70_000).unwrap();
        assert_eq!(stdout(&result, 0)["stdout_truncated"], true);
        assert_eq!(stdout(&result, 1)["stdout"].as_str().unwrap().len(), 60_000);
        assert_eq!(ran(&[&long]).result(50_000), None);
    }

    #[test]
    fn a_summary_fits_whatever_was_written() {
        let long = vec![b'\0'; 60_000];
        let summary = ran(&[&long, &long, &long]).summary(10_000).unwrap();
        assert_eq!(summary["steps"][2]["state"], "completed");
    }
}
