//! A worker's stream, `WorkerService.Work`.

use std::time::Duration;

use scheduler_core::{
    Error, Heartbeat, Held, LeaseLost, Leased, LeasedTask, PipelinePath, Poll, Report, ShardOwners,
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::{ANSWER_BYTES_MAX, Client};
use crate::{
    convert::{self, duration_of, missing},
    pb::{
        self, work_request::Message as Said, work_response::Message as Answer,
        worker_service_client::WorkerServiceClient,
    },
    status::{from_rpc, from_status},
};

/// What waits to be sent on a stream.
const MESSAGES_MAX: usize = 16;
/// How long a server may take to welcome a worker.
const OPEN_WAIT: Duration = Duration::from_secs(10);
/// How long it may take to learn who owns what: what is at stake is speed only, and meanwhile an offer may run out.
const DISCOVER_WAIT: Duration = Duration::from_secs(1);
/// How much longer than promised a server may be silent.
const SILENCE_MARGIN: Duration = Duration::from_secs(30);

/// A worker's open stream. Who drops the sender leaves: the server answers what it was asked, gives to others what the
/// worker has not said that it has seen, and ends the stream.
#[derive(Debug)]
pub struct Work {
    /// What the worker says.
    pub sender: WorkSender,
    /// What the server says.
    pub events: WorkEvents,
}

/// The worker's side of a stream.
#[derive(Debug)]
pub struct WorkSender(mpsc::Sender<pb::WorkRequest>);

/// The server's side of a stream.
#[derive(Debug)]
pub struct WorkEvents {
    answers: Streaming<pb::WorkResponse>,
    /// The server is silent for no longer than this.
    silence: Duration,
}

/// What the server says on a stream.
#[derive(Debug)]
pub enum WorkEvent {
    /// A batch of tasks, and its number.
    Tasks(u64, Vec<LeasedTask>),
    /// Held leases that the worker must drop.
    Lost(Vec<(Held, LeaseLost)>),
    /// What became of the report with this number: one answer each, in order.
    Reported(u64, Vec<Result<(), Error>>),
    /// What became of the heartbeat with this number: one answer each, in order.
    Renewed(u64, Vec<Result<Duration, Error>>),
    /// There is nothing to say.
    Idle,
    /// No more tasks come: the worker opens another stream, and leaves this one.
    GoingAway,
}

impl Client {
    /// Asks which members own the shards of a pipeline.
    ///
    /// # Errors
    /// As the server says.
    pub async fn discover(&self, path: &PipelinePath) -> Result<ShardOwners, Error> {
        let request = pb::DiscoverRequest {
            application: path.application.to_string(),
            pipeline: path.pipeline.to_string(),
        };
        let mut client = WorkerServiceClient::new(self.channel.clone());
        let answer = client.discover(self.request(request, DISCOVER_WAIT)).await;
        let answer = answer.map_err(|status| from_status(&status))?;
        Ok(answer.into_inner().into())
    }

    /// Opens a stream for a worker, which it introduces by its first poll; only that one's `wait` has no meaning. `None`,
    /// if the server is older than streams.
    ///
    /// # Errors
    /// As the server says.
    pub async fn work(&self, path: &PipelinePath, hello: &Poll) -> Result<Option<Work>, Error> {
        let (send, requests) = mpsc::channel(MESSAGES_MAX);
        let sender = WorkSender(send);
        sender.say(0, Said::Hello((path, hello).into())).await?;
        let mut client = WorkerServiceClient::new(self.channel.clone())
            .max_decoding_message_size(ANSWER_BYTES_MAX)
            .max_encoding_message_size(ANSWER_BYTES_MAX);
        let opened = async {
            let request = self.endless(ReceiverStream::new(requests));
            let mut answers = client.work(request).await?.into_inner();
            Ok::<_, Status>((answers.message().await?, answers))
        };
        let (first, answers) = match timeout(OPEN_WAIT, opened).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(status)) if status.code() == Code::Unimplemented => {
                return Ok(None);
            }
            Ok(Err(status)) => return Err(failure(&status)),
            Err(_) => return Err(broken()),
        };
        let Some(Answer::Welcome(welcome)) = first.and_then(|first| first.message) else {
            return Err(missing("welcome"));
        };
        let silence = welcome.silence.ok_or_else(|| missing("silence"))?;
        let silence = duration_of("silence", silence)?;
        Ok(Some(Work {
            sender,
            events: WorkEvents { answers, silence },
        }))
    }
}

