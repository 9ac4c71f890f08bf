//! A scheduler for tests: in this process, on ports in memory or your own, in virtual time.
//!
//! Time is that of a paused tokio runtime, so everything that waits through tokio or through the ports'
//! [`Clock`](crate::port::Clock) waits in it: the scheduler, handlers, ports, time-outs. It moves by
//! [`advance`](TestScheduler::advance), and where a test waits for something that only time brings. A minute takes no
//! longer than what happens in it, and the same test sees the same every time.
//!
//! What lies outside the runtime (another process, a thread) is not waited for.
//!
//! ```
//! use std::time::Duration;
//!
//! use scheduler_core::{Error, Outcome, PipelineSpec, StateName, Submit, testing::{Request, TestScheduler}};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Error> {
//! // In a test: #[tokio::test(start_paused = true)]
//! let test = TestScheduler::start().await;
//! let path = scheduler_core::path("default", "shop", "mail")?;
//! test.create_pipeline(&path, PipelineSpec::default()).await?;
//! let submitted = test.submit(&path, Submit::new(r#"{"to":"you"}"#)).await?;
//!
//! // The report arrives, its answer does not: the worker cannot know.
//! test.drop_next_reply(Request::Report);
//! let send_mail = |_task| async { Outcome::Completed { result: "true".into() } };
//! let unsure = test.work(&path, send_mail).await;
//! assert!(matches!(unsure, Err(Error::UnknownOutcome { .. })));
//!
//! // It was done all the same: nothing is left for another worker, however long it waits.
//! test.advance(Duration::from_secs(60)).await;
//! assert_eq!(test.work(&path, send_mail).await?, 0);
//! let task = test.scheduler().get(&path.tenant, submitted.id).await?;
//! assert_eq!((task.state, task.attempt), (StateName::Completed, 1));
//! # Ok(())
//! # }
//! ```

mod clock;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

pub use self::clock::VirtualClock;
use crate::{
    Config, Error, Leased, LeasedTask, ListTasks, Outcome, Pipeline, PipelinePath, PipelineSpec,
    Poll, Ports, Report, Scheduler, StateName, Submit, Submitted, TenantName, memory,
};

/// How often every task of the runtime gets its turn before it is looked whether the scheduler has had one.
const YIELDS: usize = 64;
/// How many such looks find the scheduler busy before it is taken to be so for ever.
const LOOKS_MAX: usize = 100_000;
/// How long a call may go without an answer beyond the wait that it asked for.
const ANSWER_WITHIN: Duration = Duration::from_secs(600);
/// How many tasks [`TestScheduler::work`] leases at once.
const CREDIT: usize = 256;
/// How far [`TestScheduler::finish`] goes between two looks.
const STEP: Duration = Duration::from_millis(100);
/// States from which a task still goes on.
const UNFINISHED: [StateName; 4] = [
    StateName::Scheduled,
    StateName::Available,
    StateName::Running,
    StateName::Retryable,
];

/// A call of which the answer can get lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// [`TestScheduler::submit`].
    Submit,
    /// [`TestScheduler::lease`]: the tasks are leased, and no worker knows.
    Lease,
    /// [`TestScheduler::report`].
    Report,
}

/// A scheduler in virtual time.
///
/// What is called through it can lose its answer, as over a network; everything else is called through
/// [`scheduler`](Self::scheduler).
#[derive(Debug)]
pub struct TestScheduler {
    clock: VirtualClock,
    scheduler: Scheduler,
    n_dropped: [AtomicU32; 3],
}

impl TestScheduler {
    /// Starts one on empty ports in memory, with the default configuration.
    ///
    /// # Panics
    /// The runtime's time is not paused: say `#[tokio::test(start_paused = true)]`.
    pub async fn start() -> Self {
        let clock = VirtualClock::new();
        let ports = memory::ports_on(Arc::new(clock.clone()));
        let config = Config::default();
        let started = Self::start_on(clock, config, ports).await;
        started.expect("defaults are valid and the memory can be read")
    }

    /// Starts one on these ports, all of them on this clock.
    ///
    /// # Errors
    /// As [`Scheduler::start`].
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub async fn start_on(
        clock: VirtualClock,
        config: Config,
        ports: Ports,
    ) -> Result<Self, Error> {
        // Says so if the time is not paused.
        tokio::time::advance(Duration::ZERO).await;
        let scheduler = within(Duration::ZERO, Scheduler::start(config, ports)).await?;
        let test = Self {
            clock,
            scheduler,
            n_dropped: Default::default(),
        };
        test.drain().await;
        Ok(test)
    }

    /// The scheduler under test.
    #[must_use]
    pub fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    /// The time it lives in.
    #[must_use]
    pub fn clock(&self) -> &VirtualClock {
        &self.clock
    }

    /// Lets time pass: whatever becomes due meanwhile happens in its order and at its time, and when this returns
    /// nothing more happens without time.
    pub async fn advance(&self, time: Duration) {
        let end = tokio::time::Instant::now() + time;
        tokio::time::sleep_until(end).await;
        self.drain().await;
    }

    /// Lets everything happen that needs no time.
    ///
    /// # Panics
    /// It never ends: something goes round in circles.
    pub async fn drain(&self) {
        for _ in 0..LOOKS_MAX {
            let before = self.clock.n_looks();
            for _ in 0..YIELDS {
                tokio::task::yield_now().await;
            }
            // A member that has something to do looks at the clock first.
            if self.clock.n_looks() == before {
                return;
            }
        }
        panic!("the scheduler never comes to rest: something goes round without taking time");
    }

