//! `MemberService` over the member of this process.

use std::{sync::Arc, time::Duration};

use scheduler_core::{Error, Heartbeat, Held, Leased, Report, TaskId, owner::Owner, survey::Ask};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::{closed, deadline::wait_within};
use crate::{
    convert::{self, WAIT, duration_of},
    pb::{self, member_service_server::MemberService},
    status::{to_rpc, to_status},
};

/// Answers `MemberService`.
#[derive(Debug, Clone)]
pub(super) struct MemberServer {
    pub(super) member: Arc<dyn Owner>,
    /// Turns true when long waits must end.
    pub(super) closing: watch::Receiver<bool>,
}

fn id(text: &str) -> Result<TaskId, Status> {
    text.parse()
        .map_err(|_| to_status(&Error::not_found("task", text)))
}

fn refused<E: Into<Error>>(error: E) -> Status {
    to_status(&error.into())
}

#[tonic::async_trait]
impl MemberService for MemberServer {
    async fn submit_keyed(
        &self,
        request: Request<pb::SubmitKeyedRequest>,
    ) -> Result<Response<pb::SubmitKeyedResponse>, Status> {
        let request = request.into_inner();
        let shard = convert::shard(request.shard).map_err(refused)?;
        let key = request.idempotency_key.as_str().try_into();
        let task = convert::logged_task(request.task).map_err(refused)?;
        let submitted = self.member.submit(shard, key.map_err(refused)?, task).await;
        let (id, is_repeat) = submitted.map_err(refused)?;
        Ok(Response::new(pb::SubmitKeyedResponse {
            id: id.to_string(),
            is_repeat,
        }))
    }

    async fn cancel_owned(
        &self,
        request: Request<pb::CancelOwnedRequest>,
    ) -> Result<Response<pb::CancelOwnedResponse>, Status> {
        let cancelled = self.member.cancel(id(&request.get_ref().id)?).await;
        cancelled.map_err(refused)?;
        Ok(Response::new(pb::CancelOwnedResponse {}))
    }

    async fn cancel_many_owned(
        &self,
        request: Request<pb::CancelManyOwnedRequest>,
    ) -> Result<Response<pb::CancelManyOwnedResponse>, Status> {
        let (shard, wanted) = convert::owned_cancel(request.into_inner()).map_err(refused)?;
        let progress = self.member.cancel_many(shard, wanted).await;
        Ok(Response::new(progress.map_err(refused)?.into()))
    }

    async fn redrive_owned(
        &self,
        request: Request<pb::RedriveOwnedRequest>,
    ) -> Result<Response<pb::RedriveOwnedResponse>, Status> {
        let redriven = self.member.redrive(id(&request.get_ref().id)?).await;
        redriven.map_err(refused)?;
        Ok(Response::new(pb::RedriveOwnedResponse {}))
    }

    async fn see(
        &self,
        request: Request<pb::SeeRequest>,
    ) -> Result<Response<pb::SeeResponse>, Status> {
        let ids = request.get_ref().ids.iter().map(|text| id(text));
        let seen = self.member.see(ids.collect::<Result<_, _>>()?).await;
        let seen = seen.map_err(refused)?.into_iter().map(Into::into);
        Ok(Response::new(pb::SeeResponse {
            seen: seen.collect(),
        }))
    }

    async fn count(
        &self,
        request: Request<pb::CountRequest>,
    ) -> Result<Response<pb::CountResponse>, Status> {
        let (shards, listed) = convert::count(request.into_inner()).map_err(refused)?;
        let counts = self.member.count(shards, listed).await;
        Ok(Response::new(counts.map_err(refused)?.into()))
    }

    async fn lease_owned(
        &self,
        request: Request<pb::LeaseOwnedRequest>,
    ) -> Result<Response<pb::PollResponse>, Status> {
        let (headers, _, request) = request.into_parts();
        let (pipeline, mut poll) = convert::lease_owned(request).map_err(refused)?;
        poll.wait = wait_within(&headers, poll.wait);
        let leased = tokio::select! {
            leased = self.member.lease(pipeline, poll) => leased.map_err(refused)?,
            () = closed(&self.closing) => Leased::default(),
        };
        Ok(Response::new(leased.into()))
    }

