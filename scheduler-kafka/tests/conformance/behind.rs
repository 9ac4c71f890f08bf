//! What others do to topics and groups behind our back.

use std::sync::Arc;

use rdkafka::{
    admin::{AdminOptions, NewTopic, TopicReplication},
    consumer::{BaseConsumer, Consumer as _},
    topic_partition_list::{Offset as Position, TopicPartitionList},
};
use scheduler_core::{
    Offset,
    port::{FailureKind, log::Fetches},
};

use crate::support::{
    LONG, Prefix, append, bounds, ensure, fetch, in_time, pipeline, read_to_end, record, shard,
    wanted,
};

async fn remake(prefix: &Prefix) {
    let (admin, options) = (prefix.admin(), AdminOptions::new());
    let topic = prefix.topic();
    admin.delete_topics(&[&topic], &options).await.unwrap()[0]
        .as_ref()
        .unwrap();
    let new = NewTopic::new(&topic, 1, TopicReplication::Fixed(1));
    // Until the deletion is through, the name is taken.
    while admin.create_topics([&new], &options).await.unwrap()[0].is_err() {}
}

#[tokio::test]
async fn a_topic_made_again_is_lost_and_has_another_incarnation() {
    let prefix = Prefix::shared();
    let log = prefix.log(1).await;
    append(&*log, "{}").await;
    let before = bounds(&*log).await;
    assert_eq!(read_to_end(&*log, 0).await.len(), 1);
    let waiting = tokio::spawn({
        let log = Arc::clone(&log);
        async move { fetch(&*log, 1).await }
    });
    remake(&prefix).await;
    let Fetches { read, lost } = waiting.await.unwrap();
    assert_eq!(read, []);
    assert!(
        matches!(lost[..], [(lost, _)] if lost == shard(0)),
        "{lost:?}"
    );
    let after = bounds(&*log).await;
    assert_ne!(after.incarnation, before.incarnation);
    // Whoever accepts the new one can go on with it.
    append(&*log, "{\"new\":1}").await;
    assert_eq!(read_to_end(&*log, 0).await.len(), 1);
}

#[tokio::test]
async fn a_topic_made_again_is_noticed_also_where_nothing_was_read_yet() {
    let prefix = Prefix::shared();
    let log = prefix.log(1).await;
    let waiting = tokio::spawn({
        let log = Arc::clone(&log);
        async move { fetch(&*log, 0).await }
    });
    remake(&prefix).await;
    let fetches = waiting.await.unwrap();
    assert_eq!(fetches.lost.len(), 1, "{fetches:?}");
}

#[tokio::test]
async fn a_topic_with_fewer_partitions_is_damage_and_with_more_is_fine() {
    let prefix = Prefix::shared();
    prefix.log(2).await;
    let log = prefix.kafka().log();
    ensure(&*log, 1, 1).await;
    let answers = log.ensure(&[Arc::new(pipeline(1, 3))]).await;
    assert!(matches!(&answers[..], [Err(err)] if err.kind() == FailureKind::Damaged));
}

#[tokio::test]
async fn the_topic_of_a_deleted_pipeline_is_not_given_to_the_next() {
    let prefix = Prefix::shared();
    let log = prefix.log(1).await;
    append(&*log, "{}").await;
    let answers = log.ensure(&[Arc::new(pipeline(2, 1))]).await;
    assert!(matches!(&answers[..], [Err(err)] if err.kind() == FailureKind::Unavailable));
    log.remove(&pipeline(1, 1)).await.unwrap();
    ensure(&*log, 2, 1).await;
    // The old number means nothing any more, and cannot remove the new log.
    log.remove(&pipeline(1, 1)).await.unwrap();
    let answers = log.append(vec![record("{}")]).await;
    assert!(matches!(&answers[..], [Err(err)] if err.kind() == FailureKind::Unavailable));
    ensure(&*log, 2, 1).await;
}

#[tokio::test]
async fn a_topic_deleted_by_others_refuses_appends_in_time() {
    let prefix = Prefix::shared();
    let log = prefix.log(1).await;
    append(&*log, "{}").await;
    let deleted = prefix
        .admin()
        .delete_topics(&[&prefix.topic()], &AdminOptions::new())
        .await;
    deleted.unwrap()[0].as_ref().unwrap();
    let answers = in_time(log.append(vec![record("{}")])).await;
    assert!(
        matches!(&answers[..], [Err(err)] if err.kind() != FailureKind::Damaged),
        "{answers:?}"
    );
    let bounds = in_time(log.bounds(&[shard(0)])).await;
    assert!(matches!(&bounds[..], [Err(err)] if err.kind() == FailureKind::Unavailable));
}

fn shown(prefix: &Prefix) -> Position {
    let mut client = prefix.foreign();
    client.set("group.id", &prefix.config.progress_group);
    let consumer: BaseConsumer = client.create().unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition(&prefix.topic(), 0);
    let committed = consumer.committed_offsets(list, LONG).unwrap();
    committed.elements()[0].offset()
}

#[tokio::test]
async fn progress_is_shown_to_others_and_never_read_back() {
    let prefix = Prefix::shared();
    let log = prefix.log(1).await;
    for _ in 0..3 {
        append(&*log, "{}").await;
    }
    log.publish_watermarks(&[(shard(0), Offset(2))])
        .await
        .unwrap();
    assert_eq!(shown(&prefix), Position::Offset(2));
    let group = prefix.config.progress_group.clone();
    let deleted = prefix
        .admin()
        .delete_groups(&[&group], &AdminOptions::new())
        .await;
    deleted.unwrap()[0].as_ref().unwrap();
    assert_eq!(read_to_end(&*log, 0).await.len(), 3);
    log.publish_watermarks(&[(shard(0), Offset(3))])
        .await
        .unwrap();
    assert_eq!(shown(&prefix), Position::Offset(3));
}

#[tokio::test]
async fn a_dropped_fetch_takes_nothing_with_it() {
    let prefix = Prefix::shared();
    let log = prefix.log(1).await;
    for n in 0..20 {
        let first = wanted(n);
        let fetching = log.fetch(std::slice::from_ref(&first), LONG);
        let appending = append(&*log, "{}");
        tokio::select! {
            biased;
            _ = fetching => {}
            _ = appending => {}
        }
        // Whichever was dropped, the record is found.
        let end = fetch(&*log, n).await.read[0].next;
        assert_eq!(end, Offset(n + 1));
    }
}
