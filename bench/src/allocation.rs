//! What the process takes of the machine, as the kernel counts it: memory, and time of a core.

use std::time::Duration;

/// Time that this thread has run: what others do on the machine does not count.
pub(crate) fn core_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split_whitespace().next();
    Duration::from_nanos(nanos.and_then(|nanos| nanos.parse().ok()).unwrap_or(0))
}

/// Resident bytes.
pub(crate) fn resident_bytes() -> u64 {
    bytes_of("/proc/self/status", "VmRSS:")
}

/// Bytes that the machine could still give.
pub(crate) fn available_bytes() -> u64 {
    bytes_of("/proc/meminfo", "MemAvailable:")
}

fn bytes_of(file: &str, name: &str) -> u64 {
    let status = std::fs::read_to_string(file).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(name));
    let kib = line
        .and_then(|line| line.split_whitespace().nth(1))
        .and_then(|number| number.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
