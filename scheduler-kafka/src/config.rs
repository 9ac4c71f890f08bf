//! How the cluster is reached and what it may be used for: plain data, checked once.

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use crate::error::OpenError;

/// What guarantees rest on, and therefore cannot be set by [`Config::extra`].
const RESERVED: [&str; 27] = [
    "acks",
    "allow.auto.create.topics",
    "auto.offset.reset",
    "bootstrap.servers",
    "client.id",
    "delivery.timeout.ms",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.gapless.guarantee",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "heartbeat.interval.ms",
    "isolation.level",
    "log.queue",
    "max.poll.interval.ms",
    "message.timeout.ms",
    "metadata.broker.list",
    "partition.assignment.strategy",
    "queue.buffering.max.kbytes",
    "queue.buffering.max.messages",
    "queued.max.messages.kbytes",
    "request.required.acks",
    "session.timeout.ms",
    "transactional.id",
];

/// How to use a Kafka cluster. [`Config::new`] gives good values for all but the address.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the cluster is first reached: `host:port`, separated by commas.
    pub bootstrap_servers: String,
    /// The name of this process in the brokers' logs and quotas.
    pub client_id: String,
    /// Topics are named `{prefix}.{tenant}.{application}.{pipeline}`.
    pub topic_prefix: String,
    /// Copies of each record, for topics that are made. 3 in production.
    pub replication_factor: u8,
    /// Copies that must be written before a record is accepted. 2 in production.
    pub min_insync_replicas: u8,
    /// How long an append may take. A quarter of it may pass until there is room in the queue.
    pub produce_timeout: Duration,
    /// How long any other call may take.
    pub request_timeout: Duration,
    /// How long a record waits for others to share its request.
    pub linger: Duration,
    /// The most records on their way to the cluster.
    pub append_records_max: usize,
    /// The most bytes on their way to the cluster.
    pub append_bytes_max: usize,
    /// The most bytes of a task's data; a longer record is malformed.
    pub payload_bytes_max: usize,
    /// The most bytes of records that were fetched and not yet taken.
    pub fetch_bytes_max: usize,
    /// How long the cluster holds back an answer without records. Longer costs less when idle, but a
    /// partition that is new to this member may wait as long for its first record.
    pub fetch_wait: Duration,
    /// The group under which progress is shown to Kafka's tools. It has no members.
    pub progress_group: String,
    /// The group of the members.
    pub group: String,
    /// The topic whose partitions are the slots.
    pub slots_topic: String,
    /// After this long without a sign of life a member loses its slots.
    pub session_timeout: Duration,
    /// How often a member gives a sign of life.
    pub heartbeat_interval: Duration,
    /// How long a member may keep slots that are being revoked.
    pub release_timeout: Duration,
    /// Who may listen, and who this process is.
    pub security: Security,
    /// Further settings of librdkafka, for every client.
    pub extra: BTreeMap<String, String>,
}

/// Who may listen, and who this process is to the cluster. All but the first need the feature `tls`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Security {
    /// Anyone, and nobody.
    Plaintext,
    /// Nobody may listen.
    Tls {
        /// Certificates to trust, as PEM; without it, those of the system.
        ca_file: Option<PathBuf>,
    },
    /// Nobody may listen, and this process proves who it is by SASL/SCRAM.
    Scram {
        /// How.
        mechanism: ScramMechanism,
        /// The name.
        username: String,
        /// The password.
        password: Secret,
        /// Certificates to trust, as PEM; without it, those of the system.
        ca_file: Option<PathBuf>,
    },
}

/// The hash of SASL/SCRAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScramMechanism {
    /// `SCRAM-SHA-256`.
    Sha256,
    /// `SCRAM-SHA-512`.
    Sha512,
}

