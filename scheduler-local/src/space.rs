//! Room on the disk: a reserve that is held while there is enough, and given up when there is not.
//!
//! A full disk must not stop work that is already accepted. So appends are refused while space is
//! still left, and the reserve is deleted then, which leaves its bytes to flushes.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::config::{Config, FreeSpace};

const RESERVE_FILE: &str = "reserve";

/// Whether appends are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// There is enough.
    Enough,
    /// Only what ends work is written.
    Short,
}

/// The reserve and the rule by which it is held.
#[derive(Debug)]
pub(crate) struct Space {
    directory: PathBuf,
    free_space: Arc<dyn FreeSpace>,
    space_min_bytes: u64,
    reserve_bytes: u64,
    room: Room,
}

impl Space {
    /// Without a reserve yet: the first [`look`](Self::look) makes it.
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            directory: config.directory.clone(),
            free_space: Arc::clone(&config.free_space),
            space_min_bytes: config.space_min_bytes,
            reserve_bytes: config.reserve_bytes,
            room: Room::Short,
        }
    }

    /// Whether the database's own free pages can make a difference to [`look`](Self::look).
    pub(crate) fn may_be_short(&self) -> bool {
        let free = self.free_space.bytes(&self.directory);
        free.is_ok_and(|free| free < self.space_min_bytes + self.reserve_bytes)
    }

    /// Looks how much space there is, and takes or gives up the reserve. `unused` are the bytes
    /// of pages that the database has and does not use.
    pub(crate) fn look(&mut self, unused: u64) -> Room {
        let Ok(free) = self.free_space.bytes(&self.directory) else {
            // Not knowing is no reason to refuse work: a write that finds no room says so itself.
            return self.room;
        };
        let free = free.saturating_add(unused);
        let held = self.held_bytes();
        match self.room {
            Room::Enough if free < self.space_min_bytes => self.give_up(),
            // The rest of the reserve must fit on top, so that taking it does not end in giving it up.
            Room::Short if free >= self.space_min_bytes + (self.reserve_bytes - held) => {
                self.take()
            }
            Room::Enough | Room::Short => {}
        }
        self.room
    }

    /// Gives the reserve's bytes free, and appends are refused from now on.
    pub(crate) fn give_up(&mut self) {
        self.room = Room::Short;
        match std::fs::remove_file(self.path()) {
            Ok(()) => {
                tracing::warn!("little space is left: the reserve is given up, appends are refused")
            }
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(err) => tracing::warn!(%err, "cannot give up the reserve"),
        }
    }

    fn take(&mut self) {
        match allocate(&self.path(), self.reserve_bytes) {
            Ok(()) => self.room = Room::Enough,
            Err(err) => {
                tracing::warn!(%err, "cannot take the reserve");
                self.give_up();
            }
        }
    }

    fn held_bytes(&self) -> u64 {
        let held = std::fs::metadata(self.path()).map_or(0, |found| found.len());
        held.min(self.reserve_bytes)
    }

    fn path(&self) -> PathBuf {
        self.directory.join(RESERVE_FILE)
    }
}

fn allocate(path: &Path, len: u64) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let file = options
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    if len == 0 {
        return Ok(());
    }
    let flags = rustix::fs::FallocateFlags::empty();
    match rustix::fs::fallocate(&file, flags, 0, len) {
        Err(rustix::io::Errno::OPNOTSUPP) => fill(&file, len),
        allocated => Ok(allocated?),
    }
}

/// For file systems that cannot allocate: takes the space by writing to it.
fn fill(mut file: &File, len: u64) -> io::Result<()> {
    let zeros = io::repeat(0).take(len);
    io::copy(&mut io::BufReader::with_capacity(1 << 16, zeros), &mut file)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[derive(Debug)]
    struct Told(AtomicU64);

    impl FreeSpace for Told {
        fn bytes(&self, _directory: &Path) -> io::Result<u64> {
            Ok(self.0.load(Ordering::Relaxed))
        }
    }

    #[test]
    fn a_file_system_that_cannot_allocate_is_filled() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(RESERVE_FILE);
        fill(&File::create(&path).unwrap(), 200_000).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 200_000);
    }

    #[test]
    fn the_reserve_comes_and_goes_with_the_space() {
        let directory = tempfile::tempdir().unwrap();
        let told = Arc::new(Told(AtomicU64::new(1_000)));
        let config = Config {
            free_space: told.clone(),
            space_min_bytes: 500,
            reserve_bytes: 100,
            ..Config::new(directory.path())
        };
        let reserve = directory.path().join(RESERVE_FILE);
        let mut space = Space::new(&config);
        for (free, unused, room) in [
            (1_000, 0, Room::Enough),
            (500, 0, Room::Enough),
            (499, 1, Room::Enough),
            (499, 0, Room::Short),
            (599, 0, Room::Short),
            (600, 0, Room::Enough),
            (0, 0, Room::Short),
            (0, 600, Room::Enough),
        ] {
            told.0.store(free, Ordering::Relaxed);
            assert_eq!(space.look(unused), room, "{free} free");
            assert_eq!(reserve.exists(), room == Room::Enough, "{free} free");
        }
        assert_eq!(std::fs::metadata(&reserve).unwrap().len(), 100);
    }
}
