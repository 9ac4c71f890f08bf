//! Pausing, draining and resuming pipelines.

use std::sync::Arc;

use super::Scheduler;
use crate::{
    Error, Invalid, Mode, Pipeline, PipelinePath,
    port::catalog::{Change, Changed},
};

/// The longest name of who pauses, and the longest reason, in bytes.
const REASON_LEN_MAX: usize = 1_024;

impl Scheduler {
    /// Starts no more tasks of a pipeline until it is resumed. Those that run go on, and new ones are accepted. To
    /// pause again changes who did and why.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` for a name or reason that is too long; `WrongState` of a pipeline that is being deleted.
    pub async fn pause(
        &self,
        path: &PipelinePath,
        by: &str,
        reason: &str,
    ) -> Result<Arc<Pipeline>, Error> {
        for (field, text) in [("by", by), ("reason", reason)] {
            if text.len() > REASON_LEN_MAX {
                return Err(Invalid::new(field, "must be at most 1024 bytes").into());
            }
        }
        let mode = Mode::Paused {
            by: by.to_owned(),
            reason: reason.to_owned(),
            at: self.shared.ports.clock.now(),
        };
        self.set_mode(path, mode).await
    }

    /// Takes and starts tasks of a pipeline again that was paused or drained.
    ///
    /// # Errors
    /// `NotFound`; `WrongState` of a pipeline that is being deleted.
    pub async fn resume(&self, path: &PipelinePath) -> Result<Arc<Pipeline>, Error> {
        self.set_mode(path, Mode::Active).await
    }

    /// Takes no more tasks until the pipeline is resumed; those that it has come to their end.
    ///
    /// # Errors
    /// As [`resume`](Self::resume).
    pub async fn drain(&self, path: &PipelinePath) -> Result<Arc<Pipeline>, Error> {
        self.set_mode(path, Mode::Draining).await
    }

    async fn set_mode(&self, path: &PipelinePath, mode: Mode) -> Result<Arc<Pipeline>, Error> {
        let number = self.find_pipeline(path)?.number;
        let path = path.clone();
        let change = Change::SetMode {
            path: path.clone(),
            number,
            mode,
        };
        match self.shared.change(change).await? {
            Changed::Done(_) => self.find_pipeline(&path),
            Changed::Deleting => {
                let what = "the pipeline is being deleted, from which there is no way back";
                Err(Error::WrongState(what.to_owned()))
            }
            Changed::Exists | Changed::Missing | Changed::NotEmpty | Changed::Stale(_) => {
                Err(Error::not_found("pipeline", &path.pipeline))
            }
        }
    }
}
