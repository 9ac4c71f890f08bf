//! `TaskService` over the scheduler.

use std::sync::Arc;

use scheduler_core::{CancelMany, Error, ListTasks, Submit, Submitted, TaskId};
use tonic::{Request, Response, Status, Streaming};

use super::{Shared, deadline::wait_within, follow, submit};
use crate::{
    convert::{self, WAIT, duration_of},
    pb::{self, submit_result, task_service_server::TaskService},
    status::{to_rpc, to_status},
};

/// Answers `TaskService`.
#[derive(Debug, Clone)]
pub(super) struct TaskServer(pub(super) Arc<Shared>);

fn id(text: &str) -> Result<TaskId, Status> {
    // An id that is none is an id of no task: one answer for both tells nothing about ids.
    text.parse()
        .map_err(|_| to_status(&Error::not_found("task", text)))
}

pub(super) fn submit_of(
    task: Option<pb::NewTask>,
    traceparent: Option<&str>,
) -> Result<Submit, Error> {
    let mut submit = Submit::try_from(task.unwrap_or_default())?;
    if submit.traceparent.is_none() {
        submit.traceparent = traceparent.map(Into::into);
    }
    Ok(submit)
}

pub(super) fn result_of(answer: Result<Submitted, Error>) -> pb::SubmitResult {
    let result = match answer {
        Ok(submitted) => submit_result::Result::Submitted(submitted.into()),
        Err(err) => submit_result::Result::Error(to_rpc(&err)),
    };
    pb::SubmitResult {
        result: Some(result),
    }
}

fn traceparent<T>(request: &Request<T>) -> Option<String> {
    let value = request.metadata().get("traceparent")?;
    value.to_str().ok().map(ToOwned::to_owned)
}

#[tonic::async_trait]
impl TaskService for TaskServer {
    async fn submit(
        &self,
        request: Request<pb::SubmitRequest>,
    ) -> Result<Response<pb::SubmitResponse>, Status> {
        let traceparent = traceparent(&request);
        let (headers, _, request) = request.into_parts();
        let (application, pipeline) = (&request.application, &request.pipeline);
        let path = self.0.access.pipeline(&headers, application, pipeline)?;
        let submit =
            submit_of(request.task, traceparent.as_deref()).map_err(|err| to_status(&err))?;
        let submitted = self.0.scheduler.submit(&path, submit).await;
        let submitted = submitted.map_err(|err| to_status(&err))?;
        Ok(Response::new(submitted.into()))
    }

    async fn submit_batch(
        &self,
        request: Request<pb::SubmitBatchRequest>,
    ) -> Result<Response<pb::SubmitBatchResponse>, Status> {
        let traceparent = traceparent(&request);
        let (headers, _, request) = request.into_parts();
        let (application, pipeline) = (&request.application, &request.pipeline);
        let path = self.0.access.pipeline(&headers, application, pipeline)?;
        super::check_batch("tasks", request.tasks.len(), super::BATCH_MAX)?;
        let tasks = request.tasks.into_iter();
        let parts: Vec<_> = tasks
            .map(|task| submit_of(Some(task), traceparent.as_deref()))
            .collect();
        let good = parts.iter().filter_map(|part| part.as_ref().ok().cloned());
        let answers = self.0.scheduler.submit_batch(&path, good.collect()).await;
        let mut answers = answers.map_err(|err| to_status(&err))?.into_iter();
        let results = parts.into_iter().map(|part| {
            result_of(part.and_then(|_| answers.next().unwrap_or_else(super::unanswered)))
        });
        let results = results.collect();
        Ok(Response::new(pb::SubmitBatchResponse { results }))
    }

    type SubmitStreamStream = follow::Events<pb::SubmitResult>;

    async fn submit_stream(
        &self,
        request: Request<Streaming<pb::SubmitStreamRequest>>,
    ) -> Result<Response<Self::SubmitStreamStream>, Status> {
        let traceparent = traceparent(&request);
        let (headers, _, tasks) = request.into_parts();
        Ok(Response::new(submit::results(
            Arc::clone(&self.0),
            headers,
            tasks,
            traceparent,
        )))
    }

    async fn get(
        &self,
        request: Request<pb::GetTaskRequest>,
    ) -> Result<Response<pb::Task>, Status> {
        let tenant = self.0.access.tenant(request.metadata())?;
        let id = id(&request.get_ref().id)?;
        let task = self.0.scheduler.get(&tenant, id).await;
        Ok(Response::new(task.map_err(|err| to_status(&err))?.into()))
    }

