//! One open stream: what came and was not taken yet, and who waits for which answer.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use scheduler_core::{Error, Heartbeat, Leased, Poll, Report};
use scheduler_grpc::client::{Work, WorkEvent, WorkEvents, WorkSender};
use tokio::{
    sync::{oneshot, watch},
    time::timeout,
};

/// How long a report or heartbeat may wait for its answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// What a worker has of a poll on a stream.
pub(super) enum Polled {
    /// Tasks, lost leases, or the word that there is nothing.
    Leased(Leased),
    /// The stream is to be left, and all that came on it was taken.
    GoingAway,
}

type Answered<T> = Result<Vec<Result<T, Error>>, Error>;
type Asked<T> = HashMap<u64, oneshot::Sender<Answered<T>>>;

/// An open stream. Once it is dropped, the stream ends when the server has answered what it was asked.
#[derive(Debug)]
pub(super) struct Line {
    sender: WorkSender,
    inbox: Arc<Inbox>,
    /// Changes with everything that comes, and closes when the stream has ended.
    news: watch::Receiver<()>,
}

/// What the server said. Bounded by what the worker asked for.
#[derive(Debug, Default)]
struct Inbox(Mutex<Came>);

#[derive(Debug, Default)]
struct Came {
    leased: Leased,
    /// The last batch.
    batch: u64,
    /// What the worker said last: a batch, slots and bytes.
    said: (u64, usize, usize),
    is_idle: bool,
    is_going_away: bool,
    /// Why the stream ended.
    ended: Option<Error>,
    n_asked: u64,
    reports: Asked<()>,
    heartbeats: Asked<Duration>,
}

impl Inbox {
    fn came(&self) -> MutexGuard<'_, Came> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a poll does next.
enum Next {
    Leased(Leased),
    Over(Error),
    GoingAway {
        seen: u64,
    },
    /// Tell the server what was seen and can be taken.
    Say {
        seen: u64,
    },
    Wait,
}

impl Came {
    fn next(&mut self, poll: &Poll) -> Next {
        let seen = self.batch;
        // What came before the end counts.
        if self.leased != Leased::default() {
            return Next::Leased(std::mem::take(&mut self.leased));
        }
        if let Some(why) = &self.ended {
            return Next::Over(why_over(why));
        }
        if self.is_going_away {
            return Next::GoingAway { seen };
        }
        if std::mem::take(&mut self.is_idle) {
            return Next::Leased(Leased::default());
        }
        if self.said == (seen, poll.credit, poll.bytes_max) {
            return Next::Wait;
        }
        Next::Say { seen }
    }

    fn take(&mut self, event: WorkEvent) {
        match event {
            WorkEvent::Tasks(number, tasks) => {
                self.batch = number;
                self.leased.tasks.extend(tasks);
            }
            WorkEvent::Lost(lost) => self.leased.lost.extend(lost),
            WorkEvent::Reported(number, answers) => answer(&mut self.reports, number, answers),
            WorkEvent::Renewed(number, answers) => answer(&mut self.heartbeats, number, answers),
            WorkEvent::Idle => self.is_idle = true,
            WorkEvent::GoingAway => self.is_going_away = true,
        }
    }

