//! Runs command lines for the agent of its pod, and leaves no process behind.

use clap::Parser;
use worker_sdk::executor::{Executor, Listen};

/// Runs command lines for the agent of its pod.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Where to listen: HOST:PORT, or unix:/PATH on a volume that the agent shares. The agent is the
    /// only one who should reach it: whoever does can run programs here.
    #[arg(
        long,
        env = "WORKLOAD_EXECUTOR_LISTEN",
        default_value = "127.0.0.1:7071"
    )]
    listen: Listen,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()),
        )
        .init();
    tracing::info!(listen = %arguments.listen, "executor listens");
    Executor::adopting()?
        .serve(&arguments.listen, worker_sdk::signalled())
        .await?;
    Ok(())
}
