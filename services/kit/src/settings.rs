//! Settings from a table of keys: defaults, then a file, the environment and flags, each with its origin.
//!
//! A key `scheduler.lease` is `lease = "30s"` under `[scheduler]` in the file, `WORKLOAD_SCHEDULER_LEASE` in
//! the environment and `--set scheduler.lease=30s` as a flag. What no table names is a fault.

use std::{collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::Args;
use tokio::net::TcpListener;

/// One thing that can be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Its name, `section.name`.
    pub name: &'static str,
    /// Its value where nobody says another; empty for none.
    pub default: &'static str,
    /// What it does, for people, with its unit.
    pub meaning: &'static str,
}

/// Who gave a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Nobody did.
    Default,
    /// The file.
    File,
    /// The environment.
    Environment,
    /// A flag.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::File => "file",
            Self::Environment => "environment",
            Self::Flag => "flag",
        })
    }
}

/// How settings are given on a command line.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct Arguments {
    /// A TOML file with settings.
    #[arg(long, env = "WORKLOAD_CONFIG")]
    pub config: Option<PathBuf>,
    /// One setting, KEY=VALUE; once for each. It wins over the environment and the file.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Prints every setting with its value, its origin and its meaning, and ends.
    #[arg(long)]
    pub settings: bool,
}

/// All that is wrong with the settings, one fault a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(pub Vec<String>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the settings cannot be used:")?;
        self.0.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

impl std::error::Error for Faults {}

/// The value of every key.
#[derive(Debug, Clone)]
pub struct Settings {
    keys: Vec<Key>,
    values: BTreeMap<&'static str, (String, Origin)>,
}

impl Settings {
    /// Reads the settings of a process.
    ///
    /// # Errors
    /// Names everything that is no setting.
    pub fn load(keys: Vec<Key>, arguments: &Arguments) -> Result<Self, Faults> {
        let file = match &arguments.config {
            Some(path) => std::fs::read_to_string(path)
                .map_err(|err| Faults(vec![format!("cannot read {}: {err}", path.display())]))?,
            None => String::new(),
        };
        Self::from_sources(keys, &file, std::env::vars(), &arguments.set)
    }

    fn from_sources(
        keys: Vec<Key>,
        file: &str,
        environment: impl Iterator<Item = (String, String)>,
        flags: &[String],
    ) -> Result<Self, Faults> {
        let mut faults = Vec::new();
        let defaults = keys
            .iter()
            .map(|key| (key.name, (key.default.to_owned(), Origin::Default)));
        let mut values: BTreeMap<_, _> = defaults.collect();
        let mut set = |name: &str, value: String, origin| match values.get_mut(name) {
            Some(known) => *known = (value, origin),
            None => faults.push(unknown(name, origin, &keys)),
        };
        match toml::from_str::<toml::Table>(file) {
            Ok(table) => {
                for (section, content) in table {
                    match content {
                        toml::Value::Table(content) => {
                            for (name, value) in content {
                                set(&format!("{section}.{name}"), text_of(value), Origin::File);
                            }
                        }
                        _ => set(&section, String::new(), Origin::File),
                    }
                }
            }
            Err(err) => return Err(Faults(vec![format!("the file is no TOML: {err}")])),
        }
        let variables: BTreeMap<_, _> = keys.iter().map(|key| (variable(key.name), key)).collect();
        for (name, value) in environment {
            if let Some(key) = variables.get(&name) {
                set(key.name, value, Origin::Environment);
            }
        }
        for flag in flags {
            match flag.split_once('=') {
                Some((name, value)) => set(name, value.to_owned(), Origin::Flag),
                None => set(flag, String::new(), Origin::Flag),
            }
        }
        if faults.is_empty() {
            Ok(Self { keys, values })
        } else {
            Err(Faults(faults))
        }
    }

    /// Reads values as what they are, and gathers all faults.
    #[must_use]
    pub fn reader(&self) -> Reader<'_> {
        Reader {
            settings: self,
            faults: Vec::new(),
        }
    }

    /// Every setting, for people. Values that hold a password are not shown.
    #[must_use]
    pub fn table(&self) -> String {
        let row = |key: &Key| {
            let (value, origin) = &self.values[key.name];
            let value = shown(key.name, value);
            format!(
                "{} = {value:?}  ({origin}; {})\n    {}\n",
                key.name,
                variable(key.name),
                key.meaning
            )
        };
        self.keys.iter().map(row).collect()
    }
}