    fn end(&mut self, why: Error) {
        for (_, asked) in self.reports.drain() {
            asked.send(Err(why.clone())).ok();
        }
        for (_, asked) in self.heartbeats.drain() {
            asked.send(Err(why.clone())).ok();
        }
        self.ended = Some(why);
    }
}

fn answer<T>(asked: &mut Asked<T>, number: u64, answers: Vec<Result<T, Error>>) {
    // Who asked may have given up.
    if let Some(asked) = asked.remove(&number) {
        asked.send(Ok(answers)).ok();
    }
}

fn over() -> Error {
    Error::Unavailable {
        what: "the worker's stream ended".into(),
        retry_after: Duration::ZERO,
    }
}

/// Takes in what the server says, until the stream ends.
async fn listen(mut events: WorkEvents, inbox: Arc<Inbox>, news: watch::Sender<()>) {
    let why = loop {
        match events.next().await {
            Ok(Some(event)) => {
                inbox.came().take(event);
                news.send_replace(());
            }
            Ok(None) => break over(),
            Err(err) => break err,
        }
    };
    inbox.came().end(why);
}

impl Line {
    /// Takes over a stream that was opened with this poll.
    pub(super) fn start(work: Work, hello: &Poll) -> Self {
        let inbox = Arc::new(Inbox::default());
        inbox.came().said = (0, hello.credit, hello.bytes_max);
        let (send, news) = watch::channel(());
        tokio::spawn(listen(work.events, Arc::clone(&inbox), send));
        let sender = work.sender;
        Self {
            sender,
            inbox,
            news,
        }
    }

    /// Makes the next poll leave the stream, once all that came on it was taken.
    pub(super) fn go(&self) {
        self.inbox.came().is_going_away = true;
    }

    /// Whether the stream can be asked. One that is to be left answers still.
    pub(super) fn is_open(&self) -> bool {
        self.inbox.came().ended.is_none()
    }

    /// Waits until the stream has ended.
    pub(super) fn ended(&self) -> impl Future<Output = ()> + use<> {
        let mut news = self.news.clone();
        async move { while news.changed().await.is_ok() {} }
    }

    /// Says what the worker has seen and can take, and waits for what comes.
    ///
    /// # Cancel safety
    /// What comes is kept for the next poll.
    pub(super) async fn poll(&self, poll: &Poll) -> Result<Polled, Error> {
        let mut news = self.news.clone();
        loop {
            news.mark_unchanged();
            let next = self.inbox.came().next(poll);
            match next {
                Next::Leased(leased) => return Ok(Polled::Leased(leased)),
                Next::Over(why) => return Err(why),
                Next::GoingAway { seen } => {
                    // Or what it has not said to have seen would go to others.
                    self.sender.credit(seen, 0, poll.bytes_max).await.ok();
                    return Ok(Polled::GoingAway);
                }
                Next::Say { seen } => {
                    let credit = self.sender.credit(seen, poll.credit, poll.bytes_max);
                    credit.await?;
                    self.inbox.came().said = (seen, poll.credit, poll.bytes_max);
                }
                Next::Wait => {}
            }
            // An error means that the stream has ended, and then that is what came.
            news.changed().await.ok();
        }
    }

    pub(super) async fn report(&self, reports: Vec<Report>) -> Answered<()> {
        let (number, answered) = self.ask(|came| &mut came.reports)?;
        self.sender.report(number, reports).await?;
        wait(answered).await
    }

    pub(super) async fn heartbeat(&self, heartbeats: Vec<Heartbeat>) -> Answered<Duration> {
        let (number, answered) = self.ask(|came| &mut came.heartbeats)?;
        self.sender.heartbeat(number, heartbeats).await?;
        wait(answered).await
    }

    /// A number to ask under, and where the answer will be.
    fn ask<T>(
        &self,
        asked: impl FnOnce(&mut Came) -> &mut Asked<T>,
    ) -> Result<(u64, oneshot::Receiver<Answered<T>>), Error> {
        let mut came = self.inbox.came();
        if let Some(why) = &came.ended {
            return Err(why_over(why));
        }
        came.n_asked += 1;
        let number = came.n_asked;
        let (answer, answered) = oneshot::channel();
        let asked = asked(&mut came);
        // Calls that were given up.
        asked.retain(|_, asked| !asked.is_closed());
        asked.insert(number, answer);
        Ok((number, answered))
    }
}

async fn wait<T>(answered: oneshot::Receiver<Answered<T>>) -> Answered<T> {
    match timeout(CALL_TIMEOUT, answered).await {
        Ok(Ok(answered)) => answered,
        Ok(Err(_)) | Err(_) => Err(over()),
    }
}

/// Why a poll cannot go on. A refusal is of something that was said on the stream, and not of the worker.
fn why_over(why: &Error) -> Error {
    match why {
        Error::Malformed(_) | Error::Invalid(_) => {
            tracing::warn!(%why, "the stream was refused");
            over()
        }
        why => why.clone(),
    }
}

#[cfg(test)]
mod tests {
    use scheduler_core::{Held, Invalid, LeaseLost, LeasedTask};

