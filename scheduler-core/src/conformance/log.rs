//! Cases of the log's port.

use std::{future::Future, sync::Arc, time::Duration};

use super::{
    Home,
    sample::{fetch, full_task, pipeline, record, shard},
};
use crate::{
    Offset, Pipeline, ShardId,
    port::{
        FailureKind, PortError, TaskLog,
        log::{Appended, Bounds, Fetch, Fetched, Fetches, NewRecord, Record, RecordBody},
    },
};

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
            let record = log.read_at(shard(1, 0), *offset).await.unwrap().unwrap();
            assert_eq!((record.offset, text(&record)), (*offset, n.to_string()));
        }
        let beyond = offsets[4].next();
        assert_eq!(log.read_at(shard(1, 0), beyond).await.unwrap(), None);
        assert_eq!(log.read_at(shard(1, 1), Offset::ZERO).await.unwrap(), None);
    }
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

/// Wherever in what was appended the trim falls.
pub async fn trimmed_records_are_gone_and_the_others_stay(home: At<'_>) {
    let log = open(home, 2).await;
    let (trimmed, whole) = (shard(1, 0), shard(1, 1));
    let mut offsets = append_n(&*log, trimmed, 0..4).await;
    offsets.extend(append_n(&*log, trimmed, 4..8).await);
    append_n(&*log, whole, 0..2).await;
    let end = bounds(&*log, &[trimmed]).await[0].end;
    for below in [2, 4, 4, 1, 6] {
        log.trim(&[(trimmed, offsets[below])]).await.unwrap();
    }
    drop(log);
    let log = open(home, 2).await;
    let bounds = bounds(&*log, &[trimmed]).await;
    assert_eq!((bounds[0].start, bounds[0].end), (offsets[6], end));
    assert_eq!(log.read_at(trimmed, offsets[5]).await.unwrap(), None);
    assert_eq!(
        texts(&read(&*log, trimmed, offsets[6], 2).await),
        ["6", "7"]
    );
    assert_eq!(read(&*log, whole, Offset::ZERO, 2).await.len(), 2);
}

/// And reads nothing; also where no record is left at all.
pub async fn a_fetch_from_below_the_start_is_lost(home: At<'_>) {
    let log = open(home, 1).await;
    let shard = shard(1, 0);
    let offsets = append_n(&*log, shard, 0..8).await;
    log.trim(&[(shard, offsets[5])]).await.unwrap();
    let records = read(&*log, shard, offsets[5], 3).await;
    assert_eq!(texts(&records), ["5", "6", "7"]);
    let end = bounds(&*log, &[shard]).await[0].end;
    for start in [offsets[5], end] {
        log.trim(&[(shard, start)]).await.unwrap();
        let below = Offset(start.0 - 1);
        let fetched = in_time(log.fetch(&[fetch(shard, below)], LONG))
            .await
            .unwrap();
        assert_eq!(fetched.read, [], "from {below:?}");
        assert!(
            matches!(fetched.lost[..], [(lost, _)] if lost == shard),
            "{fetched:?}"
        );
    }
}

/// Offsets go on where they were.
pub async fn a_trim_beyond_the_end_forgets_no_later_record(home: At<'_>) {
    let log = open(home, 1).await;
    let shard = shard(1, 0);
    let offsets = append_n(&*log, shard, 0..3).await;
    log.trim(&[(shard, Offset(offsets[2].0 + 1_000))])
        .await
        .unwrap();
    drop(log);
    let log = open(home, 1).await;
    let later = append_n(&*log, shard, 3..5).await;
    assert!(later[0] > offsets[2]);
    assert_eq!(texts(&read(&*log, shard, later[0], 2).await), ["3", "4"]);
}

/// Neither in the same process nor in the next.
pub async fn ensuring_again_changes_nothing(home: At<'_>) {
    let log = open(home, 1).await;
    let shard = shard(1, 0);
    append_n(&*log, shard, 0..3).await;
    let before = bounds(&*log, &[shard]).await;
    ensure(&*log, pipeline(1, 1)).await;
    assert_eq!(bounds(&*log, &[shard]).await, before);
    drop(log);
    let log = open(home, 1).await;
    assert_eq!(bounds(&*log, &[shard]).await, before);
}

