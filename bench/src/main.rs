//! The core alone: whole lives of tasks through the pure machines, beside a floor that only queues.
//!
//! `cargo run --release -p bench` prints a table; `bench/README.md` explains it and keeps the figures.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod allocation;
mod floor;
mod lives;

use std::time::Instant;

/// Lives in one round.
const N: u64 = 2_000_000;
const ROUNDS: usize = 5;

fn main() {
    println!("{N} lives a round, {ROUNDS} rounds, medians");
    // First, while the process holds nothing that it could use again.
    for n in [100_000, 1_000_000] {
        println!(
            "memory: {n:>7} waiting tasks   {:>6.0} bytes a task beyond its payload",
            lives::bytes_per_waiting_task(n)
        );
    }
    let floor = rate(floor::run);
    println!("floor: queue and map only      {floor:>12.0} lives/s");
    for (name, retention) in [("results not kept", false), ("results kept", true)] {
        let core = rate(|n| lives::run(n, retention));
        println!(
            "core:  {name:<22}  {core:>12.0} lives/s  {:>5.2} of the floor",
            core / floor
        );
    }
}

fn rate(run: impl Fn(u64)) -> f64 {
    let mut seconds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            run(N);
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    #[expect(clippy::cast_precision_loss, reason = "the number of lives is small")]
    let n = N as f64;
    n / seconds[ROUNDS / 2]
}
