//! What all clients of the cluster share: their settings, and their reports in our own log.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, ClientContext, Statistics,
    config::RDKafkaLogLevel,
    consumer::ConsumerContext,
    error::{KafkaError, RDKafkaErrorCode},
};
use tracing::{debug, error, info, warn};

use crate::config::{Config, Security};

/// How often lines of one kind are written.
const REPEAT_AFTER: Duration = Duration::from_secs(10);
/// Kinds of lines that are told apart.
const KINDS_MAX: usize = 256;

/// Settings of every client.
pub(crate) fn settings(config: &Config) -> ClientConfig {
    let mut settings = ClientConfig::new();
    settings
        .set("bootstrap.servers", &config.bootstrap_servers)
        .set("client.id", &config.client_id)
        // A broker that answers nothing is given up, and one that comes back is found soon.
        .set("socket.timeout.ms", millis(config.request_timeout))
        .set("socket.connection.setup.timeout.ms", "5000")
        .set("reconnect.backoff.ms", "100")
        .set("reconnect.backoff.max.ms", "1000")
        .set("socket.keepalive.enable", "true")
        .set("allow.auto.create.topics", "false")
        // How long a topic that was just made may be unknown to some brokers.
        .set("topic.metadata.propagation.max.ms", "5000")
        // A connection that was idle for long says nothing.
        .set("log.connection.close", "false");
    match &config.security {
        Security::Plaintext => {}
        Security::Tls { ca_file } => {
            settings.set("security.protocol", "ssl");
            set_ca(&mut settings, ca_file.as_deref());
        }
        Security::Scram {
            mechanism,
            username,
            password,
            ca_file,
        } => {
            settings
                .set("security.protocol", "sasl_ssl")
                .set("sasl.mechanism", mechanism.as_str())
                .set("sasl.username", username)
                .set("sasl.password", password.expose());
            set_ca(&mut settings, ca_file.as_deref());
        }
    }
    for (key, value) in &config.extra {
        settings.set(key, value);
    }
    settings
}

fn set_ca(settings: &mut ClientConfig, ca_file: Option<&std::path::Path>) {
    if let Some(ca_file) = ca_file {
        settings.set("ssl.ca.location", ca_file.display().to_string());
    }
}

/// As librdkafka wants durations.
pub(crate) fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}

/// Where a client tells what happens to it: lines of one kind are written once in a while, with how
/// many were left out, so that an outage does not fill the log.
#[derive(Debug, Clone)]
pub(crate) struct Reports {
    client: &'static str,
    written: Arc<Mutex<HashMap<String, Written>>>,
}

#[derive(Debug)]
struct Written {
    at: Instant,
    n_left_out: u64,
}

impl Reports {
    /// Of a client with this purpose.
    pub(crate) fn of(client: &'static str) -> Self {
        Self {
            client,
            written: Arc::default(),
        }
    }

    /// A line of librdkafka's own log, with the level of syslog.
    pub(crate) fn line(&self, level: i32, facility: &str, line: &str) {
        let Some(n_left_out) = self.allow(facility) else {
            return;
        };
        let client = self.client;
        match level {
            ..=2 => error!(client, facility, n_left_out, "{line}"),
            // A broker that cannot be reached is an error to librdkafka; it will be tried again.
            3 | 4 => warn!(client, facility, n_left_out, "{line}"),
            5 | 6 => info!(client, facility, n_left_out, "{line}"),
            _ => debug!(client, facility, n_left_out, "{line}"),
        }
    }

    /// A failure that concerns no single partition.
    pub(crate) fn failure(&self, code: RDKafkaErrorCode, text: &str) {
        if let Some(n_left_out) = self.allow(&format!("{code:?}")) {
            warn!(client = self.client, n_left_out, ?code, "{text}");
        }
    }

    /// How many lines of this kind were left out, if one may be written now.
    fn allow(&self, kind: &str) -> Option<u64> {
        let now = Instant::now();
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = written.get_mut(kind) {
            if now.duration_since(before.at) < REPEAT_AFTER {
                before.n_left_out += 1;
                return None;
            }
            before.at = now;
            return Some(std::mem::take(&mut before.n_left_out));
        }
        if written.len() >= KINDS_MAX {
            written.clear();
        }
        let first = Written {
            at: now,
            n_left_out: 0,
        };
        written.insert(kind.to_owned(), first);
        Some(0)
    }
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.line(level as i32, facility, line);
    }

    fn stats(&self, _statistics: Statistics) {}

    fn stats_raw(&self, _statistics: &[u8]) {}

    fn error(&self, err: KafkaError, reason: &str) {
        let code = err.rdkafka_error_code();
        self.failure(code.unwrap_or(RDKafkaErrorCode::Unknown), reason);
    }
}

impl ConsumerContext for Reports {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_lines_are_left_out_and_counted() {
        let reports = Reports::of("test");
        assert_eq!(reports.allow("FAIL"), Some(0));
        assert_eq!(reports.allow("FAIL"), None);
        assert_eq!(reports.allow("FAIL"), None);
        assert_eq!(reports.allow("OTHER"), Some(0));
        let long_ago = Instant::now().checked_sub(REPEAT_AFTER).unwrap();
        reports.written.lock().unwrap().get_mut("FAIL").unwrap().at = long_ago;
        assert_eq!(reports.allow("FAIL"), Some(2));
    }

    #[test]
    fn the_kinds_that_are_remembered_have_a_bound() {
        let reports = Reports::of("test");
        for n in 0..10 * KINDS_MAX {
            assert_eq!(reports.allow(&n.to_string()), Some(0));
        }
        assert!(reports.written.lock().unwrap().len() <= KINDS_MAX);
    }
}
