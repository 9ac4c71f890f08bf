//! Applies one call to the state, the stage and the database.

use std::sync::Arc;

use scheduler_core::{
    Epoch, Offset, PipelineNumber, ShardId, Timestamp,
    port::{FailureKind, store::Claim, store::Flushed},
    watermark::CHUNK_BITS,
};
use sqlx::SqliteConnection;

use super::{
    op::{ClaimedShard, Failed, Op, Outcome, PartRows, RecordRow, Refused, Standing},
    stage::Stage,
    state::{LogState, PartitionState, ShardState, State},
};
use crate::{
    key::{offset_key, pipeline_keys, shard_key, time_key},
    log::LogEvent,
    space::Room,
};

/// Rows that one step deletes at most, so that it does not hold up the calls behind it for long.
const STEP_ROWS_MAX: i64 = 1_000;
/// Batches that one step deletes at most: each has many records and pages of its own.
const STEP_BATCHES_MAX: i64 = 200;

/// One transaction in the making.
#[derive(Debug)]
pub(super) struct Transaction<'a, 'db> {
    pub(super) state: &'db mut State,
    pub(super) db: &'db mut SqliteConnection,
    pub(super) stage: Stage<'a>,
    pub(super) room: Room,
    pub(super) now: Timestamp,
    pub(super) catalog_changed: bool,
}

