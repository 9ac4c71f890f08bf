//! A member of the cluster: schedules the shards that Kafka gives it and keeps their state in TiDB.
#![expect(clippy::print_stdout, reason = "--settings prints")]

use clap::Parser;
use workload_kit::Settings;

/// A member: schedules the shards that Kafka gives it and keeps their state in TiDB.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    settings: workload_kit::Arguments,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let settings = Settings::load(workload_scheduler::keys(), &arguments.settings)?;
    if arguments.settings.settings {
        print!("{}", settings.table());
        return Ok(());
    }
    workload_scheduler::run(&settings, |ports| ports).await
}
