//! The ports in memory pass the suites that every port must pass.

use std::sync::Arc;

use async_trait::async_trait;
use scheduler_core::{
    Timestamp,
    conformance::Home,
    memory::{self, ManualClock},
    port::{Catalog, TaskLog, TaskStore},
};

/// The memory is the place: a clone of a port opens it again.
struct Memory<P>(P);

#[async_trait]
impl Home<dyn TaskLog> for Memory<memory::Log> {
    async fn open(&self) -> Arc<dyn TaskLog> {
        Arc::new(self.0.clone())
    }
}

#[async_trait]
impl Home<dyn TaskStore> for Memory<memory::Store> {
    async fn open(&self) -> Arc<dyn TaskStore> {
        Arc::new(self.0.clone())
    }
}

#[async_trait]
impl Home<dyn Catalog> for Memory<memory::Catalog> {
    async fn open(&self) -> Arc<dyn Catalog> {
        Arc::new(self.0.clone())
    }
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)))
}

async fn empty_log() -> Memory<memory::Log> {
    Memory(memory::Log::new(clock()))
}

async fn empty_store() -> Memory<memory::Store> {
    Memory(memory::Store::new(clock()))
}

async fn empty_catalog() -> Memory<memory::Catalog> {
    Memory(memory::Catalog::new())
}

mod log {
    scheduler_core::task_log_conformance!(super::empty_log);
}

mod store {
    scheduler_core::task_store_conformance!(super::empty_store);
}

mod catalog {
    scheduler_core::catalog_conformance!(super::empty_catalog);
}
