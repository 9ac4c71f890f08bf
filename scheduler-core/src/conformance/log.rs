//! Cases of the log's port.

use std::{future::Future, sync::Arc, time::Duration};

use super::{
    Home,
    sample::{fetch, full_task, pipeline, record, shard},
};
use crate::{
    Offset, Pipeline, ShardId, TaskId,
    port::{
        FailureKind, PortError, TaskLog,
        log::{Appended, Bounds, Fetch, Fetched, Fetches, NewRecord, Record, RecordBody},
    },
};

mod close;
mod life;

pub use self::{close::*, life::*};

type At<'a> = &'a dyn Home<dyn TaskLog>;

/// Longer than anything takes, so that a case that hangs fails.
const LONG: Duration = Duration::from_secs(20);

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, future)
        .await
        .expect("it must not take so long")
}

async fn open(home: At<'_>, n_partitions: u16) -> Arc<dyn TaskLog> {
    let log = home.open().await;
    ensure(&*log, pipeline(1, n_partitions)).await;
    log
}

async fn ensure(log: &dyn TaskLog, pipeline: Pipeline) {
    let answers = log.ensure(&[Arc::new(pipeline)]).await;
    assert!(matches!(answers[..], [Ok(())]), "{answers:?}");
}

async fn bounds(log: &dyn TaskLog, shards: &[ShardId]) -> Vec<Bounds> {
    let answers = in_time(log.bounds(shards)).await;
    answers.into_iter().map(Result::unwrap).collect()
}

/// Waits for news of partitions that hold what is wanted of them.
async fn fetch_read(log: &dyn TaskLog, wanted: &[Fetch]) -> Vec<Fetched> {
    let fetched = in_time(log.fetch(wanted, LONG)).await.unwrap();
    assert_eq!(fetched.lost, []);
    fetched.read
}

async fn append(log: &dyn TaskLog, records: Vec<NewRecord>) -> Vec<Appended> {
    let answers = in_time(log.append(records)).await;
    answers.into_iter().map(Result::unwrap).collect()
}

async fn append_n(
    log: &dyn TaskLog,
    shard: ShardId,
    texts: impl Iterator<Item = u32>,
) -> Vec<Offset> {
    let records = texts.map(|n| record(shard, n.to_string())).collect();
    let appended = append(log, records).await;
    appended
        .into_iter()
        .map(|appended| appended.offset)
        .collect()
}

/// Reads a partition from `from` until there are `n` records.
async fn read(log: &dyn TaskLog, shard: ShardId, from: Offset, n: usize) -> Vec<Record> {
    let mut records = Vec::new();
    let mut wanted = fetch(shard, from);
    while records.len() < n {
        for fetched in fetch_read(log, &[wanted]).await {
            assert_eq!(fetched.shard, shard);
            check_order(&fetched, wanted.from);
            wanted.from = fetched.next;
            records.extend(fetched.records);
        }
    }
    assert_eq!(
        records.len(),
        n,
        "there are more records than were appended"
    );
    records
}

async fn read_one(log: &dyn TaskLog, shard: ShardId, offset: Offset) -> Option<Record> {
    let read = in_time(log.read_at(&[TaskId { shard, offset }])).await;
    let [answer] = <[_; 1]>::try_from(read).unwrap();
    answer.unwrap()
}

fn check_order(fetched: &Fetched, from: Offset) {
    let mut from = from;
    for record in &fetched.records {
        assert!(record.offset >= from, "offsets ascend from the wanted one");
        from = record.offset.next();
    }
    assert!(fetched.next >= from, "next is after the last record");
}

fn text(record: &Record) -> String {
    match &record.body {
        RecordBody::Task(task) => String::from_utf8(task.data.to_vec()).unwrap(),
        RecordBody::Malformed { reason, .. } => panic!("a task became malformed: {reason}"),
    }
}

fn texts(records: &[Record]) -> Vec<String> {
    records.iter().map(text).collect()
}

/// In one call or in many.
pub async fn appended_records_are_fetched_in_order(home: At<'_>) {
    let log = open(home, 1).await;
    let shard = shard(1, 0);
    let mut offsets = append_n(&*log, shard, 0..3).await;
    offsets.extend(append_n(&*log, shard, 3..4).await);
    offsets.extend(append_n(&*log, shard, 4..9).await);
    assert!(offsets.is_sorted_by(|a, b| a < b), "{offsets:?}");
    let records = read(&*log, shard, Offset::ZERO, 9).await;
    let read: Vec<_> = records.iter().map(|record| record.offset).collect();
    assert_eq!(read, offsets);
    let expected: Vec<_> = (0..9).map(|n| n.to_string()).collect();
    assert_eq!(texts(&records), expected);
}

