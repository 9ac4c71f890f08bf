//! The worker against a scripted scheduler, in paused time.

mod count;

use std::{collections::VecDeque, sync::atomic::Ordering};

use scheduler_core::Outcome as Reported;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};

use self::count::endless;
use super::*;
use crate::testing::leased;

const LEASE: Duration = Duration::from_secs(30);

enum Ask {
    Poll(Poll, oneshot::Sender<Result<Leased, Error>>),
    Report(
        Vec<Report>,
        oneshot::Sender<Result<Vec<Result<(), Error>>, Error>>,
    ),
    Heartbeat(
        Vec<Heartbeat>,
        oneshot::Sender<Result<Vec<Result<Duration, Error>>, Error>>,
    ),
}

/// The worker's side: hands each call to the script and waits for what it answers.
struct Scripted {
    asks: mpsc::UnboundedSender<Ask>,
    keeps_polls: bool,
}

impl Scripted {
    async fn ask<A>(
        &self,
        ask: impl FnOnce(oneshot::Sender<Result<A, Error>>) -> Ask,
    ) -> Result<A, Error> {
        let (answer, answered) = oneshot::channel();
        self.asks.send(ask(answer)).ok();
        answered.await.unwrap_or_else(|_| Err(away()))
    }
}

impl Transport for Scripted {
    async fn poll(&self, poll: Poll) -> Result<Leased, Error> {
        self.ask(|answer| Ask::Poll(poll, answer)).await
    }

    async fn report(&self, reports: Vec<Report>) -> Result<Vec<Result<(), Error>>, Error> {
        self.ask(|answer| Ask::Report(reports, answer)).await
    }

    async fn heartbeat(
        &self,
        heartbeats: Vec<Heartbeat>,
    ) -> Result<Vec<Result<Duration, Error>>, Error> {
        self.ask(|answer| Ask::Heartbeat(heartbeats, answer)).await
    }

    fn keeps_polls(&self) -> bool {
        self.keeps_polls
    }
}

fn away() -> Error {
    Error::Unavailable {
        what: "the scheduler is away".into(),
        retry_after: Duration::ZERO,
    }
}

fn task(n: u64) -> LeasedTask {
    LeasedTask {
        max_attempts: 3,
        lease: LEASE,
        ..leased(n, n, n.to_string().into())
    }
}

fn held(n: u64) -> Held {
    Held {
        id: task(n).id,
        token: task(n).token,
    }
}

fn tasks(tasks: Vec<LeasedTask>) -> Result<Leased, Error> {
    Ok(Leased {
        tasks,
        lost: Vec::new(),
    })
}

/// The scheduler's side. Calls that a test does not ask for are kept (reports) or granted (heartbeats).
struct Desk {
    asks: mpsc::UnboundedReceiver<Ask>,
    kept: VecDeque<Ask>,
    worker: JoinHandle<Result<(), crate::Error>>,
    shutdown: Option<oneshot::Sender<()>>,
}

impl Desk {
    fn open<H: Handler>(concurrency: usize, handler: H) -> Self {
        Self::open_on(false, concurrency, handler)
    }

    /// On a transport that does or does not keep what comes for the next poll.
    fn open_on<H: Handler>(keeps_polls: bool, concurrency: usize, handler: H) -> Self {
        let (ask, asks) = mpsc::unbounded_channel();
        let (shutdown, shut) = oneshot::channel::<()>();
        let config = Config {
            worker: "worker-1".try_into().unwrap(),
            concurrency,
            grace: Duration::from_secs(5),
            report_grace: Duration::from_secs(10),
            orphan_timeout: Duration::from_secs(120),
            poll_wait: Duration::from_secs(20),
        };
        let transport = Scripted {
            asks: ask,
            keeps_polls,
        };
        let runner = Runner::new(Arc::new(transport), Arc::new(handler), config);
        let worker = tokio::spawn(runner.run(async { drop(shut.await) }));
        Self {
            asks,
            kept: VecDeque::new(),
            worker,
            shutdown: Some(shutdown),
        }
    }

    async fn next(&mut self, wanted: impl Fn(&Ask) -> bool) -> Ask {
        if let Some(at) = self.kept.iter().position(&wanted) {
            return self.kept.remove(at).unwrap();
        }
        loop {
            let ask = timeout(Duration::from_secs(1000), self.asks.recv()).await;
            match ask
                .expect("the worker calls in time")
                .expect("the worker is there")
            {
                ask if wanted(&ask) => return ask,
                Ask::Heartbeat(heartbeats, answer) => {
                    answer.send(Ok(vec![Ok(LEASE); heartbeats.len()])).ok();
                }
                ask => self.kept.push_back(ask),
            }
        }
    }

