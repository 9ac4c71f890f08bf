//! Gaps: what was aborted is never read, and never holds the end back.

use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use scheduler_core::{Offset, port::log::Fetched};

use crate::support::{
    LONG, Prefix, append, bounds, fetch, in_time, read_one, read_to_end, shard, text,
};

fn transactional(prefix: &Prefix) -> BaseProducer {
    let producer: BaseProducer = prefix
        .foreign()
        .set("transactional.id", prefix.topic())
        .create()
        .unwrap();
    producer.init_transactions(LONG).unwrap();
    producer
}

fn send(producer: &BaseProducer, prefix: &Prefix, texts: std::ops::Range<u32>) {
    let topic = prefix.topic();
    for n in texts {
        let value = format!("{{\"n\":{n}}}");
        let record = BaseRecord::<[u8], str>::to(&topic)
            .partition(0)
            .payload(&value);
        producer.send(record).map_err(|(err, _)| err).unwrap();
    }
    producer.flush(LONG).unwrap();
}

#[tokio::test]
async fn aborted_records_at_the_tail_are_absent_and_the_end_is_reached() {
    let prefix = Prefix::shared();
    let log = prefix.log(1).await;
    let producer = transactional(&prefix);
    producer.begin_transaction().unwrap();
    send(&producer, &prefix, 0..3);
    producer.commit_transaction(LONG).unwrap();
    producer.begin_transaction().unwrap();
    send(&producer, &prefix, 3..6);
    producer.abort_transaction(LONG).unwrap();
    // Three records and a marker, twice. The last marker is written after the answer.
    in_time(async { while bounds(&*log).await.end < Offset(8) {} }).await;
    let records = read_to_end(&*log, 0).await;
    let texts: Vec<_> = records.iter().map(|record| text(record).unwrap()).collect();
    assert_eq!(texts, ["{\"n\":0}", "{\"n\":1}", "{\"n\":2}"]);
    // Also by one who begins in the gap.
    let nothing = Fetched {
        shard: shard(0),
        records: Vec::new(),
        next: Offset(8),
    };
    for from in [3, 4, 7] {
        assert_eq!(
            fetch(&*log, from).await.read,
            std::slice::from_ref(&nothing)
        );
        assert_eq!(read_one(&*log, from).await, None);
    }
    append(&*log, "{\"n\":9}").await;
    let records = read_to_end(&*log, 5).await;
    assert_eq!(text(&records[0]).unwrap(), "{\"n\":9}");
}

#[tokio::test]
async fn an_open_transaction_is_not_shown_and_not_skipped() {
    let prefix = Prefix::shared();
    let log = prefix.log(1).await;
    append(&*log, "{\"n\":0}").await;
    let producer = transactional(&prefix);
    producer.begin_transaction().unwrap();
    send(&producer, &prefix, 1..3);
    append(&*log, "{\"n\":3}").await;
    assert_eq!(bounds(&*log).await.end, Offset(1));
    assert_eq!(read_to_end(&*log, 0).await.len(), 1);
    let waiting = fetch(&*log, 1);
    let committing = tokio::task::spawn_blocking(move || producer.commit_transaction(LONG));
    let (fetches, committed) = tokio::join!(waiting, committing);
    committed.unwrap().unwrap();
    assert_eq!(fetches.read[0].records[0].offset, Offset(1));
    assert_eq!(read_to_end(&*log, 1).await.len(), 3);
}
