//! Calls `workload.v1` with the core's types: the scheduler's handle over the wire.

mod channel;
mod peers;
mod work;

use std::time::Duration;

use prost_types::Timestamp as WireTime;
use scheduler_core::{
    ApplicationPath, BulkCancel, CancelFilter, CancelMany, CancelPreview, Deleted, Error,
    Heartbeat, Leased, ListTasks, Pipeline, PipelinePath, PipelineSpec, Poll, RedriveMany,
    Redriving, Report, Revision, Submit, Submitted, TaskId, TaskPage, TaskView, TenantName,
    port::catalog::Application,
};
use tonic::{
    Request,
    metadata::{Ascii, MetadataValue},
    transport::Channel,
};

pub use self::{
    channel::{ConnectError, connect},
    peers::MemberClients,
    work::{Work, WorkEvent, WorkEvents, WorkSender},
};
use crate::{
    TENANT_HEADER,
    convert::{self, missing},
    pb::{
        self, application_service_client::ApplicationServiceClient,
        pipeline_service_client::PipelineServiceClient, task_service_client::TaskServiceClient,
        worker_service_client::WorkerServiceClient,
    },
    status::{from_rpc, from_status},
};

/// The largest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// A call's deadline, on top of what it is asked to wait.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// A redrive's deadline: it ends when its tasks have run.
const REDRIVE_TIMEOUT: Duration = Duration::from_secs(86_400);

/// A tenant's connection to a scheduler; clones share it.
///
/// The calls are those of [`Scheduler`](scheduler_core::Scheduler) and answer the same errors. A call
/// that broke in the middle answers [`Error::UnknownOutcome`].
///
/// ```no_run
/// # async fn submit() -> Result<(), Box<dyn std::error::Error>> {
/// use scheduler_core::Submit;
/// use scheduler_grpc::client::{Client, connect};
///
/// let path = scheduler_core::path("default", "shop", "mail")?;
/// let client = Client::new(connect("http://127.0.0.1:7070")?, path.tenant.clone());
/// let submitted = client.submit(&path, Submit::new(r#"{"to":"you"}"#)).await?;
/// println!("{}", submitted.id);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
    tenant: TenantName,
}

macro_rules! call {
    ($self:ident . $client:ident . $method:ident ($request:expr, $timeout:expr)) => {{
        let mut client = $client::new($self.channel.clone())
            .max_decoding_message_size(ANSWER_BYTES_MAX)
            .max_encoding_message_size(ANSWER_BYTES_MAX);
        let answer = client.$method($self.request($request, $timeout)).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| from_status(&status))
    }};
}

impl Client {
    /// Calls as a tenant over a channel from [`connect`].
    #[must_use]
    pub fn new(channel: Channel, tenant: TenantName) -> Self {
        Self { channel, tenant }
    }

    /// The tenant that calls.
    #[must_use]
    pub fn tenant(&self) -> &TenantName {
        &self.tenant
    }

    fn request<T>(&self, message: T, timeout: Duration) -> Request<T> {
        let mut request = self.endless(message);
        request.set_timeout(timeout);
        request
    }

