//! Where a pipeline's steps come from if it is created from a chart.

use std::{fmt::Debug, sync::Arc};

use async_trait::async_trait;
use scheduler_core::{ExecutorName, Invalid, Step, pipeline::command::CommandTemplate};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::input::Object;

/// Why a chart gives no pipeline.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ChartError(pub String);

/// Reads the pipeline that a chart carries as a ConfigMap with the key `pipeline.json`.
#[async_trait]
pub trait Charts: Debug + Send + Sync {
    /// The steps of the chart's pipeline.
    async fn steps(&self, chart: &str) -> Result<Arc<[Step]>, ChartError>;
}

/// Steps as users write them.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewStep)]
pub(crate) struct StepIn {
    executor: String,
    commands: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PipelineJson {
    pipeline: Vec<Object<StepIn>>,
}

/// Reads steps from their JSON form.
pub(crate) fn read_steps(steps: &[Object<StepIn>]) -> Result<Arc<[Step]>, Invalid> {
    let read = |(i, Object(step)): (usize, &Object<StepIn>)| {
        let field = format!("pipeline[{i}]");
        let executor = ExecutorName::try_from(step.executor.as_str());
        let executor = executor.map_err(|fault| fault.within(&field))?;
        let commands = step.commands.iter().enumerate().map(|(j, line)| {
            CommandTemplate::parse(line)
                .map_err(|fault| Invalid::new(format!("{field}.commands[{j}]"), fault.rule))
        });
        let commands = commands.collect::<Result<_, _>>()?;
        Ok(Step { executor, commands })
    };
    steps.iter().enumerate().map(read).collect()
}

/// Reads the text of a `pipeline.json`.
///
/// # Errors
/// What is wrong with it, and where.
pub fn parse_pipeline_json(text: &str) -> Result<Arc<[Step]>, ChartError> {
    let Object(parsed): Object<PipelineJson> = serde_json::from_str(text)
        .map_err(|err| ChartError(format!("pipeline.json is not as expected: {err}")))?;
    read_steps(&parsed.pipeline).map_err(|fault| ChartError(format!("pipeline.json: {fault}")))
}