/// With another incarnation and none of the records.
pub async fn a_log_removed_and_made_again_is_another_one(home: At<'_>) {
    let log = open(home, 1).await;
    ensure(&*log, pipeline(2, 1)).await;
    append_n(&*log, shard(1, 0), 0..3).await;
    append_n(&*log, shard(2, 0), 0..3).await;
    let shards = [shard(1, 0), shard(2, 0)];
    let before = bounds(&*log, &shards).await;
    assert_ne!(before[0].incarnation, before[1].incarnation);
    log.remove(&pipeline(1, 1)).await.unwrap();
    ensure(&*log, pipeline(1, 1)).await;
    let after = bounds(&*log, &shards).await;
    assert_ne!(after[0].incarnation, before[0].incarnation);
    assert_eq!(after[0].start, after[0].end);
    assert_eq!(after[1], before[1], "the other log is untouched");
    append_n(&*log, shard(1, 0), 7..8).await;
    assert_eq!(
        texts(&read(&*log, shard(1, 0), Offset::ZERO, 1).await),
        ["7"]
    );
}

/// While the other records of the same call are taken.
pub async fn an_append_without_a_log_is_refused(home: At<'_>) {
    let log = open(home, 1).await;
    let records = [shard(9, 0), shard(1, 0), shard(1, 5)].map(|shard| record(shard, "x"));
    let answers = in_time(log.append(records.into())).await;
    let kinds: Vec<_> = answers
        .iter()
        .map(|answer| answer.as_ref().map(|_| ()).map_err(PortError::kind))
        .collect();
    let refused =
        |kind: &Result<(), FailureKind>| kind.is_err_and(|kind| kind != FailureKind::Unknown);
    assert!(refused(&kinds[0]) && refused(&kinds[2]), "{kinds:?}");
    assert!(kinds[1].is_ok(), "{kinds:?}");
    assert_eq!(read(&*log, shard(1, 0), Offset::ZERO, 1).await.len(), 1);
}

/// Records, bounds and incarnation.
pub async fn a_reopened_log_has_kept_everything(home: At<'_>) {
    let log = open(home, 4).await;
    let shards: Vec<_> = (0..4).map(|partition| shard(1, partition)).collect();
    for round in 0..5 {
        let records = shards
            .iter()
            .map(|shard| record(*shard, format!("{round}-{shard}")));
        append(&*log, records.collect()).await;
    }
    let before = bounds(&*log, &shards).await;
    let mut kept = Vec::new();
    for shard in &shards {
        kept.push(read(&*log, *shard, Offset::ZERO, 5).await);
    }
    drop(log);
    let log = open(home, 4).await;
    assert_eq!(bounds(&*log, &shards).await, before);
    for (shard, kept) in shards.iter().zip(&kept) {
        assert_eq!(read(&*log, *shard, Offset::ZERO, 5).await, *kept);
        let next = append_n(&*log, *shard, 0..1).await[0];
        assert!(next > kept[4].offset);
    }
}

/// Many small records and a few large ones in one call.
pub async fn a_large_batch_is_kept_whole(home: At<'_>) {
    let log = open(home, 2).await;
    let data = |n: u32| {
        vec![
            b'0';
            if n.is_multiple_of(1_000) {
                1 << 20
            } else {
                100
            }
        ]
    };
    let records = (0..5_000).map(|n| record(shard(1, u16::from(n % 2 == 1)), data(n)));
    append(&*log, records.collect()).await;
    drop(log);
    let log = open(home, 2).await;
    let even = read(&*log, shard(1, 0), Offset::ZERO, 2_500).await;
    let odd = read(&*log, shard(1, 1), Offset::ZERO, 2_500).await;
    for (record, n) in even
        .iter()
        .chain(&odd)
        .zip((0..5_000).step_by(2).chain((1..5_000).step_by(2)))
    {
        assert_eq!(text(record).len(), data(n).len());
    }
}