    /// A request without a deadline.
    fn endless<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        // Every name is a valid header: that is what names are for.
        if let Ok(tenant) = MetadataValue::<Ascii>::try_from(self.tenant.as_str()) {
            request.metadata_mut().insert(TENANT_HEADER, tenant);
        }
        request
    }

    /// Creates an application.
    ///
    /// # Errors
    /// As the server says, like every call of this client.
    pub async fn create_application(&self, path: &ApplicationPath) -> Result<Application, Error> {
        let application = path.application.to_string();
        let request = pb::CreateApplicationRequest { application };
        let answer = call!(self.ApplicationServiceClient.create(request, CALL_TIMEOUT))?;
        convert::application(&self.tenant, answer)
    }

    /// Reads an application.
    ///
    /// # Errors
    /// As the server says.
    pub async fn application(&self, path: &ApplicationPath) -> Result<Application, Error> {
        let application = path.application.to_string();
        let request = pb::GetApplicationRequest { application };
        let answer = call!(self.ApplicationServiceClient.get(request, CALL_TIMEOUT))?;
        convert::application(&self.tenant, answer)
    }

    /// Lists the tenant's applications, by name.
    ///
    /// # Errors
    /// As the server says.
    pub async fn applications(&self) -> Result<Vec<Application>, Error> {
        let request = pb::ListApplicationsRequest {};
        let answer = call!(self.ApplicationServiceClient.list(request, CALL_TIMEOUT))?;
        let found = answer.applications.into_iter();
        found
            .map(|application| convert::application(&self.tenant, application))
            .collect()
    }

    /// Deletes an application without pipelines.
    ///
    /// # Errors
    /// As the server says.
    pub async fn delete_application(&self, path: &ApplicationPath) -> Result<(), Error> {
        let application = path.application.to_string();
        let request = pb::DeleteApplicationRequest { application };
        call!(self.ApplicationServiceClient.delete(request, CALL_TIMEOUT))
    }

    /// Creates a pipeline, and its application if that is missing.
    ///
    /// # Errors
    /// As the server says.
    pub async fn create_pipeline(
        &self,
        path: &PipelinePath,
        spec: &PipelineSpec,
    ) -> Result<Pipeline, Error> {
        let request = pb::CreatePipelineRequest {
            application: path.application.to_string(),
            pipeline: path.pipeline.to_string(),
            spec: Some(spec.into()),
        };
        let answer = call!(self.PipelineServiceClient.create(request, CALL_TIMEOUT))?;
        convert::pipeline(&self.tenant, answer)
    }

    /// Reads a pipeline.
    ///
    /// # Errors
    /// As the server says.
    pub async fn pipeline(&self, path: &PipelinePath) -> Result<Pipeline, Error> {
        let request = pb::GetPipelineRequest {
            application: path.application.to_string(),
            pipeline: path.pipeline.to_string(),
        };
        let answer = call!(self.PipelineServiceClient.get(request, CALL_TIMEOUT))?;
        convert::pipeline(&self.tenant, answer)
    }

    /// Lists the pipelines of an application, by name.
    ///
    /// # Errors
    /// As the server says.
    pub async fn pipelines(&self, path: &ApplicationPath) -> Result<Vec<Pipeline>, Error> {
        let application = path.application.to_string();
        let request = pb::ListPipelinesRequest { application };
        let answer = call!(self.PipelineServiceClient.list(request, CALL_TIMEOUT))?;
        let found = answer.pipelines.into_iter();
        found
            .map(|pipeline| convert::pipeline(&self.tenant, pipeline))
            .collect()
    }

    /// Changes a pipeline.
    ///
    /// # Errors
    /// As the server says.
    pub async fn update_pipeline(
        &self,
        path: &PipelinePath,
        expected: Revision,
        spec: &PipelineSpec,
    ) -> Result<Pipeline, Error> {
        let request = pb::UpdatePipelineRequest {
            application: path.application.to_string(),
            pipeline: path.pipeline.to_string(),
            revision: expected.0,
            spec: Some(spec.into()),
        };
        let answer = call!(self.PipelineServiceClient.update(request, CALL_TIMEOUT))?;
        convert::pipeline(&self.tenant, answer)
    }

    /// Deletes a pipeline whose tasks have all ended, with their results.
    ///
    /// # Errors
    /// As the server says.
    pub async fn delete_pipeline(&self, path: &PipelinePath) -> Result<Deleted, Error> {
        let request = pb::DeletePipelineRequest {
            application: path.application.to_string(),
            pipeline: path.pipeline.to_string(),
        };
        let answer = call!(self.PipelineServiceClient.delete(request, CALL_TIMEOUT))?;
        Ok(convert::deleted(&answer))
    }

    /// Redrives the dead letters of a pipeline, a few first, and tells after every step how far it is. Dropping it ends
    /// it where it is.
    ///
    /// # Errors
    /// As the server says. It may have gone some way then; another call goes on.
    pub async fn redrive_many(
        &self,
        path: &PipelinePath,
        query: RedriveMany,
        mut on_step: impl FnMut(&Redriving),
    ) -> Result<Redriving, Error> {
        let request = convert::redrive_request(path, query);
        let mut steps = call!(self.PipelineServiceClient.redrive(request, REDRIVE_TIMEOUT))?;
        let mut so_far = Redriving::default();
        while let Some(step) = steps
            .message()
            .await
            .map_err(|status| from_status(&status))?
        {
            so_far = convert::redriving(step)?;
            on_step(&so_far);
        }
        Ok(so_far)
    }

    /// Submits a task.
    ///
    /// # Errors
    /// As the server says.
    pub async fn submit(&self, path: &PipelinePath, submit: Submit) -> Result<Submitted, Error> {
        let request = pb::SubmitRequest {
            application: path.application.to_string(),
            pipeline: path.pipeline.to_string(),
            task: Some(submit.into()),
        };
        convert::submitted(call!(self.TaskServiceClient.submit(request, CALL_TIMEOUT))?)
    }

    /// Submits many tasks of one pipeline; one answer each, in order.
    ///
    /// # Errors
    /// As the server says of the whole batch.
    pub async fn submit_batch(
        &self,
        path: &PipelinePath,
        submits: Vec<Submit>,
    ) -> Result<Vec<Result<Submitted, Error>>, Error> {
        use pb::submit_result::Result as Wire;
        let request = pb::SubmitBatchRequest {
            application: path.application.to_string(),
            pipeline: path.pipeline.to_string(),
            tasks: submits.into_iter().map(Into::into).collect(),
        };
        let answer = call!(self.TaskServiceClient.submit_batch(request, CALL_TIMEOUT))?;
        let read = |result: pb::SubmitResult| match result.result {
            Some(Wire::Submitted(submitted)) => convert::submitted(submitted),
            Some(Wire::Error(error)) => Err(from_rpc(&error)
                .err()
                .unwrap_or_else(|| missing("submitted"))),
            None => Err(missing("result")),
        };
        Ok(answer.results.into_iter().map(read).collect())
    }

    /// Reads a task.
    ///
    /// # Errors
    /// As the server says.
    pub async fn get(&self, id: TaskId) -> Result<TaskView, Error> {
        let request = pb::GetTaskRequest { id: id.to_string() };
        let answer = call!(self.TaskServiceClient.get(request, CALL_TIMEOUT))?;
        convert::task_view(&self.tenant, answer)
    }

    /// Waits until a task ends, or as long as given, and reads it.
    ///
    /// # Errors
    /// As the server says.
    pub async fn wait(&self, id: TaskId, wait: Duration) -> Result<TaskView, Error> {
        let request = pb::WaitTaskRequest {
            id: id.to_string(),
            wait: Some(convert::duration(wait)),
        };
        let answer = call!(self.TaskServiceClient.wait(request, wait + CALL_TIMEOUT))?;
        convert::task_view(&self.tenant, answer)
    }

    /// Cancels a task; answered when that is durable.
    ///
    /// # Errors
    /// As the server says.
    pub async fn cancel(&self, id: TaskId) -> Result<TaskView, Error> {
        let request = pb::CancelTaskRequest { id: id.to_string() };
        let answer = call!(self.TaskServiceClient.cancel(request, CALL_TIMEOUT))?;
        convert::task_view(&self.tenant, answer)
    }

    /// Cancels all tasks of a pipeline that fit a filter and were accepted before the call; answered when that is durable.
    ///
    /// # Errors
    /// As the server says. The same call with the same id goes on.
    pub async fn cancel_many(
        &self,
        path: &PipelinePath,
        wish: CancelMany,
    ) -> Result<BulkCancel, Error> {
        let request = convert::cancel_request(path, wish);
        let answer = call!(self.TaskServiceClient.cancel_many(request, CALL_TIMEOUT))?;
        convert::bulk_cancel(answer)
    }

    /// Counts what a bulk cancel would be about, and changes nothing.
    ///
    /// # Errors
    /// As the server says.
    pub async fn preview_cancel(
        &self,
        path: &PipelinePath,
        filter: CancelFilter,
    ) -> Result<CancelPreview, Error> {
        let request = pb::PreviewCancelRequest {
            application: path.application.to_string(),
            pipeline: path.pipeline.to_string(),
            filter: Some(filter.into()),
        };
        let answer = call!(self.TaskServiceClient.preview_cancel(request, CALL_TIMEOUT))?;
        convert::cancel_preview(answer)
    }

    /// Lists tasks.
    ///
    /// # Errors
    /// As the server says.
    pub async fn list(&self, path: &PipelinePath, query: ListTasks) -> Result<TaskPage, Error> {
        let states = query.states.into_iter();
        let since: Option<WireTime> = query.since.map(convert::timestamp);
        let request = pb::ListTasksRequest {
            application: path.application.to_string(),
            pipeline: path.pipeline.to_string(),
            states: states
                .map(|state| pb::TaskState::from(state).into())
                .collect(),
            since,
            limit: u32::try_from(query.limit).unwrap_or(u32::MAX),
            page_token: query.page_token.unwrap_or_default(),
        };
        let answer = call!(self.TaskServiceClient.list(request, CALL_TIMEOUT))?;
        convert::task_page(&self.tenant, answer)
    }

    /// Leases tasks to a worker. Dropping the future gives the poll up.
    ///
    /// # Errors
    /// As the server says.
    pub async fn lease(&self, path: &PipelinePath, poll: Poll) -> Result<Leased, Error> {
        let timeout = poll.wait + CALL_TIMEOUT;
        let request = pb::PollRequest::from((path, poll));
        convert::leased(call!(self.WorkerServiceClient.poll(request, timeout))?)
    }

    /// Reports many outcomes; one answer each, in order.
    ///
    /// # Errors
    /// As the server says of the whole batch.
    pub async fn report_batch(
        &self,
        reports: Vec<Report>,
    ) -> Result<Vec<Result<(), Error>>, Error> {
        let reports = reports.into_iter().map(Into::into).collect();
        let request = pb::ReportRequest { reports };
        let answer = call!(self.WorkerServiceClient.report(request, CALL_TIMEOUT))?;
        Ok(answer.results.iter().map(from_rpc).collect())
    }

    /// Renews leases; each answer is how long the lease lasts from now, or why not.
    ///
    /// # Errors
    /// As the server says of the whole batch.
    pub async fn heartbeat(
        &self,
        heartbeats: Vec<Heartbeat>,
    ) -> Result<Vec<Result<Duration, Error>>, Error> {
        let heartbeats = heartbeats.into_iter().map(Into::into).collect();
        let request = pb::HeartbeatRequest { heartbeats };
        let answer = call!(self.WorkerServiceClient.heartbeat(request, CALL_TIMEOUT))?;
        Ok(convert::heartbeat_results(answer))
    }
}
