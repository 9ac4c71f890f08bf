//! The mark in the environment of every process that an executor starts: which executor, which command.

use rustix::process::{Pid, Signal, getpid, kill_process};

use super::proc::{in_environment, namespace, process, processes};

/// The variable that has the mark.
pub(super) const MARK: &str = "WORKLOAD_EXECUTION_ID";

/// A mark that no other command has.
pub(super) fn new_mark() -> String {
    let me = getpid();
    let namespace = namespace(me).unwrap_or_default();
    let started_at = process(me).map_or(0, |me| me.started_at);
    format!(
        "{namespace}-{}-{started_at}-{:032x}",
        me.as_raw_nonzero(),
        fastrand::u128(..)
    )
}

/// Kills what executors that were killed themselves have left behind on this machine. Answers how many.
pub(super) fn sweep() -> usize {
    let mine = namespace(getpid());
    let orphans = processes().into_iter().filter(|process| {
        !process.is_zombie
            && in_environment(process.pid, MARK).is_some_and(|mark| {
                namespace(process.pid) == mine && is_orphaned(&mark, mine.as_deref())
            })
    });
    let killed = orphans.map(|process| kill_process(process.pid, Signal::KILL));
    killed.filter(Result::is_ok).count()
}

/// Whether the executor that made this mark was of this numbering of processes, and is gone. One that
/// nobody has waited for is, and so is one whose number another process has now.
fn is_orphaned(mark: &str, namespace: Option<&str>) -> bool {
    let mut parts = mark.split('-');
    let same = parts.next() == namespace;
    let executor = parts
        .next()
        .and_then(|pid| Pid::from_raw(pid.parse().ok()?));
    let started_at = parts.next().and_then(|at| at.parse::<u64>().ok());
    let (Some(executor), Some(started_at)) = (executor, started_at) else {
        return false;
    };
    let lives = process(executor)
        .is_some_and(|process| !process.is_zombie && process.started_at == started_at);
    same && !lives
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_marks_of_executors_that_are_gone_are_orphaned() {
        let mine = namespace(getpid()).unwrap();
        let of = |process: super::super::proc::Process| {
            let (pid, started_at) = (process.pid.as_raw_nonzero(), process.started_at);
            is_orphaned(&format!("{mine}-{pid}-{started_at}-0"), Some(&mine))
        };
        assert!(!is_orphaned(&new_mark(), Some(&mine)), "this one lives");
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let there = process(Pid::from_child(&child)).unwrap();
        while !process(there.pid).unwrap().is_zombie {
            std::thread::yield_now();
        }
        assert!(of(there), "it has ended, though nobody has waited for it");
        child.wait().unwrap();
        assert!(of(there));
        let mut me = process(getpid()).unwrap();
        me.started_at += 1;
        assert!(of(me), "another process has its number");
        assert!(!is_orphaned(&new_mark(), Some("1")));
        assert!(!is_orphaned("anything else", Some(&mine)));
    }
}
