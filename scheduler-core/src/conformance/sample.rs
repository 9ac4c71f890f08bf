//! Small builders of what the cases put into a port.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{
    Epoch, ErrorCode, Failure, IdempotencyKey, LeaseToken, Offset, Partition, Pipeline,
    PipelineNumber, PipelineSpec, Retention, Revision, ShardId, Step, TaskOptions, Timestamp,
    pipeline::command::CommandTemplate,
    port::{
        TaskStore,
        log::{Fetch, NewRecord, NewTask},
        store::{
            Claim, Claimed, Ending, Flushed, Lookup, Parked, ShardFlush, StoredState, StoredTask,
        },
    },
    task::{
        AttemptError,
        retry::{Jitter, RetryPolicy},
    },
};

/// Far enough from now that no case reaches it.
pub(crate) const FAR: Timestamp = Timestamp::from_millis(4_000_000_000_000);

pub(crate) fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(1_000_000_000_000 + millis)
}

pub(crate) fn shard(pipeline: u32, partition: u16) -> ShardId {
    ShardId {
        pipeline: PipelineNumber(pipeline),
        partition: Partition(partition),
    }
}

pub(crate) fn pipeline(number: u32, n_partitions: u16) -> Pipeline {
    Pipeline {
        number: PipelineNumber(number),
        path: crate::path("tenant", "app", &format!("pipeline-{number}")).unwrap(),
        revision: Revision(1),
        spec: PipelineSpec {
            steps: [].into(),
            defaults: TaskOptions::default(),
            n_partitions,
            ..PipelineSpec::default()
        },
        mode: crate::Mode::Active,
        created_at: at(0),
    }
}

pub(crate) fn step() -> Step {
    let parse = |source| CommandTemplate::parse(source).unwrap();
    Step {
        executor: "ocr".try_into().unwrap(),
        commands: vec![
            parse("fetch '{{url}}'"),
            parse("ocr --lang {{lang}} \"/mnt/pipe/in\""),
        ],
    }
}

/// Options of which every single one is set.
pub(crate) fn full_options() -> TaskOptions {
    let metadata = [("tracking", "ä-1"), ("empty", "")];
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned()));
    TaskOptions {
        run_at: Some(at(77)),
        priority: Some(9.try_into().unwrap()),
        key: Some("order-7".try_into().unwrap()),
        group: Some("group-3".try_into().unwrap()),
        expires_at: Some(at(78)),
        total_timeout: Some(Duration::from_secs(90)),
        labels: Some(
            ["gpu", "zone=eu"]
                .map(|label| label.try_into().unwrap())
                .into(),
        ),
        cost: Some(3),
        idempotency_key: Some("key-1".try_into().unwrap()),
        timeout: Some(Duration::from_millis(1_500)),
        heartbeat_timeout: Some(Duration::from_secs(7)),
        retry: Some(RetryPolicy {
            max_attempts: 3,
            initial: Duration::from_millis(20),
            factor: 1.25,
            max: Duration::from_secs(60),
            jitter: Jitter::None,
        }),
        non_retryable: Some(vec!["bad-input".try_into().unwrap()]),
        retention: Some(Retention::Failures(Duration::from_secs(3600))),
        metadata: BTreeMap::from(metadata),
    }
}

pub(crate) fn task(data: impl Into<Bytes>) -> NewTask {
    NewTask {
        data: data.into(),
        options: None,
        traceparent: None,
    }
}

pub(crate) fn full_task() -> NewTask {
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    NewTask {
        data: Bytes::from_static(br#"{"url":"https://example.org/\u00e4"}"#),
        options: Some(Arc::new(full_options())),
        traceparent: Some(traceparent.into()),
    }
}

pub(crate) fn record(shard: ShardId, data: impl Into<Bytes>) -> NewRecord {
    NewRecord {
        shard,
        task: task(data),
    }
}

pub(crate) fn fetch(shard: ShardId, from: Offset) -> Fetch {
    Fetch {
        shard,
        from,
        n_max: 100_000,
        bytes_max: 64 << 20,
    }
}

pub(crate) fn stored(offset: u64, state: StoredState) -> StoredTask {
    StoredTask {
        offset: Offset(offset),
        accepted_at: at(offset),
        task: task(format!("{{\"n\":{offset}}}")),
        state,
        attempt: 0,
        token: LeaseToken::NONE,
        started_at: None,
        errors: Vec::new(),
    }
}

pub(crate) fn parked(due_at: Timestamp) -> StoredState {
    let kind = Parked::Scheduled;
    StoredState::Parked { due_at, kind }
}

pub(crate) fn running() -> StoredState {
    StoredState::Running {
        worker: "worker-1".try_into().unwrap(),
        leased_at: at(5),
    }
}

pub(crate) fn ended(ending: Ending, keep_until: Timestamp) -> StoredState {
    StoredState::Ended {
        ending,
        ended_at: at(9),
        keep_until,
    }
}

pub(crate) fn completed() -> StoredState {
    let result = Bytes::from_static(b"\"fine\"");
    ended(Ending::Completed { result }, FAR)
}

pub(crate) fn error(attempt: u32) -> AttemptError {
    let code: ErrorCode = "exit-1".try_into().unwrap();
    AttemptError {
        attempt,
        token: LeaseToken::before_first(Epoch(attempt)).next().unwrap(),
        worker: "worker-1".try_into().unwrap(),
        at: at(3),
        failure: Failure {
            code,
            message: "it said \"ö\"\n".to_owned(),
            retryable: attempt.is_multiple_of(2),
            detail: Bytes::from_static(b"{\"steps\":[]}"),
        },
    }
}

/// A part that changes nothing yet.
pub(crate) fn part(shard: ShardId, epoch: Epoch, number: u64) -> ShardFlush {
    ShardFlush {
        shard,
        epoch,
        number,
        watermark: Offset::ZERO,
        seen_end: Offset::ZERO,
        done: Vec::new(),
        tasks: Vec::new(),
        forgotten: Vec::new(),
        keys: Vec::new(),
        cancels: None,
    }
}

pub(crate) fn a_claim(shard: ShardId) -> Claim {
    Claim {
        shard,
        address: "127.0.0.1:7070".into(),
        incarnation: "log-1".into(),
    }
}

pub(crate) async fn claim(store: &dyn TaskStore, shard: ShardId) -> Claimed {
    let mut claimed = store.claim(&[a_claim(shard)]).await.unwrap();
    assert_eq!(claimed.len(), 1, "one claim has one answer");
    claimed.remove(0)
}

pub(crate) async fn save(store: &dyn TaskStore, part: ShardFlush) {
    assert_eq!(store.flush(&[part]).await.unwrap(), [Flushed::Saved]);
}

pub(crate) async fn get(store: &dyn TaskStore, shard: ShardId, offset: u64) -> Option<StoredTask> {
    use crate::port::store::Found;
    let mut found = store
        .get(&[Lookup::Task(shard, Offset(offset))])
        .await
        .unwrap();
    assert_eq!(found.len(), 1, "one lookup has one answer");
    found.remove(0).map(|found| match found {
        Found::Task(task) => *task,
        Found::Key(key) => panic!("a task was looked up and a key was found: {key:?}"),
    })
}

pub(crate) fn key(text: &str) -> IdempotencyKey {
    text.try_into().unwrap()
}
