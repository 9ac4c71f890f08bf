//! Cases of a log that is closed: what it takes, shows, and lets go.

use super::*;
use crate::Mode;

async fn close(log: &dyn TaskLog, n_partitions: u16) -> Option<Vec<Bounds>> {
    in_time(log.close(&pipeline(1, n_partitions)))
        .await
        .unwrap()
}

async fn kinds(log: &dyn TaskLog, shards: &[ShardId]) -> Vec<Result<(), FailureKind>> {
    let records = shards.iter().map(|shard| record(*shard, "x")).collect();
    let answers = in_time(log.append(records)).await;
    let kind = |answer: Result<Appended, PortError>| answer.map(|_| ()).map_err(|err| err.kind());
    answers.into_iter().map(kind).collect()
}

/// In every partition, while another log takes records.
pub async fn a_closed_log_takes_nothing_and_its_bounds_are_final(home: At<'_>) {
    let log = open(home, 2).await;
    ensure(&*log, pipeline(2, 1)).await;
    let shards = [shard(1, 0), shard(1, 1)];
    let offsets = append_n(&*log, shards[0], 0..3).await;
    let closed = close(&*log, 2).await.unwrap();
    assert!(closed[0].end > offsets[2]);
    let asked = [shard(1, 0), shard(2, 0), shard(1, 1)];
    let refused = Err(FailureKind::Closed);
    assert_eq!(kinds(&*log, &asked).await, [refused, Ok(()), refused]);
    assert_eq!(bounds(&*log, &shards).await, closed);
    let again = close(&*log, 2).await.unwrap();
    assert_eq!(kinds(&*log, &shards).await, [refused, refused]);
    assert_eq!(again, bounds(&*log, &shards).await);
}

/// And for who finds it made.
pub async fn a_closed_log_stays_closed_for_who_opens_it(home: At<'_>) {
    let log = open(home, 1).await;
    let offsets = append_n(&*log, shard(1, 0), 0..3).await;
    let closed = close(&*log, 1).await.unwrap();
    drop(log);
    let log = open(home, 1).await;
    let refused = Err(FailureKind::Closed);
    assert_eq!(kinds(&*log, &[shard(1, 0)]).await, [refused]);
    assert_eq!(bounds(&*log, &[shard(1, 0)]).await, closed);
    let records = read(&*log, shard(1, 0), offsets[0], 3).await;
    assert_eq!(texts(&records), ["0", "1", "2"]);
}

/// However many appends are on their way.
pub async fn whatever_was_accepted_while_it_was_closed_is_below_its_end(home: At<'_>) {
    let log = open(home, 1).await;
    let appenders: Vec<_> = (0..8)
        .map(|_| {
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                let mut offsets = Vec::new();
                loop {
                    let answer = log.append(vec![record(shard(1, 0), "x")]).await.remove(0);
                    // A log that never waits must let others have a turn.
                    tokio::task::yield_now().await;
                    match answer {
                        Ok(appended) => offsets.push(appended.offset),
                        Err(err) => return (offsets, err.kind()),
                    }
                }
            })
        })
        .collect();
    while bounds(&*log, &[shard(1, 0)]).await[0].end < Offset(20) {
        tokio::task::yield_now().await;
    }
    let end = close(&*log, 1).await.unwrap()[0].end;
    let mut accepted = Vec::new();
    for appender in appenders {
        let (offsets, refused) = in_time(appender).await.unwrap();
        assert_eq!(refused, FailureKind::Closed);
        accepted.extend(offsets);
    }
    accepted.sort_unstable();
    assert!(accepted.last().is_some_and(|last| *last < end));
    let read = read(&*log, shard(1, 0), Offset::ZERO, accepted.len()).await;
    let read: Vec<_> = read.into_iter().map(|record| record.offset).collect();
    assert_eq!(read, accepted);
}

/// Up to its end, where a fetch finds nothing more.
pub async fn a_closed_log_is_still_read_and_trimmed(home: At<'_>) {
    let log = open(home, 2).await;
    let offsets = append_n(&*log, shard(1, 0), 0..4).await;
    let closed = close(&*log, 2).await.unwrap();
    for (partition, n_records) in [(0, 4), (1, 0)] {
        let id = shard(1, partition);
        let end = closed[usize::from(partition)].end;
        let (mut next, mut records) = (Offset::ZERO, Vec::new());
        while next < end {
            for fetched in fetch_read(&*log, &[fetch(id, next)]).await {
                next = fetched.next;
                records.extend(fetched.records);
            }
        }
        assert_eq!((next, records.len()), (end, n_records));
    }
    log.trim(&[(shard(1, 0), offsets[2])]).await.unwrap();
    let bounds = bounds(&*log, &[shard(1, 0)]).await;
    assert_eq!(
        (bounds[0].start, bounds[0].end),
        (offsets[2], closed[0].end)
    );
}

/// Also by who never knew it; and the next one of its name is open.
pub async fn a_closed_log_is_removed_and_then_there_is_none_to_close(home: At<'_>) {
    let log = open(home, 1).await;
    append_n(&*log, shard(1, 0), 0..3).await;
    close(&*log, 1).await.unwrap();
    in_time(log.remove(&pipeline(1, 1))).await.unwrap();
    assert_eq!(close(&*log, 1).await, None);
    drop(log);
    let log = home.open().await;
    assert_eq!(close(&*log, 1).await, None);
    ensure(&*log, pipeline(1, 1)).await;
    append_n(&*log, shard(1, 0), 7..8).await;
    let records = read(&*log, shard(1, 0), Offset::ZERO, 1).await;
    assert_eq!(texts(&records), ["7"]);
}

/// Only found, where it is.
pub async fn a_log_being_deleted_is_not_made(home: At<'_>) {
    let log = home.open().await;
    let mut deleting = pipeline(1, 1);
    deleting.mode = Mode::Deleting;
    ensure(&*log, deleting.clone()).await;
    assert_eq!(in_time(log.close(&deleting)).await.unwrap(), None);
    ensure(&*log, pipeline(1, 1)).await;
    append_n(&*log, shard(1, 0), 0..1).await;
    drop(log);
    let log = home.open().await;
    ensure(&*log, deleting).await;
    assert_eq!(read(&*log, shard(1, 0), Offset::ZERO, 1).await.len(), 1);
}
