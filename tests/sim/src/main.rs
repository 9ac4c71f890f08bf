//! Runs many seeds: `cargo run --release -p sim -- --seeds 10000 --from 0 [--tasks 2000]`.
#![expect(
    clippy::print_stdout,
    reason = "a program on the command line talks to whoever typed its name"
)]

use std::{process::ExitCode, time::Instant};

use sim::Scenario;

const USAGE: &str = "usage: sim [--seeds N] [--from N] [--tasks N] [--scenario storm|moves|crashes] [--first] [--lines N]";

/// What was asked for.
#[derive(Debug)]
struct Wanted {
    n_seeds: u64,
    from: u64,
    n_tasks: u64,
    /// Stop at the first promise that is broken.
    first: bool,
    n_lines: usize,
    scenario: Scenario,
}

fn main() -> ExitCode {
    let Some(wanted) = wanted() else {
        println!("{USAGE}");
        return ExitCode::from(2);
    };
    let start = Instant::now();
    let mut hours = 0.0;
    let mut n_broken = 0_u64;
    let mut n_lived = 0_u64;
    let (mut n_begun, mut n_again, mut n_claims) = (0, 0, 0);
    for seed in wanted.from..wanted.from + wanted.n_seeds {
        let life = sim::live_as(seed, wanted.n_tasks, wanted.scenario);
        n_lived += 1;
        n_begun += life.n_begun;
        n_again += life.n_again;
        n_claims += life.n_claims;
        hours += life.took.as_secs_f64() / 3600.0;
        if life.broken.is_some() {
            n_broken += 1;
            tell(seed, &wanted);
            if wanted.first {
                break;
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{n_lived} seeds, {n_broken} broken, {hours:.1} simulated hours in {seconds:.1} s: {:.1} hours/s",
        hours / seconds
    );
    println!("{n_begun} tasks begun, {n_again} times again, {n_claims} claims of shards");
    if n_broken == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn tell(seed: u64, wanted: &Wanted) {
    let (life, history) = sim::live_and_tell(seed, wanted.n_tasks, wanted.scenario, wanted.n_lines);
    if let Some(broken) = life.broken {
        let task = broken
            .task
            .map(|id| format!(" of task {}/{}", id.shard, id.offset.0));
        println!(
            "seed {seed}: {} is broken{}: {}\n{history}",
            broken.promise,
            task.unwrap_or_default(),
            broken.why
        );
    }
}

fn wanted() -> Option<Wanted> {
    let mut wanted = Wanted {
        n_seeds: 100,
        from: 0,
        n_tasks: sim::N_TASKS,
        first: false,
        n_lines: 60,
        scenario: Scenario::Storm,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        if name == "--first" {
            wanted.first = true;
            continue;
        }
        if name == "--scenario" {
            wanted.scenario = match arguments.next()?.as_str() {
                "storm" => Scenario::Storm,
                "moves" => Scenario::Moves,
                "crashes" => Scenario::Crashes,
                _ => return None,
            };
            continue;
        }
        let value: u64 = arguments.next()?.parse().ok()?;
        match name.as_str() {
            "--seeds" => wanted.n_seeds = value,
            "--from" => wanted.from = value,
            "--tasks" => wanted.n_tasks = value,
            "--lines" => wanted.n_lines = usize::try_from(value).ok()?,
            _ => return None,
        }
    }
    Some(wanted)
}
