//! Following a task or a pipeline: what is shown of them, again whenever it changes.
//!
//! A watch reads what [`Scheduler::get`] and [`Scheduler::stats`] read, so it never shows an end that is not durable. It keeps
//! nothing for a reader that is slow: such a one sees fewer, newer states.

mod pipeline;
mod task;

use tokio::sync::OwnedSemaphorePermit;

pub(super) use self::pipeline::Hubs;
pub use self::{
    pipeline::{PipelineEvent, PipelineWatch, TaskChanges},
    task::TaskWatch,
};
use super::{Scheduler, Shared};
use crate::Error;

impl Scheduler {
    /// How many watches are open in this process.
    #[must_use]
    pub fn n_watches(&self) -> usize {
        let shared = &self.shared;
        let n_free = shared.watches.available_permits();
        shared.config.watches_max.saturating_sub(n_free)
    }
}

impl Shared {
    /// A place among those who may watch at once.
    fn watch_place(&self) -> Result<OwnedSemaphorePermit, Error> {
        let place = std::sync::Arc::clone(&self.watches).try_acquire_owned();
        place.map_err(|_| Error::Overloaded {
            what: "watches_max".into(),
            retry_after: std::time::Duration::from_secs(5),
        })
    }
}