    use super::*;
    use crate::testing;

    fn task(n: u64) -> LeasedTask {
        testing::leased(n, n, b"{}".to_vec())
    }

    fn poll(credit: usize) -> Poll {
        Poll::new("worker-1".try_into().unwrap(), credit)
    }

    fn leased(next: Next) -> Leased {
        match next {
            Next::Leased(leased) => leased,
            _ => panic!("there is something to take"),
        }
    }

    #[test]
    fn what_is_said_is_said_once_and_again_after_a_batch() {
        let mut came = Came::default();
        assert!(matches!(came.next(&poll(2)), Next::Say { seen: 0 }));
        came.said = (0, 2, poll(2).bytes_max);
        assert!(matches!(came.next(&poll(2)), Next::Wait));
        came.take(WorkEvent::Tasks(1, vec![task(1)]));
        assert_eq!(leased(came.next(&poll(2))).tasks, [task(1)]);
        // The same credit, but for another batch.
        assert!(matches!(came.next(&poll(2)), Next::Say { seen: 1 }));
        came.take(WorkEvent::Idle);
        assert_eq!(leased(came.next(&poll(2))), Leased::default());
    }

    #[test]
    fn all_that_came_is_taken_before_a_stream_is_left_or_has_ended() {
        let held = Held::from(&task(1));
        for is_end in [false, true] {
            let mut came = Came::default();
            came.take(WorkEvent::Tasks(1, vec![task(2)]));
            came.take(WorkEvent::Lost(vec![(held, LeaseLost::Stale)]));
            if is_end {
                came.end(over());
            } else {
                came.take(WorkEvent::GoingAway);
            }
            let got = leased(came.next(&poll(1)));
            assert_eq!(
                (got.tasks, got.lost),
                (vec![task(2)], vec![(held, LeaseLost::Stale)])
            );
            let next = came.next(&poll(1));
            match is_end {
                false => assert!(matches!(next, Next::GoingAway { seen: 1 })),
                true => assert!(matches!(next, Next::Over(Error::Unavailable { .. }))),
            }
        }
    }

    #[test]
    fn an_end_answers_all_who_wait_and_a_refusal_is_none_of_the_worker() {
        let mut came = Came::default();
        let (asked, mut reported) = oneshot::channel();
        came.reports.insert(1, asked);
        let (asked, mut renewed) = oneshot::channel();
        came.heartbeats.insert(2, asked);
        let why: Error = Invalid::new("report.reports", "must have at most 1000 entries").into();
        came.end(why.clone());
        // The report is what was refused: smaller ones are tried.
        assert_eq!(reported.try_recv().unwrap(), Err(why.clone()));
        assert_eq!(renewed.try_recv().unwrap(), Err(why));
        assert!(matches!(
            came.next(&poll(1)),
            Next::Over(Error::Unavailable { .. })
        ));
    }

    #[test]
    fn an_answer_finds_who_asked() {
        let mut came = Came::default();
        let (asked, mut first) = oneshot::channel();
        came.reports.insert(1, asked);
        let (asked, mut second) = oneshot::channel();
        came.reports.insert(2, asked);
        came.take(WorkEvent::Reported(2, vec![Ok(())]));
        // Nobody waits for this one any more.
        came.take(WorkEvent::Reported(3, Vec::new()));
        assert!(first.try_recv().is_err());
        assert_eq!(second.try_recv().unwrap(), Ok(vec![Ok(())]));
    }
}
