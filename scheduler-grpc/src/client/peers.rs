//! Other members, over `MemberService`.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use scheduler_core::{
    Beat, CancelProgress, CancelRequest, Error, Heartbeat, Held, IdempotencyKey, Leased, Outcome,
    PipelineNumber, Poll, Report, ShardId, TaskId,
    action::{Counts, Seen},
    member::{AllNews, InMemory, Sought},
    owner::{Owner, Peers},
    port::log::NewTask,
    survey::{Ask, MemberState, Survey},
};
use tonic::{Request, transport::Channel};

use super::{ANSWER_BYTES_MAX, connect};
use crate::{
    convert::{self, duration},
    pb::{self, member_service_client::MemberServiceClient},
    status::{from_rpc, from_status},
};

/// How long a call may take, beside what it is asked to wait: shorter than a caller's patience, so that
/// it is told that the owner is away.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// So many connections are kept. Members come and go with other addresses.
const CONNECTIONS_MAX: usize = 1_024;

/// Reaches members by their addresses, over one connection each.
#[derive(Debug, Clone, Default)]
pub struct MemberClients {
    connected: Arc<Mutex<HashMap<String, Channel>>>,
}

impl MemberClients {
    /// Connected to nobody yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Peers for MemberClients {
    fn at(&self, address: &str) -> Result<Arc<dyn Owner>, Error> {
        let mut connected = self
            .connected
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = connected.get(address) {
            return Ok(Arc::new(MemberClient(channel.clone())));
        }
        let channel = connect(address).map_err(|err| Error::Internal(err.to_string()))?;
        if connected.len() >= CONNECTIONS_MAX {
            connected.clear();
        }
        connected.insert(address.to_owned(), channel.clone());
        Ok(Arc::new(MemberClient(channel)))
    }
}

/// One member.
#[derive(Debug)]
struct MemberClient(Channel);

macro_rules! call {
    ($self:ident . $method:ident ($request:expr, $timeout:expr)) => {{
        let mut client = MemberServiceClient::new($self.0.clone())
            .max_decoding_message_size(ANSWER_BYTES_MAX)
            .max_encoding_message_size(ANSWER_BYTES_MAX);
        let mut request = Request::new($request);
        request.set_timeout($timeout);
        let answer = client.$method(request).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| from_status(&status))
    }};
}

/// What a call that changes nothing, or changes the same however often, may be answered in place of an
/// unknown outcome: try again.
fn away(error: Error) -> Error {
    match error {
        Error::UnknownOutcome { .. } => Error::Unavailable {
            what: "the owner of the shard cannot be reached".to_owned(),
            retry_after: Duration::from_secs(1),
        },
        error => error,
    }
}

/// An answer for each part of a call; those that are missing, or all if it failed, are to be asked for again.
fn each<T>(n: usize, answers: Result<Vec<Result<T, Error>>, Error>) -> Vec<Result<T, Error>> {
    let (mut answers, missing) = match answers {
        Ok(answers) => (answers, Error::moved()),
        Err(error) => (Vec::new(), away(error)),
    };
    answers.truncate(n);
    while answers.len() < n {
        answers.push(Err(missing.clone()));
    }
    answers
}

#[tonic::async_trait]
impl Owner for MemberClient {
    async fn submit(
        &self,
        shard: ShardId,
        key: IdempotencyKey,
        task: NewTask,
    ) -> Result<(TaskId, bool), Error> {
        let request = pb::SubmitKeyedRequest {
            shard: Some(shard.into()),
            idempotency_key: key.to_string(),
            task: Some(task.into()),
        };
        let answer = call!(self.submit_keyed(request, CALL_TIMEOUT))?;
        Ok((answer.id.parse()?, answer.is_repeat))
    }

    async fn cancel(&self, id: TaskId) -> Result<(), Error> {
        let request = pb::CancelOwnedRequest { id: id.to_string() };
        call!(self.cancel_owned(request, CALL_TIMEOUT)).map_err(away)?;
        Ok(())
    }

    async fn cancel_many(
        &self,
        shard: ShardId,
        request: CancelRequest,
    ) -> Result<CancelProgress, Error> {
        let request = pb::CancelManyOwnedRequest {
            shard: Some(shard.into()),
            id: request.id.to_string(),
            filter: Some(request.filter.into()),
            below: request.below.0,
        };
        let answer = call!(self.cancel_many_owned(request, CALL_TIMEOUT)).map_err(away)?;
        Ok(CancelProgress {
            n_cancelled: answer.cancelled,
            is_over: answer.over,
        })
    }

