//! The store's port on tables; `flush.rs` says how a part is fenced and saved.

mod claim;
mod flush;
mod forget;
mod page;
mod read;
mod write;

use std::{sync::Arc, time::Duration};

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

use crate::{
    call::{Call, Repeat},
    session::Pool,
};

/// Shards or keys in one statement.
const LIST_MAX: usize = 256;

/// The store in TiDB.
#[derive(Debug)]
pub(crate) struct TidbStore {
    pool: Arc<Pool>,
    call_timeout: Duration,
}

impl TidbStore {
    pub(crate) fn new(pool: Arc<Pool>, call_timeout: Duration) -> Self {
        Self { pool, call_timeout }
    }

    /// A call that can be done twice: all of the store's can.
    fn call(&self, operation: &'static str) -> Call {
        Call::new(operation, Repeat::Safe, self.call_timeout)
    }
}

#[async_trait]
impl TaskStore for TidbStore {
    async fn claim(&self, claims: &[Claim]) -> Result<Vec<Claimed>, PortError> {
        let call = self.call("claim shards");
        call.run(claim::claim(&self.pool, &call, claims)).await
    }

    async fn flush(&self, parts: &[ShardFlush]) -> Result<Vec<Flushed>, PortError> {
        let call = self.call("flush shards");
        call.run(flush::flush(&self.pool, &call, parts)).await
    }

    async fn release(&self, shards: &[(ShardId, Epoch)]) -> Result<(), PortError> {
        let call = self.call("release shards");
        call.run(claim::release(&self.pool, &call, shards)).await
    }

    async fn due(&self, pages: &[DuePage]) -> Result<Vec<DueTasks>, PortError> {
        let call = self.call("read due tasks");
        call.run(page::due(&self.pool, &call, pages)).await
    }

    async fn keyed(&self, pages: &[KeyedPage]) -> Result<Vec<KeyedTasks>, PortError> {
        let call = self.call("read tasks of keys");
        call.run(page::keyed(&self.pool, &call, pages)).await
    }

    async fn get(&self, lookups: &[Lookup]) -> Result<Vec<Option<Found>>, PortError> {
        let call = self.call("read tasks");
        call.run(read::get(&self.pool, &call, lookups)).await
    }

    async fn list(&self, pages: &[ListPage]) -> Result<Vec<Vec<StoredTask>>, PortError> {
        let call = self.call("list tasks");
        call.run(page::list(&self.pool, &call, pages)).await
    }

    async fn owners(&self, shards: &[ShardId]) -> Result<Vec<Option<Arc<str>>>, PortError> {
        let call = self.call("read owners");
        call.run(read::owners(&self.pool, &call, shards)).await
    }

    async fn forget(&self, pipeline: PipelineNumber) -> Result<(), PortError> {
        forget::forget(&self.pool, self.call_timeout, pipeline).await
    }
}
