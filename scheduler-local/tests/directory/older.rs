//! What older versions wrote is read.

use std::{path::Path, time::Duration};

use scheduler_core::{
    LeaseToken, Mode, Offset, Retention, TaskOptions, Timestamp,
    pipeline::limits::Limits,
    port::{
        log::{NewTask, RecordBody},
        store::{Claim, Found, Lookup, Parked, StoredState, StoredTask},
    },
    task::retry::{Jitter, RetryPolicy},
};
use scheduler_local::open;
use sqlx::{AssertSqlSafe, Connection, Executor as _, SqliteConnection};

use crate::fixture::{SHARD, append, config, open_with_log, read_all};

/// Two records of version 1: one with every option of its time, one with nothing.
const BATCH: &str = "\
    015d077b226e223a317d0101cda094a58d1d01056b65792d31010180cab5ee0101070001030080dac40900000000\
    0000f43f3c00000101096261642d696e7075740101901c000108747261636b696e670131010b30302d61622d6364\
    2d303105027b7d00001f7de93d";
/// A task of version 1 with the same options: it failed, and waits.
const TASK: &str = "\
    010484a094a58d1d03b2a094a58d1d024d0185a094a58d1d00077b226e223a317d0101cda094a58d1d01056b6579\
    2d31010180cab5ee0101070001030080dac409000000000000f43f3c00000101096261642d696e7075740101901c\
    000108747261636b696e670131010b30302d61622d63642d30311191f4eb";
/// The same options as the defaults of a pipeline.
const DEFAULTS: &str = "\
    0101cda094a58d1d01056b65792d31010180cab5ee0101070001030080dac409000000000000f43f3c0000010109\
    6261642d696e7075740101901c000108747261636b696e670131523dedcc";

/// Takes from a directory what later versions added to the schema, and puts rows of version 1 there.
async fn as_version_1(directory: &Path) {
    let url = format!("sqlite://{}", directory.join("scheduler.db").display());
    let mut db = SqliteConnection::connect(&url).await.unwrap();
    let sql = format!(
        "ALTER TABLE shard DROP COLUMN cancels;
         DROP INDEX task_ordering_key;
         ALTER TABLE task DROP COLUMN ordering_key;
         ALTER TABLE pipeline DROP COLUMN limits;
         ALTER TABLE pipeline DROP COLUMN pool;
         DELETE FROM _sqlx_migrations WHERE version >= 4;
         INSERT INTO batch VALUES (65536, 0, 2, 1000000000004, X'{BATCH}');
         INSERT INTO task (shard, \"offset\", state, accepted_at, due_at, keep_until, body)
            VALUES (65536, 4, 3, 1000000000004, 1000000000050, NULL, X'{TASK}');
         INSERT INTO application VALUES ('tenant', 'app', 1, 0);
         INSERT INTO pipeline (number, tenant, application, pipeline, revision, created_at,
                               n_partitions, steps, defaults)
            VALUES (1, 'tenant', 'app', 'pipeline', 3, 0, 1, '[]', X'{DEFAULTS}');"
    );
    db.execute(AssertSqlSafe(sql)).await.unwrap();
    db.close().await.unwrap();
}

fn options() -> TaskOptions {
    TaskOptions {
        run_at: Some(Timestamp::from_millis(1_000_000_000_077)),
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
        retention: Some(Retention::Failures(Duration::from_secs(3_600))),
        metadata: [("tracking".to_owned(), "1".to_owned())].into(),
        ..TaskOptions::default()
    }
}

fn task() -> NewTask {
    NewTask {
        data: "{\"n\":1}".into(),
        options: Some(options().into()),
        traceparent: Some("00-ab-cd-01".into()),
    }
}

fn stored() -> StoredTask {
    StoredTask {
        offset: Offset(4),
        accepted_at: Timestamp::from_millis(1_000_000_000_004),
        task: task(),
        state: StoredState::Parked {
            due_at: Timestamp::from_millis(1_000_000_000_050),
            kind: Parked::Retryable,
        },
        attempt: 2,
        token: LeaseToken::from_u64(77),
        started_at: Some(Timestamp::from_millis(1_000_000_000_005)),
        errors: Vec::new(),
    }
}

async fn older() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    open_with_log(config(directory.path())).await.close().await;
    as_version_1(directory.path()).await;
    directory
}

#[tokio::test]
async fn records_of_version_1_are_read_among_newer_ones() {
    let directory = older().await;
    let local = open(config(directory.path())).await.unwrap();
    append(&local, "{\"n\":2}").await.unwrap();
    local.close().await;
    let local = open(config(directory.path())).await.unwrap();
    let records = read_all(&local).await.unwrap();
    let bodies = records.into_iter().map(|record| match record.body {
        RecordBody::Task(task) => task,
        malformed @ RecordBody::Malformed { .. } => panic!("{malformed:?}"),
    });
    let tasks: Vec<_> = bodies.collect();
    let plain = |data: &'static str| NewTask {
        data: data.into(),
        options: None,
        traceparent: None,
    };
    assert_eq!(tasks, [task(), plain("{}"), plain("{\"n\":2}")]);
    local.close().await;
}

#[tokio::test]
async fn tasks_of_version_1_are_read_and_have_no_key() {
    let directory = older().await;
    let local = open(config(directory.path())).await.unwrap();
    let store = local.store();
    let claim = Claim {
        shard: SHARD,
        address: "here".into(),
        incarnation: "log".into(),
    };
    let claimed = store.claim(&[claim]).await.unwrap().remove(0);
    assert!(!claimed.has_keyed);
    let lookup = Lookup::Task(SHARD, Offset(4));
    let found = store.get(&[lookup]).await.unwrap().remove(0);
    assert_eq!(found, Some(Found::Task(Box::new(stored()))));
    local.close().await;
}

#[tokio::test]
async fn pipelines_of_version_1_have_no_limits_and_no_pool() {
    let directory = older().await;
    let local = open(config(directory.path())).await.unwrap();
    let pipelines = local.catalog().snapshot().await.unwrap().pipelines;
    let spec = &pipelines[0].spec;
    assert_eq!(spec.defaults, options());
    assert_eq!((spec.limits, &spec.pool), (Limits::default(), &None));
    assert_eq!(pipelines[0].mode, Mode::Active);
    local.close().await;
}