/// Data, every option, trace and the time that the append told.
pub async fn records_come_back_as_they_were_appended(home: At<'_>) {
    let shard = shard(1, 0);
    let full = NewRecord {
        shard,
        task: full_task(),
    };
    let binary = record(shard, vec![0, 159, 146, 150]);
    let new = vec![full, record(shard, ""), binary];
    let appended = append(&*open(home, 1).await, new.clone()).await;
    for opened in 0..2 {
        let log = open(home, 1).await;
        let records = read(&*log, shard, Offset::ZERO, 3).await;
        for ((record, new), appended) in records.iter().zip(&new).zip(&appended) {
            let expected = Record {
                offset: appended.offset,
                accepted_at: appended.accepted_at,
                body: RecordBody::Task(new.task.clone()),
            };
            assert_eq!(*record, expected, "opened {opened} times");
        }
    }
}

/// And answers for each record in its place.
pub async fn one_call_appends_to_many_partitions(home: At<'_>) {
    let log = open(home, 16).await;
    let records = (0..160).map(|n: u16| record(shard(1, n % 16), n.to_string()));
    let appended = append(&*log, records.collect()).await;
    for partition in 0..16 {
        let records = read(&*log, shard(1, partition), Offset::ZERO, 10).await;
        for (i, record) in records.iter().enumerate() {
            let n = i * 16 + usize::from(partition);
            assert_eq!(text(record), n.to_string());
            assert_eq!(record.offset, appended[n].offset);
        }
    }
}

/// From many tasks into few partitions.
pub async fn concurrent_appends_all_land_exactly_once(home: At<'_>) {
    let log = open(home, 2).await;
    let appends: Vec<_> = (0..64_u32)
        .map(|task| {
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                for n in 0..4 {
                    append_n(
                        &*log,
                        shard(1, u16::from(task % 2 == 1)),
                        [task * 4 + n].into_iter(),
                    )
                    .await;
                }
            })
        })
        .collect();
    for append in appends {
        append.await.unwrap();
    }
    let mut all = Vec::new();
    for partition in 0..2 {
        let records = read(&*log, shard(1, partition), Offset::ZERO, 128).await;
        all.extend(
            texts(&records)
                .iter()
                .map(|text| text.parse::<u32>().unwrap()),
        );
    }
    all.sort_unstable();
    assert_eq!(all, (0..256).collect::<Vec<_>>());
}

/// Whether it lands is open, but not twice, and nothing of others is lost.
pub async fn a_dropped_append_lands_at_most_once(home: At<'_>) {
    let log = open(home, 1).await;
    let shard = shard(1, 0);
    for n in 0..20 {
        let dropped = log.append(vec![record(shard, format!("dropped-{n}"))]);
        tokio::select! {
            biased;
            _ = dropped => {}
            () = yield_times(n) => {}
        }
    }
    append(&*log, vec![record(shard, "last")]).await;
    drop(log);
    let log = open(home, 1).await;
    let mut seen = Vec::new();
    let mut from = Offset::ZERO;
    while !seen.iter().any(|text| text == "last") {
        for fetched in fetch_read(&*log, &[fetch(shard, from)]).await {
            from = fetched.next;
            seen.extend(texts(&fetched.records));
        }
    }
    let n = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), n, "a record landed twice");
}

async fn yield_times(n: usize) {
    for _ in 0..n {
        tokio::task::yield_now().await;
    }
}

/// Whichever of its partitions the append goes to.
pub async fn a_waiting_fetch_is_woken_by_an_append(home: At<'_>) {
    let log = open(home, 3).await;
    for partition in 0..3 {
        let wanted: Vec<_> = (0..3)
            .map(|each| Fetch {
                from: Offset(u64::from(each < partition)),
                ..fetch(shard(1, each), Offset::ZERO)
            })
            .collect();
        let waiting = log.fetch(&wanted, LONG * 2);
        let appending = append_n(&*log, shard(1, partition), 0..1);
        let both = async { tokio::join!(waiting, appending) };
        let (fetched, offsets) = in_time(both).await;
        let fetched = fetched.unwrap().read;
        assert_eq!(fetched.len(), 1);
        assert_eq!(fetched[0].shard, shard(1, partition));
        assert_eq!(fetched[0].records[0].offset, offsets[0]);
    }
}

/// With an empty list.
pub async fn a_fetch_without_news_ends_after_its_wait(home: At<'_>) {
    let log = open(home, 2).await;
    let wanted = [
        fetch(shard(1, 0), Offset::ZERO),
        fetch(shard(1, 1), Offset::ZERO),
    ];
    for wait in [Duration::ZERO, Duration::from_millis(20)] {
        let fetched = in_time(log.fetch(&wanted, wait)).await.unwrap();
        assert_eq!(fetched, Fetches::default());
    }
}

