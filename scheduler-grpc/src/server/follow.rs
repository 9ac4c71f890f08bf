//! Watches as streams: each is read no faster than its client takes it, and ends with the server.

use std::{pin::Pin, sync::Arc};

use futures::{Stream, stream};
use scheduler_core::{PipelineWatch, TaskWatch};
use tonic::Status;

use super::Shared;
use crate::{pb, status::to_status};

/// What a watch tells.
pub(super) type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What a client has seen of a task. A text that names nothing means that it has seen nothing.
pub(super) fn seen_of(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

pub(super) fn task(watch: TaskWatch, shared: &Arc<Shared>) -> Events<pb::WatchTaskResponse> {
    let shared = Arc::clone(shared);
    let next = async |(mut watch, shared): (TaskWatch, Arc<Shared>)| {
        let told = tokio::select! {
            told = watch.next() => told,
            () = shared.closed() => return None,
        };
        let told = told.map_err(|err| to_status(&err)).transpose()?;
        let told = told.map(|view| pb::WatchTaskResponse {
            seen: format!("{:016x}", view.digest()),
            task: Some(view.into()),
        });
        Some((told, (watch, shared)))
    };
    Box::pin(stream::unfold((watch, shared), next))
}

pub(super) fn pipeline(watch: PipelineWatch, shared: &Arc<Shared>) -> Events<pb::PipelineEvent> {
    let shared = Arc::clone(shared);
    let next = async |state: Option<(PipelineWatch, Arc<Shared>)>| {
        let (mut watch, shared) = state?;
        let told = tokio::select! {
            told = watch.next() => told,
            () = shared.closed() => return None,
        };
        match told {
            Ok(event) => Some((Ok(event?.into()), Some((watch, shared)))),
            // Nothing comes after it.
            Err(err) => Some((Err(to_status(&err)), None)),
        }
    };
    Box::pin(stream::unfold(Some((watch, shared)), next))
}
