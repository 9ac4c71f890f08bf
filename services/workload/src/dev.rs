//! `workload dev`: the whole system in one process, durable in one directory.
//!
//! The same parts as in production, wired to each other: the agents reach the scheduler over gRPC on
//! loopback and the executor over its socket, like any agent in a pod.

mod agents;
mod ports;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use scheduler_core::{Config, Scheduler};
use scheduler_grpc::server::{Access, Limits, Services};
use tokio::{net::TcpListener, sync::watch};
use workload_agent::LocalExecutor;
use workload_api::Api;

use self::{
    agents::Agents,
    ports::{Engines, Opened},
};
use crate::{chart::LocalCharts, failure::Failure, output::print};

/// The tenant of everyone who calls an open server.
const TENANT: &str = "default";

/// How to run it.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The directory that keeps everything; made if it is missing.
    #[arg(long, env = "WORKLOAD_DATA", default_value = ".workload")]
    data: PathBuf,
    /// Where to answer HTTP: an address of this machine, since everyone who reaches it may run programs.
    #[arg(long, env = "WORKLOAD_HTTP", default_value = "127.0.0.1:8080")]
    http: SocketAddr,
    /// Where to answer gRPC: an address of this machine as well.
    #[arg(long, env = "WORKLOAD_GRPC", default_value = "127.0.0.1:7070")]
    grpc: SocketAddr,
    /// How many tasks of each pipeline run at once.
    #[arg(long, env = "WORKLOAD_CONCURRENCY", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1024))]
    concurrency: u16,
    /// How long a task whose worker is silent waits before it runs again.
    #[arg(long, env = "WORKLOAD_LEASE", default_value = "10s", value_parser = crate::command::parse_duration)]
    lease: Duration,
    #[command(flatten)]
    engines: Engines,
}

/// Runs until SIGTERM or SIGINT, then stops in good order.
pub(crate) async fn run(mut options: Options) -> Result<(), Failure> {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("WORKLOAD_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn")),
        )
        .with_writer(std::io::stderr)
        .init();
    let http = bind("http", options.http).await?;
    let grpc = bind("grpc", options.grpc).await?;
    let (http_address, grpc_address) = (address_of(&http)?, address_of(&grpc)?);
    let engines = std::mem::take(&mut options.engines);
    let places = engines.places(&options.data);
    let engines = engines.open(&options.data).await?;
    let scheduler = start_scheduler(&options, &engines, grpc_address).await?;
    let system = System {
        executor: start_executor(&options.data).await?,
        scheduler,
        engines,
        grpc_address,
    };
    greet(&places, http_address, grpc_address)?;
    system.serve(&options, http, grpc).await
}

struct System {
    scheduler: Scheduler,
    engines: Opened,
    executor: LocalExecutor,
    grpc_address: SocketAddr,
}

impl System {
    async fn serve(
        self,
        options: &Options,
        http: TcpListener,
        grpc: TcpListener,
    ) -> Result<(), Failure> {
        let tenant = TENANT.try_into().map_err(service("the tenant"))?;
        let api =
            Api::new(self.scheduler.clone(), tenant).with_charts(Arc::new(LocalCharts::new()));
        let services = Services::new(self.scheduler.clone(), Access::Open, Limits::default());
        let services = services.map_err(service("gRPC"))?;
        let agents = Agents {
            scheduler: self.scheduler.clone(),
            endpoint: format!("http://{}", self.grpc_address),
            executors: self.executor.executors(),
            tasks: options.data.join("tasks"),
            concurrency: options.concurrency.into(),
        };
        let (end, ending) = watch::channel(false);
        let ended = |mut ending: watch::Receiver<bool>| async move {
            // An error means that the sender is gone, which is an end.
            ending.wait_for(|ending| *ending).await.ok();
        };
        let http_ended = ended(ending.clone());
        let serving_http = tokio::spawn(async move {
            api.serve(http, workload_api::Limits::default(), http_ended)
                .await;
        });
        let (end_grpc, ending_grpc) = watch::channel(false);
        let serving_grpc = tokio::spawn(services.serve(grpc, ended(ending_grpc)));
        let working = tokio::spawn(agents.run(ended(ending.clone())));
        worker_sdk::signalled().await;
        // Agents first: they report over gRPC what they have run. Clients that wait are answered by then.
        end.send_replace(true);
        working.await.map_err(service("the agents"))?;
        end_grpc.send_replace(true);
        serving_grpc
            .await
            .map_err(service("gRPC"))?
            .map_err(service("gRPC"))?;
        self.scheduler.shutdown().await;
        serving_http.await.map_err(service("HTTP"))?;
        self.executor.stop().await;
        drop(self.scheduler);
        self.engines.close().await;
        Ok(())
    }
}

/// What broke, for people.
fn service<E: std::error::Error>(what: &'static str) -> impl FnOnce(E) -> Failure {
    move |err| Failure::Service(format!("{what} failed: {}", with_sources(&err)))
}

/// An error and all that caused it, on one line.
fn with_sources(err: &dyn std::error::Error) -> String {
    let mut text = err.to_string();
    let mut source = err.source();
    while let Some(err) = source {
        text.push_str(&format!(": {err}"));
        source = err.source();
    }
    text
}

async fn bind(flag: &str, address: SocketAddr) -> Result<TcpListener, Failure> {
    if !address.ip().is_loopback() {
        return Err(Failure::Usage(format!(
            "--{flag} {address}: `workload dev` has no authentication and runs programs, so it serves loopback addresses only"
        )));
    }
    TcpListener::bind(address).await.map_err(|err| {
        Failure::Service(format!(
            "cannot listen on {address}: {err}; choose another with --{flag} 127.0.0.1:PORT"
        ))
    })
}

fn address_of(listener: &TcpListener) -> Result<SocketAddr, Failure> {
    listener.local_addr().map_err(service("the listener"))
}

async fn start_scheduler(
    options: &Options,
    engines: &Opened,
    grpc: SocketAddr,
) -> Result<Scheduler, Failure> {
    let config = Config {
        address: grpc.to_string(),
        seed: fastrand::u64(..),
        lease: options.lease,
        // Workers of this process died with it, and others are on this machine: they are back soon.
        adoption_window: Duration::from_secs(3),
        ..Config::default()
    };
    engines.start(config).await
}

async fn start_executor(data: &Path) -> Result<LocalExecutor, Failure> {
    // What tasks of an earlier process left there, which was killed.
    match std::fs::remove_dir_all(data.join("tasks")) {
        Err(err) if err.kind() != std::io::ErrorKind::NotFound => {
            return Err(Failure::Service(format!(
                "cannot clean {}: {err}",
                data.join("tasks").display()
            )));
        }
        _ => {}
    }
    LocalExecutor::start(data)
        .await
        .map_err(service("the executor"))
}

fn greet(places: &str, http: SocketAddr, grpc: SocketAddr) -> Result<(), Failure> {
    let pipelines = format!("http://{http}/api/applications/demo/pipelines");
    print(&format!(
        "workload dev keeps everything in {places}

  HTTP API  http://{http}
  gRPC API  http://{grpc}

Try:

  curl -X POST {pipelines} -d '{{\"name\":\"hello\",\"pipeline\":[{{\"executor\":\"echo\",\"commands\":[\"echo hello {{{{name}}}}\"]}}]}}'
  curl -X POST '{pipelines}/hello?wait=10s' -d '{{\"name\":\"world\"}}'

",
    ))
}
