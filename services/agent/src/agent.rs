//! The agent: what it is told, and how it is run.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use scheduler_core::{Invalid, PipelinePath, Step};
use scheduler_grpc::client::{Client, connect};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};
use worker_sdk::Worker;

use crate::{
    executors::{Connections, Executors},
    handler::Steps,
    http::{self, Direct},
    run::Runner,
    source::Source,
    workspace::{Directory, Workspaces},
};

/// How long what was given up may take to be killed and cleaned up, when the agent ends.
const CLEAN_UP_MAX: Duration = Duration::from_secs(8);

/// Why an agent cannot run, or stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// What it was told breaks a rule.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// An endpoint is none.
    #[error("{0}")]
    Endpoint(String),
    /// It cannot answer HTTP.
    #[error("cannot answer HTTP on {address}")]
    Http {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Its worker stopped.
    #[error("cannot work on the pipeline's tasks")]
    Worker(#[from] worker_sdk::Error),
}

/// Says what an [`Agent`] works on, and how.
#[derive(Debug, Clone)]
#[must_use]
pub struct Builder {
    path: PipelinePath,
    scheduler: Option<String>,
    steps: Option<Arc<[Step]>>,
    executors: Executors,
    directory: Directory,
    concurrency: usize,
    grace: Duration,
    result_bytes_max: usize,
    http: Option<SocketAddr>,
    worker_id: Option<String>,
}

/// Runs the tasks of one pipeline, or the pipeline for one call at a time, or both.
#[derive(Debug)]
pub struct Agent {
    runner: Arc<Runner>,
    idle: mpsc::Receiver<()>,
    worker: Option<Worker<Steps>>,
    http: Option<(SocketAddr, Direct)>,
    grace: Duration,
}

impl Agent {
    /// Starts to say what an agent works on.
    pub fn builder(path: PipelinePath) -> Builder {
        Builder {
            path,
            scheduler: None,
            steps: None,
            executors: Executors::Named(std::collections::BTreeMap::new()),
            directory: Directory::default(),
            concurrency: 1,
            grace: Duration::from_secs(25),
            result_bytes_max: 1 << 20,
            http: None,
            worker_id: None,
        }
    }

    /// Works until `shutdown` is done: then takes no more tasks, lets those that run end within the
    /// grace, has the rest killed and cleaned up, and returns.
    ///
    /// # Errors
    /// [`AgentError`], if it cannot go on.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), AgentError> {
        let (stop, stopped) = watch::channel(false);
        let stopped = || {
            let mut stopped = stopped.clone();
            // An error means that the sender is gone, which is a stop.
            async move { drop(stopped.wait_for(|stopped| *stopped).await) }
        };
        let working = {
            let stopped = stopped();
            let worker = self.worker;
            async move {
                match worker {
                    Some(worker) => Ok(worker.run_until(stopped).await?),
                    None => {
                        stopped.await;
                        Ok::<_, AgentError>(())
                    }
                }
            }
        };
        let grace = self.grace;
        let too_late = {
            let stopped = stopped();
            async move {
                stopped.await;
                tokio::time::sleep(grace).await;
            }
        };
        let answering = answer(self.http, Arc::clone(&self.runner), stopped(), too_late);
        let stopping = async {
            shutdown.await;
            stop.send_replace(true);
            Ok(())
        };
        let both = async { tokio::try_join!(working, answering).map(drop) };
        let ended = {
            let mut both = std::pin::pin!(both);
            tokio::select! {
                ended = &mut both => ended,
                stopped = stopping => match stopped {
                    Ok(()) => both.await,
                    Err(err) => Err(err),
                },
            }
        };
        drop(self.runner);
        let mut idle = self.idle;
        if tokio::time::timeout(CLEAN_UP_MAX, idle.recv())
            .await
            .is_err()
        {
            tracing::error!("tasks that were given up are not cleaned up yet");
        }
        ended
    }
}

