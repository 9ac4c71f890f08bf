//! Reads from store and log, each on its own where one of many is damaged.

use super::warn_port;
use crate::{
    Offset, ShardId,
    port::{
        FailureKind, PortError, TaskStore,
        store::{DuePage, DueTasks, Found, KeyedPage, KeyedTasks, Lookup},
    },
    scheduler::Ports,
    shard::Loaded,
};

/// Reads together, and one by one where something among it is damaged, so that it holds up no other shard.
pub(super) async fn get_each(
    store: &dyn TaskStore,
    lookups: &[Lookup],
) -> Vec<Result<Option<Found>, FailureKind>> {
    let failed = |err: PortError| {
        warn_port(&err, "read from the store");
        err.kind()
    };
    match store.get(lookups).await.map_err(failed) {
        Ok(found) => found.into_iter().map(Ok).collect(),
        Err(FailureKind::Damaged) if lookups.len() > 1 => {
            let mut found = Vec::with_capacity(lookups.len());
            for lookup in lookups {
                let one = store.get(std::slice::from_ref(lookup)).await;
                found.push(one.map_err(failed).map(|mut one| one.pop().flatten()));
            }
            found
        }
        Err(kind) => vec![Err(kind); lookups.len()],
    }
}

/// The same for pages of due tasks; `None` could not be read.
pub(super) async fn due_each(store: &dyn TaskStore, pages: &[DuePage]) -> Vec<Option<DueTasks>> {
    let failed = |err: PortError| {
        warn_port(&err, "read due tasks");
        err.kind()
    };
    match store.due(pages).await.map_err(failed) {
        Ok(due) => due.into_iter().map(Some).collect(),
        Err(FailureKind::Damaged) if pages.len() > 1 => {
            let mut due = Vec::with_capacity(pages.len());
            for page in pages {
                let one = store.due(std::slice::from_ref(page)).await;
                due.push(one.map_err(failed).ok().and_then(|mut one| one.pop()));
            }
            due
        }
        Err(_) => vec![None; pages.len()],
    }
}

pub(super) async fn keyed_each(
    store: &dyn TaskStore,
    pages: &[KeyedPage],
) -> Vec<Option<KeyedTasks>> {
    let failed = |err: PortError| {
        warn_port(&err, "read tasks with an ordering key");
        err.kind()
    };
    match store.keyed(pages).await.map_err(failed) {
        Ok(found) => found.into_iter().map(Some).collect(),
        Err(FailureKind::Damaged) if pages.len() > 1 => {
            let mut found = Vec::with_capacity(pages.len());
            for page in pages {
                let one = store.keyed(std::slice::from_ref(page)).await;
                found.push(one.map_err(failed).ok().and_then(|mut one| one.pop()));
            }
            found
        }
        Err(_) => vec![None; pages.len()],
    }
}

pub(super) async fn read_log(ports: &Ports, id: ShardId, offset: Offset) -> Loaded {
    match ports.log.read_at(id, offset).await {
        Ok(Some(record)) => Loaded::Logged(Box::new(record)),
        Ok(None) => Loaded::Missing,
        Err(err) => {
            warn_port(&err, "read a record");
            Loaded::Failed
        }
    }
}