/// The stream is no more. What was said on it may have been heard.
fn broken() -> Error {
    Error::Unavailable {
        what: "the worker's stream broke".into(),
        retry_after: Duration::ZERO,
    }
}

/// Why a stream ended. Each answer that is missing may be asked for again.
fn failure(status: &Status) -> Error {
    match from_status(status) {
        Error::UnknownOutcome { .. } => broken(),
        error => error,
    }
}

impl WorkSender {
    /// Says which batch was seen last, and how many slots and bytes the worker can take now, in place of what it said
    /// before.
    ///
    /// # Errors
    /// `Unavailable`, if the stream broke, here and below.
    pub async fn credit(&self, seen: u64, slots: usize, bytes: usize) -> Result<(), Error> {
        let credit = pb::WorkCredit {
            seen,
            tasks: u32::try_from(slots).unwrap_or(u32::MAX),
            bytes: u64::try_from(bytes).unwrap_or(u64::MAX),
        };
        self.say(0, Said::Credit(credit)).await
    }

    /// Reports outcomes under a number of the worker's.
    ///
    /// # Errors
    /// As [`credit`](Self::credit).
    pub async fn report(&self, number: u64, reports: Vec<Report>) -> Result<(), Error> {
        let reports = reports.into_iter().map(Into::into).collect();
        let request = pb::ReportRequest { reports };
        self.say(number, Said::Report(request)).await
    }

    /// Renews leases under a number of the worker's.
    ///
    /// # Errors
    /// As [`credit`](Self::credit).
    pub async fn heartbeat(&self, number: u64, heartbeats: Vec<Heartbeat>) -> Result<(), Error> {
        let heartbeats = heartbeats.into_iter().map(Into::into).collect();
        let request = pb::HeartbeatRequest { heartbeats };
        self.say(number, Said::Heartbeat(request)).await
    }

    async fn say(&self, number: u64, said: Said) -> Result<(), Error> {
        let message = Some(said);
        let sent = self.0.send(pb::WorkRequest { number, message }).await;
        sent.map_err(|_| broken())
    }
}

impl WorkEvents {
    /// Waits for what the server says next; `None` once it has ended the stream in good order.
    ///
    /// # Errors
    /// As the server says; `Unavailable`, if the stream broke, or was silent for so long that it must have.
    ///
    /// # Cancel safety
    /// What comes meanwhile is kept.
    pub async fn next(&mut self) -> Result<Option<WorkEvent>, Error> {
        let answer = timeout(self.silence + SILENCE_MARGIN, self.answers.message()).await;
        let answer = answer.map_err(|_| broken())?;
        let answer = answer.map_err(|status| failure(&status))?;
        answer.map(event).transpose()
    }
}

fn event(answer: pb::WorkResponse) -> Result<WorkEvent, Error> {
    let number = answer.number;
    let leased = |tasks, lost| convert::leased(pb::PollResponse { tasks, lost });
    match answer.message {
        Some(Answer::Tasks(batch)) => {
            let Leased { tasks, .. } = leased(batch.tasks, Vec::new())?;
            Ok(WorkEvent::Tasks(number, tasks))
        }
        Some(Answer::Lost(batch)) => Ok(WorkEvent::Lost(leased(Vec::new(), batch.lost)?.lost)),
        Some(Answer::Reported(answer)) => {
            let answers = answer.results.iter().map(from_rpc).collect();
            Ok(WorkEvent::Reported(number, answers))
        }
        Some(Answer::Renewed(answer)) => {
            let answers = convert::heartbeat_results(answer);
            Ok(WorkEvent::Renewed(number, answers))
        }
        Some(Answer::Idle(_)) => Ok(WorkEvent::Idle),
        Some(Answer::GoingAway(_)) => Ok(WorkEvent::GoingAway),
        Some(Answer::Welcome(_)) | None => Err(missing("message")),
    }
}
