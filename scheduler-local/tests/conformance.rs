//! The embedded ports pass the suites that every port must pass.
#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::sync::Arc;

use async_trait::async_trait;
use scheduler_core::{
    conformance::Home,
    port::{Catalog, TaskLog, TaskStore},
};
use scheduler_local::{Config, Local};
use tempfile::TempDir;
use tokio::sync::Mutex;

/// A directory of its own, and who has it open.
struct Directory {
    path: TempDir,
    tail_bytes_max: usize,
    open: Mutex<Option<Local>>,
}

impl Directory {
    /// Lets the process before end, and opens the directory as the next one does.
    async fn reopen<T>(&self, port: impl FnOnce(&Local) -> T) -> T {
        let mut open = self.open.lock().await;
        if let Some(before) = open.take() {
            before.close().await;
        }
        let config = Config {
            reserve_bytes: 0,
            tail_bytes_max: self.tail_bytes_max,
            ..Config::new(self.path.path())
        };
        let local = scheduler_local::open(config).await.unwrap();
        port(open.insert(local))
    }
}

#[async_trait]
impl Home<dyn TaskLog> for Directory {
    async fn open(&self) -> Arc<dyn TaskLog> {
        self.reopen(Local::log).await
    }
}

#[async_trait]
impl Home<dyn TaskStore> for Directory {
    async fn open(&self) -> Arc<dyn TaskStore> {
        self.reopen(Local::store).await
    }
}

#[async_trait]
impl Home<dyn Catalog> for Directory {
    async fn open(&self) -> Arc<dyn Catalog> {
        self.reopen(Local::catalog).await
    }
}

async fn empty() -> Directory {
    with_tail_of(1 << 20)
}

/// Every fetch reads the database.
async fn empty_without_tail() -> Directory {
    with_tail_of(0)
}

fn with_tail_of(tail_bytes_max: usize) -> Directory {
    Directory {
        path: tempfile::tempdir().unwrap(),
        tail_bytes_max,
        open: Mutex::new(None),
    }
}

mod log {
    scheduler_core::task_log_conformance!(super::empty);
}

mod log_without_tail {
    scheduler_core::task_log_conformance!(super::empty_without_tail);
}

mod store {
    scheduler_core::task_store_conformance!(super::empty);
}

mod catalog {
    scheduler_core::catalog_conformance!(super::empty);
}