impl<'a> Transaction<'a, '_> {
    /// The outer error fails the whole transaction; an inner one only this call, which has changed nothing.
    pub(super) async fn apply(
        &mut self,
        op: &'a Op,
    ) -> Result<Result<Outcome, Failed>, sqlx::Error> {
        let outcome = match op {
            Op::Append(records) => self.append(records),
            Op::Flush(parts) => {
                Outcome::Flushed(parts.iter().map(|part| self.flush(part)).collect())
            }
            Op::Claim(claims) => return Ok(self.claim(claims)),
            Op::Release(shards) => self.release(shards),
            // What follows is rare and reads or deletes rows, so all that was staged before it goes first.
            Op::Ensure {
                pipeline,
                n_partitions,
            } => self.ensure(*pipeline, *n_partitions).await?,
            Op::CloseLog(pipeline) => self.close_log(*pipeline).await?,
            Op::Remove(pipeline) => self.remove(*pipeline).await?,
            Op::Trim(below) => self.trim(below).await?,
            Op::Forget(pipeline) => self.forget(*pipeline).await?,
            Op::Change(change) => {
                let changed = self.state.catalog.change(change, self.db).await?;
                self.catalog_changed = true;
                Outcome::Changed(changed)
            }
            Op::Sweep => self.sweep().await?,
            Op::Close => Outcome::Done,
        };
        Ok(Ok(outcome))
    }

    fn append(&mut self, records: &[RecordRow]) -> Outcome {
        let append = |row: &RecordRow| {
            if self.room == Room::Short {
                return Err(Refused::Full);
            }
            if self.state.is_closed(row.shard) {
                return Err(Refused::Closed);
            }
            let partition = self.state.partition_mut(row.shard);
            let partition = partition.ok_or(Refused::NoLog(row.shard))?;
            Ok(self.stage.append(row, partition))
        };
        Outcome::Appended(records.iter().map(append).collect())
    }

    fn flush(&mut self, part: &'a PartRows) -> Flushed {
        let Some(shard) = self.state.shards.get_mut(&part.shard) else {
            return Flushed::Fenced;
        };
        if shard.epoch != part.epoch {
            return Flushed::Fenced;
        }
        if part.number <= shard.number {
            return Flushed::Saved;
        }
        let chunk_of = |watermark: Offset| offset_key(Offset(watermark.0 / CHUNK_BITS));
        let (before, first) = (chunk_of(shard.watermark), chunk_of(part.watermark));
        shard.number = part.number;
        shard.watermark = part.watermark;
        shard.seen_end = part.seen_end;
        if let Some(cancels) = &part.cancels {
            shard.cancels = Arc::clone(cancels);
        }
        self.stage.save_shard(part.shard);
        let key = shard_key(part.shard);
        if first > before {
            self.stage.forget_done_below(key, first);
        }
        for done in part.done.iter().filter(|done| done.chunk >= first) {
            self.stage.save_done(key, done);
        }
        for task in &part.tasks {
            self.stage.save_task(key, task);
        }
        for offset in &part.forgotten {
            self.stage.forget_task(key, *offset);
        }
        for row in &part.keys {
            self.stage.save_key(key, row);
        }
        Flushed::Saved
    }

    fn claim(&mut self, claims: &[Claim]) -> Result<Outcome, Failed> {
        let epoch_of = |claim: &Claim| self.state.shards.get(&claim.shard).map(|found| found.epoch);
        let used_up = |claim: &&Claim| epoch_of(claim).is_some_and(|epoch| epoch.next().is_none());
        if let Some(claim) = claims.iter().find(used_up) {
            return Err(Failed {
                kind: FailureKind::Damaged,
                message: format!("shard {} has had its last epoch", claim.shard).into(),
            });
        }
        let claim = |claim: &Claim| {
            let shard = self.state.shards.entry(claim.shard);
            let shard = shard.or_insert_with(|| ShardState {
                epoch: Epoch::NEVER,
                number: 0,
                watermark: Offset::ZERO,
                seen_end: Offset::ZERO,
                released: false,
                address: Arc::clone(&claim.address),
                incarnation: Arc::clone(&claim.incarnation),
                cancels: "[]".into(),
            });
            shard.epoch = shard.epoch.next().unwrap_or(Epoch::MAX);
            shard.number = 0;
            shard.address = Arc::clone(&claim.address);
            self.stage.save_shard(claim.shard);
            ClaimedShard {
                shard: claim.shard,
                epoch: shard.epoch,
                incarnation: Arc::clone(&shard.incarnation),
                watermark: shard.watermark,
                seen_end: shard.seen_end,
                cancels: Arc::clone(&shard.cancels),
                released: std::mem::replace(&mut shard.released, false),
            }
        };
        Ok(Outcome::Claimed(claims.iter().map(claim).collect()))
    }

    fn release(&mut self, shards: &[(ShardId, Epoch)]) -> Outcome {
        for (id, epoch) in shards {
            if let Some(shard) = self.state.shards.get_mut(id)
                && shard.epoch == *epoch
            {
                shard.released = true;
                self.stage.save_shard(*id);
            }
        }
        Outcome::Done
    }

    async fn ensure(
        &mut self,
        pipeline: PipelineNumber,
        n_partitions: u16,
    ) -> Result<Outcome, sqlx::Error> {
        if let Some(log) = self.state.logs.get(&pipeline) {
            // A log whose removal was cut short is removed first.
            return Ok(Outcome::Step { more: log.removed });
        }
        let incarnation: Arc<str> = incarnation()?.into();
        sqlx::query("INSERT INTO log (pipeline, n_partitions, incarnation) VALUES (?, ?, ?)")
            .bind(pipeline.0)
            .bind(n_partitions)
            .bind(&*incarnation)
            .execute(&mut *self.db)
            .await?;
        let log = LogState {
            incarnation,
            closed: false,
            removed: false,
            partitions: vec![PartitionState { start: 0, end: 0 }; usize::from(n_partitions)],
        };
        self.state.logs.insert(pipeline, log.clone());
        self.stage.events.push(LogEvent::Made(pipeline, log));
        Ok(Outcome::Step { more: false })
    }

    /// What was appended before is in this transaction or in an earlier one.
    async fn close_log(&mut self, pipeline: PipelineNumber) -> Result<Outcome, sqlx::Error> {
        let standing = match self.state.logs.get_mut(&pipeline) {
            None => Standing::Gone,
            Some(log) if log.removed => Standing::Removed,
            Some(log) => {
                log.closed = true;
                sqlx::query("UPDATE log SET closed = 1 WHERE pipeline = ?")
                    .bind(pipeline.0)
                    .execute(&mut *self.db)
                    .await?;
                Standing::Closed
            }
        };
        Ok(Outcome::LogClosed(standing))
    }

    async fn remove(&mut self, pipeline: PipelineNumber) -> Result<Outcome, sqlx::Error> {
        let Some(log) = self.state.logs.get_mut(&pipeline) else {
            return Ok(Outcome::Step { more: false });
        };
        log.removed = true;
        self.stage.write(self.state, self.db).await?;
        self.stage.events.push(LogEvent::Removed(pipeline));
        sqlx::query("UPDATE log SET removed = 1 WHERE pipeline = ?")
            .bind(pipeline.0)
            .execute(&mut *self.db)
            .await?;
        let delete = "DELETE FROM batch WHERE (shard, base) IN
            (SELECT shard, base FROM batch WHERE shard BETWEEN ? AND ? LIMIT ?)";
        if self.delete_step(delete, pipeline, STEP_BATCHES_MAX).await? {
            return Ok(Outcome::Step { more: true });
        }
        let (first, last) = pipeline_keys(pipeline);
        sqlx::query("DELETE FROM log_start WHERE shard BETWEEN ? AND ?")
            .bind(first)
            .bind(last)
            .execute(&mut *self.db)
            .await?;
        sqlx::query("DELETE FROM log WHERE pipeline = ?")
            .bind(pipeline.0)
            .execute(&mut *self.db)
            .await?;
        self.state.logs.remove(&pipeline);
        Ok(Outcome::Step { more: false })
    }

    async fn trim(&mut self, below: &[(ShardId, Offset)]) -> Result<Outcome, sqlx::Error> {
        self.stage.write(self.state, self.db).await?;
        let mut more = false;
        for (shard, offset) in below {
            let Some(partition) = self.state.partition_mut(*shard) else {
                continue;
            };
            let before = partition.start;
            partition.start = offset.0.min(partition.end).max(before);
            let (key, start) = (shard_key(*shard), partition.start);
            if start > before {
                let trimmed = LogEvent::Trimmed(*shard, start);
                self.stage.events.push(trimmed);
                sqlx::query("REPLACE INTO log_start (shard, start) VALUES (?, ?)")
                    .bind(key)
                    .bind(offset_key(Offset(start)))
                    .execute(&mut *self.db)
                    .await?;
            }
            // Nothing below the start is read, so it does no harm if the rest is left to a later step.
            let deleted = sqlx::query(
                "DELETE FROM batch WHERE shard = ?1 AND base IN
                    (SELECT base FROM batch WHERE shard = ?1 AND base < ?2 AND base + n <= ?2 LIMIT ?3)",
            )
            .bind(key)
            .bind(offset_key(Offset(start)))
            .bind(STEP_BATCHES_MAX)
            .execute(&mut *self.db)
            .await?;
            more |= deleted.rows_affected() >= STEP_BATCHES_MAX.cast_unsigned();
        }
        Ok(Outcome::Step { more })
    }

    async fn forget(&mut self, pipeline: PipelineNumber) -> Result<Outcome, sqlx::Error> {
        self.stage.write(self.state, self.db).await?;
        // Without its row a shard takes no flush, so nothing is added behind the steps.
        self.state
            .shards
            .retain(|shard, _| shard.pipeline != pipeline);
        let (first, last) = pipeline_keys(pipeline);
        sqlx::query("DELETE FROM shard WHERE shard BETWEEN ? AND ?")
            .bind(first)
            .bind(last)
            .execute(&mut *self.db)
            .await?;
        let deletes = [
            "DELETE FROM task WHERE (shard, \"offset\") IN
                (SELECT shard, \"offset\" FROM task WHERE shard BETWEEN ? AND ? LIMIT ?)",
            "DELETE FROM done WHERE (shard, chunk) IN
                (SELECT shard, chunk FROM done WHERE shard BETWEEN ? AND ? LIMIT ?)",
            // Not by (shard, key): SQLite would look for the shard alone, and read all its keys each time.
            "DELETE FROM idempotency_key WHERE shard =
                (SELECT min(shard) FROM idempotency_key WHERE shard BETWEEN ?1 AND ?2) AND key <=
                (SELECT max(key) FROM (SELECT key FROM idempotency_key WHERE shard =
                    (SELECT min(shard) FROM idempotency_key WHERE shard BETWEEN ?1 AND ?2)
                    ORDER BY key LIMIT ?3))",
        ];
        for delete in deletes {
            if self.delete_step(delete, pipeline, STEP_ROWS_MAX).await? {
                return Ok(Outcome::Step { more: true });
            }
        }
        Ok(Outcome::Step { more: false })
    }

    /// Whether there may be more to delete.
    async fn delete_step(
        &mut self,
        delete: &'static str,
        pipeline: PipelineNumber,
        n_max: i64,
    ) -> Result<bool, sqlx::Error> {
        let (first, last) = pipeline_keys(pipeline);
        let deleted = sqlx::query(delete)
            .bind(first)
            .bind(last)
            .bind(n_max)
            .execute(&mut *self.db)
            .await?;
        Ok(deleted.rows_affected() > 0)
    }

    async fn sweep(&mut self) -> Result<Outcome, sqlx::Error> {
        self.stage.write(self.state, self.db).await?;
        let mut more = false;
        for delete in [
            "DELETE FROM task WHERE (shard, \"offset\") IN
                (SELECT shard, \"offset\" FROM task WHERE keep_until <= ? LIMIT ?)",
            "DELETE FROM idempotency_key WHERE keep_until <= (SELECT max(keep_until) FROM
                (SELECT keep_until FROM idempotency_key WHERE keep_until <= ? ORDER BY keep_until LIMIT ?))",
        ] {
            let deleted = sqlx::query(delete)
                .bind(time_key(self.now))
                .bind(STEP_ROWS_MAX)
                .execute(&mut *self.db)
                .await?;
            more |= deleted.rows_affected() >= STEP_ROWS_MAX.cast_unsigned();
        }
        Ok(Outcome::Step { more })
    }
}

/// 128 random bits: no two logs ever have the same.
fn incarnation() -> Result<String, sqlx::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|err| sqlx::Error::Io(err.into()))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
