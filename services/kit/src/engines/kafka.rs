//! Kafka from settings.

use std::{collections::BTreeMap, path::PathBuf};

use scheduler_kafka::{Config, ScramMechanism, Secret, Security};

use crate::{Key, Reader};

const fn key(name: &'static str, default: &'static str, meaning: &'static str) -> Key {
    Key {
        name,
        default,
        meaning,
    }
}

/// The settings under `kafka`. Their defaults are those of a cluster of three brokers.
pub(super) fn keys() -> Vec<Key> {
    vec![
        key(
            "kafka.bootstrap_servers",
            "",
            "where the cluster is first reached: HOST:PORT, with commas between",
        ),
        key(
            "kafka.topic_prefix",
            "workload",
            "topics are named PREFIX.TENANT.APPLICATION.PIPELINE",
        ),
        key(
            "kafka.replication_factor",
            "3",
            "copies of each record, for topics that are made",
        ),
        key(
            "kafka.min_insync_replicas",
            "2",
            "copies that must be written before a record is accepted",
        ),
        key("kafka.produce_timeout", "8s", "how long an append may take"),
        key(
            "kafka.request_timeout",
            "10s",
            "how long any other call may take",
        ),
        key(
            "kafka.linger",
            "2ms",
            "how long a record waits for others to share its request",
        ),
        key(
            "kafka.append_records_max",
            "50000",
            "the most records on their way to the cluster",
        ),
        key(
            "kafka.append_bytes_max",
            "64MiB",
            "the most bytes on their way to the cluster",
        ),
        key(
            "kafka.fetch_bytes_max",
            "64MiB",
            "the most bytes of records that were fetched and not yet taken",
        ),
        key(
            "kafka.fetch_wait",
            "500ms",
            "how long the cluster holds back an answer without records",
        ),
        key(
            "kafka.group",
            "workload-members",
            "the group of the members",
        ),
        key(
            "kafka.slots_topic",
            "workload-slots",
            "the topic whose 256 partitions are what members own",
        ),
        key(
            "kafka.progress_group",
            "workload-progress",
            "the group without members under which Kafka's tools see each pipeline's lag",
        ),
        key(
            "kafka.session_timeout",
            "6s",
            "after this long without a sign of life a member loses its slots",
        ),
        key(
            "kafka.heartbeat_interval",
            "1500ms",
            "how often a member gives a sign of life",
        ),
        key(
            "kafka.release_timeout",
            "30s",
            "how long a member may keep slots that go to another one",
        ),
        key(
            "kafka.security",
            "plaintext",
            "plaintext, tls, scram-sha-256 or scram-sha-512; the last two over TLS",
        ),
        key("kafka.username", "", "the name for SCRAM"),
        key("kafka.password", "", "the password for SCRAM"),
        key(
            "kafka.ca_file",
            "",
            "certificates to trust, as PEM; empty for those of the system",
        ),
        key(
            "kafka.extra",
            "",
            "further settings of librdkafka: NAME=VALUE, with commas between",
        ),
    ]
}

/// Reads how the cluster is reached; faults go to the reader.
pub(super) fn config(reader: &mut Reader<'_>) -> Config {
    let config = Config {
        topic_prefix: reader.text("kafka.topic_prefix"),
        replication_factor: reader.number("kafka.replication_factor"),
        min_insync_replicas: reader.number("kafka.min_insync_replicas"),
        produce_timeout: reader.duration("kafka.produce_timeout"),
        request_timeout: reader.duration("kafka.request_timeout"),
        linger: reader.duration("kafka.linger"),
        append_records_max: reader.number("kafka.append_records_max"),
        append_bytes_max: reader.bytes("kafka.append_bytes_max"),
        payload_bytes_max: reader.bytes("scheduler.payload_bytes_max"),
        fetch_bytes_max: reader.bytes("kafka.fetch_bytes_max"),
        fetch_wait: reader.duration("kafka.fetch_wait"),
        progress_group: reader.text("kafka.progress_group"),
        group: reader.text("kafka.group"),
        slots_topic: reader.text("kafka.slots_topic"),
        session_timeout: reader.duration("kafka.session_timeout"),
        heartbeat_interval: reader.duration("kafka.heartbeat_interval"),
        release_timeout: reader.duration("kafka.release_timeout"),
        security: security(reader),
        extra: extra(reader),
        ..Config::new(reader.required("kafka.bootstrap_servers"))
    };
    if let Err(err) = config.validate() {
        reader.fault(format!("kafka: {err}"));
    }
    config
}

fn security(reader: &mut Reader<'_>) -> Security {
    let text = reader.text("kafka.security");
    let ca_file = reader.optional("kafka.ca_file").map(PathBuf::from);
    let mechanism = match text.as_str() {
        "plaintext" => return Security::Plaintext,
        "tls" => return Security::Tls { ca_file },
        "scram-sha-256" => ScramMechanism::Sha256,
        "scram-sha-512" => ScramMechanism::Sha512,
        _ => {
            reader.fault(format!(
                "kafka.security must be plaintext, tls, scram-sha-256 or scram-sha-512, and is {text:?}"
            ));
            return Security::Plaintext;
        }
    };
    Security::Scram {
        mechanism,
        username: reader.required("kafka.username"),
        password: Secret::new(reader.required("kafka.password")),
        ca_file,
    }
}

fn extra(reader: &mut Reader<'_>) -> BTreeMap<String, String> {
    let text = reader.text("kafka.extra");
    let mut extra = BTreeMap::new();
    for setting in text.split(',').filter(|setting| !setting.is_empty()) {
        match setting.split_once('=') {
            Some((name, value)) => drop(extra.insert(name.to_owned(), value.to_owned())),
            None => reader.fault(format!("kafka.extra: {setting:?} is not NAME=VALUE")),
        }
    }
    extra
}