    async fn wait(
        &self,
        request: Request<pb::WaitTaskRequest>,
    ) -> Result<Response<pb::Task>, Status> {
        let tenant = self.0.access.tenant(request.metadata())?;
        let id = id(&request.get_ref().id)?;
        let wait = match request.get_ref().wait {
            Some(wait) => duration_of("wait", wait).map_err(|fault| to_status(&fault.into()))?,
            None => WAIT,
        };
        let wait = wait_within(request.metadata(), wait);
        let task = tokio::select! {
            task = self.0.scheduler.wait(&tenant, id, wait) => task,
            () = self.0.closed() => self.0.scheduler.get(&tenant, id).await,
        };
        Ok(Response::new(task.map_err(|err| to_status(&err))?.into()))
    }

    type WatchStream = follow::Events<pb::WatchTaskResponse>;

    async fn watch(
        &self,
        request: Request<pb::WatchTaskRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let tenant = self.0.access.tenant(request.metadata())?;
        let id = id(&request.get_ref().id)?;
        let seen = follow::seen_of(&request.get_ref().seen);
        let watch = self.0.scheduler.watch_task(&tenant, id, seen).await;
        let watch = watch.map_err(|err| to_status(&err))?;
        Ok(Response::new(follow::task(watch, &self.0)))
    }

    async fn cancel(
        &self,
        request: Request<pb::CancelTaskRequest>,
    ) -> Result<Response<pb::Task>, Status> {
        let tenant = self.0.access.tenant(request.metadata())?;
        let id = id(&request.get_ref().id)?;
        let task = self.0.scheduler.cancel(&tenant, id).await;
        Ok(Response::new(task.map_err(|err| to_status(&err))?.into()))
    }

    async fn cancel_many(
        &self,
        request: Request<pb::CancelManyRequest>,
    ) -> Result<Response<pb::CancelManyResponse>, Status> {
        let (headers, _, request) = request.into_parts();
        let (application, pipeline) = (&request.application, &request.pipeline);
        let path = self.0.access.pipeline(&headers, application, pipeline)?;
        let wish = CancelMany::try_from(request).map_err(|fault| to_status(&fault.into()))?;
        let cancel = self.0.scheduler.cancel_many(&path, wish).await;
        let cancel = cancel.map_err(|err| to_status(&err))?;
        Ok(Response::new(pb::CancelManyResponse {
            id: cancel.id.to_string(),
            cancelled: cancel.progress.n_cancelled,
            over: cancel.progress.is_over,
        }))
    }

    async fn preview_cancel(
        &self,
        request: Request<pb::PreviewCancelRequest>,
    ) -> Result<Response<pb::PreviewCancelResponse>, Status> {
        let (headers, _, request) = request.into_parts();
        let (application, pipeline) = (&request.application, &request.pipeline);
        let path = self.0.access.pipeline(&headers, application, pipeline)?;
        let filter = convert::filter(request.filter);
        let filter = filter.map_err(|fault| to_status(&fault.within("filter").into()))?;
        let preview = self.0.scheduler.preview_cancel(&path, &filter).await;
        Ok(Response::new(
            preview.map_err(|err| to_status(&err))?.into(),
        ))
    }

    async fn redrive(
        &self,
        request: Request<pb::RedriveTaskRequest>,
    ) -> Result<Response<pb::Task>, Status> {
        let tenant = self.0.access.tenant(request.metadata())?;
        let id = id(&request.get_ref().id)?;
        let task = self.0.scheduler.redrive(&tenant, id).await;
        Ok(Response::new(task.map_err(|err| to_status(&err))?.into()))
    }

    async fn list(
        &self,
        request: Request<pb::ListTasksRequest>,
    ) -> Result<Response<pb::ListTasksResponse>, Status> {
        let (headers, _, request) = request.into_parts();
        let (application, pipeline) = (&request.application, &request.pipeline);
        let path = self.0.access.pipeline(&headers, application, pipeline)?;
        let query = ListTasks::try_from(request).map_err(|fault| to_status(&fault.into()))?;
        let page = self.0.scheduler.list(&path, query).await;
        Ok(Response::new(page.map_err(|err| to_status(&err))?.into()))
    }
}
