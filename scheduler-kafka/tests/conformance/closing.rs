//! A topic is closed by its brokers: for processes that know nothing of it, and without a trace for readers.

use rdkafka::{
    admin::{AdminOptions, AlterConfig, ResourceSpecifier},
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use scheduler_core::{Offset, PipelineNumber, port::FailureKind};

use crate::support::{
    LONG, Prefix, append, bounds, ensure, in_time, pipeline, read_one, read_to_end, record, shard,
    text,
};

#[tokio::test]
async fn a_process_that_was_there_before_is_refused() {
    let prefix = Prefix::shared();
    let closing = prefix.log(1).await;
    let there = prefix.log(1).await;
    append(&*there, "{}").await;
    let closed = in_time(closing.close(&pipeline(1, 1))).await.unwrap();
    // Its producer goes on: a refusal is nothing that it must be made anew for.
    for _ in 0..3 {
        let refused = in_time(there.append(vec![record("{}")])).await.remove(0);
        assert_eq!(refused.unwrap_err().kind(), FailureKind::Closed);
    }
    assert_eq!(closed, Some(vec![bounds(&*there).await]));
    assert_eq!(read_to_end(&*there, 0).await.len(), 1);
}

#[tokio::test]
async fn what_closes_a_topic_is_no_task_and_no_dead_letter() {
    let prefix = Prefix::shared();
    let log = prefix.log(1).await;
    append(&*log, "{}").await;
    let end = bounds(&*log).await.end;
    for _ in 0..2 {
        in_time(log.close(&pipeline(1, 1))).await.unwrap();
    }
    let closed = bounds(&*log).await.end;
    assert!(closed > end, "the marks are in the topic");
    let records = read_to_end(&*log, 0).await;
    let texts: Vec<_> = records.iter().map(text).collect();
    assert_eq!(texts, [Ok("{}".to_owned())]);
    for offset in end.0..closed.0 {
        assert_eq!(read_one(&*log, offset).await, None);
    }
}

#[tokio::test]
async fn the_smallest_task_of_any_producer_is_refused() {
    let prefix = Prefix::shared();
    let log = prefix.log(1).await;
    in_time(log.close(&pipeline(1, 1))).await.unwrap();
    let end = bounds(&*log).await.end;
    let producer: BaseProducer = prefix.foreign().create().unwrap();
    let topic = prefix.topic();
    let smallest: BaseRecord<'_, (), str> = BaseRecord::to(&topic).payload("{}").partition(0);
    producer.send(smallest).unwrap();
    producer.flush(LONG).unwrap();
    assert_eq!(bounds(&*log).await.end, end);
}

#[tokio::test]
async fn a_record_too_large_for_a_topic_of_others_is_not_taken_for_its_end() {
    let prefix = Prefix::shared();
    let log = prefix.log(1).await;
    let topic = prefix.topic();
    let topic = ResourceSpecifier::Topic(&topic);
    let change = AlterConfig::new(topic).set("max.message.bytes", "1000");
    let options = AdminOptions::new();
    prefix
        .admin()
        .alter_configs(&[change], &options)
        .await
        .unwrap();
    // Text that the producer's codec does not make small.
    let word = |n: u64| format!("{:016x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let data: String = (1..500).map(word).collect();
    let refused = loop {
        // The leader hears of it a moment later.
        match in_time(log.append(vec![record(data.clone())]))
            .await
            .remove(0)
        {
            Ok(_) => {}
            Err(err) => break err,
        }
    };
    assert_eq!(refused.kind(), FailureKind::Unavailable);
    append(&*log, "{}").await;
}

#[tokio::test]
async fn a_late_trim_spares_the_next_topic_of_the_name() {
    let prefix = Prefix::shared();
    let late = prefix.log(1).await;
    append(&*late, "{}").await;
    let next = prefix.kafka().log();
    in_time(next.remove(&pipeline(1, 1))).await.unwrap();
    ensure(&*next, 2, 1).await;
    let mut task = record("{}");
    task.shard.pipeline = PipelineNumber(2);
    let places = [task.shard];
    in_time(next.append(vec![task])).await.remove(0).unwrap();
    let trimmed = in_time(late.trim(&[(shard(0), Offset(1))])).await;
    assert_eq!(trimmed.unwrap_err().kind(), FailureKind::Unavailable);
    let bounds = in_time(next.bounds(&places)).await.remove(0).unwrap();
    assert_eq!((bounds.start, bounds.end), (Offset(0), Offset(1)));
}
