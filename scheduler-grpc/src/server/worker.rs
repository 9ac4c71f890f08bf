//! `WorkerService` over the scheduler: the unary trio, and what reports and heartbeats are on a stream as well.

use std::sync::Arc;

use scheduler_core::{Error, Heartbeat, Held, Invalid, Leased, Poll, Report, TenantName};
use tonic::{Request, Response, Status, Streaming};

use super::{Shared, deadline::wait_within, work};
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
        let request = request.into_inner();
        super::check_batch("reports", request.reports.len(), super::BATCH_MAX)?;
        let (answer, _) = report(&self.0, &tenant, request).await;
        Ok(Response::new(answer))
    }

    async fn heartbeat(
        &self,
        request: Request<pb::HeartbeatRequest>,
    ) -> Result<Response<pb::HeartbeatResponse>, Status> {
        let tenant = self.0.access.tenant(request.metadata())?;
        let request = request.into_inner();
        super::check_batch("heartbeats", request.heartbeats.len(), super::BATCH_MAX)?;
        let (answer, _) = heartbeat(&self.0, &tenant, request).await;
        Ok(Response::new(answer))
    }

    type WorkStream = work::Outbound;

    async fn work(
        &self,
        request: Request<Streaming<pb::WorkRequest>>,
    ) -> Result<Response<work::Outbound>, Status> {
        work::open(Arc::clone(&self.0), request).await
    }

    async fn discover(
        &self,
        request: Request<pb::DiscoverRequest>,
    ) -> Result<Response<pb::DiscoverResponse>, Status> {
        let (headers, _, request) = request.into_parts();
        let (application, pipeline) = (&request.application, &request.pipeline);
        let path = self.0.access.pipeline(&headers, application, pipeline)?;
        let owners = self.0.scheduler.discover(&path).await;
        Ok(Response::new(owners.map_err(|err| to_status(&err))?.into()))
    }
}

/// Whether a lease is over after an answer of this kind.
fn is_over(error: &Error) -> bool {
    matches!(
        error,
        Error::LeaseLost(_) | Error::NotFound { .. } | Error::Gone(_)
    )
}

/// Reports outcomes; also answers which leases are over then.
pub(super) async fn report(
    shared: &Shared,
    tenant: &TenantName,
    request: pb::ReportRequest,
) -> (pb::ReportResponse, Vec<Held>) {
    let reports = request.reports.into_iter().map(TryInto::try_into);
    let parts: Vec<Result<Report, Invalid>> = reports.collect();
    let good = parts.iter().filter_map(|part| part.as_ref().ok().cloned());
    let answers = shared.scheduler.report_batch(tenant, good.collect()).await;
    let mut answers = answers.into_iter();
    let mut over = Vec::new();
    let results = parts.into_iter().map(|part| {
        let answer = match part {
            Ok(Report { id, token, .. }) => {
                let answer = answers.next().unwrap_or_else(super::unanswered);
                if answer.as_ref().err().is_none_or(is_over) {
                    over.push(Held { id, token });
                }
                answer
            }
            Err(fault) => Err(fault.into()),
        };
        answer.map_or_else(|err| to_rpc(&err), |()| tonic_types::Status::default())
    });
    let results = results.collect();
    (pb::ReportResponse { results }, over)
}

/// Renews leases; also answers which of them are over.
pub(super) async fn heartbeat(
    shared: &Shared,
    tenant: &TenantName,
    request: pb::HeartbeatRequest,
) -> (pb::HeartbeatResponse, Vec<Held>) {
    let heartbeats = request.heartbeats.into_iter().map(TryInto::try_into);
    let parts: Vec<Result<Heartbeat, Invalid>> = heartbeats.collect();
    let good = parts.iter().filter_map(|part| part.as_ref().ok().cloned());
    let answers = shared.scheduler.heartbeat(tenant, good.collect()).await;
    let mut answers = answers.into_iter();
    let mut over = Vec::new();
    let results = parts.into_iter().map(|part| match part {
        Ok(Heartbeat { id, token, .. }) => {
            let answer = answers.next().unwrap_or_else(super::unanswered);
            if answer.as_ref().is_err_and(is_over) {
                over.push(Held { id, token });
            }
            answer.into()
        }
        Err(fault) => Err(fault.into()).into(),
    });
    let results = results.collect();
    (pb::HeartbeatResponse { results }, over)
}