/// A value without its secrets: a password, or the one in a URL.
fn shown(name: &str, value: &str) -> String {
    if name.contains("password") && !value.is_empty() {
        return "…".to_owned();
    }
    match value.split_once("://") {
        Some((scheme, rest)) => match rest.rsplit_once('@') {
            Some((login, host)) => {
                let user = login.split(':').next().unwrap_or_default();
                format!("{scheme}://{user}:…@{host}")
            }
            None => value.to_owned(),
        },
        None => value.to_owned(),
    }
}

fn variable(name: &str) -> String {
    format!("WORKLOAD_{}", name.replace('.', "_").to_uppercase())
}

fn text_of(value: toml::Value) -> String {
    match value {
        toml::Value::String(text) => text,
        value => value.to_string(),
    }
}

fn unknown(name: &str, origin: Origin, keys: &[Key]) -> String {
    let last = |name: &str| name.rsplit('.').next().map(ToOwned::to_owned);
    let near = keys.iter().find(|key| last(key.name) == last(name));
    let hint = match near {
        Some(key) => format!("; did you mean {}?", key.name),
        None => "; --settings lists all there are".to_owned(),
    };
    format!("{name} ({origin}) is no setting{hint}")
}

/// Reads values by their keys; [`finish`](Self::finish) tells all faults at once.
#[derive(Debug)]
pub struct Reader<'a> {
    settings: &'a Settings,
    faults: Vec<String>,
}

impl Reader<'_> {
    /// The text of a key; empty for none.
    pub fn text(&mut self, name: &'static str) -> String {
        match self.settings.values.get(name) {
            Some((value, _)) => value.clone(),
            None => {
                self.faults.push(format!("{name} is in no table of keys"));
                String::new()
            }
        }
    }

    /// The text of a key, or `None` if it is empty.
    pub fn optional(&mut self, name: &'static str) -> Option<String> {
        Some(self.text(name)).filter(|text| !text.is_empty())
    }

    /// The text of a key that must be given.
    pub fn required(&mut self, name: &'static str) -> String {
        let text = self.text(name);
        if text.is_empty() {
            let variable = variable(name);
            self.faults
                .push(format!("{name} must be given (also as {variable})"));
        }
        text
    }

    /// A whole number, or anything else that is read from its text.
    pub fn parsed<T: std::str::FromStr>(&mut self, name: &'static str, what: &str) -> Option<T> {
        let text = self.text(name);
        let parsed = text.parse().ok();
        if parsed.is_none() {
            self.faults
                .push(format!("{name} must be {what}, and is {text:?}"));
        }
        parsed
    }

    /// A whole number.
    pub fn number<T: std::str::FromStr + Default>(&mut self, name: &'static str) -> T {
        self.parsed(name, "a whole number in range")
            .unwrap_or_default()
    }

    /// `true` or `false`.
    pub fn flag(&mut self, name: &'static str) -> bool {
        self.parsed(name, "true or false").unwrap_or_default()
    }

    /// An address to listen on.
    pub fn address(&mut self, name: &'static str) -> SocketAddr {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        self.parsed(name, "HOST:PORT with an IP address")
            .unwrap_or(any)
    }

    /// A duration: `250ms`, `30s`, `5m`, `24h`.
    pub fn duration(&mut self, name: &'static str) -> Duration {
        let text = self.text(name);
        duration(&text).unwrap_or_else(|| {
            self.faults.push(format!(
                "{name} must be a duration like 250ms, 30s, 5m or 24h, and is {text:?}"
            ));
            Duration::ZERO
        })
    }

    /// A number of bytes: `512`, `64KiB`, `16MiB`, `1GiB`.
    pub fn bytes(&mut self, name: &'static str) -> usize {
        let text = self.text(name);
        bytes(&text).unwrap_or_else(|| {
            self.faults.push(format!(
                "{name} must be a number of bytes like 512, 64KiB, 16MiB or 1GiB, and is {text:?}"
            ));
            0
        })
    }

    /// Adds a fault that another part found.
    pub fn fault(&mut self, fault: impl fmt::Display) {
        self.faults.push(fault.to_string());
    }

    /// Whether everything could be read.
    ///
    /// # Errors
    /// All faults at once.
    pub fn finish(self) -> Result<(), Faults> {
        if self.faults.is_empty() {
            Ok(())
        } else {
            Err(Faults(self.faults))
        }
    }
}

