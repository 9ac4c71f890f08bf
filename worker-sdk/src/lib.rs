//! Write a worker: it leases the tasks of one pipeline, runs them, and reports what became of them.
//!
//! Implement [`Handler`], or give a closure, and run a [`Worker`]. The rest is its own work: renewing
//! leases, reconnecting, resending reports until they are durable, dropping a handler whose lease is
//! lost, draining on SIGTERM.
//!
//! ```no_run
//! use worker_sdk::{Failure, TaskContext, Worker};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), worker_sdk::Error> {
//!     let shout = |ctx: TaskContext| async move {
//!         let data: serde_json::Value = ctx.data()?;
//!         let text = data["text"].as_str().ok_or("there is no text")?;
//!         Ok::<_, Failure>(text.to_uppercase())
//!     };
//!     Worker::builder("shop", "shout").concurrency(8).build(shout)?.run().await
//! }
//! ```
//!
//! Delivery is at least once: the same task can arrive again, on any worker. Where that matters, use
//! [`TaskContext::id`] as the key of what you do, or [`TaskContext::lease_token`], which only grows,
//! as a fence.
//!
//! With the feature `executor` this crate also runs command lines for the agent of a pod.

mod backoff;
mod context;
mod error;
#[cfg(feature = "executor")]
pub mod executor;
mod handler;
mod outcome;
mod shutdown;
pub mod testing;
mod transport;
mod worker;

pub use self::{
    context::{DataError, PROGRESS_LEN_MAX, TaskContext},
    error::Error,
    handler::Handler,
    outcome::{Failure, Outcome},
    shutdown::signalled,
    worker::{Builder, Worker},
};
