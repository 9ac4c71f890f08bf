//! `PipelineService` over the scheduler.

use std::{pin::Pin, sync::Arc};

use futures::{Stream, stream};
use scheduler_core::{Error, PipelineSpec, Redrive, RedriveMany, Revision};
use tonic::{Request, Response, Status};

use super::{Shared, follow};
use crate::{
    pb::{self, pipeline_service_server::PipelineService},
    status::to_status,
};

/// Answers `PipelineService`.
#[derive(Debug, Clone)]
pub(super) struct PipelineServer(pub(super) Arc<Shared>);

fn spec_of(spec: Option<pb::PipelineSpec>) -> Result<PipelineSpec, Status> {
    PipelineSpec::try_from(spec.unwrap_or_default()).map_err(|fault| to_status(&fault.into()))
}

type Progress = Pin<Box<dyn Stream<Item = Result<pb::RedriveProgress, Status>> + Send>>;

/// Steps until it is over; dropping the stream ends it where it is.
fn steps(redrive: Redrive) -> Progress {
    let step = async |redrive: Option<Redrive>| {
        let mut redrive = redrive?;
        match redrive.step().await {
            Ok(Some(so_far)) => {
                let progress = so_far.into();
                Some((Ok(progress), Some(redrive)))
            }
            Ok(None) => None,
            Err(err) => Some((Err(to_status(&err)), None)),
        }
    };
    Box::pin(stream::unfold(Some(redrive), step))
}

#[tonic::async_trait]
impl PipelineService for PipelineServer {
    async fn create(
        &self,
        request: Request<pb::CreatePipelineRequest>,
    ) -> Result<Response<pb::Pipeline>, Status> {
        let (headers, _, request) = request.into_parts();
        let (application, pipeline) = (&request.application, &request.pipeline);
        let path = self.0.access.pipeline(&headers, application, pipeline)?;
        let spec = spec_of(request.spec)?;
        let created = self.0.scheduler.create_pipeline(&path, spec).await;
        let created = created.map_err(|err| to_status(&err))?;
        Ok(Response::new((&*created).into()))
    }

    async fn get(
        &self,
        request: Request<pb::GetPipelineRequest>,
    ) -> Result<Response<pb::Pipeline>, Status> {
        let (headers, _, request) = request.into_parts();
        let (application, pipeline) = (&request.application, &request.pipeline);
        let path = self.0.access.pipeline(&headers, application, pipeline)?;
        let found = self.0.scheduler.pipeline(&path).await;
        let found = found.map_err(|err| to_status(&err))?;
        Ok(Response::new((&*found).into()))
    }

    async fn list(
        &self,
        request: Request<pb::ListPipelinesRequest>,
    ) -> Result<Response<pb::ListPipelinesResponse>, Status> {
        let (headers, _, request) = request.into_parts();
        let path = self.0.access.application(&headers, &request.application)?;
        let found = self.0.scheduler.pipelines(&path).await;
        let found = found.map_err(|err| to_status(&err))?;
        let pipelines = found.iter().map(|pipeline| (&**pipeline).into()).collect();
        Ok(Response::new(pb::ListPipelinesResponse { pipelines }))
    }

    async fn update(
        &self,
        request: Request<pb::UpdatePipelineRequest>,
    ) -> Result<Response<pb::Pipeline>, Status> {
        let (headers, _, request) = request.into_parts();
        let (application, pipeline) = (&request.application, &request.pipeline);
        let path = self.0.access.pipeline(&headers, application, pipeline)?;
        // Revisions start at 1, so 0 is an absent one.
        if request.revision == 0 {
            return Err(to_status(&Error::RevisionRequired));
        }
        let spec = spec_of(request.spec)?;
        let expected = Revision(request.revision);
        let updated = self
            .0
            .scheduler
            .update_pipeline(&path, expected, spec)
            .await;
        let updated = updated.map_err(|err| to_status(&err))?;
        Ok(Response::new((&*updated).into()))
    }

    async fn delete(
        &self,
        request: Request<pb::DeletePipelineRequest>,
    ) -> Result<Response<pb::DeletePipelineResponse>, Status> {
        let (headers, _, request) = request.into_parts();
        let (application, pipeline) = (&request.application, &request.pipeline);
        let path = self.0.access.pipeline(&headers, application, pipeline)?;
        let deleted = self.0.scheduler.delete_pipeline(&path).await;
        let deleted = deleted.map_err(|err| to_status(&err))?;
        Ok(Response::new(deleted.into()))
    }