/// Listens on the address of a key.
///
/// # Errors
/// The address cannot be listened on; names the key.
pub async fn bind(reader: &mut Reader<'_>, key: &'static str) -> anyhow::Result<TcpListener> {
    let address = reader.address(key);
    let listener = TcpListener::bind(address).await;
    listener.with_context(|| format!("cannot listen on {address} ({key})"))
}

/// A number and the unit behind it.
fn split_unit(text: &str) -> Option<(u64, &str)> {
    let at = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    Some((number.parse().ok()?, unit.trim()))
}

pub(crate) fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split_unit(text)?;
    let per_unit = match unit {
        "ms" => return Some(Duration::from_millis(number)),
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    Some(Duration::from_secs(number.checked_mul(per_unit)?))
}

fn bytes(text: &str) -> Option<usize> {
    let (number, unit) = split_unit(text)?;
    let per_unit: u64 = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    usize::try_from(number.checked_mul(per_unit)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [Key; 3] = [
        Key {
            name: "scheduler.lease",
            default: "30s",
            meaning: "how long a lease lasts",
        },
        Key {
            name: "tidb.url",
            default: "",
            meaning: "where TiDB is",
        },
        Key {
            name: "http.size",
            default: "1MiB",
            meaning: "how large",
        },
    ];

    fn load(file: &str, environment: &[(&str, &str)], flags: &[&str]) -> Result<Settings, Faults> {
        let environment = environment.iter().map(|(k, v)| ((*k).into(), (*v).into()));
        let flags: Vec<_> = flags.iter().map(ToString::to_string).collect();
        Settings::from_sources(KEYS.to_vec(), file, environment, &flags)
    }

    #[test]
    fn each_source_wins_over_the_one_before() {
        let file = "[scheduler]\nlease = '10s'\n[tidb]\nurl = 'a'\n[http]\nsize = 5";
        let environment = [
            ("WORKLOAD_SCHEDULER_LEASE", "20s"),
            ("WORKLOAD_TIDB_URL", "b"),
        ];
        let settings = load(file, &environment, &["tidb.url=c"]).unwrap();
        let mut reader = settings.reader();
        assert_eq!(reader.duration("scheduler.lease"), Duration::from_secs(20));
        assert_eq!(reader.text("tidb.url"), "c");
        assert_eq!(reader.bytes("http.size"), 5);
        reader.finish().unwrap();
        let origins: Vec<_> = settings
            .values
            .values()
            .map(|(_, origin)| *origin)
            .collect();
        assert_eq!(origins, [Origin::File, Origin::Environment, Origin::Flag]);
    }

    #[test]
    fn every_unknown_setting_is_told() {
        let faults = load(
            "[other]\nlease = 1\nx = 2",
            &[],
            &["tidb.nothing=1", "word"],
        )
        .unwrap_err();
        assert_eq!(
            faults.0,
            [
                "other.lease (file) is no setting; did you mean scheduler.lease?",
                "other.x (file) is no setting; --settings lists all there are",
                "tidb.nothing (flag) is no setting; --settings lists all there are",
                "word (flag) is no setting; --settings lists all there are",
            ]
        );
        assert!(load("x y", &[], &[]).is_err());
    }

    #[test]
    fn every_value_that_cannot_be_read_is_told() {
        let flags = ["scheduler.lease=30", "http.size=1MB"];
        let settings = load("", &[], &flags).unwrap();
        let mut reader = settings.reader();
        reader.duration("scheduler.lease");
        reader.bytes("http.size");
        reader.required("tidb.url");
        let faults = reader.finish().unwrap_err().0;
        assert_eq!(faults.len(), 3, "{faults:?}");
        assert!(faults[2].contains("WORKLOAD_TIDB_URL"), "{faults:?}");
    }

    #[test]
    fn passwords_are_not_shown() {
        let flags = ["tidb.url=mysql://root:secret@db:4000/x"];
        let table = load("", &[], &flags).unwrap().table();
        assert!(table.contains("mysql://root:…@db:4000/x"), "{table}");
        assert!(!table.contains("secret"), "{table}");
    }
}
