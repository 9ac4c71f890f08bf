//! `workload`: the command line, and with `workload dev` the whole system in one process.

mod chart;
mod client;
mod command;
mod dev;
mod failure;
mod output;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{client::Api, failure::Failure, output::Format};

/// A scheduler of pipeline tasks.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 done · 1 refused by the server · 2 wrong usage · 3 server not reachable · \
                  4 task ended, but not completed · 5 task not ended in time · 6 service failed · \
                  7 went some way and halted"
)]
struct Arguments {
    /// The server's address.
    #[arg(
        long,
        global = true,
        env = "WORKLOAD_SERVER",
        default_value = "http://127.0.0.1:8080"
    )]
    server: String,
    /// How to print.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    output: Format,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run everything in one process, durable in a directory: no server needed.
    Dev(dev::Options),
    /// Applications.
    #[command(subcommand)]
    App(command::app::Command),
    /// Pipelines.
    #[command(subcommand)]
    Pipeline(command::pipeline::Command),
    /// Tasks.
    #[command(subcommand)]
    Task(command::task::Command),
    /// Dead letters: discarded tasks, which are kept and can run again.
    #[command(subcommand)]
    Dlq(command::dlq::Command),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(err) => {
            eprintln!("workload: cannot start: {err}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("workload: {failure}");
            failure.exit_code()
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Failure> {
    let api = Api::new(&arguments.server);
    let format = arguments.output;
    match arguments.verb {
        Verb::Dev(options) => dev::run(options).await,
        Verb::App(command) => command.run(&api, format).await,
        Verb::Pipeline(command) => command.run(&api, format).await,
        Verb::Task(command) => command.run(&api, format).await,
        Verb::Dlq(command) => command.run(&api, format).await,
    }
}
