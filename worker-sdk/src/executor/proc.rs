//! What `/proc` says of the processes of this machine.

use std::fs;

use rustix::process::Pid;

/// One process, as it was when it was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: Pid,
    pub(super) parent: i32,
    pub(super) group: i32,
    pub(super) session: i32,
    /// When it was started, in ticks since the machine was: with the number, it names one process.
    pub(super) started_at: u64,
    pub(super) is_zombie: bool,
}

/// One process, if it is there.
pub(super) fn process(pid: Pid) -> Option<Process> {
    let stat = format!("/proc/{}/stat", pid.as_raw_nonzero());
    parse(&fs::read_to_string(stat).ok()?)
}

/// All processes that can be seen.
pub(super) fn processes() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
        .filter_map(process)
        .collect()
}

/// Whether a process has this entry in the environment that it was started with. Not if nobody may look.
pub(super) fn has_in_environment(pid: Pid, entry: &str) -> bool {
    let environment = environment(pid);
    let mut entries = environment.split(|byte| *byte == 0);
    entries.any(|found| found == entry.as_bytes())
}

/// The value of a variable in the environment that a process was started with.
pub(super) fn in_environment(pid: Pid, name: &str) -> Option<String> {
    let environment = environment(pid);
    let mut entries = environment.split(|byte| *byte == 0);
    entries.find_map(|entry| {
        let entry = std::str::from_utf8(entry).ok()?;
        let (found, value) = entry.split_once('=')?;
        (found == name).then(|| value.to_owned())
    })
}

/// Which numbering of processes a process belongs to: only in the same one do numbers mean the same.
pub(super) fn namespace(pid: Pid) -> Option<String> {
    let link = fs::read_link(format!("/proc/{}/ns/pid", pid.as_raw_nonzero())).ok()?;
    let digits = link.to_str()?.chars().filter(char::is_ascii_digit);
    Some(digits.collect())
}

fn environment(pid: Pid) -> Vec<u8> {
    fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).unwrap_or_default()
}

/// `pid (name) state ppid pgrp session …`, where the name can have anything in it.
fn parse(stat: &str) -> Option<Process> {
    let (before, after) = stat.rsplit_once(')')?;
    let pid = before.split_once(' ')?.0.parse().ok()?;
    let mut fields = after.split_ascii_whitespace();
    let state = fields.next()?;
    let mut number = || fields.next()?.parse::<i32>().ok();
    Some(Process {
        pid: Pid::from_raw(pid)?,
        is_zombie: matches!(state, "Z" | "X"),
        parent: number()?,
        group: number()?,
        session: number()?,
        // The 22nd of all.
        started_at: fields.nth(15)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_brackets_is_read_over() {
        let process =
            parse("42 (a) Z (b) S 1 40 39 0 -1 4 0 0 0 0 0 0 0 0 20 0 1 0 777 0").unwrap();
        assert_eq!(
            (process.parent, process.group, process.session),
            (1, 40, 39)
        );
        assert_eq!(process.started_at, 777);
        assert!(!process.is_zombie);
        assert!(
            parse("42 (a) Z 1 40 39 0 -1 4 0 0 0 0 0 0 0 0 20 0 1 0 777 0")
                .unwrap()
                .is_zombie
        );
    }

    #[test]
    fn this_process_is_among_all() {
        let me = rustix::process::getpid();
        assert!(processes().iter().any(|process| process.pid == me));
    }
}
