//! A worker: what it is told, and how it is run.

mod lease;
mod outbox;
mod run;

use std::{future::Future, sync::Arc, time::Duration};

use scheduler_core::{Invalid, PipelinePath, WorkerId};
use scheduler_grpc::client::{Client, connect};
use tokio::task::JoinError;

use self::run::Runner;
use crate::{
    Error, Failure, Handler, Outcome, shutdown,
    transport::{Near, Streamed, Unary},
};

/// How long a lease lasts where nobody says.
pub(crate) const LEASE_DEFAULT: Duration = Duration::from_secs(30);
/// The most tasks that one worker runs at once.
const CONCURRENCY_MAX: usize = 1_024;
/// The endpoint of a worker that is told none, and where it may be said.
const ENDPOINT_DEFAULT: &str = "http://127.0.0.1:7070";
const ENDPOINT_VARIABLE: &str = "WORKLOAD_ENDPOINT";

/// What a running worker goes by.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) worker: WorkerId,
    /// Tasks at once.
    pub(crate) concurrency: usize,
    /// How long handlers may go on after a shutdown began.
    pub(crate) grace: Duration,
    /// How long reports may wait for their answers after that.
    pub(crate) report_grace: Duration,
    /// How long handlers run on while no scheduler is reached.
    pub(crate) orphan_timeout: Duration,
    /// How long a poll waits.
    pub(crate) poll_wait: Duration,
}

/// Says what a [`Worker`] works on, and how.
#[derive(Debug, Clone)]
#[must_use]
pub struct Builder {
    application: String,
    pipeline: String,
    tenant: String,
    endpoint: String,
    worker_id: Option<String>,
    concurrency: usize,
    grace: Duration,
    orphan_timeout: Duration,
    is_unary: bool,
    is_near: bool,
}

/// Leases the tasks of one pipeline and runs each with a [`Handler`].
#[derive(Debug)]
pub struct Worker<H> {
    handler: H,
    unary: Unary,
    is_unary: bool,
    is_near: bool,
    config: Config,
}

impl Worker<()> {
    /// Starts to say what a worker works on.
    pub fn builder(application: impl Into<String>, pipeline: impl Into<String>) -> Builder {
        let endpoint = std::env::var(ENDPOINT_VARIABLE);
        Builder {
            application: application.into(),
            pipeline: pipeline.into(),
            tenant: scheduler_grpc::TENANT_DEFAULT.to_owned(),
            endpoint: endpoint.unwrap_or_else(|_| ENDPOINT_DEFAULT.to_owned()),
            worker_id: None,
            concurrency: 1,
            grace: Duration::from_secs(25),
            orphan_timeout: Duration::from_secs(120),
            is_unary: false,
            is_near: false,
        }
    }
}

impl Builder {
    /// Where the scheduler is: `http://HOST:PORT` or `unix:/PATH`. Any member or API will do, since each serves all
    /// tasks; with several, separated by commas, the worker goes on at the next when one cannot be reached. Without
    /// it, what the environment variable `WORKLOAD_ENDPOINT` says, or `http://127.0.0.1:7070`.
    pub fn endpoint(self, endpoint: impl Into<String>) -> Self {
        Self {
            endpoint: endpoint.into(),
            ..self
        }
    }

    /// Whose pipeline it is; without it, `default`.
    pub fn tenant(self, tenant: impl Into<String>) -> Self {
        Self {
            tenant: tenant.into(),
            ..self
        }
    }

    /// The worker's name for itself, a new one each run; without it, the host's name and a random part.
    pub fn worker_id(self, worker_id: impl Into<String>) -> Self {
        Self {
            worker_id: Some(worker_id.into()),
            ..self
        }
    }

    /// How many tasks it runs at once: 1 to 1,024; without it, 1.
    pub fn concurrency(self, concurrency: usize) -> Self {
        Self {
            concurrency,
            ..self
        }
    }

    /// How long handlers may go on after a shutdown began; without it, 25 s. Tasks that do not end in
    /// time are reported as interrupted, which costs no attempt.
    pub fn grace(self, grace: Duration) -> Self {
        Self { grace, ..self }
    }

