//! Submitting tasks as they come: those that have come are submitted together, and no more are read until their results
//! are taken.

use std::sync::Arc;

use futures::{FutureExt as _, stream};
use scheduler_core::{Error, PipelinePath, Submit};
use tonic::{Status, Streaming, metadata::MetadataMap};

use super::{
    BATCH_MAX, Shared,
    follow::Events,
    task::{result_of, submit_of},
    unanswered,
};
use crate::{pb, status::to_status};

/// The most bytes of data that are submitted together, but at least one task.
const CHUNK_BYTES_MAX: usize = 4 << 20;

struct Tasks {
    shared: Arc<Shared>,
    headers: MetadataMap,
    tasks: Streaming<pb::SubmitStreamRequest>,
    traceparent: Option<String>,
    /// From the first message on.
    path: Option<PipelinePath>,
    has_ended: bool,
}

pub(super) fn results(
    shared: Arc<Shared>,
    headers: MetadataMap,
    tasks: Streaming<pb::SubmitStreamRequest>,
    traceparent: Option<String>,
) -> Events<pb::SubmitResult> {
    let tasks = Tasks {
        shared,
        headers,
        tasks,
        traceparent,
        path: None,
        has_ended: false,
    };
    let chunks = stream::unfold(tasks, async |mut tasks| {
        if tasks.has_ended {
            return None;
        }
        let results = match tasks.chunk().await {
            Ok(results) => results.into_iter().map(Ok).collect(),
            Err(status) => {
                tasks.has_ended = true;
                vec![Err(status)]
            }
        };
        Some((stream::iter(results), tasks))
    });
    Box::pin(futures::StreamExt::flatten(chunks))
}

impl Tasks {
    /// Submits what has come, but at least one task; nothing at the end.
    async fn chunk(&mut self) -> Result<Vec<pb::SubmitResult>, Status> {
        let mut parts: Vec<Result<Submit, Error>> = Vec::new();
        let mut n_bytes = 0;
        while parts.len() < BATCH_MAX && n_bytes < CHUNK_BYTES_MAX {
            let next = if parts.is_empty() {
                tokio::select! {
                    next = self.tasks.message() => next?,
                    // What has come is answered; the rest is for another server.
                    () = self.shared.closed() => None,
                }
            } else {
                match self.tasks.message().now_or_never() {
                    Some(next) => next?,
                    None => break,
                }
            };
            let Some(message) = next else {
                self.has_ended = true;
                break;
            };
            if self.path.is_none() {
                let (application, pipeline) = (&message.application, &message.pipeline);
                let access = self.shared.access;
                let path = access.pipeline(&self.headers, application, pipeline)?;
                self.path = Some(path);
            }
            n_bytes += message.task.as_ref().map_or(0, |task| task.data.len());
            parts.push(submit_of(message.task, self.traceparent.as_deref()));
        }
        let Some(path) = self.path.as_ref().filter(|_| !parts.is_empty()) else {
            return Ok(Vec::new());
        };
        let good = parts.iter().filter_map(|part| part.as_ref().ok().cloned());
        let answers = self
            .shared
            .scheduler
            .submit_batch(path, good.collect())
            .await;
        let mut answers = answers.map_err(|err| to_status(&err))?.into_iter();
        let results = parts
            .into_iter()
            .map(|part| result_of(part.and_then(|_| answers.next().unwrap_or_else(unanswered))));
        Ok(results.collect())
    }
}
