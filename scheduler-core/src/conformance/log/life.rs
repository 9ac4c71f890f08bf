//! Cases of a log's life: trimmed, made again, opened again.

use super::*;

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
    assert_eq!(read_one(&*log, trimmed, offsets[5]).await, None);
    // One that is trimmed hides none that is there.
    let both = [offsets[5], offsets[6]].map(|offset| TaskId {
        shard: trimmed,
        offset,
    });
    let read_both = in_time(log.read_at(&both)).await;
    assert_eq!(read_both[0].as_ref().unwrap(), &None);
    assert_eq!(
        read_both[1].as_ref().unwrap().as_ref().map(text),
        Some("6".to_owned())
    );
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
