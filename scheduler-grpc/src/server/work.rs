//! `WorkerService.Work`: one stream on which a worker gets tasks, reports and renews.
//!
//! It asks the scheduler what the unary trio asks. A stream that has nothing to do waits in one lease, as a long poll
//! does, and has one timer that fires when the stream was silent for long.

mod account;
mod outbound;

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use scheduler_core::{Error, Held, Invalid, Leased, Outcome, PipelinePath, Poll, Report};
use tokio::time::{Instant, sleep_until, timeout};
use tonic::{Request, Response, Status, Streaming};

pub(super) use self::outbound::Outbound;
use self::{account::Account, outbound::Sender};
use super::{BATCH_MAX, HELD_MAX, Shared, check_batch, worker};
use crate::{
    convert,
    pb::{self, work_request::Message as Said, work_response::Message as Answer},
    status::to_status,
};

/// How long a worker may take to say hello.
const HELLO_WAIT: Duration = Duration::from_secs(10);
/// So many reports and heartbeats of a stream are with the scheduler at once.
const CALLS_MAX: usize = 16;
/// How long a worker that was told to go may take to do so.
const LEAVE_WAIT: Duration = Duration::from_secs(5);
/// A lease that is answered with nothing before this long is not asked for again at once: whoever answers so stops.
const EMPTY_MIN: Duration = Duration::from_secs(1);

type Inbound = Streaming<pb::WorkRequest>;
type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Opens a stream: hears the hello, and answers while the stream lasts.
pub(super) async fn open(
    shared: Arc<Shared>,
    request: Request<Inbound>,
) -> Result<Response<Outbound>, Status> {
    let (headers, _, mut inbound) = request.into_parts();
    if *shared.closing.borrow() {
        return Err(going());
    }
    let (hello, credit) = hello(&mut inbound).await?;
    let (application, pipeline) = (&hello.application, &hello.pipeline);
    let path = shared.access.pipeline(&headers, application, pipeline)?;
    check_batch("hello.held", hello.held.len(), HELD_MAX)?;
    let mut poll =
        Poll::try_from(hello).map_err(|fault| to_status(&fault.within("hello").into()))?;
    let mut account = Account::new(std::mem::take(&mut poll.held));
    account.credit(credit).map_err(refused("hello.credit"))?;
    // Whether there is such a pipeline.
    let (credit, wait) = (0, Duration::ZERO);
    let look = Poll {
        credit,
        wait,
        ..poll.clone()
    };
    let looked = shared.scheduler.lease(&path, look).await;
    looked.map_err(|err| to_status(&err))?;
    let (out, outbound) = outbound::channel();
    let now = Instant::now();
    let session = Session {
        ends_at: shared.limits.connection_age_max.map(|age| now + age),
        shared,
        path,
        poll,
        account,
        out,
        spoke_at: now,
        rest_until: None,
        is_leaving: false,
    };
    tokio::spawn(session.run(inbound));
    Ok(Response::new(outbound))
}

async fn hello(inbound: &mut Inbound) -> Result<(pb::WorkHello, pb::WorkCredit), Status> {
    let missing = || {
        let rule = format!(
            "must be the first message, within {} s",
            HELLO_WAIT.as_secs()
        );
        to_status(&Invalid::new("hello", rule).into())
    };
    let first = timeout(HELLO_WAIT, inbound.message()).await;
    let first = first.map_err(|_| missing())??.ok_or_else(missing)?;
    let Some(Said::Hello(mut hello)) = first.message else {
        return Err(missing());
    };
    let credit = hello.credit.take().unwrap_or_default();
    Ok((hello, credit))
}

fn refused(what: &'static str) -> impl Fn(Invalid) -> Status {
    move |fault| to_status(&fault.within(what).into())
}

/// The server stops: the worker goes on at another one.
fn going() -> Status {
    to_status(&Error::Unavailable {
        what: "the server stops".into(),
        retry_after: Duration::ZERO,
    })
}

/// How a stream ended.
enum End {
    /// The worker ended its side.
    Left,
    /// The connection, or the worker's patience, did.
    Broken,
    /// The worker is told why.
    Refused(Status),
}

/// What came of a call: its answer, and which leases have ended by it.
struct Called {
    number: u64,
    answer: Answer,
    ended: Vec<Held>,
}

/// A lease that waits, and what it was asked for.
struct Waiting {
    slots: usize,
    bytes: usize,
    began: Instant,
    leased: Boxed<Result<Leased, Error>>,
}

