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
        let mut results = Vec::new();
        if let Err(status) = tasks.chunk(&mut results).await {
            tasks.has_ended = true;
            results.push(Err(status));
        }
        Some((stream::iter(results), tasks))
    });
    Box::pin(futures::StreamExt::flatten(chunks))
}

impl Tasks {
    /// Submits what has come, but at least one task; nothing at the end. What came before a failure is submitted and
    /// answered, too.
    async fn chunk(
        &mut self,
        results: &mut Vec<Result<pb::SubmitResult, Status>>,
    ) -> Result<(), Status> {
        let mut parts: Vec<Result<Submit, Error>> = Vec::new();
        let mut n_bytes = 0;
        let mut failure = Ok(());
        while parts.len() < BATCH_MAX && n_bytes < CHUNK_BYTES_MAX {
            let next = if parts.is_empty() {
                tokio::select! {
                    next = self.tasks.message() => next,
                    // What has come is answered; the rest is for another server.
                    () = self.shared.closed() => Ok(None),
                }
            } else {
                match self.tasks.message().now_or_never() {
                    Some(next) => next,
                    None => break,
                }
            };
            let message = match next {
                Ok(Some(message)) => message,
                Ok(None) => {
                    self.has_ended = true;
                    break;
                }
                Err(status) => {
                    failure = Err(status);
                    break;
                }
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
            return failure;
        };
        let good = parts.iter().filter_map(|part| part.as_ref().ok().cloned());
        let answers = self
            .shared
            .scheduler
            .submit_batch(path, good.collect())
            .await;
        let mut answers = answers.map_err(|err| to_status(&err))?.into_iter();
        results.extend(parts.into_iter().map(|part| {
            let answer = part.and_then(|_| answers.next().unwrap_or_else(unanswered));
            Ok(result_of(answer))
        }));
        failure
    }
}
