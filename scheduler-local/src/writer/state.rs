//! What the writer knows without asking the database: it is the only one that writes.

use std::{collections::HashMap, sync::Arc};

use scheduler_core::{Epoch, Offset, Partition, PipelineNumber, ShardId, Timestamp};
use sqlx::{Row, SqliteConnection};

use crate::{
    catalog::CatalogState,
    key::{offset_of, shard_key, shard_of},
};

/// The durable state in short. After a transaction that failed it is read again.
#[derive(Debug)]
pub(crate) struct State {
    /// The last commit.
    pub(crate) commit: u64,
    pub(crate) logs: HashMap<PipelineNumber, LogState>,
    pub(crate) shards: HashMap<ShardId, ShardState>,
    pub(crate) catalog: CatalogState,
    /// The newest time that a record was stamped with.
    pub(crate) stamped: Timestamp,
}

#[derive(Debug, Clone)]
pub(crate) struct LogState {
    pub(crate) incarnation: Arc<str>,
    /// It takes nothing more.
    pub(crate) closed: bool,
    /// Its removal has begun: it takes nothing and gives nothing.
    pub(crate) removed: bool,
    pub(crate) partitions: Vec<PartitionState>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct PartitionState {
    pub(crate) start: u64,
    pub(crate) end: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct ShardState {
    pub(crate) epoch: Epoch,
    pub(crate) number: u64,
    pub(crate) watermark: Offset,
    pub(crate) seen_end: Offset,
    pub(crate) released: bool,
    pub(crate) address: Arc<str>,
    pub(crate) incarnation: Arc<str>,
    /// As JSON.
    pub(crate) cancels: Arc<str>,
}

impl State {
    /// Reads everything.
    pub(crate) async fn load(db: &mut SqliteConnection) -> Result<Self, sqlx::Error> {
        let (commit,): (i64,) = sqlx::query_as("SELECT value FROM meta WHERE name = 'commit'")
            .fetch_one(&mut *db)
            .await?;
        Ok(Self {
            commit: commit.cast_unsigned(),
            logs: load_logs(db).await?,
            shards: load_shards(db).await?,
            catalog: CatalogState::load(db).await?,
            stamped: Timestamp::EPOCH,
        })
    }

    pub(crate) fn is_closed(&self, shard: ShardId) -> bool {
        let log = self.logs.get(&shard.pipeline);
        log.is_some_and(|log| log.closed && !log.removed)
    }

    /// A partition of a log that takes records.
    pub(crate) fn partition_mut(&mut self, shard: ShardId) -> Option<&mut PartitionState> {
        let log = self.logs.get_mut(&shard.pipeline)?;
        let partition = log.partitions.get_mut(usize::from(shard.partition.0))?;
        (!log.removed).then_some(partition)
    }
}

async fn load_logs(
    db: &mut SqliteConnection,
) -> Result<HashMap<PipelineNumber, LogState>, sqlx::Error> {
    let mut logs = HashMap::new();
    let rows = sqlx::query("SELECT pipeline, n_partitions, incarnation, removed, closed FROM log")
        .fetch_all(&mut *db)
        .await?;
    for row in rows {
        let number = PipelineNumber(row.try_get(0)?);
        let n_partitions: u16 = row.try_get(1)?;
        let incarnation: String = row.try_get(2)?;
        let mut partitions = Vec::with_capacity(usize::from(n_partitions));
        for partition in 0..n_partitions {
            let shard = ShardId {
                pipeline: number,
                partition: Partition(partition),
            };
            partitions.push(load_partition(db, shard).await?);
        }
        let log = LogState {
            incarnation: incarnation.into(),
            closed: row.try_get(4)?,
            removed: row.try_get(3)?,
            partitions,
        };
        logs.insert(number, log);
    }
    Ok(logs)
}

async fn load_partition(
    db: &mut SqliteConnection,
    shard: ShardId,
) -> Result<PartitionState, sqlx::Error> {
    let (start, end): (Option<i64>, Option<i64>) = sqlx::query_as(
        "SELECT (SELECT start FROM log_start WHERE shard = ?1),
                (SELECT base + n FROM batch WHERE shard = ?1 ORDER BY base DESC LIMIT 1)",
    )
    .bind(shard_key(shard))
    .fetch_one(db)
    .await?;
    let start = start.unwrap_or(0).cast_unsigned();
    let end = end.unwrap_or(0).cast_unsigned().max(start);
    Ok(PartitionState { start, end })
}

async fn load_shards(
    db: &mut SqliteConnection,
) -> Result<HashMap<ShardId, ShardState>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT shard, epoch, number, watermark, seen_end, released, address, incarnation, cancels FROM shard",
    )
    .fetch_all(db)
    .await?;
    let mut shards = HashMap::with_capacity(rows.len());
    for row in rows {
        let shard = shard_of(row.try_get(0)?)
            .ok_or_else(|| sqlx::Error::Decode("a key that is no shard".into()))?;
        let number: i64 = row.try_get(2)?;
        let address: String = row.try_get(6)?;
        let incarnation: String = row.try_get(7)?;
        let cancels: String = row.try_get(8)?;
        let state = ShardState {
            epoch: Epoch(row.try_get(1)?),
            number: number.cast_unsigned(),
            watermark: offset_of(row.try_get(3)?),
            seen_end: offset_of(row.try_get(4)?),
            released: row.try_get(5)?,
            address: address.into(),
            incarnation: incarnation.into(),
            cancels: cancels.into(),
        };
        shards.insert(shard, state);
    }
    Ok(shards)
}