/// An open stream.
struct Session {
    shared: Arc<Shared>,
    path: PipelinePath,
    /// Who works: what every lease of the stream begins with.
    poll: Poll,
    account: Account,
    out: Sender,
    spoke_at: Instant,
    /// No lease begins before this.
    rest_until: Option<Instant>,
    /// Whether the worker was told to go.
    is_leaving: bool,
    /// When it is told to go, or for how long it may stay after that.
    ends_at: Option<Instant>,
}

impl Session {
    async fn run(mut self, inbound: Inbound) {
        let end = self.serve(inbound).await;
        let unseen = self.account.take_unseen();
        // What is on its way to a worker may have arrived: it tells so by its heartbeats, or an offer runs out.
        let is_back = matches!(end, End::Left) || !self.out.has_taken(self.account.sent());
        if let End::Refused(status) = end {
            self.out.end(status).await;
        }
        if is_back {
            self.give_back(unseen).await;
        }
    }

    async fn serve(&mut self, mut inbound: Inbound) -> End {
        let silence = convert::duration(self.shared.limits.silence_max);
        let welcome = pb::WorkWelcome {
            silence: Some(silence),
        };
        if !self.say(0, Answer::Welcome(welcome)).await {
            return End::Broken;
        }
        let shared = Arc::clone(&self.shared);
        let mut closed = pin!(shared.closed());
        let mut timer = pin!(sleep_until(self.due()));
        let mut calls: FuturesUnordered<Boxed<Called>> = FuturesUnordered::new();
        let mut waiting: Option<Waiting> = None;
        loop {
            if waiting.is_none() {
                waiting = self.lease();
            }
            if timer.deadline() != self.due() {
                timer.as_mut().reset(self.due());
            }
            let lease = async {
                match &mut waiting {
                    Some(waiting) => waiting.leased.as_mut().await,
                    None => std::future::pending().await,
                }
            };
            let is_well = tokio::select! {
                biased;
                () = self.out.closed() => return End::Broken,
                () = &mut closed, if !self.is_leaving => {
                    waiting = None;
                    self.leave().await
                }
                Some(called) = calls.next() => {
                    self.account.ended(&called.ended);
                    self.say(called.number, called.answer).await
                }
                leased = lease => {
                    let began = waiting.take().map(|waiting| waiting.began);
                    match leased {
                        Ok(leased) => self.leased(leased, began).await,
                        Err(err) => return End::Refused(to_status(&err)),
                    }
                }
                said = inbound.message(), if calls.len() < CALLS_MAX => match said {
                    Ok(Some(said)) => match self.hear(said, &mut waiting) {
                        Ok(call) => {
                            calls.extend(call);
                            true
                        }
                        Err(status) => return End::Refused(status),
                    },
                    Ok(None) => {
                        drop(waiting);
                        return self.finish(calls).await;
                    }
                    Err(_) => return End::Broken,
                },
                () = &mut timer => match self.timed().await {
                    Some(is_well) => {
                        if self.is_leaving {
                            waiting = None;
                        }
                        is_well
                    }
                    None => return End::Refused(going()),
                }
            };
            if !is_well {
                return End::Broken;
            }
        }
    }

    /// When the stream has been silent for long, when it is to end, or when it may lease again.
    fn due(&self) -> Instant {
        let mut due = self.spoke_at + self.shared.limits.silence_max;
        if let Some(ends_at) = self.ends_at {
            due = due.min(ends_at);
        }
        self.rest_until.map_or(due, |at| due.min(at))
    }

    /// Does what is due. `None` if the stream is over.
    async fn timed(&mut self) -> Option<bool> {
        let now = Instant::now();
        if self.ends_at.is_some_and(|at| at <= now) {
            if self.is_leaving {
                return None;
            }
            return Some(self.leave().await);
        }
        self.rest_until = self.rest_until.filter(|at| *at > now);
        if self.spoke_at + self.shared.limits.silence_max <= now {
            return Some(self.say(0, Answer::Idle(pb::WorkIdle {})).await);
        }
        Some(true)
    }

    /// Tells the worker to go elsewhere, and leases nothing more.
    async fn leave(&mut self) -> bool {
        self.is_leaving = true;
        self.ends_at = Some(Instant::now() + LEAVE_WAIT);
        self.say(0, Answer::GoingAway(pb::WorkGoingAway {})).await
    }

