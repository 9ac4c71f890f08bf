//! The store's port: rows are encoded by who calls and written by the writer; reads have connections of their own.

mod read;

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use scheduler_core::{
    Epoch, PipelineNumber, ShardId,
    port::{
        PortError, TaskStore,
        store::{
            Claim, Claimed, DuePage, DueTasks, Flushed, Found, KeyedPage, KeyedTasks, ListPage,
            Lookup, ShardFlush, StateName, StoredState, StoredTask,
        },
    },
};
use sqlx::SqlitePool;

use crate::{
    codec::{encode_cancels, encode_task},
    key::{offset_key, time_key},
    writer::{DoneRow, IdempotencyRow, Op, Outcome, PartRows, TaskRow, Writer},
};

/// The store in a data directory.
#[derive(Debug)]
pub(crate) struct LocalStore {
    writer: Writer,
    readers: SqlitePool,
}

impl LocalStore {
    pub(crate) fn new(writer: Writer, readers: SqlitePool) -> Self {
        Self { writer, readers }
    }
}

/// The number of a state in the tables; as in the migration, and in blobs.
pub(crate) fn state_key(state: StateName) -> i64 {
    match state {
        StateName::Scheduled => 0,
        StateName::Available => 1,
        StateName::Running => 2,
        StateName::Retryable => 3,
        StateName::Completed => 4,
        StateName::Cancelled => 5,
        StateName::Discarded => 6,
    }
}

fn part_rows(part: &ShardFlush) -> PartRows {
    let done = part.done.iter().map(|chunk| DoneRow {
        chunk: i64::try_from(chunk.index).unwrap_or(i64::MAX),
        bits: chunk
            .words
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect(),
    });
    let keys = part.keys.iter().map(|row| IdempotencyRow {
        key: row.key.as_str().into(),
        offset: offset_key(row.offset),
        fingerprint: row.fingerprint.cast_signed(),
        keep_until: time_key(row.keep_until),
    });
    PartRows {
        shard: part.shard,
        epoch: part.epoch,
        number: part.number,
        watermark: part.watermark,
        seen_end: part.seen_end,
        done: done.collect(),
        tasks: part.tasks.iter().map(task_row).collect(),
        forgotten: part
            .forgotten
            .iter()
            .map(|offset| offset_key(*offset))
            .collect(),
        keys: keys.collect(),
        cancels: part
            .cancels
            .as_ref()
            .map(|rules| encode_cancels(rules).into()),
    }
}

fn task_row(task: &StoredTask) -> TaskRow {
    let (due_at, keep_until) = match &task.state {
        StoredState::Parked { due_at, .. } => (Some(time_key(*due_at)), None),
        StoredState::Running { .. } => (None, None),
        StoredState::Ended { keep_until, .. } => (None, Some(time_key(*keep_until))),
    };
    TaskRow {
        offset: offset_key(task.offset),
        state: state_key(task.state.name()),
        accepted_at: time_key(task.accepted_at),
        due_at,
        keep_until,
        ordering_key: task.ordering_key().map(|key| key.as_str().into()),
        body: encode_task(task),
    }
}

/// What the rows take in memory, about.
fn rows_len(parts: &[PartRows]) -> usize {
    let task_len = |task: &TaskRow| {
        let key = task.ordering_key.as_ref().map_or(0, |key| key.len());
        task.body.len() + key + 64
    };
    let len = |part: &PartRows| {
        let bodies: usize = part.tasks.iter().map(task_len).sum();
        let cancels = part.cancels.as_ref().map_or(0, |cancels| cancels.len());
        bodies
            + cancels
            + part.done.len() * 160
            + part.forgotten.len() * 8
            + part.keys.len() * 160
            + 128
    };
    parts.iter().map(len).sum()
}

/// The wall clock as a key: what ends before it is not shown any more.
fn now_key() -> i64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    let millis = since_1970.map_or(0, |since| since.as_millis());
    i64::try_from(millis).unwrap_or(i64::MAX)
}

#[async_trait]
impl TaskStore for LocalStore {
    async fn claim(&self, claims: &[Claim]) -> Result<Vec<Claimed>, PortError> {
        const OPERATION: &str = "claim shards";
        let op = Op::Claim(claims.to_vec());
        match self.writer.call(OPERATION, op, claims.len() * 128).await? {
            // The epochs are durable now, so nobody else changes what is read next.
            Outcome::Claimed(shards) => read::claimed(&self.readers, shards).await,
            other => unreachable!("a claim was answered with {other:?}"),
        }
    }

    async fn flush(&self, parts: &[ShardFlush]) -> Result<Vec<Flushed>, PortError> {
        let rows: Vec<_> = parts.iter().map(part_rows).collect();
        let n_bytes = rows_len(&rows);
        let flush = self.writer.call("flush shards", Op::Flush(rows), n_bytes);
        match flush.await? {
            Outcome::Flushed(flushed) => Ok(flushed),
            other => unreachable!("a flush was answered with {other:?}"),
        }
    }

    async fn release(&self, shards: &[(ShardId, Epoch)]) -> Result<(), PortError> {
        let op = Op::Release(shards.to_vec());
        let release = self.writer.call("release shards", op, shards.len() * 16);
        release.await.map(|_| ())
    }

    async fn due(&self, pages: &[DuePage]) -> Result<Vec<DueTasks>, PortError> {
        read::due(&self.readers, pages).await
    }

    async fn keyed(&self, pages: &[KeyedPage]) -> Result<Vec<KeyedTasks>, PortError> {
        read::keyed(&self.readers, pages).await
    }

    async fn get(&self, lookups: &[Lookup]) -> Result<Vec<Option<Found>>, PortError> {
        read::get(&self.readers, lookups, now_key()).await
    }

    async fn list(&self, pages: &[ListPage]) -> Result<Vec<Vec<StoredTask>>, PortError> {
        read::list(&self.readers, pages, now_key()).await
    }

    async fn owners(&self, shards: &[ShardId]) -> Result<Vec<Option<Arc<str>>>, PortError> {
        read::owners(&self.readers, shards).await
    }

    async fn forget(&self, pipeline: PipelineNumber) -> Result<(), PortError> {
        let step = || Op::Forget(pipeline);
        self.writer.call_in_steps("forget a pipeline", step).await
    }
}
