//! Brokers that are gone, answer nothing, or come back.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use scheduler_core::port::{FailureKind, PortError, TaskLog, log::Appended};
use test_servers::{Fault, Kafka};

use crate::support::{LONG, Prefix, append, bounds, read_to_end, record, shard, text, wanted};

const TIMEOUT: Duration = Duration::from_secs(3);

fn impatient(servers: &str) -> Prefix {
    let mut prefix = Prefix::on(servers);
    prefix.config.produce_timeout = TIMEOUT;
    prefix.config.request_timeout = TIMEOUT;
    prefix
}

async fn try_append(log: &dyn TaskLog, n: u32) -> Result<Appended, PortError> {
    let started = Instant::now();
    let answer = log.append(vec![record(format!("{{\"n\":{n}}}"))]).await;
    let took = started.elapsed();
    assert!(took < TIMEOUT + Duration::from_secs(3), "it took {took:?}");
    answer.into_iter().next().unwrap()
}

/// All calls end in time while nothing answers.
async fn everything_ends(log: &Arc<dyn TaskLog>) {
    let started = Instant::now();
    let fetched = log.fetch(&[wanted(0)], Duration::from_millis(100)).await;
    assert!(fetched.is_ok());
    let watermarks = [(shard(0), scheduler_core::Offset(0))];
    let shards = [shard(0)];
    let first = scheduler_core::TaskId {
        shard: shard(0),
        offset: scheduler_core::Offset(0),
    };
    let ids = [first];
    let (bounds, read, trimmed, shown) = tokio::join!(
        log.bounds(&shards),
        log.read_at(&ids),
        log.trim(&watermarks),
        log.publish_watermarks(&watermarks),
    );
    assert!(bounds[0].is_err() && trimmed.is_err() && shown.is_err());
    assert!(matches!(read[..], [Err(_)]), "{read:?}");
    let took = started.elapsed();
    assert!(took < 3 * TIMEOUT, "it took {took:?}");
}

/// Appends until it works again; what was refused must never appear.
async fn recovers(log: &dyn TaskLog, accepted: &mut Vec<u32>, refused: &mut Vec<u32>, from: u32) {
    let deadline = Instant::now() + LONG;
    for n in from.. {
        assert!(Instant::now() < deadline, "it must recover");
        match try_append(log, n).await {
            Ok(_) => {
                accepted.push(n);
                break;
            }
            Err(err) if err.kind() != FailureKind::Unknown => refused.push(n),
            Err(_) => {}
        }
    }
}

async fn check(log: &dyn TaskLog, accepted: &[u32], refused: &[u32]) {
    let records = read_to_end(log, 0).await;
    let texts: Vec<_> = records.iter().map(|record| text(record).unwrap()).collect();
    let times = |n: &u32| {
        let wanted = format!("{{\"n\":{n}}}");
        texts.iter().filter(|text| **text == wanted).count()
    };
    assert!(
        accepted.iter().all(|n| times(n) == 1),
        "{accepted:?}: {texts:?}"
    );
    assert!(
        refused.iter().all(|n| times(n) == 0),
        "{refused:?}: {texts:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_black_hole_ends_every_call_in_time_and_is_recovered_from() {
    let kafka = Kafka::start().unwrap();
    let prefix = impatient(&kafka.proxied_bootstrap_servers());
    let log = prefix.log(1).await;
    let (mut accepted, mut refused) = (vec![0], Vec::new());
    try_append(&*log, 0).await.unwrap();
    read_to_end(&*log, 0).await;
    for (round, fault) in [Fault::BlackHole, Fault::HalfOpen, Fault::Cut]
        .into_iter()
        .enumerate()
    {
        let base = 1 + 1_000 * u32::try_from(round).unwrap();
        kafka.proxy().set(fault);
        // The first may have got through; by the last it is known that nothing does.
        for n in base..base + 3 {
            match try_append(&*log, n).await {
                Ok(_) => accepted.push(n),
                Err(err) if err.kind() != FailureKind::Unknown => refused.push(n),
                Err(_) => {}
            }
        }
        everything_ends(&log).await;
        kafka.proxy().set(Fault::None);
        recovers(&*log, &mut accepted, &mut refused, base + 3).await;
    }
    assert!(!refused.is_empty(), "some were never sent");
    check(&*log, &accepted, &refused).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_was_killed_keeps_what_was_accepted() {
    let mut kafka = Kafka::start().unwrap();
    let prefix = impatient(kafka.bootstrap_servers());
    let log = prefix.log(1).await;
    let (mut accepted, mut refused) = (Vec::new(), Vec::new());
    recovers(&*log, &mut accepted, &mut refused, 0).await;
    let before = bounds(&*log).await;
    kafka.kill().unwrap();
    let err = try_append(&*log, 1_000).await.unwrap_err();
    assert_eq!(
        err.kind(),
        FailureKind::Unavailable,
        "it was never sent: {err:?}"
    );
    refused.push(1_000);
    kafka.restart().unwrap();
    recovers(&*log, &mut accepted, &mut refused, 1_001).await;
    append(&*log, "{\"n\":9999}").await;
    accepted.push(9_999);
    check(&*log, &accepted, &refused).await;
    assert_eq!(bounds(&*log).await.incarnation, before.incarnation);
}

#[tokio::test]
async fn a_log_can_be_opened_before_its_cluster_is_there() {
    let nobody = impatient("127.0.0.1:1");
    let log = nobody.kafka().log();
    let pipeline = Arc::new(crate::support::pipeline(1, 1));
    let started = Instant::now();
    let answers = log.ensure(&[pipeline]).await;
    assert!(matches!(&answers[..], [Err(err)] if err.kind() == FailureKind::Unavailable));
    assert!(started.elapsed() < 3 * TIMEOUT);
}
