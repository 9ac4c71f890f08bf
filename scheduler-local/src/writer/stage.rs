//! Rows that wait for the end of a transaction, so that many calls share few statements.

use std::collections::{BTreeMap, BTreeSet};

use scheduler_core::{
    Offset, ShardId, Timestamp,
    port::log::{Appended, Record, RecordBody},
};
use sqlx::SqliteConnection;

use super::{
    op::{DoneRow, IdempotencyRow, RecordRow, TaskRow},
    rows::Insert,
    state::{PartitionState, State},
};
use crate::{
    codec::BatchBlob,
    key::{offset_key, shard_key, time_key},
    log::{LogEvent, TailBatch},
};

/// A batch is closed when it has so many bytes, so that one record is read without much else.
const BATCH_BYTES_MAX: usize = 128 << 10;

static BATCHES: Insert = Insert::new(
    "INSERT INTO batch (shard, base, n, accepted_at, records)",
    5,
);
static TASKS: Insert = Insert::new(
    "REPLACE INTO task
        (shard, \"offset\", state, accepted_at, due_at, keep_until, ordering_key, body)",
    8,
);
static DONE: Insert = Insert::new("REPLACE INTO done (shard, chunk, bits)", 3);
static KEYS: Insert = Insert::new(
    "REPLACE INTO idempotency_key (shard, key, \"offset\", fingerprint, keep_until)",
    5,
);
static SHARDS: Insert = Insert::new(
    "REPLACE INTO shard
        (shard, epoch, number, watermark, seen_end, released, address, incarnation, cancels)",
    9,
);

/// What the bulk of calls writes, in memory until [`write`](Self::write).
#[derive(Debug)]
pub(super) struct Stage<'a> {
    accepted_at: Timestamp,
    open: BTreeMap<ShardId, OpenBatch>,
    batches: Vec<BatchRow>,
    tasks: Vec<(i64, i64, Option<&'a TaskRow>)>,
    done: Vec<(i64, &'a DoneRow)>,
    done_from: BTreeMap<i64, i64>,
    keys: Vec<(i64, &'a IdempotencyRow)>,
    shards: BTreeSet<ShardId>,
    /// What readers of the log must learn once the transaction is durable.
    pub(super) events: Vec<LogEvent>,
}

#[derive(Debug)]
struct OpenBatch {
    base: u64,
    blob: BatchBlob,
    records: Vec<Record>,
}

#[derive(Debug)]
struct BatchRow {
    shard: i64,
    base: i64,
    n: i64,
    accepted_at: i64,
    blob: Vec<u8>,
}

impl<'a> Stage<'a> {
    /// Empty; records are accepted at `accepted_at`.
    pub(super) fn new(accepted_at: Timestamp) -> Self {
        Self {
            accepted_at,
            open: BTreeMap::new(),
            batches: Vec::new(),
            tasks: Vec::new(),
            done: Vec::new(),
            done_from: BTreeMap::new(),
            keys: Vec::new(),
            shards: BTreeSet::new(),
            events: Vec::new(),
        }
    }

    /// Appends a record at the end of its partition.
    pub(super) fn append(&mut self, row: &RecordRow, partition: &mut PartitionState) -> Appended {
        let offset = partition.end;
        partition.end += 1;
        let batch = self.open.entry(row.shard).or_insert_with(|| OpenBatch {
            base: offset,
            blob: BatchBlob::new(),
            records: Vec::new(),
        });
        batch.blob.push(&row.fields);
        let appended = Appended {
            offset: Offset(offset),
            accepted_at: self.accepted_at,
        };
        batch.records.push(Record {
            offset: appended.offset,
            accepted_at: appended.accepted_at,
            body: RecordBody::Task(row.task.clone()),
        });
        if batch.blob.len() >= BATCH_BYTES_MAX
            && let Some(batch) = self.open.remove(&row.shard)
        {
            self.close_batch(row.shard, batch);
        }
        appended
    }

    fn close_batch(&mut self, shard: ShardId, batch: OpenBatch) {
        let n_bytes = batch.blob.len();
        self.batches.push(BatchRow {
            shard: shard_key(shard),
            base: offset_key(Offset(batch.base)),
            n: i64::try_from(batch.records.len()).unwrap_or(i64::MAX),
            accepted_at: time_key(self.accepted_at),
            blob: batch.blob.finish(),
        });
        let tail = TailBatch::new(batch.records, n_bytes);
        self.events.push(LogEvent::Appended(shard, tail));
    }

    pub(super) fn save_task(&mut self, shard: i64, task: &'a TaskRow) {
        self.tasks.push((shard, task.offset, Some(task)));
    }

    pub(super) fn forget_task(&mut self, shard: i64, offset: i64) {
        self.tasks.push((shard, offset, None));
    }

    pub(super) fn save_done(&mut self, shard: i64, done: &'a DoneRow) {
        self.done.push((shard, done));
    }

    /// Chunks below `chunk` are forgotten.
    pub(super) fn forget_done_below(&mut self, shard: i64, chunk: i64) {
        self.done_from.insert(shard, chunk);
    }

    pub(super) fn save_key(&mut self, shard: i64, key: &'a IdempotencyRow) {
        self.keys.push((shard, key));
    }

    /// The shard's row is written as the state has it at the end.
    pub(super) fn save_shard(&mut self, shard: ShardId) {
        self.shards.insert(shard);
    }

    /// Writes all that waits. A later row of a thing wins, as the calls came.
    pub(super) async fn write(
        &mut self,
        state: &State,
        db: &mut SqliteConnection,
    ) -> Result<(), sqlx::Error> {
        for (shard, batch) in std::mem::take(&mut self.open) {
            self.close_batch(shard, batch);
        }
        write_batches(&std::mem::take(&mut self.batches), db).await?;
        write_tasks(std::mem::take(&mut self.tasks), db).await?;
        let done = std::mem::take(&mut self.done);
        DONE.run(db, &done, |query, (shard, row)| {
            query.bind(*shard).bind(row.chunk).bind(row.bits.as_slice())
        })
        .await?;
        for (shard, chunk) in std::mem::take(&mut self.done_from) {
            sqlx::query("DELETE FROM done WHERE shard = ? AND chunk < ?")
                .bind(shard)
                .bind(chunk)
                .execute(&mut *db)
                .await?;
        }
        let keys = std::mem::take(&mut self.keys);
        KEYS.run(db, &keys, |query, (shard, row)| {
            let query = query.bind(*shard).bind(&*row.key).bind(row.offset);
            query.bind(row.fingerprint).bind(row.keep_until)
        })
        .await?;
        write_shards(&std::mem::take(&mut self.shards), state, db).await
    }
}

async fn write_batches(batches: &[BatchRow], db: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    BATCHES
        .run(db, batches, |query, row| {
            let query = query.bind(row.shard).bind(row.base).bind(row.n);
            query.bind(row.accepted_at).bind(row.blob.as_slice())
        })
        .await
}

async fn write_tasks(
    mut tasks: Vec<(i64, i64, Option<&TaskRow>)>,
    db: &mut SqliteConnection,
) -> Result<(), sqlx::Error> {
    // The sort is stable, so of equal keys the last is the newest; and the tree is written in order.
    tasks.sort_by_key(|(shard, offset, _)| (*shard, *offset));
    let mut saved: Vec<(i64, &TaskRow)> = Vec::with_capacity(tasks.len());
    let mut forgotten: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    for (i, (shard, offset, row)) in tasks.iter().enumerate() {
        let newer = tasks.get(i + 1);
        if newer.is_some_and(|(s, o, _)| (s, o) == (shard, offset)) {
            continue;
        }
        match row {
            Some(row) => saved.push((*shard, row)),
            None => forgotten.entry(*shard).or_default().push(*offset),
        }
    }
    for (shard, offsets) in forgotten {
        sqlx::query(
            "DELETE FROM task WHERE shard = ? AND \"offset\" IN (SELECT value FROM json_each(?))",
        )
        .bind(shard)
        .bind(json(&offsets))
        .execute(&mut *db)
        .await?;
    }
    TASKS
        .run(db, &saved, |query, (shard, row)| {
            let query = query.bind(*shard).bind(row.offset).bind(row.state);
            let query = query.bind(row.accepted_at).bind(row.due_at);
            let query = query.bind(row.keep_until).bind(row.ordering_key.as_deref());
            query.bind(row.body.as_slice())
        })
        .await
}

async fn write_shards(
    shards: &BTreeSet<ShardId>,
    state: &State,
    db: &mut SqliteConnection,
) -> Result<(), sqlx::Error> {
    let rows: Vec<_> = shards
        .iter()
        .filter_map(|shard| Some((*shard, state.shards.get(shard)?)))
        .collect();
    SHARDS
        .run(db, &rows, |query, (shard, row)| {
            query
                .bind(shard_key(*shard))
                .bind(row.epoch.0)
                .bind(row.number.cast_signed())
                .bind(offset_key(row.watermark))
                .bind(offset_key(row.seen_end))
                .bind(row.released)
                .bind(&*row.address)
                .bind(&*row.incarnation)
                .bind(&*row.cancels)
        })
        .await
}

/// A JSON array of integers, for `json_each`.
pub(crate) fn json(values: &[i64]) -> String {
    let mut out = String::with_capacity(values.len() * 8 + 2);
    out.push('[');
    for (i, value) in values.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        out.push_str(&value.to_string());
    }
    out.push(']');
    out
}