    /// A lease with what the worker can take, if there is anything to wait for.
    fn lease(&self) -> Option<Waiting> {
        if self.is_leaving || self.rest_until.is_some() {
            return None;
        }
        let (slots, bytes) = self.account.wanted()?;
        let poll = Poll {
            credit: slots,
            bytes_max: bytes,
            held: self.account.held(),
            // As long as the scheduler lets it.
            wait: Duration::MAX,
            ..self.poll.clone()
        };
        let (scheduler, path) = (self.shared.scheduler.clone(), self.path.clone());
        Some(Waiting {
            slots,
            bytes,
            began: Instant::now(),
            leased: Box::pin(async move { scheduler.lease(&path, poll).await }),
        })
    }

    async fn leased(&mut self, leased: Leased, began: Option<Instant>) -> bool {
        let now = Instant::now();
        if leased == Leased::default() && began.is_some_and(|began| now < began + EMPTY_MIN) {
            self.rest_until = Some(now + EMPTY_MIN);
        }
        if !leased.lost.is_empty() {
            let lost: Vec<Held> = leased.lost.iter().map(|(held, _)| *held).collect();
            self.account.ended(&lost);
            let lost = leased.lost.into_iter().map(Into::into).collect();
            if !self.say(0, Answer::Lost(pb::WorkLost { lost })).await {
                return false;
            }
        }
        if leased.tasks.is_empty() {
            return true;
        }
        let number = self.account.send(&leased.tasks);
        let tasks = leased.tasks.into_iter().map(Into::into).collect();
        self.say(number, Answer::Tasks(pb::WorkTasks { tasks }))
            .await
    }

    /// Takes in what the worker says; answers the call that comes of it.
    fn hear(
        &mut self,
        said: pb::WorkRequest,
        waiting: &mut Option<Waiting>,
    ) -> Result<Option<Boxed<Called>>, Status> {
        let number = said.number;
        let (shared, tenant) = (Arc::clone(&self.shared), self.path.tenant.clone());
        match said.message {
            Some(Said::Credit(credit)) => {
                self.account.credit(credit).map_err(refused("credit"))?;
                let wanted = self.account.wanted();
                // A lease that is given up gives back what it was granted meanwhile.
                if waiting
                    .as_ref()
                    .map(|waiting| (waiting.slots, waiting.bytes))
                    != wanted
                {
                    *waiting = None;
                }
                Ok(None)
            }
            Some(Said::Report(request)) => {
                check_batch("report.reports", request.reports.len(), BATCH_MAX)?;
                Ok(Some(Box::pin(async move {
                    let (answer, ended) = worker::report(&shared, &tenant, request).await;
                    Called {
                        number,
                        answer: Answer::Reported(answer),
                        ended,
                    }
                })))
            }
            Some(Said::Heartbeat(request)) => {
                let len = request.heartbeats.len();
                check_batch("heartbeat.heartbeats", len, BATCH_MAX)?;
                Ok(Some(Box::pin(async move {
                    let (answer, ended) = worker::heartbeat(&shared, &tenant, request).await;
                    Called {
                        number,
                        answer: Answer::Renewed(answer),
                        ended,
                    }
                })))
            }
            Some(Said::Hello(_)) => {
                let fault = Invalid::new("hello", "must be said once; open another stream");
                Err(to_status(&fault.into()))
            }
            None => {
                let rule = "must be a credit, a report or a heartbeat";
                Err(to_status(&Invalid::new("message", rule).into()))
            }
        }
    }

    /// The worker says nothing more: it gets the answers that it waits for.
    async fn finish(&mut self, mut calls: FuturesUnordered<Boxed<Called>>) -> End {
        while let Some(called) = calls.next().await {
            self.account.ended(&called.ended);
            if !self.say(called.number, called.answer).await {
                return End::Broken;
            }
        }
        End::Left
    }

    /// False if nobody hears it.
    async fn say(&mut self, number: u64, answer: Answer) -> bool {
        self.spoke_at = Instant::now();
        let message = Some(answer);
        self.out.say(pb::WorkResponse { number, message }).await
    }

    /// Gives back tasks that did not reach the worker: they cost nothing.
    async fn give_back(&self, unseen: Vec<Held>) {
        if unseen.is_empty() {
            return;
        }
        let back = unseen.into_iter().map(|held| Report {
            id: held.id,
            token: held.token,
            outcome: Outcome::Interrupted,
        });
        let tenant = &self.path.tenant;
        let answers = self.shared.scheduler.report_batch(tenant, back.collect());
        for error in answers.await.into_iter().filter_map(Result::err) {
            tracing::debug!(%error, "a task cannot be given back; its lease will run out");
        }
    }
}

#[cfg(test)]
mod tests;
