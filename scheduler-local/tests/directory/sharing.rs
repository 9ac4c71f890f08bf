//! Calls that wait at the same time share a transaction.

use std::sync::Arc;

use sqlx::{Connection, SqliteConnection};

use crate::fixture::{append, config, open_with_log, read_all};

#[tokio::test]
async fn hundreds_of_waiting_calls_share_a_commit() {
    let directory = tempfile::tempdir().unwrap();
    let local = Arc::new(open_with_log(config(directory.path())).await);
    let appends: Vec<_> = (0..1_000)
        .map(|n| {
            let local = Arc::clone(&local);
            tokio::spawn(async move { append(&local, n.to_string()).await })
        })
        .collect();
    for append in appends {
        append.await.unwrap().unwrap();
    }
    assert_eq!(read_all(&local).await.unwrap().len(), 1_000);
    local.close().await;
    let url = format!(
        "sqlite://{}",
        directory.path().join("scheduler.db").display()
    );
    let mut db = SqliteConnection::connect(&url).await.unwrap();
    let commits = sqlx::query_as("SELECT value FROM meta WHERE name = 'commit'");
    let (commits,): (i64,) = commits.fetch_one(&mut db).await.unwrap();
    assert!(commits < 100, "1,000 appends took {commits} commits");
}
