//! What is past its time leaves the disk, too.

use std::{path::Path, time::Duration};

use scheduler_core::{Offset, Timestamp, port::store::KeyRow};
use scheduler_local::Config;
use sqlx::{Connection, SqliteConnection};

use crate::fixture::{claim, config, ended, flush, open_with_log};

async fn rows(directory: &Path) -> (i64, i64) {
    let url = format!(
        "sqlite://{}?mode=ro",
        directory.join("scheduler.db").display()
    );
    let mut db = SqliteConnection::connect(&url).await.unwrap();
    let rows = sqlx::query_as(
        "SELECT (SELECT count(*) FROM task), (SELECT count(*) FROM idempotency_key)",
    );
    let rows = rows.fetch_one(&mut db).await.unwrap();
    db.close().await.unwrap();
    rows
}

#[tokio::test]
async fn ended_tasks_and_keys_past_their_time_are_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let local = open_with_log(Config {
        sweep_interval: Duration::from_millis(10),
        ..config(directory.path())
    })
    .await;
    let over = Timestamp::from_millis(1);
    let key = |text: &str, keep_until| KeyRow {
        key: text.try_into().unwrap(),
        offset: Offset(1),
        fingerprint: 1,
        keep_until,
    };
    let mut part = claim(&local).await;
    // More than one step of the sweeper deletes.
    part.tasks = (0..9_000).map(|offset| ended(offset, over)).collect();
    part.tasks.push(ended(9_000, Timestamp::NEVER));
    part.keys = vec![key("over", over), key("live", Timestamp::NEVER)];
    flush(&local, part).await.unwrap();
    let swept = async {
        while rows(directory.path()).await != (1, 1) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), swept)
        .await
        .unwrap();
    local.close().await;
}
