//! Whole processes under test. They are built by `cargo build --workspace --bins`, which
//! `cargo xtask test` does first.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by a panic, and prints what it counted"
)]

mod backlog;
mod cancels;
mod dead_letters;
mod end_to_end;
mod engines;
mod events;
mod fixture;
mod guard;
mod kills;
mod trace;
mod workers;