    async fn report_owned(
        &self,
        request: Request<pb::ReportRequest>,
    ) -> Result<Response<pb::ReportResponse>, Status> {
        let reports = request.into_inner().reports.into_iter().map(|report| {
            let report = Report::try_from(report)?;
            let (id, token) = (report.id, report.token);
            Ok((Held { id, token }, report.outcome))
        });
        let reports = reports.collect::<Result<_, Error>>().map_err(refused)?;
        let answers = self.member.report(reports).await.into_iter();
        let results = answers.map(|answer| {
            answer.map_or_else(|err| to_rpc(&err), |()| tonic_types::Status::default())
        });
        Ok(Response::new(pb::ReportResponse {
            results: results.collect(),
        }))
    }

    async fn renew_owned(
        &self,
        request: Request<pb::HeartbeatRequest>,
    ) -> Result<Response<pb::HeartbeatResponse>, Status> {
        let beats = request.into_inner().heartbeats.into_iter().map(|beat| {
            let beat = Heartbeat::try_from(beat)?;
            let (id, token) = (beat.id, beat.token);
            Ok((Held { id, token }, beat.from_handler, beat.progress))
        });
        let beats = beats.collect::<Result<_, Error>>().map_err(refused)?;
        let answers = self.member.renew(beats).await;
        Ok(Response::new(pb::HeartbeatResponse {
            results: answers.into_iter().map(Into::into).collect(),
        }))
    }

    async fn await_ready(
        &self,
        request: Request<pb::AwaitReadyRequest>,
    ) -> Result<Response<pb::AwaitReadyResponse>, Status> {
        let (headers, _, request) = request.into_parts();
        let sought = request.sought.into_iter().map(TryInto::try_into);
        let sought = sought.collect::<Result<_, Error>>().map_err(refused)?;
        let wait = request.wait.map(|wait| duration_of("wait", wait));
        let wait = wait.transpose().map_err(refused)?.unwrap_or(WAIT);
        let news = tokio::select! {
            news = self.member.await_ready(sought, wait_within(&headers, wait)) => news,
            // Its shards are about to move.
            () = closed(&self.closing) => Err(Error::moved()),
        };
        Ok(Response::new(news.map_err(refused)?.into()))
    }

    async fn await_end(
        &self,
        request: Request<pb::AwaitEndRequest>,
    ) -> Result<Response<pb::AwaitEndResponse>, Status> {
        let id = id(&request.get_ref().id)?;
        let wait = request.get_ref().wait;
        let wait: Option<Duration> = wait
            .map(|wait| duration_of("wait", wait))
            .transpose()
            .map_err(refused)?;
        let wait = wait_within(request.metadata(), wait.unwrap_or(WAIT));
        tokio::select! {
            ended = self.member.await_end(id, wait) => ended.map_err(refused)?,
            () = closed(&self.closing) => {}
        }
        Ok(Response::new(pb::AwaitEndResponse {}))
    }

    async fn await_change(
        &self,
        request: Request<pb::AwaitChangeRequest>,
    ) -> Result<Response<pb::AwaitChangeResponse>, Status> {
        let (headers, _, request) = request.into_parts();
        let id = id(&request.id)?;
        let wait = request.wait.map(|wait| duration_of("wait", wait));
        let wait = wait.transpose().map_err(refused)?.unwrap_or(WAIT);
        let wait = wait_within(&headers, wait);
        tokio::select! {
            changed = self.member.await_change(id, request.known, wait) => changed.map_err(refused)?,
            () = closed(&self.closing) => {}
        }
        Ok(Response::new(pb::AwaitChangeResponse {}))
    }

    async fn survey(
        &self,
        request: Request<pb::SurveyRequest>,
    ) -> Result<Response<pb::SurveyResponse>, Status> {
        let ask = Ask::try_from(request.into_inner()).map_err(refused)?;
        let survey = self.member.survey(ask).await;
        Ok(Response::new(survey.map_err(refused)?.into()))
    }

    async fn describe(
        &self,
        _: Request<pb::DescribeRequest>,
    ) -> Result<Response<pb::DescribeResponse>, Status> {
        let state = self.member.describe().await.map_err(refused)?;
        let member = Some(state.into());
        Ok(Response::new(pb::DescribeResponse { member }))
    }
}
