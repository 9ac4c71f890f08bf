//! Leases the tasks of one pipeline and runs their steps through executors.
//!
//! An [`Agent`] fills the placeholders of the steps with a task's fields, has the commands run by the
//! [`Executors`] that the steps name, streams their output as the task's progress, and reports a
//! result with what every command said. What it gives up (cancelled, timed out, lease lost) is killed
//! and its files are removed before the next task begins.
//!
//! Linked into another program, with every executor's name served by programs of this machine:
//!
//! ```no_run
//! # async fn embed() -> Result<(), Box<dyn std::error::Error>> {
//! use workload_agent::{Agent, Directory, LocalExecutor};
//!
//! let local = LocalExecutor::start("/var/lib/workload".as_ref()).await?;
//! let path = scheduler_core::path("default", "shop", "ocr")?;
//! let agent = Agent::builder(path)
//!     .scheduler("http://127.0.0.1:7070")
//!     .executors(local.executors())
//!     .directory(Directory::PrivateUnder("/var/lib/workload/tasks".into()))
//!     .concurrency(4)
//!     .build()?;
//! agent.run(std::future::pending()).await?;
//! local.stop().await;
//! # Ok(())
//! # }
//! ```

mod agent;
mod execution;
mod executors;
mod handler;
mod http;
mod local;
mod output;
mod record;
mod run;
mod source;
mod workspace;

pub use self::{
    agent::{Agent, AgentError, Builder},
    executors::Executors,
    local::LocalExecutor,
    source::{FileError, steps_from_json},
    workspace::Directory,
};