    async fn redrive(&self, id: TaskId) -> Result<(), Error> {
        let request = pb::RedriveOwnedRequest { id: id.to_string() };
        call!(self.redrive_owned(request, CALL_TIMEOUT)).map_err(away)?;
        Ok(())
    }

    async fn see(&self, ids: Vec<TaskId>) -> Result<Vec<Seen>, Error> {
        let request = pb::SeeRequest {
            ids: ids.iter().map(ToString::to_string).collect(),
        };
        let answer = call!(self.see(request, CALL_TIMEOUT)).map_err(away)?;
        answer.seen.into_iter().map(TryInto::try_into).collect()
    }

    async fn count(&self, shards: Vec<ShardId>, listed: Option<InMemory>) -> Result<Counts, Error> {
        let request = pb::CountRequest {
            shards: shards.into_iter().map(Into::into).collect(),
            listing: listed.map(Into::into),
        };
        call!(self.count(request, CALL_TIMEOUT))
            .map_err(away)?
            .try_into()
    }

    async fn lease(&self, pipeline: PipelineNumber, poll: Poll) -> Result<Leased, Error> {
        let timeout = poll.wait + CALL_TIMEOUT;
        let request = pb::LeaseOwnedRequest {
            pipeline: pipeline.0,
            poll: Some(poll.into()),
        };
        let answer = call!(self.lease_owned(request, timeout)).map_err(away)?;
        convert::leased(answer)
    }

    async fn report(&self, reports: Vec<(Held, Outcome)>) -> Vec<Result<(), Error>> {
        let n = reports.len();
        let write = |(held, outcome): (Held, Outcome)| Report {
            id: held.id,
            token: held.token,
            outcome,
        };
        let reports = reports.into_iter().map(|report| write(report).into());
        let request = pb::ReportRequest {
            reports: reports.collect(),
        };
        let answer = call!(self.report_owned(request, CALL_TIMEOUT));
        each(
            n,
            answer.map(|answer| answer.results.iter().map(from_rpc).collect()),
        )
    }

    async fn renew(&self, beats: Vec<Beat>) -> Vec<Result<Duration, Error>> {
        let n = beats.len();
        let write = |(held, from_handler, progress): Beat| Heartbeat {
            id: held.id,
            token: held.token,
            from_handler,
            progress,
        };
        let heartbeats = beats.into_iter().map(|beat| write(beat).into());
        let request = pb::HeartbeatRequest {
            heartbeats: heartbeats.collect(),
        };
        let answer = call!(self.renew_owned(request, CALL_TIMEOUT));
        each(n, answer.map(convert::heartbeat_results))
    }

    async fn await_ready(&self, sought: Vec<Sought>, wait: Duration) -> Result<AllNews, Error> {
        let request = pb::AwaitReadyRequest {
            sought: sought.into_iter().map(Into::into).collect(),
            wait: Some(duration(wait)),
        };
        let answer = call!(self.await_ready(request, wait + CALL_TIMEOUT)).map_err(away)?;
        convert::all_news(answer)
    }

    async fn await_end(&self, id: TaskId, wait: Duration) -> Result<(), Error> {
        let request = pb::AwaitEndRequest {
            id: id.to_string(),
            wait: Some(duration(wait)),
        };
        call!(self.await_end(request, wait + CALL_TIMEOUT)).map_err(away)?;
        Ok(())
    }

    async fn await_change(&self, id: TaskId, known: u64, wait: Duration) -> Result<(), Error> {
        let request = pb::AwaitChangeRequest {
            id: id.to_string(),
            known,
            wait: Some(duration(wait)),
        };
        call!(self.await_change(request, wait + CALL_TIMEOUT)).map_err(away)?;
        Ok(())
    }

    async fn survey(&self, ask: Ask) -> Result<Survey, Error> {
        let request = pb::SurveyRequest::from(ask);
        call!(self.survey(request, CALL_TIMEOUT))
            .map_err(away)?
            .try_into()
    }

    async fn describe(&self) -> Result<MemberState, Error> {
        let answer = call!(self.describe(pb::DescribeRequest {}, CALL_TIMEOUT)).map_err(away)?;
        let member = answer.member.ok_or_else(|| convert::missing("member"))?;
        member.try_into()
    }
}
