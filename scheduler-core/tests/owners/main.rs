//! Calls and looks find the owners of shards: two members with half of the slots each, and fronts with none.
#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod calls;
mod cluster;
mod follow;
mod look;
