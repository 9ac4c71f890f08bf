//! A full disk refuses new tasks and nothing else.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use scheduler_core::{
    Timestamp,
    port::{FailureKind, store::Flushed},
};
use scheduler_local::{Config, FreeSpace};

use crate::fixture::{SHARD, append, claim, config, ended, flush, open_with_log, read_all};

/// Says what a test tells it.
#[derive(Debug)]
struct Told(AtomicU64);

impl FreeSpace for Told {
    fn bytes(&self, _directory: &Path) -> io::Result<u64> {
        Ok(self.0.load(Ordering::SeqCst))
    }
}

#[tokio::test]
async fn without_space_appends_are_refused_while_reads_and_flushes_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let told = Arc::new(Told(AtomicU64::new(u64::MAX)));
    let config = Config {
        free_space: told.clone(),
        space_min_bytes: 1 << 30,
        reserve_bytes: 1 << 20,
        ..config(directory.path())
    };
    let reserve = directory.path().join("reserve");
    let local = open_with_log(config).await;
    append(&local, "before").await.unwrap();
    assert_eq!(std::fs::metadata(&reserve).unwrap().len(), 1 << 20);

    told.0.store(1 << 20, Ordering::SeqCst);
    let refused = append(&local, "meanwhile").await.unwrap_err();
    assert_eq!(refused.kind(), FailureKind::Full);
    assert!(!reserve.exists(), "the reserve is given up");
    let mut part = claim(&local).await;
    part.tasks = vec![ended(0, Timestamp::NEVER)];
    assert_eq!(flush(&local, part).await.unwrap(), Flushed::Saved);
    assert_eq!(read_all(&local).await.unwrap().len(), 1);

    told.0.store(u64::MAX, Ordering::SeqCst);
    append(&local, "after").await.unwrap();
    assert!(reserve.exists(), "the reserve is taken again");
    assert_eq!(read_all(&local).await.unwrap().len(), 2);
    local.close().await;
}

#[tokio::test]
async fn a_database_at_its_limit_changes_nothing_until_something_is_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let config = Config {
        database_bytes_max: Some(2 << 20),
        ..config(directory.path())
    };
    let local = open_with_log(config.clone()).await;
    let part = claim(&local).await;
    let mut n = 0;
    let refused = loop {
        match append(&local, vec![b'x'; 100_000]).await {
            Ok(_) => n += 1,
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused.kind(), FailureKind::Full);
    assert!((5..21).contains(&n), "{n} records fit");
    assert_eq!(read_all(&local).await.unwrap().len(), n);
    // Room for no append is still room for a small flush; and one that does not fit says so.
    let mut large = part.clone();
    large.tasks = (0..5_000)
        .map(|offset| ended(offset, Timestamp::NEVER))
        .collect();
    let refused = flush(&local, large.clone()).await.unwrap_err();
    assert_eq!(refused.kind(), FailureKind::Full);
    let end = local.log().bounds(&[SHARD]).await[0].as_ref().unwrap().end;
    local.log().trim(&[(SHARD, end)]).await.unwrap();
    assert_eq!(flush(&local, large).await.unwrap(), Flushed::Saved);
    assert_eq!(append(&local, "small").await.unwrap().offset, end);
    local.close().await;
    let local = open_with_log(config).await;
    assert_eq!(read_all(&local).await.unwrap().len(), 1);
    local.close().await;
}