    /// How long handlers run on while no scheduler is reached; without it, 2 min.
    pub fn orphan_timeout(self, orphan_timeout: Duration) -> Self {
        Self {
            orphan_timeout,
            ..self
        }
    }

    /// Works at a member that owns shards of the pipeline, which saves tasks a way through the cluster: the endpoint is asked
    /// which those are, again every minute. The members' addresses, as they advertise them, must be reachable from
    /// here; when one is not, the worker stays at the endpoint. Not for [`unary`](Self::unary) calls.
    pub fn near_shards(self) -> Self {
        Self {
            is_near: true,
            ..self
        }
    }

    /// Makes a call each time in place of keeping a stream open: for a network that lets no streams through. A worker does so
    /// by itself where the scheduler is older than streams.
    pub fn unary(self) -> Self {
        Self {
            is_unary: true,
            ..self
        }
    }

    /// Makes the worker. Connects when it runs.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name or number that breaks its rule, [`Error::Endpoint`] for an
    /// endpoint that is none.
    pub fn build<H: Handler>(self, handler: H) -> Result<Worker<H>, Error> {
        if !(1..=CONCURRENCY_MAX).contains(&self.concurrency) {
            return Err(Invalid::new("concurrency", "must be 1 to 1024").into());
        }
        let path: PipelinePath =
            scheduler_core::path(&self.tenant, &self.application, &self.pipeline)?;
        let worker = self.worker_id.unwrap_or_else(new_worker_id);
        let channel = connect(&self.endpoint).map_err(|err| Error::Endpoint(err.to_string()))?;
        let client = Client::new(channel, path.tenant.clone());
        Ok(Worker {
            handler,
            unary: Unary { client, path },
            is_unary: self.is_unary,
            is_near: self.is_near,
            config: Config {
                worker: worker.as_str().try_into()?,
                concurrency: self.concurrency,
                grace: self.grace,
                report_grace: Duration::from_secs(10),
                orphan_timeout: self.orphan_timeout,
                poll_wait: Duration::from_secs(20),
            },
        })
    }
}

impl<H: Handler> Worker<H> {
    /// Works until the process is asked to end by SIGTERM or SIGINT, then drains.
    ///
    /// # Errors
    /// As [`run_until`](Self::run_until).
    pub async fn run(self) -> Result<(), Error> {
        self.run_until(shutdown::signalled()).await
    }

    /// Works until `shutdown` is done, then drains: takes no more tasks, lets handlers end within the
    /// grace, reports the rest as interrupted, and waits until all reports are acknowledged.
    ///
    /// # Errors
    /// [`Error::Refused`], if the scheduler says that no such worker can be; [`Error::Unreported`], if
    /// reports were not acknowledged within 10 s after the grace.
    ///
    /// # Cancel safety
    /// Dropping it drops all handlers at once and reports nothing; their leases run out.
    pub async fn run_until(self, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
        let (handler, config) = (Arc::new(self.handler), self.config);
        if self.is_unary {
            let transport = Arc::new(self.unary);
            return Runner::new(transport, handler, config).run(shutdown).await;
        }
        let Unary { client, path } = &self.unary;
        let near = || Near::new(client.clone(), path.clone(), config.worker.to_string());
        let near = self.is_near.then(near);
        let transport = Arc::new(Streamed::new(self.unary, near));
        Runner::new(transport, handler, config).run(shutdown).await
    }
}

/// The host's name, as far as an id may have it, and a random part.
fn new_worker_id() -> String {
    let host = std::env::var("HOSTNAME").unwrap_or_default();
    let host: String = host
        .chars()
        .filter(char::is_ascii_graphic)
        .take(64)
        .collect();
    let host = if host.is_empty() { "worker" } else { &host };
    format!("{host}-{:016x}", fastrand::u64(..))
}

/// The outcome of a handler that did not end by itself: it panicked, or was dropped.
pub(crate) fn panicked(err: JoinError) -> Outcome {
    let Ok(panic) = err.try_into_panic() else {
        return Outcome::Interrupted;
    };
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned());
    let text = text.unwrap_or_else(|| "the handler panicked".to_owned());
    Outcome::Failed(Failure::new("panic", text))
}
