//! What TiDB is opened with.

use std::{fmt, time::Duration};

use sqlx::{ConnectOptions as _, mysql::MySqlConnectOptions};

/// Which database, and how long to wait for it: plain data.
///
/// ```
/// let config = scheduler_tidb::Config::new("mysql://scheduler:secret@tidb:4000/workload");
/// assert_eq!(config.validate(), Ok(()));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    /// `mysql://user:password@host:port/database`. With feature `tls`, `?ssl-mode=VERIFY_IDENTITY` and
    /// `&ssl-ca=FILE` ask for TLS. The database is made if it is missing and the user may make it.
    pub url: String,
    /// At most so many connections; calls beyond that wait.
    pub n_connections: u32,
    /// Every call of a port ends within this.
    pub call_timeout: Duration,
    /// A statement that has no answer after this is given up, and its connection is closed.
    pub statement_timeout: Duration,
    /// A statement that waits longer for a row that another transaction holds is tried again.
    pub lock_wait_timeout: Duration,
    /// A connection that is not made within this is given up.
    pub connect_timeout: Duration,
    /// How often the catalogue is looked at while someone waits for a change.
    pub poll_interval: Duration,
}

/// What is wrong with a [`Config`]: all of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", faults.join("; "))]
pub struct ConfigError {
    /// One sentence per fault, without full stops.
    pub faults: Vec<String>,
}

impl Config {
    /// The defaults for this database.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            n_connections: 16,
            call_timeout: Duration::from_secs(10),
            statement_timeout: Duration::from_secs(5),
            lock_wait_timeout: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(3),
            poll_interval: Duration::from_millis(300),
        }
    }

    /// Checks every field.
    ///
    /// # Errors
    /// All faults at once.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.options().map(|_| ())
    }

    /// What to connect with, if every field is right.
    pub(crate) fn options(&self) -> Result<MySqlConnectOptions, ConfigError> {
        let mut faults = Vec::new();
        let options = self.parse_url(&mut faults);
        if !(1..=1_000).contains(&self.n_connections) {
            faults.push("n_connections must be 1 to 1000".to_owned());
        }
        let day = Duration::from_secs(24 * 3600);
        for (name, value, min) in [
            ("call_timeout", self.call_timeout, 100),
            ("statement_timeout", self.statement_timeout, 50),
            ("lock_wait_timeout", self.lock_wait_timeout, 1_000),
            ("connect_timeout", self.connect_timeout, 50),
            ("poll_interval", self.poll_interval, 10),
        ] {
            if value < Duration::from_millis(min) || value > day {
                faults.push(format!("{name} must be {min} ms to 24 h"));
            }
        }
        if self.lock_wait_timeout >= self.statement_timeout {
            faults.push("lock_wait_timeout must be less than statement_timeout".to_owned());
        }
        if self.statement_timeout >= self.call_timeout {
            faults.push("statement_timeout must be less than call_timeout".to_owned());
        }
        match options {
            Some(options) if faults.is_empty() => Ok(options),
            _ => Err(ConfigError { faults }),
        }
    }

    fn parse_url(&self, faults: &mut Vec<String>) -> Option<MySqlConnectOptions> {
        let options = match self.url.parse::<MySqlConnectOptions>() {
            Ok(options) => options,
            Err(err) => {
                // The URL itself is not told: it may hold a password.
                faults.push(format!(
                    "url must be mysql://user:password@host:port/database, and is not: {err}"
                ));
                return None;
            }
        };
        if !self.url.starts_with("mysql://") {
            faults.push("url must start with mysql://".to_owned());
        }
        match options.get_database() {
            Some(name) if name.contains('`') => {
                faults.push("url must not have a ` in the name of the database".to_owned());
            }
            Some(name) if !name.is_empty() => {}
            _ => faults.push("url must end with the name of a database".to_owned()),
        }
        Some(options)
    }

    /// Where the server is, without user and password.
    pub(crate) fn server(&self) -> String {
        let Ok(options) = self.url.parse::<MySqlConnectOptions>() else {
            return "an unreadable URL".to_owned();
        };
        let url = options.to_url_lossy();
        let host = url.host_str().unwrap_or("localhost");
        format!("{host}:{}", url.port().unwrap_or(3306))
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            url: _,
            n_connections,
            call_timeout,
            statement_timeout,
            lock_wait_timeout,
            connect_timeout,
            poll_interval,
        } = self;
        f.debug_struct("Config")
            .field("server", &self.server())
            .field("n_connections", n_connections)
            .field("call_timeout", call_timeout)
            .field("statement_timeout", statement_timeout)
            .field("lock_wait_timeout", lock_wait_timeout)
            .field("connect_timeout", connect_timeout)
            .field("poll_interval", poll_interval)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_faults_are_told_at_once() {
        let config = Config {
            n_connections: 0,
            statement_timeout: Duration::from_secs(60),
            poll_interval: Duration::ZERO,
            ..Config::new("mysql://root@localhost:4000")
        };
        let faults = config.validate().unwrap_err().faults;
        assert_eq!(faults.len(), 4, "{faults:?}");
    }

    #[test]
    fn a_password_is_never_shown() {
        let good = Config::new("mysql://root:hunter2@localhost:4000/workload");
        let bad = Config::new("mysql://root:hunter2@localhost:port/workload");
        for config in [good, bad] {
            let shown = format!("{config:?} {:?}", config.validate());
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }
}
