//! The catalogue's port on tables: reads, the changes, and who waits for one.

mod change;
mod poll;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use scheduler_core::port::{
    Catalog, PortError,
    catalog::{CatalogVersion, Change, Changed, Snapshot},
};

use self::poll::Poller;
use crate::{
    call::{Call, Repeat},
    session::Pool,
};

/// The catalogue in TiDB.
#[derive(Debug)]
pub(crate) struct TidbCatalog {
    pool: Arc<Pool>,
    call_timeout: Duration,
    poller: Poller,
}

impl TidbCatalog {
    pub(crate) fn new(pool: Arc<Pool>, call_timeout: Duration, poll_interval: Duration) -> Self {
        let poller = Poller::start(Arc::clone(&pool), call_timeout, poll_interval);
        Self {
            pool,
            call_timeout,
            poller,
        }
    }
}

#[async_trait]
impl Catalog for TidbCatalog {
    async fn snapshot(&self) -> Result<Snapshot, PortError> {
        let call = Call::new("read the catalogue", Repeat::Safe, self.call_timeout);
        call.run(async {
            loop {
                match change::snapshot(&self.pool).await {
                    Ok(snapshot) => return Ok(snapshot),
                    Err(err) => call.again(err).await?,
                }
            }
        })
        .await
    }

    async fn change(&self, change: Change) -> Result<Changed, PortError> {
        // Not done twice: the second would find what the first has made, and say that it exists.
        let call = Call::new("change the catalogue", Repeat::Unsafe, self.call_timeout);
        let changed = call.run(async {
            loop {
                match change::change(&self.pool, &call, &change).await {
                    Ok(changed) => return Ok(changed),
                    Err(err) => call.again(err).await?,
                }
            }
        });
        let changed = changed.await?;
        if let Changed::Done(version) = changed {
            self.poller.note(version);
        }
        Ok(changed)
    }

    async fn changed(&self, seen: CatalogVersion) -> Result<CatalogVersion, PortError> {
        self.poller.changed(seen).await
    }
}
