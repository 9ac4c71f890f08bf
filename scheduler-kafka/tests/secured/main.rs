//! A real broker behind TLS and SASL/SCRAM: `cargo test -p scheduler-kafka --features tls --test secured`.
#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::{path::PathBuf, sync::Arc, time::Duration};

use scheduler_core::{
    Mode, Offset, Partition, Pipeline, PipelineNumber, PipelineSpec, Revision, ShardId, TaskId,
    Timestamp,
    port::{
        PortError, TaskLog,
        log::{Appended, NewRecord, NewTask},
    },
};
use scheduler_kafka::{Config, Kafka, ScramMechanism, Secret, Security};
use test_servers::{SECURED_USER, Secured};

const SHARD: ShardId = ShardId {
    pipeline: PipelineNumber(1),
    partition: Partition(0),
};

fn log(servers: &str, prefix: &str, security: Security) -> Arc<dyn TaskLog> {
    let config = Config {
        security,
        topic_prefix: prefix.to_owned(),
        replication_factor: 1,
        min_insync_replicas: 1,
        // Long enough for a busy machine, and short enough for those that are never let in.
        produce_timeout: Duration::from_secs(10),
        request_timeout: Duration::from_secs(10),
        ..Config::new(servers)
    };
    Kafka::open(config).unwrap().log()
}

fn scram(mechanism: ScramMechanism, password: &str, ca_file: Option<PathBuf>) -> Security {
    Security::Scram {
        mechanism,
        username: SECURED_USER.0.to_owned(),
        password: Secret::new(password),
        ca_file,
    }
}

fn pipeline() -> Arc<Pipeline> {
    Arc::new(Pipeline {
        number: SHARD.pipeline,
        path: scheduler_core::path("tenant", "app", "pipeline").unwrap(),
        revision: Revision(1),
        spec: PipelineSpec::default(),
        mode: Mode::Active,
        created_at: Timestamp::EPOCH,
    })
}

async fn append(log: &dyn TaskLog) -> Result<Appended, PortError> {
    let task = NewTask {
        data: "{}".into(),
        options: None,
        traceparent: None,
    };
    let record = NewRecord { shard: SHARD, task };
    log.append(vec![record]).await.remove(0)
}

#[tokio::test]
async fn only_who_may_is_let_in_and_is_served_as_on_any_broker() {
    let broker = Secured::start().unwrap();
    let ca_file = Some(broker.ca_file().to_owned());
    let tls = Security::Tls {
        ca_file: ca_file.clone(),
    };
    let good = [
        ("tls", broker.tls(), tls),
        (
            "sha256",
            broker.scram(),
            scram(ScramMechanism::Sha256, SECURED_USER.1, ca_file.clone()),
        ),
        (
            "sha512",
            broker.scram(),
            scram(ScramMechanism::Sha512, SECURED_USER.1, ca_file.clone()),
        ),
    ];
    for (prefix, servers, security) in good {
        let log = log(servers, prefix, security);
        assert!(
            matches!(log.ensure(&[pipeline()]).await[..], [Ok(())]),
            "{prefix}"
        );
        assert_eq!(append(&*log).await.unwrap().offset, Offset(0), "{prefix}");
        let id = TaskId {
            shard: SHARD,
            offset: Offset(0),
        };
        let read = log.read_at(&[id]).await;
        assert!(matches!(read[..], [Ok(Some(_))]), "{prefix}");
    }
    let bad = [
        (
            "a wrong password",
            broker.scram(),
            scram(ScramMechanism::Sha256, "guessed", ca_file.clone()),
        ),
        (
            "a certificate that it does not trust",
            broker.scram(),
            scram(ScramMechanism::Sha256, SECURED_USER.1, None),
        ),
        ("no TLS at all", broker.tls(), Security::Plaintext),
        (
            "no name where one is asked for",
            broker.scram(),
            Security::Tls { ca_file },
        ),
    ];
    for (who, servers, security) in bad {
        let log = log(servers, "tls", security);
        let made = log.ensure(&[pipeline()]).await.remove(0);
        assert!(made.is_err(), "{who} is let in");
        assert!(append(&*log).await.is_err(), "{who} may append");
    }
}
