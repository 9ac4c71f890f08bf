//! The high-water mark: a small file that says which commit was acknowledged last.
//!
//! A damaged write-ahead log reads as a shorter one: SQLite stops at the first frame whose checksum
//! is wrong and takes what is before it for everything. The mark makes that visible. It has two
//! slots, written in turn, so that a torn write spoils at most the newer one; the newer slot that is
//! whole counts.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
};

const MARK_FILE: &str = "high-water";
const MAGIC: [u8; 4] = *b"WSHW";
/// Slots are a page apart, so that no disk tears both with one write.
const SLOT_STRIDE: u64 = 4096;
const SLOT_LEN: usize = 16;
/// What is read of a mark file.
type Slot = [u8; SLOT_LEN];

/// What the mark file says when a directory is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// There is no file.
    Missing,
    /// No slot of it is whole.
    Damaged,
    /// This commit was acknowledged.
    Commit(u64),
}

/// The file, open for writing.
#[derive(Debug)]
pub(crate) struct HighWaterMark {
    file: File,
    next_slot: u64,
}

impl HighWaterMark {
    /// Reads the mark without changing anything.
    pub(crate) fn read(directory: &Path) -> io::Result<Found> {
        let file = match File::open(directory.join(MARK_FILE)) {
            Ok(file) => file,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Found::Missing),
            Err(err) => return Err(err),
        };
        let mut newest = None;
        for slot in 0..2 {
            newest = newest.max(read_slot(&file, slot)?);
        }
        Ok(newest.map_or(Found::Damaged, Found::Commit))
    }

    /// Opens the file, or makes it with both slots at `commit`.
    pub(crate) fn open(directory: &Path, commit: u64) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(directory.join(MARK_FILE))?;
        if file.metadata()?.len() < SLOT_STRIDE + SLOT_LEN as u64 {
            for slot in 0..2 {
                file.write_all_at(&encode(commit), slot * SLOT_STRIDE)?;
            }
            file.sync_all()?;
        }
        let first_is_newer = read_slot(&file, 0)? > read_slot(&file, 1)?;
        Ok(Self {
            file,
            next_slot: u64::from(first_is_newer),
        })
    }

    /// Says durably that everything up to `commit` is acknowledged.
    pub(crate) fn raise(&mut self, commit: u64) -> io::Result<()> {
        let at = self.next_slot * SLOT_STRIDE;
        self.file.write_all_at(&encode(commit), at)?;
        self.file.sync_data()?;
        self.next_slot = 1 - self.next_slot;
        Ok(())
    }
}

/// The slot's commit, or `None` if it is not whole.
fn read_slot(file: &File, slot: u64) -> io::Result<Option<u64>> {
    let mut bytes: Slot = [0; SLOT_LEN];
    match file.read_exact_at(&mut bytes, slot * SLOT_STRIDE) {
        Ok(()) => Ok(decode(&bytes)),
        Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(err) => Err(err),
    }
}

fn encode(commit: u64) -> Slot {
    let mut slot = [0; SLOT_LEN];
    slot[..4].copy_from_slice(&MAGIC);
    slot[4..12].copy_from_slice(&commit.to_le_bytes());
    let checksum = crc32fast::hash(&slot[..12]);
    slot[12..].copy_from_slice(&checksum.to_le_bytes());
    slot
}

fn decode(slot: &Slot) -> Option<u64> {
    let (magic, rest) = slot.split_first_chunk::<4>()?;
    let (commit, checksum) = rest.split_first_chunk::<8>()?;
    let whole = *magic == MAGIC && crc32fast::hash(&slot[..12]).to_le_bytes() == *checksum;
    whole.then(|| u64::from_le_bytes(*commit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(directory: &Path) -> Found {
        HighWaterMark::read(directory).unwrap()
    }

    #[test]
    fn a_torn_write_of_the_newest_commit_leaves_the_one_before() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        assert_eq!(read(directory), Found::Missing);
        let mut mark = HighWaterMark::open(directory, 0).unwrap();
        assert_eq!(read(directory), Found::Commit(0));
        // Groups skip numbers, so the slot must not depend on the number.
        for commit in [2, 4, 7, 8] {
            mark.raise(commit).unwrap();
            assert_eq!(read(directory), Found::Commit(commit));
            let written = (1 - mark.next_slot) * SLOT_STRIDE + 4;
            let whole = commit.to_le_bytes();
            mark.file.write_all_at(b"torn", written).unwrap();
            assert!(matches!(read(directory), Found::Commit(before) if before < commit));
            mark.file.write_all_at(&whole, written).unwrap();
        }
        mark.file.write_all_at(b"torn", 4).unwrap();
        mark.file.write_all_at(b"torn", SLOT_STRIDE + 9).unwrap();
        assert_eq!(read(directory), Found::Damaged);
    }

    #[test]
    fn a_reopened_mark_overwrites_its_older_slot() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        let mut mark = HighWaterMark::open(directory, 0).unwrap();
        for commit in 1..6 {
            mark.raise(commit).unwrap();
            mark = HighWaterMark::open(directory, 99).unwrap();
            let older = read_slot(&mark.file, mark.next_slot).unwrap();
            assert_eq!(older, Some(commit - 1));
        }
    }
}