impl ScramMechanism {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "SCRAM-SHA-256",
            Self::Sha512 => "SCRAM-SHA-512",
        }
    }
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Config {
    /// The cluster at `bootstrap_servers`, and otherwise values for a single broker.
    #[must_use]
    pub fn new(bootstrap_servers: impl Into<String>) -> Self {
        Self {
            bootstrap_servers: bootstrap_servers.into(),
            client_id: "workload".to_owned(),
            topic_prefix: "workload".to_owned(),
            replication_factor: 1,
            min_insync_replicas: 1,
            produce_timeout: Duration::from_secs(8),
            request_timeout: Duration::from_secs(10),
            linger: Duration::from_millis(2),
            append_records_max: 50_000,
            append_bytes_max: 64 << 20,
            payload_bytes_max: 1 << 20,
            fetch_bytes_max: 64 << 20,
            fetch_wait: Duration::from_millis(500),
            progress_group: "workload-progress".to_owned(),
            group: "workload-members".to_owned(),
            slots_topic: "workload-slots".to_owned(),
            session_timeout: Duration::from_secs(6),
            heartbeat_interval: Duration::from_millis(1_500),
            release_timeout: Duration::from_secs(30),
            security: Security::Plaintext,
            extra: BTreeMap::new(),
        }
    }

    /// The largest record: data, options and what Kafka adds.
    pub(crate) fn record_bytes_max(&self) -> usize {
        self.payload_bytes_max + (1 << 20)
    }

    /// Checks everything.
    ///
    /// # Errors
    /// Tells every fault, not only the first.
    pub fn validate(&self) -> Result<(), OpenError> {
        let mut faults = Vec::new();
        let mut check = |holds: bool, fault: &str| {
            if !holds {
                faults.push(fault.to_owned());
            }
        };
        check(
            !self.bootstrap_servers.trim().is_empty(),
            "bootstrap_servers must name a broker",
        );
        for (name, text) in [
            ("topic_prefix", &self.topic_prefix),
            ("slots_topic", &self.slots_topic),
        ] {
            let rule = format!("{name} must be 1 to 100 of the characters a-z, A-Z, 0-9, -, _");
            check(is_topic_part(text), &rule);
        }
        for (name, text) in [
            ("group", &self.group),
            ("progress_group", &self.progress_group),
            ("client_id", &self.client_id),
        ] {
            let rule = format!("{name} must be 1 to 200 printable ASCII characters");
            check(is_name(text), &rule);
        }
        check(
            self.group != self.progress_group,
            "group and progress_group must differ, since the second has no members",
        );
        check(
            self.min_insync_replicas >= 1 && self.min_insync_replicas <= self.replication_factor,
            "min_insync_replicas must be 1 to replication_factor",
        );
        self.check_sizes(&mut check);
        self.check_times(&mut check);
        check(
            cfg!(feature = "tls") || self.security == Security::Plaintext,
            "security needs a program with the feature tls",
        );
        for key in self.extra.keys() {
            let fault = format!("extra: {key} cannot be set, since guarantees rest on it");
            check(!RESERVED.contains(&key.as_str()), &fault);
        }
        if faults.is_empty() {
            return Ok(());
        }
        Err(OpenError::Config { faults })
    }

    fn check_sizes(&self, check: &mut impl FnMut(bool, &str)) {
        check(
            (1..=1_000_000).contains(&self.append_records_max),
            "append_records_max must be 1 to 1000000",
        );
        check(
            (1..=64 << 20).contains(&self.payload_bytes_max),
            "payload_bytes_max must be 1 to 64 MiB",
        );
        check(
            (self.record_bytes_max()..=1 << 30).contains(&self.append_bytes_max),
            "append_bytes_max must be 1 GiB at most, and hold the largest record: payload_bytes_max and 1 MiB",
        );
        check(
            (4 * self.record_bytes_max()..=1 << 30).contains(&self.fetch_bytes_max),
            "fetch_bytes_max must be 1 GiB at most, and hold four of the largest records: payload_bytes_max and 1 MiB",
        );
    }

    fn check_times(&self, check: &mut impl FnMut(bool, &str)) {
        let seconds = Duration::from_secs;
        check(
            (seconds(1)..=seconds(60)).contains(&self.produce_timeout),
            "produce_timeout must be 1s to 60s",
        );
        check(
            (seconds(2)..=seconds(60)).contains(&self.request_timeout),
            "request_timeout must be 2s to 60s",
        );
        check(self.linger <= seconds(1), "linger must be at most 1s");
        check(
            (Duration::from_millis(10)..=self.request_timeout / 2).contains(&self.fetch_wait),
            "fetch_wait must be 10ms to half of request_timeout",
        );
        check(
            self.heartbeat_interval >= Duration::from_millis(100)
                && self.heartbeat_interval * 3 <= self.session_timeout,
            "heartbeat_interval must be 100ms to a third of session_timeout",
        );
        check(
            self.session_timeout <= seconds(300),
            "session_timeout must be at most 300s",
        );
        check(
            (seconds(1)..=seconds(300)).contains(&self.release_timeout),
            "release_timeout must be 1s to 300s",
        );
    }
}

fn is_topic_part(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=100).contains(&text.len()) && text.bytes().all(allowed)
}

fn is_name(text: &str) -> bool {
    (1..=200).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        Config::new("localhost:9092").validate().unwrap();
    }

    #[test]
    fn every_fault_is_told_at_once() {
        let config = Config {
            bootstrap_servers: " ".to_owned(),
            topic_prefix: "a.b".to_owned(),
            min_insync_replicas: 2,
            heartbeat_interval: Duration::from_secs(5),
            extra: BTreeMap::from([("acks".to_owned(), "1".to_owned())]),
            ..Config::new("")
        };
        let Err(OpenError::Config { faults }) = config.validate() else {
            panic!("it must be refused");
        };
        assert_eq!(faults.len(), 5, "{faults:?}");
        let told = OpenError::Config { faults }.to_string();
        for part in [
            "bootstrap_servers",
            "topic_prefix",
            "min_insync",
            "heartbeat",
            "acks",
        ] {
            assert!(told.contains(part), "{told}");
        }
    }

    #[test]
    fn a_secret_is_not_shown() {
        let security = Security::Scram {
            mechanism: ScramMechanism::Sha512,
            username: "scheduler".to_owned(),
            password: Secret::new("hunter2"),
            ca_file: None,
        };
        assert!(!format!("{security:?}").contains("hunter2"));
    }
}
