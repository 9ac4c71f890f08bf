//! Where the steps come from: the scheduler, by revision, or a file.

use std::sync::{Arc, Mutex, PoisonError};

use scheduler_core::{
    Error, Invalid, PipelinePath, PipelineSpec, Revision, Step, TaskOptions,
    pipeline::command::CommandTemplate,
};
use scheduler_grpc::client::Client;
use serde_json::Value;

/// The pipeline as the scheduler knows it, read again when a task asks for a newer one.
#[derive(Debug)]
pub(crate) struct Source {
    client: Client,
    path: PipelinePath,
    known: Mutex<Option<(Revision, Arc<[Step]>)>>,
}

impl Source {
    pub(crate) fn new(client: Client, path: PipelinePath) -> Self {
        Self {
            client,
            path,
            known: Mutex::new(None),
        }
    }

    /// The steps of this revision, or of a later one.
    pub(crate) async fn steps(&self, wanted: Revision) -> Result<Arc<[Step]>, Error> {
        if let Some((revision, steps)) = self.known()
            && revision >= wanted
        {
            return Ok(steps);
        }
        let (revision, steps) = self.read().await?;
        if revision < wanted {
            return Err(Error::StaleRevision {
                expected: wanted.0,
                found: revision.0,
            });
        }
        Ok(steps)
    }

    /// The steps as they are now.
    pub(crate) async fn newest(&self) -> Result<Arc<[Step]>, Error> {
        Ok(self.read().await?.1)
    }

    async fn read(&self) -> Result<(Revision, Arc<[Step]>), Error> {
        let pipeline = self.client.pipeline(&self.path).await?;
        let read = (pipeline.revision, pipeline.spec.steps);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Some(read.clone());
        Ok(read)
    }

    fn known(&self) -> Option<(Revision, Arc<[Step]>)> {
        // Nothing that holds the lock can panic half way.
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// A pipeline's file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// It is not JSON.
    #[error("the pipeline is not JSON")]
    Json(#[from] serde_json::Error),
    /// It breaks a rule.
    #[error("the pipeline cannot be used")]
    Invalid(#[from] Invalid),
}

/// Reads steps as a chart carries them: `{"pipeline": [{"executor": …, "commands": […]}]}`.
///
/// # Errors
/// [`FileError`], naming the first field that cannot be used.
pub fn steps_from_json(json: &[u8]) -> Result<Arc<[Step]>, FileError> {
    let file: Value = serde_json::from_slice(json)?;
    let must = |field: String, rule: &'static str| Invalid::new(field, rule);
    let steps = file["pipeline"]
        .as_array()
        .ok_or_else(|| must("pipeline".to_owned(), "must be a list of steps"))?;
    let read = |(i, step): (usize, &Value)| -> Result<Step, Invalid> {
        let executor = step["executor"].as_str().unwrap_or_default();
        let commands = step["commands"]
            .as_array()
            .ok_or_else(|| must(format!("pipeline[{i}].commands"), "must be a list"))?;
        let commands = commands.iter().map(|command| {
            let line = command.as_str().unwrap_or_default();
            CommandTemplate::parse(line).map_err(|fault| fault.within(&format!("pipeline[{i}]")))
        });
        let executor = executor.try_into();
        Ok(Step {
            executor: executor.map_err(|fault: Invalid| fault.within(&format!("pipeline[{i}]")))?,
            commands: commands.collect::<Result<_, _>>()?,
        })
    };
    let steps = steps.iter().enumerate().map(read);
    let spec = PipelineSpec {
        steps: steps.collect::<Result<_, _>>()?,
        defaults: TaskOptions::default(),
        n_partitions: 1,
        ..PipelineSpec::default()
    };
    spec.validate()?;
    Ok(spec.steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_read_as_a_chart_carries_them() {
        let json =
            br#"{"pipeline": [{"executor": "wget", "commands": ["wget -O /mnt/pipe/a {{url}}"]}]}"#;
        let steps = steps_from_json(json).unwrap();
        assert_eq!(steps[0].executor.as_str(), "wget");
        assert_eq!(steps[0].commands[0].fields().collect::<Vec<_>>(), ["url"]);
    }

    #[test]
    fn a_fault_names_its_field() {
        let json = br#"{"pipeline": [{"executor": "No", "commands": []}]}"#;
        match steps_from_json(json) {
            Err(FileError::Invalid(fault)) => assert_eq!(fault.field, "pipeline[0].executor"),
            other => panic!("{other:?}"),
        }
    }
}
