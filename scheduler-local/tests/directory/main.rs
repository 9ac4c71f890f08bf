//! What a data directory does when it is shared, damaged, full, older, or on a failing disk.
#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod crash;
mod damage;
mod fixture;
mod lock;
mod older;
mod retention;
mod sharing;
mod space;
