//! How much memory the process holds, as the kernel counts it.

/// Resident bytes.
pub(crate) fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line
        .and_then(|line| line.split_whitespace().nth(1))
        .and_then(|number| number.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
