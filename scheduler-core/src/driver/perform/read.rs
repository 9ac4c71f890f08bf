//! Reads from store and log, each on its own where one of many is damaged.

use std::pin::Pin;

use super::warn_port;
use crate::{
    TaskId,
    port::{
        FailureKind, PortError, TaskStore,
        log::Record,
        store::{DuePage, DueTasks, Found, KeyedPage, KeyedTasks, Lookup},
    },
    scheduler::Ports,
    shard::Loaded,
};

/// A call of the store that answers each thing asked.
type Read<Q, A> =
    for<'a> fn(
        &'a dyn TaskStore,
        &'a [Q],
    ) -> Pin<Box<dyn Future<Output = Result<Vec<A>, PortError>> + Send + 'a>>;

/// Reads together, and one by one where something among it is damaged, so that it holds up no other shard.
async fn each<Q, A: Clone>(
    store: &dyn TaskStore,
    asked: &[Q],
    doing: &'static str,
    read: Read<Q, A>,
) -> Vec<Result<A, FailureKind>> {
    let failed = |err: PortError| {
        warn_port(&err, doing);
        err.kind()
    };
    match read(store, asked).await.map_err(failed) {
        Ok(found) => found.into_iter().map(Ok).collect(),
        Err(FailureKind::Damaged) if asked.len() > 1 => {
            let mut found = Vec::with_capacity(asked.len());
            for one in asked {
                let answers = read(store, std::slice::from_ref(one)).await;
                let answer = answers.map_err(failed);
                found.push(answer.and_then(|mut one| one.pop().ok_or(FailureKind::Damaged)));
            }
            found
        }
        Err(kind) => vec![Err(kind); asked.len()],
    }
}

pub(super) async fn get_each(
    store: &dyn TaskStore,
    lookups: &[Lookup],
) -> Vec<Result<Option<Found>, FailureKind>> {
    each(store, lookups, "read from the store", |store, lookups| {
        store.get(lookups)
    })
    .await
}

/// `None` could not be read.
pub(super) async fn due_each(store: &dyn TaskStore, pages: &[DuePage]) -> Vec<Option<DueTasks>> {
    let found = each(store, pages, "read due tasks", |store, pages| {
        store.due(pages)
    })
    .await;
    found.into_iter().map(Result::ok).collect()
}

/// `None` could not be read.
pub(super) async fn keyed_each(
    store: &dyn TaskStore,
    pages: &[KeyedPage],
) -> Vec<Option<KeyedTasks>> {
    let found = each(
        store,
        pages,
        "read tasks with an ordering key",
        |store, pages| store.keyed(pages),
    )
    .await;
    found.into_iter().map(Result::ok).collect()
}

/// Reads tasks of which the store has no row.
pub(super) async fn read_logs(ports: &Ports, ids: &[TaskId]) -> Vec<Loaded> {
    let mut warned = None;
    let loaded = |read: Result<Option<Record>, PortError>| match read {
        Ok(Some(record)) => Loaded::Logged(Box::new(record)),
        Ok(None) => Loaded::Missing,
        Err(err) => {
            // One line says it for all that failed alike.
            if warned.replace(err.kind()) != Some(err.kind()) {
                warn_port(&err, "read a record");
            }
            Loaded::Failed
        }
    };
    ports
        .log
        .read_at(ids)
        .await
        .into_iter()
        .map(loaded)
        .collect()
}
