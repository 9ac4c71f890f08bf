//! The mark in the environment of every process that an executor starts: which executor, which command.

use rustix::process::{Pid, Signal, getpid, kill_process, test_kill_process};

use super::proc::{in_environment, namespace, processes};

/// The variable that has the mark.
pub(super) const MARK: &str = "WORKLOAD_EXECUTION_ID";

/// A mark that no other command has.
pub(super) fn new_mark() -> String {
    let me = getpid();
    let namespace = namespace(me).unwrap_or_default();
    format!(
        "{namespace}-{}-{:032x}",
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

/// Whether the executor that made this mark was of this numbering of processes, and is gone.
fn is_orphaned(mark: &str, namespace: Option<&str>) -> bool {
    let mut parts = mark.split('-');
    let same = parts.next() == namespace;
    let executor = parts.next().and_then(|pid| pid.parse().ok());
    let gone = executor
        .and_then(Pid::from_raw)
        .is_some_and(|pid| test_kill_process(pid) == Err(rustix::io::Errno::SRCH));
    same && gone
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_marks_of_executors_that_are_gone_are_orphaned() {
        let mine = namespace(getpid()).unwrap();
        let of = |pid: i32| is_orphaned(&format!("{mine}-{pid}-0"), Some(&mine));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = Pid::from_child(&child).as_raw_nonzero().get();
        child.wait().unwrap();
        assert!(of(pid));
        assert!(!of(getpid().as_raw_nonzero().get()));
        assert!(!is_orphaned(&format!("1-{pid}-0"), Some(&mine)));
        assert!(!is_orphaned("anything else", Some(&mine)));
    }
}
