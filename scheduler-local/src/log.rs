//! The log's port: appends go to the writer; reads come from memory near the end, else from the database.

mod view;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use scheduler_core::{
    Mode, Offset, Pipeline, ShardId, TaskId, Timestamp,
    member::shards_of,
    port::{
        FailureKind, PortError, TaskLog,
        log::{Appended, Bounds, Fetch, Fetched, Fetches, NewRecord, Record},
    },
};
use sqlx::{Row, SqlitePool, sqlite::SqliteRow};

pub(crate) use self::view::{LogEvent, LogView, TailBatch};
use self::view::{Plan, data_len};
use crate::{
    codec::{BatchRows, Unreadable, encode_record},
    error::{damaged, read_failed},
    key::{offset_key, offset_of, shard_key, time_of},
    writer::{Op, Outcome, RecordRow, Refused, Standing, Writer},
};

/// Batches read by one statement.
const READ_BATCHES_MAX: i64 = 64;
/// What a batch is guessed to have when few bytes are wanted.
const READ_BATCH_BYTES: usize = 16 << 10;

/// The log in a data directory.
#[derive(Debug)]
pub(crate) struct LocalLog {
    writer: Writer,
    readers: SqlitePool,
    view: Arc<LogView>,
}

/// Records that follow one another, as they are stored.
#[derive(Debug)]
struct BatchRow {
    base: Offset,
    end: Offset,
    accepted_at: Timestamp,
    blob: Vec<u8>,
}

impl LocalLog {
    pub(crate) fn new(writer: Writer, readers: SqlitePool, view: Arc<LogView>) -> Self {
        Self {
            writer,
            readers,
            view,
        }
    }

    /// Reads a partition from the database, up to `end`; empty if it was trimmed meanwhile.
    async fn read(&self, fetch: &Fetch, end: Offset) -> Result<Fetched, PortError> {
        const OPERATION: &str = "fetch records";
        let mut fetched = Fetched {
            shard: fetch.shard,
            records: Vec::new(),
            next: fetch.from,
        };
        let mut n_bytes = 0;
        while fetched.next < end {
            let batches = self.read_batches(fetch, fetched.next).await;
            let batches = batches.map_err(read_failed(OPERATION))?;
            let trimmed = batches
                .first()
                .is_none_or(|first| first.base > fetched.next);
            if trimmed && self.is_trimmed(fetch.shard, fetched.next).await? {
                break;
            }
            // The log has no other gaps, so whatever else is missing was lost.
            if batches.is_empty() {
                return Err(damaged(OPERATION)(Unreadable::Missing));
            }
            for batch in &batches {
                if batch.base > fetched.next {
                    return Err(damaged(OPERATION)(Unreadable::Missing));
                }
                let records = BatchRows::new(batch.base, batch.accepted_at, &batch.blob);
                let mut records = records.map_err(damaged(OPERATION))?;
                while let Some(record) = records
                    .next_from(fetched.next)
                    .map_err(damaged(OPERATION))?
                {
                    n_bytes += data_len(&record);
                    let full = fetched.records.len() >= fetch.n_max || n_bytes > fetch.bytes_max;
                    if record.offset >= end || full && !fetched.records.is_empty() {
                        return Ok(fetched);
                    }
                    fetched.next = record.offset.next();
                    fetched.records.push(record);
                }
                if fetched.next != batch.end {
                    return Err(damaged(OPERATION)(Unreadable::Missing));
                }
            }
        }
        Ok(fetched)
    }

    /// Makes one log, or finds it made.
    async fn ensure_one(&self, pipeline: &Pipeline) -> Result<(), PortError> {
        const OPERATION: &str = "make a log";
        let op = || Op::Ensure {
            pipeline: pipeline.number,
            n_partitions: pipeline.spec.n_partitions,
        };
        if self.view.knows(pipeline.number) || pipeline.mode == Mode::Deleting {
            return Ok(());
        }
        while let Outcome::Step { more: true } = self.writer.call(OPERATION, op(), 0).await? {
            self.remove(pipeline).await?;
        }
        Ok(())
    }

