//! The suites that every store and every catalogue must pass.

use std::sync::Arc;

use async_trait::async_trait;
use scheduler_core::{
    conformance::Home,
    port::{Catalog, TaskStore},
};

use crate::fixture::Database;

#[async_trait]
impl Home<dyn TaskStore> for Database {
    async fn open(&self) -> Arc<dyn TaskStore> {
        self.tidb().await.store()
    }
}

#[async_trait]
impl Home<dyn Catalog> for Database {
    async fn open(&self) -> Arc<dyn Catalog> {
        self.tidb().await.catalog()
    }
}

async fn empty() -> Database {
    Database::shared()
}

mod store {
    scheduler_core::task_store_conformance!(super::empty);
}

mod catalog {
    scheduler_core::catalog_conformance!(super::empty);
}
