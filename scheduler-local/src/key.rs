//! How ids and times become the integers of the tables.

use scheduler_core::{Offset, Partition, PipelineNumber, ShardId, Timestamp};

/// `pipeline * 65536 + partition`.
pub(crate) fn shard_key(shard: ShardId) -> i64 {
    (i64::from(shard.pipeline.0) << 16) | i64::from(shard.partition.0)
}

/// The shard of a key; `None` if the key is none that [`shard_key`] gives.
pub(crate) fn shard_of(key: i64) -> Option<ShardId> {
    let partition = u16::try_from(key & 0xffff).ok()?;
    Some(ShardId {
        pipeline: PipelineNumber(u32::try_from(key >> 16).ok()?),
        partition: Partition(partition),
    })
}

/// The first and the last key of a pipeline's shards.
pub(crate) fn pipeline_keys(pipeline: PipelineNumber) -> (i64, i64) {
    let first = i64::from(pipeline.0) << 16;
    (first, first | 0xffff)
}

/// Offsets beyond 2⁶³ − 1 do not occur: they are counted up from 0.
pub(crate) fn offset_key(offset: Offset) -> i64 {
    i64::try_from(offset.0).unwrap_or(i64::MAX)
}

pub(crate) fn offset_of(key: i64) -> Offset {
    Offset(key.cast_unsigned())
}

/// Never is the greatest key.
pub(crate) fn time_key(at: Timestamp) -> i64 {
    i64::try_from(at.as_millis()).unwrap_or(i64::MAX)
}

pub(crate) fn time_of(key: i64) -> Timestamp {
    match key {
        i64::MAX => Timestamp::NEVER,
        key => Timestamp::from_millis(u64::try_from(key).unwrap_or(0)),
    }
}