    /// Whether nothing is kept at this offset any more. Asks the database, which can be ahead of the view.
    async fn is_trimmed(&self, shard: ShardId, offset: Offset) -> Result<bool, PortError> {
        let (trimmed,): (bool,) = sqlx::query_as(
            "SELECT EXISTS (SELECT 1 FROM log_start WHERE shard = ?1 AND start > ?2)
                OR NOT EXISTS (SELECT 1 FROM log WHERE pipeline = ?3 AND NOT removed)",
        )
        .bind(shard_key(shard))
        .bind(offset_key(offset))
        .bind(shard.pipeline.0)
        .fetch_one(&self.readers)
        .await
        .map_err(read_failed("fetch records"))?;
        Ok(trimmed)
    }

    /// The batch that holds `from`, and some that follow.
    async fn read_batches(
        &self,
        fetch: &Fetch,
        from: Offset,
    ) -> Result<Vec<BatchRow>, sqlx::Error> {
        // A batch has one record at least, and mostly far more bytes than this.
        let n_max = fetch.n_max.min(fetch.bytes_max / READ_BATCH_BYTES + 1);
        let n_max = i64::try_from(n_max).unwrap_or(i64::MAX);
        let rows = sqlx::query(
            "SELECT base, base + n, accepted_at, records FROM batch
             WHERE shard = ?1 AND base + n > ?2 AND base >= coalesce(
                (SELECT max(base) FROM batch WHERE shard = ?1 AND base <= ?2), 0)
             ORDER BY base LIMIT ?3",
        )
        .bind(shard_key(fetch.shard))
        .bind(offset_key(from))
        .bind(n_max.clamp(1, READ_BATCHES_MAX))
        .fetch_all(&self.readers)
        .await?;
        let batch = |row: &SqliteRow| {
            Ok(BatchRow {
                base: offset_of(row.try_get(0)?),
                end: offset_of(row.try_get(1)?),
                accepted_at: time_of(row.try_get(2)?),
                blob: row.try_get(3)?,
            })
        };
        rows.iter().map(batch).collect()
    }

    async fn read_one(&self, id: TaskId) -> Result<Option<Record>, PortError> {
        let fetch = Fetch {
            shard: id.shard,
            from: id.offset,
            n_max: 1,
            bytes_max: 0,
        };
        let bounds = self.view.bounds(id.shard);
        let bounds = bounds.ok_or_else(|| no_log("read a record", id.shard))?;
        if !(bounds.start..bounds.end).contains(&id.offset) {
            return Ok(None);
        }
        let fetched = self.fetch_now(&[fetch]).await?;
        let records = fetched.read.into_iter().flat_map(|fetched| fetched.records);
        Ok(records
            .into_iter()
            .find(|record| record.offset == id.offset))
    }

    async fn fetch_now(&self, wanted: &[Fetch]) -> Result<Fetches, PortError> {
        let mut news = Fetches::default();
        for (fetch, plan) in self.view.plan(wanted) {
            match plan {
                Plan::Nothing => {}
                Plan::Lost(start) => news
                    .lost
                    .push((fetch.shard, format!("the log starts at {start}"))),
                Plan::Known(fetched) => news.read.push(fetched),
                Plan::Read { end } => {
                    let fetched = self.read(&fetch, end).await?;
                    if fetched.next > fetch.from {
                        news.read.push(fetched);
                    }
                }
            }
        }
        Ok(news)
    }
}

fn no_log(operation: &'static str, shard: ShardId) -> PortError {
    PortError::new(operation, FailureKind::Unavailable)
        .caused_by(format!("there is no log of shard {shard}"))
}

