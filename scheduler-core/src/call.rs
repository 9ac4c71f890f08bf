//! What callers hand to the [`Scheduler`](crate::Scheduler) and get back.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{
    LeaseLost, LeaseToken, Outcome, PipelinePath, Revision, TaskId, TaskOptions, Timestamp,
    WorkerId,
    explain::Waiting,
    port::store::StateName,
    task::{AttemptError, Label},
};

/// A task to submit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submit {
    /// A JSON object: its fields fill the placeholders of the steps.
    pub data: Bytes,
    /// What is asked for it, on top of the pipeline's defaults.
    pub options: TaskOptions,
    /// Not before this long from now; instead of `options.run_at`.
    pub delay: Option<Duration>,
    /// W3C `traceparent` of the submitter.
    pub traceparent: Option<Arc<str>>,
}

impl Submit {
    /// A task with the pipeline's options.
    #[must_use]
    pub fn new(data: impl Into<Bytes>) -> Self {
        Self {
            data: data.into(),
            options: TaskOptions::default(),
            delay: None,
            traceparent: None,
        }
    }
}

/// An accepted task: it is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Submitted {
    /// Its id.
    pub id: TaskId,
    /// Where it stood when the answer was made: `scheduled` or `available`. For a repeated idempotency
    /// key the state is `available` too, whatever became of the first; get the task to know.
    pub state: StateName,
    /// Whether an earlier submit with the same idempotency key made it.
    pub repeated: bool,
}

/// A worker's request for tasks of one pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Poll {
    /// Who asks.
    pub worker: WorkerId,
    /// Labels it has: it gets only tasks that ask for no others.
    pub labels: BTreeSet<Label>,
    /// How many slots it has free: 0 to 256. A task takes as many as its `cost`, most take one. With 0 the poll
    /// only listens for lost leases.
    pub credit: usize,
    /// At most so many bytes of data, but at least one task.
    pub bytes_max: usize,
    /// How long to wait for a first task.
    pub wait: Duration,
    /// The leases it holds. A new owner of the shard learns of them here, and the poll returns at
    /// once when one of them is lost.
    pub held: Vec<Held>,
    /// Whether tasks are only offered: leased for [`Config::offer`](crate::Config::offer) until a heartbeat or a poll
    /// names them as held, which makes that a lease like any other. An offer that nobody touches costs no attempt,
    /// so that a lost answer costs little. Without it a task is leased in full at once.
    pub offers: bool,
}

impl Poll {
    /// Asks for up to `credit` tasks and 4 MiB, waits up to 20 s, holds nothing.
    #[must_use]
    pub fn new(worker: WorkerId, credit: usize) -> Self {
        Self {
            worker,
            labels: BTreeSet::new(),
            credit,
            bytes_max: 4 << 20,
            wait: Duration::from_secs(20),
            held: Vec::new(),
            offers: false,
        }
    }
}

/// A lease that a worker holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Held {
    /// The task.
    pub id: TaskId,
    /// The lease.
    pub token: LeaseToken,
}

impl From<&LeasedTask> for Held {
    fn from(task: &LeasedTask) -> Self {
        let (id, token) = (task.id, task.token);
        Self { id, token }
    }
}

/// What a poll got: empty if it waited in vain.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Leased {
    /// Tasks, now leased to the worker.
    pub tasks: Vec<LeasedTask>,
    /// Leases of the poll's `held` that the worker must drop.
    pub lost: Vec<(Held, LeaseLost)>,
}

/// A task as a worker gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeasedTask {
    /// The task.
    pub id: TaskId,
    /// The lease; every heartbeat and report names it.
    pub token: LeaseToken,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// How many attempts there are at most.
    pub max_attempts: u32,
    /// What was submitted.
    pub data: Bytes,
    /// What was asked for it.
    pub options: Option<Arc<TaskOptions>>,
    /// W3C `traceparent` of the submit.
    pub traceparent: Option<Arc<str>>,
    /// The lease ends after this long without a heartbeat. For an offer that is shorter than for a lease that was
    /// renewed.
    pub lease: Duration,
    /// The attempt may take this long.
    pub timeout: Option<Duration>,
    /// The handler may be silent this long.
    pub heartbeat_timeout: Option<Duration>,
    /// The pipeline's revision: a worker that holds steps of an older one reads them again.
    pub revision: Revision,
}

/// What became of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The task.
    pub id: TaskId,
    /// The lease under which it was run.
    pub token: LeaseToken,
    /// What became of it.
    pub outcome: Outcome,
}

/// A sign of life for one lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    /// The task.
    pub id: TaskId,
    /// The lease.
    pub token: LeaseToken,
    /// Whether the handler itself gave the sign, which is what `heartbeat_timeout` waits for; otherwise
    /// only the worker renews its lease.
    pub from_handler: bool,
    /// A JSON value that shows how far it is, in place of the one before; at most 256 KiB.
    pub progress: Option<Bytes>,
}

/// A sign of life as an owner takes it: for which lease, whether the handler itself gave it, and how far it is.
pub type Beat = (Held, bool, Option<Bytes>);

/// A task as users see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskView {
    /// Its id.
    pub id: TaskId,
    /// Its pipeline.
    pub path: PipelinePath,
    /// Where it stands.
    pub state: StateName,
    /// Attempts begun so far.
    pub attempt: u32,
    /// How many attempts there are at most.
    pub max_attempts: u32,
    /// What was submitted.
    pub data: Bytes,
    /// What was asked for it.
    pub options: Option<Arc<TaskOptions>>,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// When it can run, if that is not now.
    pub due_at: Option<Timestamp>,
    /// When its first attempt began.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Who has it, while it runs.
    pub worker: Option<WorkerId>,
    /// What its handler last said of its progress, while it runs. Not durable.
    pub progress: Option<Bytes>,
    /// What went wrong in each failed attempt, oldest first.
    pub errors: Vec<AttemptError>,
    /// What came out: a JSON value.
    pub result: Option<Bytes>,
    /// In the backlog: so many records of its partition are read before it.
    pub n_before: Option<u64>,
    /// Why it does not run, if it waits.
    pub waits: Option<Waiting>,
}

/// Which tasks of a pipeline to list: those that left the backlog.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListTasks {
    /// Only tasks in one of these states; empty means all.
    pub states: Vec<StateName>,
    /// Only tasks accepted at or after this time.
    pub since: Option<Timestamp>,
    /// 1 to 1,000; 0 means 100.
    pub limit: usize,
    /// Where the page before ended: its [`TaskPage::next_page_token`].
    pub page_token: Option<String>,
}

/// A page of tasks, newest first within each partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskPage {
    /// The tasks.
    pub tasks: Vec<TaskView>,
    /// Opaque; `None` on the last page.
    pub next_page_token: Option<String>,
    /// Accepted tasks that their shards have not read yet, all partitions together.
    pub backlog: u64,
}
