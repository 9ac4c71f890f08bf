//! The only task that writes: everything that waits goes into one transaction and one sync.
//!
//! While a transaction is being synced, calls queue up; the next transaction takes them all. So
//! hundreds of calls share a sync, and a lone call waits for nobody. Answers go out through
//! [`publish`] once the transaction is durable and the high-water mark says so.

mod apply;
mod commit;
mod op;
mod publish;
mod rows;
mod stage;
mod state;

use std::{sync::Arc, time::Duration};

use scheduler_core::port::{FailureKind, PortError};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::{Interval, MissedTickBehavior},
};

use self::commit::Committer;
use self::op::{Failed, Request};
pub(crate) use self::{
    op::{
        ClaimedShard, DoneRow, IdempotencyRow, Op, Outcome, PartRows, RecordRow, Refused, Standing,
        TaskRow,
    },
    publish::{Publisher, Views},
    stage::json,
    state::{LogState, State},
};
use crate::{config::Config, database::Database, lock::DirectoryLock};

/// Calls in one transaction at most; their bytes have a limit of their own.
const COMMIT_CALLS_MAX: usize = 4_096;
/// What a call is counted with besides its rows, so that empty calls are bounded too.
const CALL_BYTES: usize = 512;
/// The greatest limit of the queue.
const QUEUE_BYTES_MAX: u32 = 1 << 30;
/// Between two steps of the sweeper, so that calls go between them.
const SWEEP_PAUSE: Duration = Duration::from_millis(5);

/// Where calls go to be written. Clones feed the same writer.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    queue: mpsc::UnboundedSender<Request>,
    /// Bounds the queue, in bytes of calls that are not answered yet.
    queue_bytes: Arc<Semaphore>,
    queue_bytes_max: u32,
}

impl Writer {
    /// Starts the task and gives it all that only one process may have.
    pub(crate) fn start(
        config: Config,
        lock: DirectoryLock,
        database: Database,
        state: State,
        views: Views,
    ) -> Self {
        let (queue, requests) = mpsc::unbounded_channel();
        let queue_bytes_max = config.queue_bytes_max.clamp(1, QUEUE_BYTES_MAX as usize);
        let mut sweep = tokio::time::interval(config.sweep_interval.max(SWEEP_PAUSE));
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let commit_bytes_max = config.commit_bytes_max;
        let lock = Arc::new(lock);
        let publisher = Publisher::start(
            database.mark,
            views,
            Arc::clone(&lock),
            config.on_sync_failure,
        );
        let task = WriterTask {
            requests,
            committer: Committer::new(config, database.writer, state, publisher),
            readers: database.readers,
            commit_bytes_max,
            sweep,
            lock,
        };
        tokio::spawn(task.run());
        Self {
            queue,
            queue_bytes: Arc::new(Semaphore::new(queue_bytes_max)),
            queue_bytes_max: u32::try_from(queue_bytes_max).unwrap_or(QUEUE_BYTES_MAX),
        }
    }

    /// Writes `op`, of which `n_bytes` are kept in memory meanwhile. Waits while the queue is full.
    ///
    /// # Cancel safety
    /// Dropped, it is written whole or not at all.
    pub(crate) async fn call(
        &self,
        operation: &'static str,
        op: Op,
        n_bytes: usize,
    ) -> Result<Outcome, PortError> {
        let closed =
            || PortError::new(operation, FailureKind::Unavailable).caused_by("it is closed");
        let n_bytes = n_bytes + CALL_BYTES;
        let n_permits = u32::try_from(n_bytes)
            .unwrap_or(u32::MAX)
            .min(self.queue_bytes_max);
        let permits = Arc::clone(&self.queue_bytes).acquire_many_owned(n_permits);
        let permit = permits.await.map_err(|_| closed())?;
        let (reply, answer) = oneshot::channel();
        let request = Request {
            op,
            permit: Some(permit),
            n_bytes,
            reply,
        };
        self.queue.send(request).map_err(|_| closed())?;
        match answer.await {
            Ok(Ok(outcome)) => Ok(outcome),
            Ok(Err(failed)) => {
                let message = failed.message.to_string();
                Err(PortError::new(operation, failed.kind).caused_by(message))
            }
            // The writer ended with the call in its hands.
            Err(_) => Err(PortError::new(operation, FailureKind::Unknown)),
        }
    }

    /// Repeats a call that is done in steps until nothing is left.
    pub(crate) async fn call_in_steps(
        &self,
        operation: &'static str,
        step: impl Fn() -> Op,
    ) -> Result<(), PortError> {
        while let Outcome::Step { more: true } = self.call(operation, step(), 0).await? {}
        Ok(())
    }
}

/// The task behind a [`Writer`].
#[derive(Debug)]
struct WriterTask {
    requests: mpsc::UnboundedReceiver<Request>,
    committer: Committer,
    readers: sqlx::SqlitePool,
    commit_bytes_max: usize,
    sweep: Interval,
    /// Dropped last, when no connection is left.
    lock: Arc<DirectoryLock>,
}

impl WriterTask {
    async fn run(mut self) {
        let mut closing = None;
        while closing.is_none() {
            tokio::select! {
                biased;
                // First, because calls may wait at all times; it is due seldom enough.
                _ = self.sweep.tick() => {
                    if self.committer.sweep().await {
                        self.sweep.reset_after(SWEEP_PAUSE);
                    }
                }
                request = self.requests.recv() => {
                    let Some(request) = request else {
                        break;
                    };
                    let mut group = self.collect(request);
                    closing = take_close(&mut group);
                    if !self.committer.commit(group).await {
                        break;
                    }
                }
            }
        }
        self.requests.close();
        while let Ok(request) = self.requests.try_recv() {
            let closed = Failed {
                kind: FailureKind::Unavailable,
                message: "it is closed".into(),
            };
            // Who asked may have stopped waiting.
            request.reply.send(Err(closed)).ok();
        }
        self.readers.close().await;
        self.committer.close().await;
        drop(self.lock);
        if let Some(Request { reply, .. }) = closing {
            // Who asked may have stopped waiting.
            reply.send(Ok(Outcome::Done)).ok();
        }
    }

    /// Everything that waits, up to the limits of one transaction.
    fn collect(&mut self, first: Request) -> Vec<Request> {
        let mut n_bytes = first.n_bytes;
        let mut closes = matches!(first.op, Op::Close);
        let mut group = vec![first];
        while !closes && group.len() < COMMIT_CALLS_MAX && n_bytes < self.commit_bytes_max {
            let Ok(request) = self.requests.try_recv() else {
                break;
            };
            n_bytes += request.n_bytes;
            closes = matches!(request.op, Op::Close);
            group.push(request);
        }
        group
    }
}

fn take_close(group: &mut Vec<Request>) -> Option<Request> {
    group.pop_if(|request| matches!(request.op, Op::Close))
}