    /// Lets time pass until all tasks of a pipeline have ended; how long that took. Who works on them is the
    /// test's business.
    ///
    /// # Errors
    /// As [`Scheduler::list`].
    ///
    /// # Panics
    /// After `limit` some have not ended: says which, and why they wait.
    pub async fn finish(&self, path: &PipelinePath, limit: Duration) -> Result<Duration, Error> {
        let start = tokio::time::Instant::now();
        loop {
            self.drain().await;
            let query = ListTasks {
                states: UNFINISHED.to_vec(),
                limit: 8,
                ..ListTasks::default()
            };
            let page = within(Duration::ZERO, self.scheduler.list(path, query)).await?;
            let passed = start.elapsed();
            if page.tasks.is_empty() && page.backlog == 0 {
                return Ok(passed);
            }
            if passed >= limit {
                let why = |task: &crate::TaskView| {
                    let waits = task.waits.as_ref().map_or("", |waits| waits.text.as_str());
                    format!("{} is {}: {waits}", task.id, task.state.as_str())
                };
                let tasks: Vec<_> = page.tasks.iter().map(why).collect();
                panic!(
                    "after {limit:?} not all tasks of {path} have ended; {} are in the backlog; {}",
                    page.backlog,
                    tasks.join("; ")
                );
            }
            tokio::time::sleep_until((start + limit).min(start + passed + STEP)).await;
        }
    }

    /// Loses the answer of the next call of this kind, once for each time this is called: the call is done, and who
    /// made it gets [`Error::UnknownOutcome`].
    pub fn drop_next_reply(&self, request: Request) {
        self.n_dropped[request as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn answer<T>(&self, request: Request, answer: Result<T, Error>) -> Result<T, Error> {
        let one_less = |n: u32| n.checked_sub(1);
        let dropped = self.n_dropped[request as usize].fetch_update(
            Ordering::Relaxed,
            Ordering::Relaxed,
            one_less,
        );
        match dropped {
            Ok(_) => Err(Error::UnknownOutcome {
                what: format!("the answer to {request} was lost").into(),
            }),
            Err(_) => answer,
        }
    }

    /// Creates a pipeline, and waits until its shards can be scheduled.
    ///
    /// # Errors
    /// As [`Scheduler::create_pipeline`].
    pub async fn create_pipeline(
        &self,
        path: &PipelinePath,
        spec: PipelineSpec,
    ) -> Result<Arc<Pipeline>, Error> {
        let created = self.scheduler.create_pipeline(path, spec);
        let pipeline = within(Duration::ZERO, created).await?;
        self.drain().await;
        Ok(pipeline)
    }

    /// As [`Scheduler::submit`].
    ///
    /// # Errors
    /// As there, and `UnknownOutcome` if its answer was to be lost.
    pub async fn submit(&self, path: &PipelinePath, submit: Submit) -> Result<Submitted, Error> {
        let answer = within(Duration::ZERO, self.scheduler.submit(path, submit)).await;
        self.answer(Request::Submit, answer)
    }

    /// As [`Scheduler::lease`].
    ///
    /// # Errors
    /// As there, and `UnknownOutcome` if its answer was to be lost: what was leased stays so until the lease or offer
    /// runs out.
    pub async fn lease(&self, path: &PipelinePath, poll: Poll) -> Result<Leased, Error> {
        let answer = within(poll.wait, self.scheduler.lease(path, poll)).await;
        self.answer(Request::Lease, answer)
    }

    /// As [`Scheduler::report`].
    ///
    /// # Errors
    /// As there, and `UnknownOutcome` if its answer was to be lost.
    pub async fn report(&self, tenant: &TenantName, report: Report) -> Result<(), Error> {
        let answer = within(Duration::ZERO, self.scheduler.report(tenant, report)).await;
        self.answer(Request::Report, answer)
    }

    /// Is a worker once: leases what can run now, runs the handler on one task after the other, and reports each
    /// outcome. How many there were.
    ///
    /// # Errors
    /// The first error of a lease or report; the tasks after it were not run.
    pub async fn work<F: Future<Output = Outcome>>(
        &self,
        path: &PipelinePath,
        handler: impl Fn(LeasedTask) -> F,
    ) -> Result<usize, Error> {
        self.drain().await;
        let worker = "test-worker".try_into()?;
        let poll = Poll {
            wait: Duration::ZERO,
            ..Poll::new(worker, CREDIT)
        };
        let tasks = self.lease(path, poll).await?.tasks;
        let n = tasks.len();
        for task in tasks {
            let (id, token) = (task.id, task.token);
            let outcome = handler(task).await;
            let report = Report { id, token, outcome };
            self.report(&path.tenant, report).await?;
        }
        Ok(n)
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Submit => "the submit",
            Self::Lease => "the lease",
            Self::Report => "the report",
        })
    }
}

/// Waits in virtual time, so that a port that never answers fails the test that has it.
async fn within<T>(wait: Duration, answer: impl Future<Output = T>) -> T {
    let limit = wait + ANSWER_WITHIN;
    match tokio::time::timeout(limit, answer).await {
        Ok(answer) => answer,
        Err(_) => panic!("no answer came within {limit:?} of virtual time: a port never answers"),
    }
}