/// But gives one record at least, however large it is.
pub async fn a_fetch_keeps_its_limits_and_reads_on(home: At<'_>) {
    let log = open(home, 1).await;
    let shard = shard(1, 0);
    let records = (0..10).map(|_| record(shard, vec![b'x'; 1_000]));
    append(&*log, records.collect()).await;
    drop(log);
    let log = open(home, 1).await;
    let limits = [
        (3, 1 << 20, 3),
        (100, 2_500, 2),
        (100, 10, 1),
        (100, 1 << 20, 4),
    ];
    let mut from = Offset::ZERO;
    for (n_max, bytes_max, n) in limits {
        let wanted = Fetch {
            shard,
            from,
            n_max,
            bytes_max,
        };
        let fetched = fetch_read(&*log, &[wanted]).await;
        let n_fetched = fetched[0].records.len();
        assert!(
            (1..=n).contains(&n_fetched),
            "{n_fetched} records within {wanted:?}"
        );
        check_order(&fetched[0], from);
        from = fetched[0].next;
    }
    let n_read = read(&*log, shard, Offset::ZERO, 10).await.len();
    assert_eq!(n_read, 10);
}

/// Also if they have records below the wanted offset.
pub async fn a_fetch_leaves_out_partitions_without_news(home: At<'_>) {
    let log = open(home, 3).await;
    let seen = append_n(&*log, shard(1, 0), 0..2).await;
    append_n(&*log, shard(1, 2), 0..2).await;
    let wanted = [
        fetch(shard(1, 0), seen[1].next()),
        fetch(shard(1, 1), Offset::ZERO),
        fetch(shard(1, 2), Offset::ZERO),
    ];
    let fetched = fetch_read(&*log, &wanted).await;
    let shards: Vec<_> = fetched.iter().map(|fetched| fetched.shard).collect();
    assert_eq!(shards, [shard(1, 2)]);
}

/// And nothing is read where nothing is.
pub async fn a_record_is_read_at_its_offset(home: At<'_>) {
    let log = open(home, 2).await;
    let offsets = append_n(&*log, shard(1, 0), 0..5).await;
    for _ in 0..2 {
        let log = open(home, 2).await;
        for (n, offset) in offsets.iter().enumerate() {
            let record = read_one(&*log, shard(1, 0), *offset).await.unwrap();
            assert_eq!((record.offset, text(&record)), (*offset, n.to_string()));
        }
        let beyond = offsets[4].next();
        assert_eq!(read_one(&*log, shard(1, 0), beyond).await, None);
        assert_eq!(read_one(&*log, shard(1, 1), Offset::ZERO).await, None);
    }
}

/// In any order, one of them twice, some of them not there.
pub async fn many_records_are_read_at_their_offsets(home: At<'_>) {
    const N: u32 = 3_000;
    let log = open(home, 3).await;
    let parts = [shard(1, 0), shard(1, 1)];
    let mut wanted = Vec::new();
    let mut expected = Vec::new();
    for part in parts {
        let offsets = append_n(&*log, part, 0..N).await;
        // Near ones and far ones, from the last to the first.
        for (n, offset) in offsets.iter().enumerate().rev() {
            if n % 1_500 < 40 {
                wanted.push(TaskId {
                    shard: part,
                    offset: *offset,
                });
                expected.push(Some(n.to_string()));
            }
        }
        wanted.push(TaskId {
            shard: part,
            offset: Offset(u64::MAX >> 1),
        });
        expected.push(None);
    }
    wanted.push(wanted[0]);
    expected.push(expected[0].clone());
    wanted.push(TaskId {
        shard: shard(1, 2),
        offset: Offset::ZERO,
    });
    expected.push(None);
    let read = in_time(log.read_at(&wanted)).await;
    let texts: Vec<_> = read
        .iter()
        .map(|answer| answer.as_ref().unwrap().as_ref().map(text))
        .collect();
    assert_eq!(texts, expected);
}

/// In the order asked.
pub async fn bounds_follow_the_records(home: At<'_>) {
    let log = open(home, 2).await;
    let offsets = append_n(&*log, shard(1, 1), 0..5).await;
    let bounds = bounds(&*log, &[shard(1, 1), shard(1, 0)]).await;
    assert_eq!(bounds.len(), 2);
    assert!(bounds[0].start <= offsets[0]);
    assert!(bounds[0].end > offsets[4]);
    assert_eq!(bounds[1].start, bounds[1].end);
    assert_eq!(bounds[0].incarnation, bounds[1].incarnation);
}
