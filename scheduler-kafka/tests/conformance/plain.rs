//! Records of producers that know nothing of us.

use std::time::Duration;

use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    message::{Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use scheduler_core::{TaskOptions, port::log::RecordBody};

use crate::support::{LONG, Prefix, append, in_time, read_one, read_to_end, record, text};

fn produce(prefix: &Prefix, values: &[Option<&[u8]>], headers: Option<OwnedHeaders>) {
    let mut client = prefix.foreign();
    client.set("message.max.bytes", "2000000");
    let producer: BaseProducer = client.create().unwrap();
    let topic = prefix.topic();
    for value in values {
        let mut record = BaseRecord::<[u8], [u8]>::to(&topic)
            .partition(0)
            .key(b"a key");
        if let Some(value) = value {
            record = record.payload(value);
        }
        if let Some(headers) = &headers {
            record = record.headers(headers.clone());
        }
        producer.send(record).map_err(|(err, _)| err).unwrap();
    }
    producer.flush(LONG).unwrap();
}

#[tokio::test]
async fn json_objects_are_tasks_with_default_options() {
    let prefix = Prefix::shared();
    let log = prefix.log(1).await;
    append(&*log, "{\"n\": 0}").await;
    let foreign = OwnedHeaders::new().insert(Header {
        key: "their-header",
        value: Some("x"),
    });
    produce(
        &prefix,
        &[Some(b"{\"n\": 1}"), Some(b" { } ")],
        Some(foreign),
    );
    let records = read_to_end(&*log, 0).await;
    let texts: Vec<_> = records.iter().map(|record| text(record).unwrap()).collect();
    assert_eq!(texts, ["{\"n\": 0}", "{\"n\": 1}", " { } "]);
    for record in &records {
        let RecordBody::Task(task) = &record.body else {
            panic!("it must be a task");
        };
        assert_eq!(task.options, None);
        assert!(
            record.accepted_at.as_millis() > 1_600_000_000_000,
            "{record:?}"
        );
    }
    let found = read_one(&*log, records[1].offset.0).await;
    assert_eq!(found.as_ref(), Some(&records[1]));
}

#[tokio::test]
async fn the_key_of_a_record_is_the_ordering_key_of_its_task() {
    let prefix = Prefix::shared();
    let log = prefix.log(1).await;
    let producer: BaseProducer = prefix.foreign().create().unwrap();
    let topic = prefix.topic();
    for key in ["order-7", "no key of a task"] {
        let record = BaseRecord::to(&topic).partition(0).key(key).payload("{}");
        producer.send(record).map_err(|(err, _)| err).unwrap();
    }
    producer.flush(LONG).unwrap();
    let mut ours = record("{}");
    let options = TaskOptions {
        key: Some("order-8".try_into().unwrap()),
        ..TaskOptions::default()
    };
    ours.task.options = Some(options.into());
    in_time(log.append(vec![ours])).await.remove(0).unwrap();
    append(&*log, "{}").await;

    let records = read_to_end(&*log, 0).await;
    let key = |body: &RecordBody| match body {
        RecordBody::Task(task) => Some(task.options.as_ref()?.key.as_ref()?.to_string()),
        malformed @ RecordBody::Malformed { .. } => panic!("{malformed:?}"),
    };
    let keys: Vec<_> = records.iter().map(|record| key(&record.body)).collect();
    let [theirs, ours] = ["order-7", "order-8"].map(|key| Some(key.to_owned()));
    assert_eq!(keys, [theirs, None, ours, None]);

    let reader: BaseConsumer = prefix.foreign().set("group.id", "any").create().unwrap();
    let mut assigned = TopicPartitionList::new();
    let from_the_third = Offset::Offset(2);
    assigned
        .add_partition_offset(&topic, 0, from_the_third)
        .unwrap();
    reader.assign(&assigned).unwrap();
    for expected in [Some(&b"order-8"[..]), None] {
        let message = reader.poll(LONG).unwrap().unwrap();
        assert_eq!(message.key(), expected);
    }
}

#[tokio::test]
async fn what_cannot_be_a_task_is_malformed_and_stops_nothing() {
    let prefix = Prefix::shared();
    let log = prefix.log(1).await;
    let long = vec![b' '; 1_500_000];
    let values = [
        None,
        Some(&b"not json"[..]),
        Some(b"[1]"),
        Some(b""),
        Some(&long),
        Some(b"{}"),
    ];
    produce(&prefix, &values, None);
    let options = OwnedHeaders::new().insert(Header {
        key: "workload-options",
        value: Some(&[0xff_u8][..]),
    });
    produce(&prefix, &[Some(b"{}")], Some(options));
    let records = read_to_end(&*log, 0).await;
    let expected = [
        Err("the record has no value"),
        Err("the value is not JSON"),
        Err("the value is not a JSON object"),
        Err("the value is not JSON"),
        Err("the value has 1500000 bytes; a task has at most 1048576"),
        Ok("{}"),
        Err("the options cannot be read"),
    ];
    assert_eq!(records.len(), expected.len());
    for (record, expected) in records.iter().zip(expected) {
        match (text(record), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected),
            (Err(found), Err(expected)) => {
                assert!(
                    found.starts_with(expected) && found.contains("sha256"),
                    "{found}"
                );
            }
            (found, expected) => panic!("{found:?} instead of {expected:?}"),
        }
    }
    let RecordBody::Malformed { head, .. } = &records[4].body else {
        panic!("it is malformed");
    };
    assert_eq!(head.len(), 64 << 10);
}

#[tokio::test]
async fn every_compression_can_be_read() {
    let prefix = Prefix::shared();
    let log = prefix.log(1).await;
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let producer: BaseProducer = prefix
            .foreign()
            .set("compression.type", codec)
            .create()
            .unwrap();
        let value = format!("{{\"codec\": \"{}\"}}", codec.repeat(100));
        let topic = prefix.topic();
        let record = BaseRecord::<[u8], str>::to(&topic)
            .partition(0)
            .payload(&value);
        producer.send(record).map_err(|(err, _)| err).unwrap();
        producer.flush(Duration::from_secs(10)).unwrap();
    }
    let records = read_to_end(&*log, 0).await;
    assert_eq!(records.len(), 5);
    assert!(records.iter().all(|record| text(record).is_ok()));
}
