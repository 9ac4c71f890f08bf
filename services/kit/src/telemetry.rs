//! Logging to standard error.

use tracing_subscriber::EnvFilter;

use crate::{Key, Reader};

/// The settings of logging.
pub const KEYS: [Key; 2] = [
    Key {
        name: "log.filter",
        default: "info",
        meaning: "which log lines are written, as tracing's EnvFilter: info, or warn,scheduler_core=debug",
    },
    Key {
        name: "log.format",
        default: "text",
        meaning: "text or json",
    },
];

/// Starts logging. Faults go to the reader; then nothing is started.
pub fn start(reader: &mut Reader<'_>) {
    let filter = reader.text("log.filter");
    let format = reader.text("log.format");
    let filter = match EnvFilter::try_new(&filter) {
        Ok(filter) => filter,
        Err(err) => return reader.fault(format!("log.filter {filter:?} cannot be read: {err}")),
    };
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format.as_str() {
        "text" => lines.with_ansi(false).init(),
        "json" => lines.json().init(),
        _ => reader.fault(format!(
            "log.format must be text or json, and is {format:?}"
        )),
    }
}