#[async_trait]
impl TaskLog for LocalLog {
    async fn ensure(&self, pipelines: &[Arc<Pipeline>]) -> Vec<Result<(), PortError>> {
        let mut answers = Vec::with_capacity(pipelines.len());
        for pipeline in pipelines {
            answers.push(self.ensure_one(pipeline).await);
        }
        answers
    }

    async fn close(&self, pipeline: &Pipeline) -> Result<Option<Vec<Bounds>>, PortError> {
        const OPERATION: &str = "close a log";
        let op = Op::CloseLog(pipeline.number);
        match self.writer.call(OPERATION, op, 0).await? {
            Outcome::LogClosed(Standing::Gone) => Ok(None),
            Outcome::LogClosed(Standing::Removed) => {
                self.remove(pipeline).await?;
                Ok(None)
            }
            Outcome::LogClosed(Standing::Closed) => {
                let shards: Vec<_> = shards_of(pipeline).collect();
                let bounds = self.bounds(&shards).await;
                bounds.into_iter().collect::<Result<_, _>>().map(Some)
            }
            other => unreachable!("a close was answered with {other:?}"),
        }
    }

    async fn remove(&self, pipeline: &Pipeline) -> Result<(), PortError> {
        let op = || Op::Remove(pipeline.number);
        self.writer.call_in_steps("remove a log", op).await
    }

    async fn append(&self, records: Vec<NewRecord>) -> Vec<Result<Appended, PortError>> {
        const OPERATION: &str = "append records";
        let n = records.len();
        let mut n_bytes = 0;
        let rows = records.into_iter().map(|record| {
            let fields = encode_record(&record.task);
            n_bytes += 2 * fields.len();
            RecordRow {
                shard: record.shard,
                task: record.task,
                fields,
            }
        });
        let op = Op::Append(rows.collect());
        let refused = |refused: Refused| match refused {
            Refused::NoLog(shard) => no_log(OPERATION, shard),
            Refused::Closed => PortError::new(OPERATION, FailureKind::Closed),
            Refused::Full => PortError::new(OPERATION, FailureKind::Full).caused_by(
                "little space is left on the disk, and it is kept for tasks that were accepted",
            ),
        };
        match self.writer.call(OPERATION, op, n_bytes).await {
            Ok(Outcome::Appended(answers)) => answers
                .into_iter()
                .map(|answer| answer.map_err(refused))
                .collect(),
            Ok(other) => unreachable!("an append was answered with {other:?}"),
            Err(err) => {
                let again = || PortError::new(OPERATION, err.kind()).caused_by(err.to_string());
                (0..n).map(|_| Err(again())).collect()
            }
        }
    }

    async fn fetch(&self, wanted: &[Fetch], wait: Duration) -> Result<Fetches, PortError> {
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            // Registered before the look, so that an append in between is not missed.
            let changed = self.view.changed();
            let news = self.fetch_now(wanted).await?;
            if news != Fetches::default() {
                return Ok(news);
            }
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                return Ok(news);
            }
        }
    }

    async fn read_at(&self, wanted: &[TaskId]) -> Vec<Result<Option<Record>, PortError>> {
        let mut answers = Vec::with_capacity(wanted.len());
        for id in wanted {
            answers.push(self.read_one(*id).await);
        }
        answers
    }

    async fn bounds(&self, shards: &[ShardId]) -> Vec<Result<Bounds, PortError>> {
        let bounds = |shard: &ShardId| {
            let bounds = self.view.bounds(*shard);
            bounds.ok_or_else(|| no_log("read bounds", *shard))
        };
        shards.iter().map(bounds).collect()
    }

    async fn trim(&self, below: &[(ShardId, Offset)]) -> Result<(), PortError> {
        let op = || Op::Trim(below.to_vec());
        self.writer.call_in_steps("trim a log", op).await
    }

    async fn publish_watermarks(&self, _watermarks: &[(ShardId, Offset)]) -> Result<(), PortError> {
        // Who looks into the database finds the watermarks in its table of shards.
        Ok(())
    }
}
