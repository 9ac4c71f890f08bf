//! A pipeline: its steps, the options its tasks start from, and where it lives.

pub mod command;
mod mode;

use std::sync::Arc;

pub use self::mode::Mode;
use crate::{
    ExecutorName, Invalid, PipelineNumber, PipelinePath, Timestamp,
    pipeline::command::CommandTemplate,
    task::{TaskOptions, retry::RetryPolicy},
};

/// The most steps a pipeline may have.
pub const STEPS_MAX: usize = 64;
/// The most commands a step may have.
pub const COMMANDS_MAX: usize = 64;
/// The most partitions a pipeline may have.
pub const PARTITIONS_MAX: u16 = 1_024;

/// How often a pipeline or application was changed: starts at 1, grows by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

/// Which executor runs which command lines, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The executor.
    pub executor: ExecutorName,
    /// The command lines; the next runs only if the one before exits with 0.
    pub commands: Vec<CommandTemplate>,
}

/// What a user says to create or change a pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipelineSpec {
    /// The steps, in order. May be empty: such a pipeline's tasks are run by embedded workers only.
    pub steps: Arc<[Step]>,
    /// What its tasks start from.
    pub defaults: TaskOptions,
    /// Partitions of its log: 1 to [`PARTITIONS_MAX`].
    pub n_partitions: u16,
}

impl PipelineSpec {
    /// Checks what no single value shows: the limits on lists and what options make no sense as defaults.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn validate(&self) -> Result<(), Invalid> {
        if self.steps.len() > STEPS_MAX {
            return Err(Invalid::new("pipeline", "must have at most 64 steps"));
        }
        for (i, step) in self.steps.iter().enumerate() {
            if !(1..=COMMANDS_MAX).contains(&step.commands.len()) {
                let field = format!("pipeline[{i}].commands");
                return Err(Invalid::new(field, "must have 1 to 64 commands"));
            }
        }
        if !(1..=PARTITIONS_MAX).contains(&self.n_partitions) {
            return Err(Invalid::new("options.partitions", "must be 1 to 1024"));
        }
        if self.defaults.run_at.is_some() {
            let rule = "is for single tasks; a pipeline cannot have it as a default";
            return Err(Invalid::new("options.run_at", rule));
        }
        if self.defaults.idempotency_key.is_some() {
            let rule = "is for single tasks; a pipeline cannot have it as a default";
            return Err(Invalid::new("options.idempotency_key", rule));
        }
        self.defaults
            .validate()
            .map_err(|fault| fault.within("options"))
    }
}

/// A pipeline as the catalogue knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pipeline {
    /// Never used again, even after the pipeline is deleted.
    pub number: PipelineNumber,
    /// Where it is.
    pub path: PipelinePath,
    /// Grows at every change of what the user said; a change of the mode leaves it.
    pub revision: Revision,
    /// What the user said.
    pub spec: PipelineSpec,
    /// Whether it takes tasks and starts them.
    pub mode: Mode,
    /// When it was created.
    pub created_at: Timestamp,
}

impl Pipeline {
    /// What `options` leave open, from the pipeline's defaults, then from the system's.
    #[must_use]
    pub fn retry_policy(&self, options: Option<&TaskOptions>) -> RetryPolicy {
        options
            .and_then(|options| options.retry)
            .or(self.spec.defaults.retry)
            .unwrap_or_default()
    }
}
