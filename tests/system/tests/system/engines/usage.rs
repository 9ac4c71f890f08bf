//! What a process takes of the machine.

use std::{
    iter::Sum,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use super::cluster::Service;

/// What a process has in memory and open, and how long cores have worked for it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    pub(crate) resident_kib: u64,
    pub(crate) n_files: usize,
    pub(crate) core_time: Duration,
}

impl Usage {
    pub(crate) fn of(service: &Service) -> Self {
        let process = PathBuf::from(format!("/proc/{}", service.pid()));
        let read = |name: &str| std::fs::read_to_string(process.join(name)).unwrap();
        let status = read("status");
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1));
        // Nanoseconds of all threads that live, by the scheduler of the kernel.
        let threads = std::fs::read_dir(process.join("task")).unwrap();
        let nanos = threads.filter_map(|thread| {
            // One that has just ended is none of it.
            let path = thread.ok()?.path().join("schedstat");
            let text = std::fs::read_to_string(path).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        });
        Self {
            resident_kib: kib.unwrap().parse().unwrap(),
            n_files: std::fs::read_dir(process.join("fd")).unwrap().count(),
            core_time: Duration::from_nanos(nanos.sum()),
        }
    }
}

/// Kibibytes of a directory on disk.
pub(crate) fn disk_kib(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let kib = entries.map(|entry| match entry.metadata() {
        Ok(found) if found.is_dir() => disk_kib(&entry.path()),
        // In blocks of 512 bytes, so that what is only reserved does not count.
        Ok(found) => found.blocks() / 2,
        // It has just been removed.
        Err(_) => 0,
    });
    kib.sum()
}

impl Sum for Usage {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |one, other| Self {
            resident_kib: one.resident_kib + other.resident_kib,
            n_files: one.n_files + other.n_files,
            core_time: one.core_time + other.core_time,
        })
    }
}