    /// The next poll that was not given up.
    async fn poll(&mut self) -> (Poll, oneshot::Sender<Result<Leased, Error>>) {
        loop {
            // A poll that is to be given up is given up as soon as the worker's loop turns.
            tokio::time::sleep(Duration::from_millis(1)).await;
            match self.next(|ask| matches!(ask, Ask::Poll(..))).await {
                Ask::Poll(poll, answer) if !answer.is_closed() => return (poll, answer),
                _ => {}
            }
        }
    }

    async fn give(&mut self, given: Vec<LeasedTask>) -> Poll {
        let (poll, answer) = self.poll().await;
        answer.send(tasks(given)).unwrap();
        poll
    }

    async fn report(
        &mut self,
    ) -> (
        Vec<Report>,
        oneshot::Sender<Result<Vec<Result<(), Error>>, Error>>,
    ) {
        match self.next(|ask| matches!(ask, Ask::Report(..))).await {
            Ask::Report(reports, answer) => (reports, answer),
            _ => unreachable!(),
        }
    }

    async fn acknowledge(&mut self) -> Vec<Report> {
        let (reports, answer) = self.report().await;
        answer.send(Ok(vec![Ok(()); reports.len()])).unwrap();
        reports
    }

    async fn heartbeat(
        &mut self,
    ) -> (
        Vec<Heartbeat>,
        oneshot::Sender<Result<Vec<Result<Duration, Error>>, Error>>,
    ) {
        match self.next(|ask| matches!(ask, Ask::Heartbeat(..))).await {
            Ask::Heartbeat(heartbeats, answer) => (heartbeats, answer),
            _ => unreachable!(),
        }
    }

    fn shut_down(&mut self) -> Instant {
        self.shutdown.take().unwrap().send(()).unwrap();
        Instant::now()
    }

    /// Answers everything until the worker ends.
    async fn ended(mut self) -> Result<(), crate::Error> {
        loop {
            tokio::select! {
                ended = &mut self.worker => return ended.unwrap(),
                ask = self.asks.recv() => match ask {
                    Some(Ask::Heartbeat(sent, answer)) => drop(answer.send(Ok(vec![Ok(LEASE); sent.len()]))),
                    Some(Ask::Report(sent, answer)) => drop(answer.send(Ok(vec![Ok(()); sent.len()]))),
                    Some(poll) => self.kept.push_back(poll),
                    None => {}
                }
            }
        }
    }
}

async fn done(_: TaskContext) -> Outcome {
    Outcome::completed(&true)
}

fn code(report: &Report) -> &str {
    match &report.outcome {
        Reported::Failed(failure) => failure.code.as_str(),
        Reported::Completed { .. } => "completed",
        Reported::Interrupted => "interrupted",
        Reported::Snoozed(_) => "snoozed",
    }
}

#[tokio::test(start_paused = true)]
async fn credit_is_the_number_of_free_slots() {
    let gate = Arc::new(Notify::new());
    let opened = Arc::clone(&gate);
    let mut desk = Desk::open(2, move |_| {
        let gate = Arc::clone(&opened);
        async move {
            gate.notified().await;
            Outcome::completed(&1)
        }
    });
    assert_eq!(desk.give(vec![task(1), task(2)]).await.credit, 2);
    let (busy, open) = desk.poll().await;
    assert_eq!((busy.credit, busy.held.len()), (0, 2));

    gate.notify_one();
    desk.acknowledge().await;
    // The poll without credit is given up, since it holds a free slot back.
    let (free, _answer) = desk.poll().await;
    assert!(open.is_closed());
    assert_eq!(free.credit, 1);
}

