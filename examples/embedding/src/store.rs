//! A store of our own: it counts what it is asked to save, and leaves the saving to another one.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use scheduler_core::{
    Epoch, PipelineNumber, ShardId,
    port::{
        PortError, TaskStore,
        store::{
            Claim, Claimed, DuePage, DueTasks, Flushed, Found, KeyedPage, KeyedTasks, ListPage,
            Lookup, ShardFlush, StoredTask,
        },
    },
};

/// Counts the tasks that ended for good, and passes everything on.
#[derive(Debug)]
pub struct Counted {
    inner: Arc<dyn TaskStore>,
    n_ended: AtomicUsize,
}

impl Counted {
    /// Counts what `inner` saves from now on.
    #[must_use]
    pub fn new(inner: Arc<dyn TaskStore>) -> Self {
        let n_ended = AtomicUsize::new(0);
        Self { inner, n_ended }
    }

    /// Ends of tasks that were saved.
    #[must_use]
    pub fn n_ended(&self) -> usize {
        self.n_ended.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl TaskStore for Counted {
    // Only what was saved counts: a fenced part was not, and a failed call may not have been.
    async fn flush(&self, parts: &[ShardFlush]) -> Result<Vec<Flushed>, PortError> {
        let answers = self.inner.flush(parts).await?;
        let saved = parts.iter().zip(&answers);
        let saved = saved.filter(|(_, answer)| **answer == Flushed::Saved);
        let tasks = saved.flat_map(|(part, _)| &part.tasks);
        let ended = tasks.filter(|task| task.state.name().is_terminal());
        self.n_ended.fetch_add(ended.count(), Ordering::Relaxed);
        Ok(answers)
    }

    async fn claim(&self, claims: &[Claim]) -> Result<Vec<Claimed>, PortError> {
        self.inner.claim(claims).await
    }

    async fn release(&self, shards: &[(ShardId, Epoch)]) -> Result<(), PortError> {
        self.inner.release(shards).await
    }

    async fn due(&self, pages: &[DuePage]) -> Result<Vec<DueTasks>, PortError> {
        self.inner.due(pages).await
    }

    async fn keyed(&self, pages: &[KeyedPage]) -> Result<Vec<KeyedTasks>, PortError> {
        self.inner.keyed(pages).await
    }

    async fn get(&self, lookups: &[Lookup]) -> Result<Vec<Option<Found>>, PortError> {
        self.inner.get(lookups).await
    }

    async fn list(&self, pages: &[ListPage]) -> Result<Vec<Vec<StoredTask>>, PortError> {
        self.inner.list(pages).await
    }

    async fn owners(&self, shards: &[ShardId]) -> Result<Vec<Option<Arc<str>>>, PortError> {
        self.inner.owners(shards).await
    }

    async fn forget(&self, pipeline: PipelineNumber) -> Result<(), PortError> {
        self.inner.forget(pipeline).await
    }
}