/// Answers HTTP, if that is asked for, until it is stopped and calls have ended, or it is too late.
async fn answer(
    http: Option<(SocketAddr, Direct)>,
    runner: Arc<Runner>,
    stopped: impl Future<Output = ()> + Send + 'static,
    too_late: impl Future<Output = ()>,
) -> Result<(), AgentError> {
    let Some((address, direct)) = http else {
        drop(runner);
        stopped.await;
        return Ok(());
    };
    let failed = |source| AgentError::Http { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let router = http::router(runner, direct);
    let serving = axum::serve(listener, router).with_graceful_shutdown(stopped);
    tokio::select! {
        served = serving => served.map_err(failed),
        () = too_late => Ok(()),
    }
}

impl Builder {
    /// Leases tasks from the scheduler at this endpoint. Without it the agent only answers HTTP.
    pub fn scheduler(self, endpoint: impl Into<String>) -> Self {
        Self {
            scheduler: Some(endpoint.into()),
            ..self
        }
    }

    /// The steps that calls over HTTP run; without them, the pipeline's newest.
    pub fn steps(self, steps: Arc<[Step]>) -> Self {
        Self {
            steps: Some(steps),
            ..self
        }
    }

    /// Who runs the commands.
    pub fn executors(self, executors: Executors) -> Self {
        Self { executors, ..self }
    }

    /// Where tasks have their files; without it, all in `/mnt/pipe`.
    pub fn directory(self, directory: Directory) -> Self {
        Self { directory, ..self }
    }

    /// How many tasks run at once; without it, 1. More need private directories.
    pub fn concurrency(self, concurrency: usize) -> Self {
        Self {
            concurrency,
            ..self
        }
    }

    /// How long tasks may go on after a shutdown began; without it, 25 s.
    pub fn grace(self, grace: Duration) -> Self {
        Self { grace, ..self }
    }

    /// The most bytes of a result; without it, 1 MiB.
    pub fn result_bytes_max(self, result_bytes_max: usize) -> Self {
        Self {
            result_bytes_max,
            ..self
        }
    }

    /// Answers HTTP here: `POST /` runs the pipeline for one call; `/healthz` and `/readyz`.
    pub fn http(self, address: SocketAddr) -> Self {
        Self {
            http: Some(address),
            ..self
        }
    }

    /// The worker's name for itself, a new one each run; without it, the host's and a random part.
    pub fn worker_id(self, worker_id: impl Into<String>) -> Self {
        Self {
            worker_id: Some(worker_id.into()),
            ..self
        }
    }

    /// Makes the agent. Connects when it runs. Needs the context of a tokio runtime.
    ///
    /// # Errors
    /// [`AgentError::Invalid`] or [`AgentError::Endpoint`], for what breaks a rule.
    pub fn build(self) -> Result<Agent, AgentError> {
        let is_shared = matches!(self.directory, Directory::Shared(_));
        if is_shared && self.concurrency > 1 {
            let rule = "must be 1 where tasks share a directory; use private directories";
            return Err(Invalid::new("concurrency", rule).into());
        }
        let endpoint =
            |err: scheduler_grpc::client::ConnectError| AgentError::Endpoint(err.to_string());
        let connections = Connections::new(self.executors).map_err(endpoint)?;
        let workspaces = Workspaces::new(self.directory)?;
        let (runner, idle) = Runner::new(connections, workspaces, self.result_bytes_max);
        let runner = Arc::new(runner);
        let source = match &self.scheduler {
            Some(scheduler) => {
                let channel = connect(scheduler).map_err(endpoint)?;
                let client = Client::new(channel, self.path.tenant.clone());
                Some(Arc::new(Source::new(client, self.path.clone())))
            }
            None => None,
        };
        let direct = match (self.steps, &source) {
            (Some(steps), _) => Some(Direct::Fixed(steps)),
            (None, Some(source)) => Some(Direct::Newest(Arc::clone(source))),
            (None, None) => None,
        };
        let worker = match (self.scheduler, source) {
            (Some(scheduler), Some(source)) => {
                let path = &self.path;
                let mut worker = Worker::builder(path.application.as_str(), path.pipeline.as_str())
                    .tenant(path.tenant.as_str())
                    .endpoint(scheduler)
                    .concurrency(self.concurrency)
                    .grace(self.grace);
                if let Some(worker_id) = self.worker_id {
                    worker = worker.worker_id(worker_id);
                }
                let runner = Arc::clone(&runner);
                Some(worker.build(Steps { runner, source })?)
            }
            _ => None,
        };
        let http = match (self.http, direct) {
            (Some(address), Some(direct)) => Some((address, direct)),
            (None, _) => None,
            (Some(_), None) => {
                let rule = "is missing, and so is the pipeline's file: there is nothing to run";
                return Err(Invalid::new("endpoint", rule).into());
            }
        };
        Ok(Agent {
            runner,
            idle,
            worker,
            http,
            grace: self.grace,
        })
    }
}
