//! Leases a pipeline's tasks and runs their steps through the executors of its pod.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::Parser;
use workload_agent::{Agent, Directory, Executors, steps_from_json};

/// Leases a pipeline's tasks and runs their steps through the executors of its pod.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Whose pipeline it is.
    #[arg(long, env = "WORKLOAD_TENANT", default_value = "default")]
    tenant: String,
    /// The application.
    #[arg(long, env = "WORKLOAD_APPLICATION")]
    application: String,
    /// The pipeline.
    #[arg(long, env = "WORKLOAD_PIPELINE")]
    pipeline: String,
    /// The scheduler: http://HOST:PORT or unix:/PATH. Without it, only calls over HTTP are answered.
    #[arg(long, env = "WORKLOAD_ENDPOINT")]
    endpoint: Option<String>,
    /// The file pipeline.json of a chart, for calls over HTTP; without it, what the scheduler says.
    #[arg(long, env = "WORKLOAD_PIPELINE_FILE")]
    pipeline_file: Option<PathBuf>,
    /// An executor and where it listens: NAME=HOST:PORT or NAME=unix:/PATH. Once for each.
    #[arg(long = "executor", env = "WORKLOAD_EXECUTORS", value_delimiter = ',')]
    executors: Vec<String>,
    /// The volume that the executors share.
    #[arg(long, env = "WORKLOAD_DIRECTORY", default_value = "/mnt/pipe")]
    directory: PathBuf,
    /// Gives each task a directory of its own below that one.
    #[arg(long, env = "WORKLOAD_PRIVATE_DIRECTORIES")]
    private_directories: bool,
    /// Tasks at once; more than one need private directories.
    #[arg(long, env = "WORKLOAD_CONCURRENCY", default_value_t = 1)]
    concurrency: usize,
    /// How many seconds tasks may go on after SIGTERM.
    #[arg(long, env = "WORKLOAD_GRACE_SECONDS", default_value_t = 25)]
    grace_seconds: u64,
    /// Where HTTP is answered: the pipeline for one call, and the probes.
    #[arg(long, env = "WORKLOAD_HTTP", default_value = "0.0.0.0:8080")]
    http: SocketAddr,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()),
        )
        .init();
    agent(arguments)?.run(worker_sdk::signalled()).await?;
    Ok(())
}

fn agent(arguments: Arguments) -> anyhow::Result<Agent> {
    let path = scheduler_core::path(
        &arguments.tenant,
        &arguments.application,
        &arguments.pipeline,
    )?;
    let mut executors = BTreeMap::new();
    for executor in &arguments.executors {
        let (name, endpoint) = executor
            .split_once('=')
            .with_context(|| format!("--executor {executor:?} is not NAME=ENDPOINT"))?;
        executors.insert(name.try_into()?, endpoint.to_owned());
    }
    let directory = match arguments.private_directories {
        true => Directory::PrivateUnder(arguments.directory),
        false => Directory::Shared(arguments.directory),
    };
    let mut agent = Agent::builder(path)
        .executors(Executors::Named(executors))
        .directory(directory)
        .concurrency(arguments.concurrency)
        .grace(Duration::from_secs(arguments.grace_seconds))
        .http(arguments.http);
    if let Some(endpoint) = arguments.endpoint {
        agent = agent.scheduler(endpoint);
    }
    if let Some(file) = arguments.pipeline_file {
        let json =
            std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        agent = agent.steps(steps_from_json(&json)?);
    }
    Ok(agent.build()?)
}