#[tokio::test(start_paused = true)]
async fn an_open_poll_is_told_of_more_free_slots_only_where_nothing_is_given_up_by_that() {
    for keeps_polls in [true, false] {
        let gate = Arc::new(Notify::new());
        let opened = Arc::clone(&gate);
        let mut desk = Desk::open_on(keeps_polls, 3, move |_| {
            let gate = Arc::clone(&opened);
            async move {
                gate.notified().await;
                Outcome::completed(&1)
            }
        });
        desk.give(vec![task(1), task(2)]).await;
        let (one, open) = desk.poll().await;
        assert_eq!(one.credit, 1);
        gate.notify_waiters();
        let asked_at = Instant::now();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(open.is_closed(), keeps_polls);
        if keeps_polls {
            let (all, _answer) = desk.poll().await;
            assert_eq!(all.credit, 3);
            assert!(asked_at.elapsed() < Duration::from_secs(2));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn held_leases_are_declared_again_after_a_disconnect() {
    let (handler, count) = endless();
    let mut desk = Desk::open(3, handler);
    desk.give(vec![task(1), task(2)]).await;
    count.becomes(2).await;
    for _ in 0..5 {
        let (mut poll, answer) = desk.poll().await;
        poll.held.sort_by_key(|held| held.id);
        assert_eq!(poll.held, [held(1), held(2)]);
        answer.send(Err(away())).unwrap();
    }
    count.becomes(2).await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_drops_its_handler_and_is_not_reported() {
    let (handler, count) = endless();
    let mut desk = Desk::open(1, handler);
    desk.give(vec![task(1)]).await;
    count.becomes(1).await;
    let (_, answer) = desk.poll().await;
    let lost = vec![(held(1), LeaseLost::Cancelled)];
    answer
        .send(Ok(Leased {
            tasks: Vec::new(),
            lost,
        }))
        .unwrap();
    count.becomes(0).await;
    let (next, _answer) = desk.poll().await;
    assert_eq!((next.credit, next.held.len()), (1, 0));
    assert!(!desk.kept.iter().any(|ask| matches!(ask, Ask::Report(..))));
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_at_a_third_and_its_loss_drops_the_handler() {
    let (handler, count) = endless();
    let mut desk = Desk::open(1, handler);
    desk.give(vec![task(1)]).await;
    let leased_at = Instant::now();
    for n in 1..4 {
        let (sent, answer) = desk.heartbeat().await;
        assert_eq!((sent.len(), sent[0].from_handler), (1, false));
        assert_eq!(leased_at.elapsed().as_secs(), 10 * n);
        answer.send(Ok(vec![Ok(LEASE)])).unwrap();
    }
    let (_, answer) = desk.heartbeat().await;
    answer
        .send(Ok(vec![Err(Error::LeaseLost(LeaseLost::Stale))]))
        .unwrap();
    count.becomes(0).await;
}

#[tokio::test(start_paused = true)]
async fn an_unacknowledged_report_is_sent_again_and_its_lease_kept() {
    let mut desk = Desk::open(1, done);
    desk.give(vec![task(1)]).await;
    for _ in 0..4 {
        let (reports, answer) = desk.report().await;
        assert_eq!(code(&reports[0]), "completed");
        answer.send(Err(away())).unwrap();
        // Its slot is free, and a new owner of the shard learns that its task was run.
        let (poll, answer) = desk.poll().await;
        assert_eq!((poll.credit, poll.held), (1, vec![held(1)]));
        answer.send(Err(away())).unwrap();
    }
    let (_, answer) = desk.report().await;
    answer
        .send(Ok(vec![Err(Error::LeaseLost(LeaseLost::Stale))]))
        .unwrap();
    loop {
        let (poll, answer) = desk.poll().await;
        answer.send(Err(away())).ok();
        if poll.held.is_empty() {
            break;
        }
    }
    desk.shut_down();
    assert_eq!(desk.ended().await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_reported() {
    let mut desk = Desk::open(1, |ctx: TaskContext| async move {
        assert!(ctx.attempt() > 1, "no luck");
        Outcome::completed(&1)
    });
    desk.give(vec![task(1)]).await;
    let reports = desk.acknowledge().await;
    assert_eq!(code(&reports[0]), "panic");
    assert!(
        matches!(&reports[0].outcome, Reported::Failed(failure) if failure.message == "no luck")
    );
}

#[tokio::test(start_paused = true)]
async fn a_handler_is_dropped_when_its_time_is_up() {
    let (handler, count) = endless();
    let mut desk = Desk::open(1, handler);
    let timeout = Some(Duration::from_secs(3));
    desk.give(vec![LeasedTask { timeout, ..task(1) }]).await;
    let began = Instant::now();
    let reports = desk.acknowledge().await;
    assert_eq!(
        (code(&reports[0]), began.elapsed().as_secs()),
        ("timeout", 3)
    );
    count.becomes(0).await;
}

#[tokio::test(start_paused = true)]
async fn progress_is_sent_soon_and_only_the_latest() {
    let mut desk = Desk::open(1, |ctx: TaskContext| async move {
        for n in 0..10 {
            ctx.heartbeat(&n).unwrap();
        }
        std::future::pending::<Outcome>().await
    });
    desk.give(vec![task(1)]).await;
    let began = Instant::now();
    let (sent, answer) = desk.heartbeat().await;
    assert!(began.elapsed() < Duration::from_secs(1));
    assert!(sent[0].from_handler);
    assert_eq!(sent[0].progress.as_deref(), Some(b"9".as_slice()));
    // What is not answered is sent again.
    answer.send(Err(away())).unwrap();
    let (again, _answer) = desk.heartbeat().await;
    assert_eq!(again, sent);
}

#[tokio::test(start_paused = true)]
async fn a_drain_lets_handlers_end_and_interrupts_the_rest_after_the_grace() {
    let mut desk = Desk::open(3, |ctx: TaskContext| async move {
        tokio::time::sleep(Duration::from_secs(2 * ctx.data::<u64>()?)).await;
        Ok::<_, Failure>(1)
    });
    desk.give(vec![task(1), task(2), task(100)]).await;
    let (open, answer) = desk.poll().await;
    assert_eq!(open.credit, 0);
    let began = desk.shut_down();
    answer.send(tasks(Vec::new())).unwrap();
    for (n, expected) in [(1, "completed"), (2, "completed"), (100, "interrupted")] {
        let reports = desk.acknowledge().await;
        assert_eq!((held(n).id, expected), (reports[0].id, code(&reports[0])));
    }
    assert_eq!(began.elapsed().as_secs(), 5);
    assert_eq!(desk.ended().await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_drain_gives_up_an_open_poll_and_ends_at_once_when_idle() {
    let mut desk = Desk::open(1, done);
    let (_, open) = desk.poll().await;
    let began = desk.shut_down();
    assert_eq!(desk.ended().await, Ok(()));
    assert!(open.is_closed() && began.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_drain_takes_the_credit_back_that_a_stream_was_told() {
    let mut desk = Desk::open_on(true, 2, done);
    desk.give(vec![task(1)]).await;
    let (_, _never) = desk.report().await;
    // Its lease is lost, and its report is not answered yet.
    let (_, answer) = desk.poll().await;
    let lost = vec![(held(1), LeaseLost::Stale)];
    let tasks = Vec::new();
    answer.send(Ok(Leased { tasks, lost })).unwrap();
    let (open, _answer) = desk.poll().await;
    assert_eq!((open.credit, open.held.len()), (2, 0));
    desk.shut_down();
    let (last, _answer) = desk.poll().await;
    assert_eq!((last.credit, last.held.len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_acknowledgements_but_not_for_ever() {
    let mut desk = Desk::open(1, done);
    desk.give(vec![task(1)]).await;
    let (_, _never) = desk.report().await;
    desk.shut_down();
    assert_eq!(desk.ended().await, Err(crate::Error::Unreported { n: 1 }));
}

#[tokio::test(start_paused = true)]
async fn without_any_scheduler_handlers_run_on_for_the_orphan_timeout() {
    let (handler, count) = endless();
    let mut desk = Desk::open(1, handler);
    desk.give(vec![task(1)]).await;
    count.becomes(1).await;
    let cut_off = Instant::now();
    while cut_off.elapsed() < Duration::from_secs(300) {
        match timeout(Duration::from_secs(1), desk.asks.recv()).await {
            Ok(Some(Ask::Poll(_, answer))) => drop(answer.send(Err(away()))),
            Ok(Some(Ask::Heartbeat(_, answer))) => drop(answer.send(Err(away()))),
            _ => {}
        }
        if count.0.load(Ordering::SeqCst) == 0 {
            break;
        }
    }
    assert!((119..=122).contains(&cut_off.elapsed().as_secs()));
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_is_refused_says_so() {
    let mut desk = Desk::open(1, done);
    let (_, answer) = desk.poll().await;
    answer
        .send(Err(Error::Malformed("no such thing".into())))
        .unwrap();
    assert!(matches!(desk.ended().await, Err(crate::Error::Refused(_))));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_empties_its_polls_is_not_asked_in_a_tight_loop() {
    let mut desk = Desk::open(1, done);
    let began = Instant::now();
    for _ in 0..20 {
        desk.give(Vec::new()).await;
    }
    assert!(began.elapsed() > Duration::from_secs(10));
}
