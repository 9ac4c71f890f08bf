//! One process at a time.

use scheduler_local::{Config, OpenError, open};

use crate::fixture::{append, config, open_with_log, read_all};

#[tokio::test]
async fn a_second_open_is_refused_and_told_who_has_it() {
    let directory = tempfile::tempdir().unwrap();
    let holder = "127.0.0.1:7070".to_owned();
    let first = Config {
        holder,
        ..config(directory.path())
    };
    let first = open(first).await.unwrap();
    let refused = open(config(directory.path())).await.unwrap_err();
    assert!(matches!(refused, OpenError::InUse { .. }), "{refused:?}");
    let text = refused.to_string();
    let pid = format!("process {}", std::process::id());
    for part in [pid.as_str(), "127.0.0.1:7070", "stop that process"] {
        assert!(text.contains(part), "{text}");
    }
    first.close().await;
    open(config(directory.path())).await.unwrap().close().await;
}

#[tokio::test]
async fn a_closed_directory_fails_calls_and_keeps_what_was_written() {
    let directory = tempfile::tempdir().unwrap();
    let first = open_with_log(config(directory.path())).await;
    append(&first, "1").await.unwrap();
    first.close().await;
    first.close().await;
    let refused = append(&first, "2").await.unwrap_err();
    assert_eq!(
        refused.kind(),
        scheduler_core::port::FailureKind::Unavailable
    );
    let second = open_with_log(config(directory.path())).await;
    assert_eq!(read_all(&second).await.unwrap().len(), 1);
    // A graceful close leaves nothing in the write-ahead log.
    second.close().await;
    let wal = std::fs::metadata(directory.path().join("scheduler.db-wal"));
    assert!(wal.map_or(0, |found| found.len()) == 0);
}

#[tokio::test]
async fn a_directory_whose_ports_are_dropped_is_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let first = open_with_log(config(directory.path())).await;
    append(&first, "1").await.unwrap();
    drop(first);
    let reopened = async {
        loop {
            match open(config(directory.path())).await {
                Ok(local) => return local,
                Err(OpenError::InUse { .. }) => tokio::task::yield_now().await,
                Err(other) => panic!("{other}"),
            }
        }
    };
    let deadline = std::time::Duration::from_secs(20);
    let second = tokio::time::timeout(deadline, reopened).await.unwrap();
    assert_eq!(read_all(&second).await.unwrap().len(), 1);
    second.close().await;
}
