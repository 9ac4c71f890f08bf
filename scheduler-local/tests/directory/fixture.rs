//! A pipeline with one partition, tasks for it, and directories as a crash leaves them.

use std::{fs, path::Path, sync::Arc, time::Duration};

use scheduler_core::{
    LeaseToken, Offset, Partition, Pipeline, PipelineNumber, PipelineSpec, Revision, ShardId,
    TaskOptions, Timestamp,
    port::{
        PortError,
        log::{Appended, Fetch, NewRecord, NewTask, Record},
        store::{Claim, Ending, Flushed, ShardFlush, StoredState, StoredTask},
    },
};
use scheduler_local::{Config, Local, open};

pub(crate) const SHARD: ShardId = ShardId {
    pipeline: PipelineNumber(1),
    partition: Partition(0),
};

pub(crate) fn config(directory: &Path) -> Config {
    Config {
        reserve_bytes: 0,
        ..Config::new(directory)
    }
}

pub(crate) async fn open_with_log(config: Config) -> Local {
    let local = open(config).await.unwrap();
    let pipeline = Pipeline {
        number: SHARD.pipeline,
        path: scheduler_core::path("tenant", "app", "pipeline").unwrap(),
        revision: Revision(1),
        spec: PipelineSpec {
            steps: [].into(),
            defaults: TaskOptions::default(),
            n_partitions: 1,
            ..PipelineSpec::default()
        },
        mode: scheduler_core::Mode::Active,
        created_at: Timestamp::EPOCH,
    };
    let made = local.log().ensure(&[Arc::new(pipeline)]).await;
    assert!(matches!(made[..], [Ok(())]), "{made:?}");
    local
}

pub(crate) fn record(data: impl Into<bytes::Bytes>) -> NewRecord {
    let task = NewTask {
        data: data.into(),
        options: None,
        traceparent: None,
    };
    NewRecord { shard: SHARD, task }
}

pub(crate) async fn append(
    local: &Local,
    data: impl Into<bytes::Bytes>,
) -> Result<Appended, PortError> {
    local.log().append(vec![record(data)]).await.remove(0)
}

/// All records there are.
pub(crate) async fn read_all(local: &Local) -> Result<Vec<Record>, PortError> {
    let bounds = local.log().bounds(&[SHARD]).await.remove(0)?;
    let fetch = Fetch {
        shard: SHARD,
        from: bounds.start,
        n_max: 1_000_000,
        bytes_max: 1 << 30,
    };
    let fetched = local.log().fetch(&[fetch], Duration::ZERO).await?.read;
    Ok(fetched
        .into_iter()
        .flat_map(|found| found.records)
        .collect())
}

pub(crate) async fn claim(local: &Local) -> ShardFlush {
    let claim = Claim {
        shard: SHARD,
        address: "here".into(),
        incarnation: "log".into(),
    };
    let claimed = local.store().claim(&[claim]).await.unwrap().remove(0);
    ShardFlush {
        shard: SHARD,
        epoch: claimed.epoch,
        number: 1,
        watermark: Offset::ZERO,
        seen_end: Offset::ZERO,
        done: Vec::new(),
        tasks: Vec::new(),
        forgotten: Vec::new(),
        keys: Vec::new(),
        cancels: None,
    }
}

pub(crate) fn ended(offset: u64, keep_until: Timestamp) -> StoredTask {
    StoredTask {
        offset: Offset(offset),
        accepted_at: Timestamp::from_millis(offset),
        task: record("{}").task,
        state: StoredState::Ended {
            ending: Ending::Cancelled,
            ended_at: Timestamp::from_millis(offset + 1),
            keep_until,
        },
        attempt: 0,
        token: LeaseToken::NONE,
        started_at: None,
        errors: Vec::new(),
    }
}

pub(crate) async fn flush(local: &Local, part: ShardFlush) -> Result<Flushed, PortError> {
    Ok(local.store().flush(&[part]).await?.remove(0))
}

/// The directory as it is at this moment: what a process killed now leaves to the next one.
pub(crate) fn as_after_a_crash(directory: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for name in ["scheduler.db", "scheduler.db-wal", "high-water"] {
        fs::copy(directory.join(name), copy.path().join(name)).unwrap();
    }
    copy
}
