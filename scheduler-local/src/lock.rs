//! One process at a time: the operating system's lock on a file of the directory.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Seek, Write},
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::error::OpenError;

const LOCK_FILE: &str = "lock";
/// More than what a holder writes about itself.
const HOLDER_LEN_MAX: u64 = 4 * 1024;

/// The lock on a directory; given up when it is dropped, also by a crash.
#[derive(Debug)]
pub(crate) struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Takes the lock, or says who has it.
    pub(crate) fn take(directory: &Path, holder: &str) -> Result<Self, OpenError> {
        let io = |source| OpenError::Io {
            action: "lock the file lock",
            directory: directory.to_owned(),
            source,
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(directory.join(LOCK_FILE)).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::Error(source)) => return Err(io(source)),
            Err(TryLockError::WouldBlock) => {
                return Err(OpenError::InUse {
                    directory: directory.to_owned(),
                    holder: read_holder(&mut file),
                });
            }
        }
        write_holder(&mut file, holder).map_err(io)?;
        Ok(Self { _file: file })
    }
}

/// A hint for people: the lock itself is what counts.
fn read_holder(file: &mut File) -> String {
    let mut text = String::new();
    match file.take(HOLDER_LEN_MAX).read_to_string(&mut text) {
        Ok(n) if n > 0 => text.trim().to_owned(),
        _ => "an unknown process".to_owned(),
    }
}

fn write_holder(file: &mut File, holder: &str) -> std::io::Result<()> {
    let pid = std::process::id();
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    let started = since_1970.map_or(0, |since| since.as_secs());
    let holder = if holder.is_empty() {
        String::new()
    } else {
        format!(" ({holder})")
    };
    file.set_len(0)?;
    file.rewind()?;
    writeln!(
        file,
        "process {pid}{holder}, which opened it at unix time {started}"
    )
}
