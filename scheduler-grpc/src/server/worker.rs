//! `WorkerService` over the scheduler: the unary trio.

use std::sync::Arc;

use scheduler_core::{Heartbeat, Invalid, Leased, Poll, Report};
use tonic::{Request, Response, Status};

use super::{Shared, deadline::wait_within};
use crate::{
    pb::{self, worker_service_server::WorkerService},
    status::{to_rpc, to_status},
};

/// Answers `WorkerService`.
#[derive(Debug, Clone)]
pub(super) struct WorkerServer(pub(super) Arc<Shared>);

#[tonic::async_trait]
impl WorkerService for WorkerServer {
    async fn poll(
        &self,
        request: Request<pb::PollRequest>,
    ) -> Result<Response<pb::PollResponse>, Status> {
        let (headers, _, request) = request.into_parts();
        let (application, pipeline) = (&request.application, &request.pipeline);
        let path = self.0.access.pipeline(&headers, application, pipeline)?;
        super::check_batch("held", request.held.len(), super::HELD_MAX)?;
        let mut poll = Poll::try_from(request).map_err(|fault| to_status(&fault.into()))?;
        poll.wait = wait_within(&headers, poll.wait);
        // A call that is given up drops this future, and with it the lease future. So does a close.
        let leased = tokio::select! {
            leased = self.0.scheduler.lease(&path, poll) => leased,
            () = self.0.closed() => Ok(Leased::default()),
        };
        Ok(Response::new(leased.map_err(|err| to_status(&err))?.into()))
    }

    async fn report(
        &self,
        request: Request<pb::ReportRequest>,
    ) -> Result<Response<pb::ReportResponse>, Status> {
        let tenant = self.0.access.tenant(request.metadata())?;
        let reports = request.into_inner().reports;
        super::check_batch("reports", reports.len(), super::BATCH_MAX)?;
        let parts: Vec<Result<Report, Invalid>> =
            reports.into_iter().map(TryInto::try_into).collect();
        let good = parts.iter().filter_map(|part| part.as_ref().ok().cloned());
        let answers = self.0.scheduler.report_batch(&tenant, good.collect()).await;
        let mut answers = answers.into_iter();
        let results = parts.into_iter().map(|part| {
            let answer = match part {
                Ok(_) => answers.next().unwrap_or_else(super::unanswered),
                Err(fault) => Err(fault.into()),
            };
            answer.map_or_else(|err| to_rpc(&err), |()| tonic_types::Status::default())
        });
        let results = results.collect();
        Ok(Response::new(pb::ReportResponse { results }))
    }

    async fn heartbeat(
        &self,
        request: Request<pb::HeartbeatRequest>,
    ) -> Result<Response<pb::HeartbeatResponse>, Status> {
        let tenant = self.0.access.tenant(request.metadata())?;
        let heartbeats = request.into_inner().heartbeats;
        super::check_batch("heartbeats", heartbeats.len(), super::BATCH_MAX)?;
        let parts: Vec<Result<Heartbeat, Invalid>> =
            heartbeats.into_iter().map(TryInto::try_into).collect();
        let good = parts.iter().filter_map(|part| part.as_ref().ok().cloned());
        let answers = self.0.scheduler.heartbeat(&tenant, good.collect()).await;
        let mut answers = answers.into_iter();
        let results = parts.into_iter().map(|part| match part {
            Ok(_) => answers.next().unwrap_or_else(super::unanswered).into(),
            Err(fault) => Err(fault.into()).into(),
        });
        let results = results.collect();
        Ok(Response::new(pb::HeartbeatResponse { results }))
    }
}
