//! A pipeline: its steps, the options its tasks start from, and where it lives.

pub mod command;
pub mod limits;
mod mode;

use std::sync::Arc;

pub use self::mode::Mode;
use crate::{
    ExecutorName, Invalid, PipelineNumber, PipelinePath, PoolName, Timestamp,
    pipeline::{command::CommandTemplate, limits::Limits},
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
    /// The workers that it shares with other pipelines; without it, it has its own.
    pub pool: Option<PoolName>,
    /// How many of them may run at once, and how many may start in a while.
    pub limits: Limits,
    /// Partitions of its log: 1 to [`PARTITIONS_MAX`].
    pub n_partitions: u16,
}

impl Default for PipelineSpec {
    /// No steps, one partition, and nothing else asked for.
    fn default() -> Self {
        Self {
            steps: [].into(),
            defaults: TaskOptions::default(),
            limits: Limits::default(),
            pool: None,
            n_partitions: 1,
        }
    }
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
        let defaults = &self.defaults;
        for (field, is_given) in [
            ("options.run_at", defaults.run_at.is_some()),
            ("options.expires_at", defaults.expires_at.is_some()),
            ("options.key", defaults.key.is_some()),
            (
                "options.idempotency_key",
                defaults.idempotency_key.is_some(),
            ),
        ] {
            if is_given {
                let rule = "is for single tasks; a pipeline cannot have it as a default";
                return Err(Invalid::new(field, rule));
            }
        }
        self.limits
            .validate()
            .map_err(|fault| fault.within("options"))?;
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