    async fn pause(
        &self,
        request: Request<pb::PausePipelineRequest>,
    ) -> Result<Response<pb::Pipeline>, Status> {
        let (headers, _, request) = request.into_parts();
        let (application, pipeline) = (&request.application, &request.pipeline);
        let path = self.0.access.pipeline(&headers, application, pipeline)?;
        let (by, reason) = (&request.by, &request.reason);
        let paused = self.0.scheduler.pause(&path, by, reason).await;
        let paused = paused.map_err(|err| to_status(&err))?;
        Ok(Response::new((&*paused).into()))
    }

    async fn resume(
        &self,
        request: Request<pb::ResumePipelineRequest>,
    ) -> Result<Response<pb::Pipeline>, Status> {
        let (headers, _, request) = request.into_parts();
        let (application, pipeline) = (&request.application, &request.pipeline);
        let path = self.0.access.pipeline(&headers, application, pipeline)?;
        let resumed = self.0.scheduler.resume(&path).await;
        let resumed = resumed.map_err(|err| to_status(&err))?;
        Ok(Response::new((&*resumed).into()))
    }

    async fn drain(
        &self,
        request: Request<pb::DrainPipelineRequest>,
    ) -> Result<Response<pb::Pipeline>, Status> {
        let (headers, _, request) = request.into_parts();
        let (application, pipeline) = (&request.application, &request.pipeline);
        let path = self.0.access.pipeline(&headers, application, pipeline)?;
        let drained = self.0.scheduler.drain(&path).await;
        let drained = drained.map_err(|err| to_status(&err))?;
        Ok(Response::new((&*drained).into()))
    }

    type RedriveStream = Progress;

    async fn redrive(
        &self,
        request: Request<pb::RedrivePipelineRequest>,
    ) -> Result<Response<Progress>, Status> {
        let (headers, _, request) = request.into_parts();
        let (application, pipeline) = (&request.application, &request.pipeline);
        let path = self.0.access.pipeline(&headers, application, pipeline)?;
        let query = RedriveMany::try_from(request).map_err(|fault| to_status(&fault.into()))?;
        let redrive = self.0.scheduler.redrive_many(&path, query).await;
        let redrive = redrive.map_err(|err| to_status(&err))?;
        Ok(Response::new(steps(redrive)))
    }

    async fn stats(
        &self,
        request: Request<pb::PipelineStatsRequest>,
    ) -> Result<Response<pb::PipelineStats>, Status> {
        let (headers, _, request) = request.into_parts();
        let (application, pipeline) = (&request.application, &request.pipeline);
        let path = self.0.access.pipeline(&headers, application, pipeline)?;
        let stats = self.0.scheduler.stats(&path).await;
        let stats = stats.map_err(|err| to_status(&err))?;
        Ok(Response::new((&stats).into()))
    }

    async fn shards(
        &self,
        request: Request<pb::ListShardsRequest>,
    ) -> Result<Response<pb::ListShardsResponse>, Status> {
        let (headers, _, request) = request.into_parts();
        let (application, pipeline) = (&request.application, &request.pipeline);
        let path = self.0.access.pipeline(&headers, application, pipeline)?;
        let shards = self.0.scheduler.shards(&path).await;
        let shards = shards.map_err(|err| to_status(&err))?.into_iter();
        let shards = shards.map(Into::into).collect();
        Ok(Response::new(pb::ListShardsResponse { shards }))
    }

    async fn workers(
        &self,
        request: Request<pb::ListWorkersRequest>,
    ) -> Result<Response<pb::ListWorkersResponse>, Status> {
        let (headers, _, request) = request.into_parts();
        let (application, pipeline) = (&request.application, &request.pipeline);
        let path = self.0.access.pipeline(&headers, application, pipeline)?;
        let workers = self.0.scheduler.workers(&path).await;
        let workers = workers.map_err(|err| to_status(&err))?;
        Ok(Response::new(workers.into()))
    }

    type WatchStream = follow::Events<pb::PipelineEvent>;

    async fn watch(
        &self,
        request: Request<pb::WatchPipelineRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (headers, _, request) = request.into_parts();
        let (application, pipeline) = (&request.application, &request.pipeline);
        let path = self.0.access.pipeline(&headers, application, pipeline)?;
        let watch = self.0.scheduler.watch_pipeline(&path);
        let watch = watch.map_err(|err| to_status(&err))?;
        Ok(Response::new(follow::pipeline(watch, &self.0)))
    }
}
