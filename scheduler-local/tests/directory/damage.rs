//! A shortened or damaged past is refused, never taken for the whole.

use std::{fs, os::unix::fs::FileExt, path::Path};

use scheduler_core::{
    Offset, TaskId, Timestamp,
    port::{FailureKind, store::Lookup},
};
use scheduler_local::{OpenError, open};
use sqlx::{Connection, SqliteConnection};

use crate::fixture::{
    SHARD, append, as_after_a_crash, claim, config, ended, flush, open_with_log, read_all,
};

const WAL: &str = "scheduler.db-wal";

/// Twenty acknowledged commits, as a crash leaves them.
async fn crashed() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let local = open_with_log(config(directory.path())).await;
    for n in 0..20 {
        append(&local, n.to_string()).await.unwrap();
    }
    let copy = as_after_a_crash(directory.path());
    local.close().await;
    copy
}

async fn refusal(directory: &Path) -> OpenError {
    let before = fs::read(directory.join(WAL)).unwrap_or_default();
    let refused = open(config(directory)).await.unwrap_err();
    let after = fs::read(directory.join(WAL)).unwrap_or_default();
    assert!(
        before == after,
        "what people must look at was changed: {refused}"
    );
    refused
}

fn flip(path: &Path, at: u64) {
    let mut options = fs::OpenOptions::new();
    let file = options.read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
}

#[tokio::test]
async fn a_crash_loses_nothing() {
    let directory = crashed().await;
    let local = open_with_log(config(directory.path())).await;
    assert_eq!(read_all(&local).await.unwrap().len(), 20);
    append(&local, "more").await.unwrap();
    local.close().await;
}

#[tokio::test]
async fn a_bit_flipped_anywhere_in_the_write_ahead_log_is_refused() {
    let directory = crashed().await;
    let len = fs::metadata(directory.path().join(WAL)).unwrap().len();
    for part in [0.0, 0.1, 0.5, 0.9, 0.999] {
        let copy = as_after_a_crash(directory.path());
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "any place near it will do"
        )]
        let at = (len as f64 * part) as u64;
        flip(&copy.path().join(WAL), at);
        let refused = refusal(copy.path()).await;
        assert!(
            matches!(refused, OpenError::Shortened { .. }),
            "byte {at}: {refused:?}"
        );
        assert!(
            refused.to_string().contains("restore the whole directory"),
            "{refused}"
        );
    }
}

#[tokio::test]
async fn a_truncated_or_missing_write_ahead_log_is_refused() {
    let directory = crashed().await;
    let len = fs::metadata(directory.path().join(WAL)).unwrap().len();
    for left in [len - 1, len / 2, 32, 0] {
        let copy = as_after_a_crash(directory.path());
        let wal = fs::OpenOptions::new()
            .write(true)
            .open(copy.path().join(WAL))
            .unwrap();
        wal.set_len(left).unwrap();
        let refused = refusal(copy.path()).await;
        assert!(
            matches!(refused, OpenError::Shortened { .. }),
            "{left} bytes: {refused:?}"
        );
    }
    let copy = as_after_a_crash(directory.path());
    fs::remove_file(copy.path().join(WAL)).unwrap();
    let refused = refusal(copy.path()).await;
    assert!(
        matches!(refused, OpenError::Shortened { .. }),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_missing_database_is_refused() {
    let directory = crashed().await;
    fs::remove_file(directory.path().join("scheduler.db")).unwrap();
    let refused = refusal(directory.path()).await;
    assert!(
        matches!(refused, OpenError::Shortened { found: 0, .. }),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_missing_mark_is_refused_and_explained() {
    let directory = crashed().await;
    fs::remove_file(directory.path().join("high-water")).unwrap();
    let refused = refusal(directory.path()).await;
    assert!(
        matches!(
            refused,
            OpenError::NoMark {
                fault: "missing",
                ..
            }
        ),
        "{refused:?}"
    );
    assert!(
        refused.to_string().contains("put the file high-water back"),
        "{refused}"
    );
}

#[tokio::test]
async fn one_torn_slot_of_the_mark_is_no_harm_and_two_are_refused() {
    let directory = crashed().await;
    for (torn, opens) in [
        (vec![5], true),
        (vec![4_096 + 5], true),
        (vec![5, 4_096 + 5], false),
    ] {
        let copy = as_after_a_crash(directory.path());
        for at in torn {
            flip(&copy.path().join("high-water"), at);
        }
        if opens {
            open(config(copy.path())).await.unwrap().close().await;
        } else {
            let refused = refusal(copy.path()).await;
            assert!(
                matches!(
                    refused,
                    OpenError::NoMark {
                        fault: "damaged",
                        ..
                    }
                ),
                "{refused:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_damaged_row_is_told_and_not_read() {
    let directory = tempfile::tempdir().unwrap();
    let local = open_with_log(config(directory.path())).await;
    append(&local, "some data").await.unwrap();
    let mut part = claim(&local).await;
    part.tasks = vec![ended(0, Timestamp::NEVER)];
    flush(&local, part).await.unwrap();
    local.close().await;

    let url = format!(
        "sqlite://{}",
        directory.path().join("scheduler.db").display()
    );
    let mut db = SqliteConnection::connect(&url).await.unwrap();
    for damage in [
        "UPDATE batch SET records = CAST(replace(records, CAST('data' AS BLOB), CAST('dota' AS BLOB)) AS BLOB)",
        "UPDATE task SET body = CAST(substr(body, 1, 3) || x'ff' || substr(body, 5) AS BLOB)",
    ] {
        let damaged = sqlx::query(damage).execute(&mut db).await.unwrap();
        assert_eq!(damaged.rows_affected(), 1);
    }
    db.close().await.unwrap();

    let local = open_with_log(config(directory.path())).await;
    assert_eq!(
        read_all(&local).await.unwrap_err().kind(),
        FailureKind::Damaged
    );
    let id = TaskId {
        shard: SHARD,
        offset: Offset::ZERO,
    };
    let read = local.log().read_at(&[id]).await;
    assert_eq!(read[0].as_ref().unwrap_err().kind(), FailureKind::Damaged);
    let got = local
        .store()
        .get(&[Lookup::Task(SHARD, Offset::ZERO)])
        .await;
    assert_eq!(got.unwrap_err().kind(), FailureKind::Damaged);
    local.close().await;
}

#[tokio::test]
async fn a_missing_batch_is_told_and_not_skipped() {
    let directory = tempfile::tempdir().unwrap();
    let local = open_with_log(config(directory.path())).await;
    for n in 0..5 {
        append(&local, n.to_string()).await.unwrap();
    }
    local.log().trim(&[(SHARD, Offset(1))]).await.unwrap();
    local.close().await;
    let url = format!(
        "sqlite://{}",
        directory.path().join("scheduler.db").display()
    );
    for damage in [
        "DELETE FROM batch WHERE base = 3",
        "UPDATE batch SET n = 2 WHERE base = 2",
        "DELETE FROM batch WHERE base = 1",
    ] {
        let mut db = SqliteConnection::connect(&url).await.unwrap();
        let damaged = sqlx::query(damage).execute(&mut db).await.unwrap();
        assert_eq!(damaged.rows_affected(), 1);
        db.close().await.unwrap();
        let local = open_with_log(config(directory.path())).await;
        let kind = read_all(&local).await.unwrap_err().kind();
        assert_eq!(kind, FailureKind::Damaged, "{damage}");
        local.close().await;
    }
}
