//! All processes of one command, found again wherever they went, and killed.

use std::{
    collections::HashSet,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::process::{
    Pid, Signal, WaitOptions, getpid, kill_process, kill_process_group, set_child_subreaper,
    waitpid,
};
use tokio::time::{Instant, sleep};

use super::{
    mark::MARK,
    proc::{Process, has_in_environment, processes},
};

/// How long processes may take to end by themselves after SIGTERM.
const TERM_GRACE: Duration = Duration::from_millis(500);
/// When a process that does not even end by SIGKILL (it waits for a dead disk) is given up.
const KILL_MAX: Duration = Duration::from_millis(1_800);
/// How often it is looked whether processes have ended.
const LOOK_EVERY: Duration = Duration::from_millis(15);

/// The commands of one executor that run now.
#[derive(Debug, Default)]
pub(super) struct Nursery {
    roots: Mutex<HashSet<Pid>>,
    /// Whether every other child of this process is some command's orphan.
    adopts: bool,
}

impl Nursery {
    pub(super) fn adopting() -> io::Result<Self> {
        set_child_subreaper(Some(getpid()))?;
        Ok(Self {
            adopts: true,
            ..Self::default()
        })
    }

    fn roots(&self) -> MutexGuard<'_, HashSet<Pid>> {
        // Nothing that holds the lock can panic half way.
        self.roots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The processes of one command. Its drop kills what is left, without waiting.
#[derive(Debug)]
pub(super) struct Tree {
    nursery: Arc<Nursery>,
    root: Pid,
    mark: String,
    is_gone: bool,
}

impl Tree {
    /// The tree of a command that leads its own process group and carries `MARK=mark`.
    pub(super) fn new(nursery: Arc<Nursery>, root: Pid, mark: &str) -> Self {
        nursery.roots().insert(root);
        Self {
            nursery,
            root,
            mark: format!("{MARK}={mark}"),
            is_gone: false,
        }
    }

    /// Ends every process: SIGTERM, then SIGKILL. Answers within 2 s.
    pub(super) async fn kill(&mut self) {
        let began = Instant::now();
        let mut told = false;
        let mut n_empty = 0;
        while began.elapsed() < KILL_MAX {
            let members = self.members();
            if members.is_empty() {
                // A fork in the moment of the look can be missed, but not twice.
                n_empty += 1;
                if n_empty == 2 || !told {
                    self.is_gone = true;
                    return;
                }
            } else if began.elapsed() >= TERM_GRACE {
                n_empty = 0;
                self.signal(&members, Signal::KILL);
            } else if !told {
                told = true;
                self.signal(&members, Signal::TERM);
                // One that is stopped could not hear it.
                self.signal(&members, Signal::CONT);
            }
            sleep(LOOK_EVERY).await;
        }
        tracing::error!(root = %self.root.as_raw_nonzero(), "processes do not end by SIGKILL");
    }

    fn signal(&self, members: &[Process], signal: Signal) {
        // Errors mean that a process has ended by itself.
        kill_process_group(self.root, signal).ok();
        for member in members {
            kill_process(member.pid, signal).ok();
        }
    }

    /// The processes that have not ended. Reaps orphans that have.
    fn members(&self) -> Vec<Process> {
        let me = getpid().as_raw_nonzero().get();
        let root = self.root.as_raw_nonzero().get();
        let roots = self.nursery.roots().clone();
        let all = processes();
        let is_stray = |process: &Process| {
            let alone = roots.iter().all(|other| *other == self.root);
            self.nursery.adopts && alone && process.parent == me && !roots.contains(&process.pid)
        };
        let mut members: HashSet<i32> = all
            .iter()
            .filter(|process| {
                process.group == root
                    || process.session == root
                    || is_stray(process)
                    || has_in_environment(process.pid, &self.mark)
            })
            .map(|process| process.pid.as_raw_nonzero().get())
            .collect();
        members.remove(&me);
        // Children are found from their parents, as often as that finds more.
        loop {
            let n = members.len();
            let children = all
                .iter()
                .filter(|process| members.contains(&process.parent));
            let children: Vec<i32> = children
                .map(|process| process.pid.as_raw_nonzero().get())
                .collect();
            members.extend(children);
            if members.len() == n {
                break;
            }
        }
        let found = all
            .into_iter()
            .filter(|process| members.contains(&process.pid.as_raw_nonzero().get()));
        let (dead, alive): (Vec<_>, Vec<_>) = found.partition(|process| process.is_zombie);
        for process in dead {
            if self.nursery.adopts && process.parent == me && !roots.contains(&process.pid) {
                waitpid(Some(process.pid), WaitOptions::NOHANG).ok();
            }
        }
        alive
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        if !self.is_gone {
            self.signal(&self.members(), Signal::KILL);
            // What was forked in that moment.
            self.signal(&self.members(), Signal::KILL);
        }
        self.nursery.roots().remove(&self.root);
    }
}
