//! The catalogue's port: all of it is in memory for readers, and every change is a row or two.

mod row;
mod state;

use std::sync::Arc;

use async_trait::async_trait;
use scheduler_core::port::{
    Catalog, FailureKind, PortError,
    catalog::{CatalogVersion, Change, Changed, Snapshot},
};
use tokio::sync::watch;

pub(crate) use self::state::CatalogState;
use crate::writer::{Op, Outcome, Writer};

/// The catalogue in a data directory.
#[derive(Debug)]
pub(crate) struct LocalCatalog {
    writer: Writer,
    snapshot: watch::Receiver<Arc<Snapshot>>,
}

impl LocalCatalog {
    pub(crate) fn new(writer: Writer, snapshot: watch::Receiver<Arc<Snapshot>>) -> Self {
        Self { writer, snapshot }
    }
}

#[async_trait]
impl Catalog for LocalCatalog {
    async fn snapshot(&self) -> Result<Snapshot, PortError> {
        let snapshot = Arc::clone(&self.snapshot.borrow());
        Ok(Snapshot::clone(&snapshot))
    }

    async fn change(&self, change: Change) -> Result<Changed, PortError> {
        let op = Op::Change(Box::new(change));
        match self.writer.call("change the catalogue", op, 0).await? {
            Outcome::Changed(changed) => Ok(changed),
            other => unreachable!("a change was answered with {other:?}"),
        }
    }

    async fn changed(&self, seen: CatalogVersion) -> Result<CatalogVersion, PortError> {
        let mut snapshot = self.snapshot.clone();
        let newer = snapshot.wait_for(|snapshot| snapshot.version > seen).await;
        let closed = |_| {
            PortError::new(
                "wait for a change of the catalogue",
                FailureKind::Unavailable,
            )
            .caused_by("it is closed")
        };
        newer.map(|snapshot| snapshot.version).map_err(closed)
    }
}
