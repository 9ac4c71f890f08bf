//! The format of the blobs: explicit, versioned, checked, and independent of the domain types' layout.
//!
//! A blob is a version byte, fields, and the CRC-32 of all before it. Numbers are LEB128; bytes and
//! lists have their length before them; what may be absent has a byte 0 or 1 before it.

mod cancel;
mod options;
mod record;
mod task;

pub(crate) use self::{
    cancel::{decode_cancels, encode_cancels},
    options::{decode_options, encode_options},
    record::{BatchBlob, BatchRows, encode_record},
    task::{decode_task, encode_task},
};

use std::time::Duration;

use bytes::Bytes;
use scheduler_core::Timestamp;

/// What is written. Version 2 has more options; blobs of every version are read.
const VERSION: u8 = 2;
/// The first version in which tasks have ordering keys, groups, labels and what came with them.
const WITH_KEYS: u8 = 2;
const CHECKSUM_LEN: usize = 4;

/// Why a blob cannot be read: always damage, or a newer program wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("the checksum of a stored row does not match its content")]
    Checksum,
    #[error("a stored row has version {0}, which this program does not know")]
    Version(u8),
    #[error("a stored row ends too early")]
    Short,
    #[error("records are missing between others of the same partition")]
    Missing,
    #[error("a stored row holds a value that is not allowed: {0}")]
    Value(&'static str),
}

/// Writes the fields of a blob.
#[derive(Debug)]
pub(crate) struct Writer {
    out: Vec<u8>,
}

impl Writer {
    /// Begins a blob.
    pub(crate) fn blob(capacity: usize) -> Self {
        let mut out = Vec::with_capacity(capacity + 1 + CHECKSUM_LEN);
        out.push(VERSION);
        Self { out }
    }

    /// Begins a part of a blob: without version and checksum of its own.
    pub(crate) fn fields(capacity: usize) -> Self {
        Self {
            out: Vec::with_capacity(capacity),
        }
    }

    pub(crate) fn into_fields(self) -> Vec<u8> {
        self.out
    }

    pub(crate) fn into_blob(mut self) -> Vec<u8> {
        let checksum = crc32fast::hash(&self.out);
        self.out.extend_from_slice(&checksum.to_le_bytes());
        self.out
    }

    pub(crate) fn byte(&mut self, value: u8) {
        self.out.push(value);
    }

    pub(crate) fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.out.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.out.push(value.to_le_bytes()[0]);
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.raw(bytes);
    }

    pub(crate) fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        match value {
            None => self.byte(0),
            Some(value) => {
                self.byte(1);
                write(self, value);
            }
        }
    }

    pub(crate) fn time(&mut self, at: Timestamp) {
        self.number(at.as_millis());
    }

    pub(crate) fn duration(&mut self, duration: Duration) {
        self.number(duration.as_secs());
        self.number(u64::from(duration.subsec_nanos()));
    }
}

/// Reads the fields of a blob.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    version: u8,
}

impl<'a> Reader<'a> {
    /// Begins a blob, after a look at its checksum and version.
    pub(crate) fn blob(blob: &'a [u8]) -> Result<Self, Unreadable> {
        let (content, checksum) = blob.split_last_chunk().ok_or(Unreadable::Short)?;
        if crc32fast::hash(content) != u32::from_le_bytes(*checksum) {
            return Err(Unreadable::Checksum);
        }
        let (version, rest) = content.split_first().ok_or(Unreadable::Short)?;
        match *version {
            version @ 1..=VERSION => Ok(Self { rest, version }),
            other => Err(Unreadable::Version(other)),
        }
    }

    /// A part of the same blob, that had its length before it.
    pub(crate) fn part(&mut self) -> Result<Self, Unreadable> {
        let rest = self.slice()?;
        Ok(Self { rest, ..*self })
    }

    /// Whether the blob is of this version or a newer one.
    pub(crate) fn is_since(&self, version: u8) -> bool {
        self.version >= version
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Unreadable> {
        let (byte, rest) = self.rest.split_first().ok_or(Unreadable::Short)?;
        self.rest = rest;
        Ok(*byte)
    }

    pub(crate) fn number(&mut self) -> Result<u64, Unreadable> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Unreadable::Value("a number of more than 64 bits"))
    }

    pub(crate) fn small(&mut self) -> Result<u32, Unreadable> {
        let number = self.number()?;
        u32::try_from(number).map_err(|_| Unreadable::Value("a number of more than 32 bits"))
    }

    pub(crate) fn raw(&mut self, len: u64) -> Result<&'a [u8], Unreadable> {
        let len = usize::try_from(len).map_err(|_| Unreadable::Short)?;
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(Unreadable::Short)?;
        self.rest = rest;
        Ok(bytes)
    }

    pub(crate) fn slice(&mut self) -> Result<&'a [u8], Unreadable> {
        let len = self.number()?;
        self.raw(len)
    }

    /// A copy, so that a small value keeps no large blob in memory.
    pub(crate) fn bytes(&mut self) -> Result<Bytes, Unreadable> {
        self.slice().map(Bytes::copy_from_slice)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, Unreadable> {
        std::str::from_utf8(self.slice()?)
            .map_err(|_| Unreadable::Value("a text that is not UTF-8"))
    }

    pub(crate) fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, Unreadable>,
    ) -> Result<Option<T>, Unreadable> {
        match self.byte()? {
            0 => Ok(None),
            1 => read(self).map(Some),
            _ => Err(Unreadable::Value(
                "an option that is neither absent nor present",
            )),
        }
    }

    pub(crate) fn list<T>(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Result<T, Unreadable>,
    ) -> Result<Vec<T>, Unreadable> {
        let n = self.number()?;
        (0..n).map(|_| read(self)).collect()
    }

    pub(crate) fn time(&mut self) -> Result<Timestamp, Unreadable> {
        self.number().map(Timestamp::from_millis)
    }

    pub(crate) fn duration(&mut self) -> Result<Duration, Unreadable> {
        let secs = self.number()?;
        let nanos = self.small()?;
        // `Duration::new` panics where the carry of the nanoseconds overflows the seconds.
        if nanos >= 1_000_000_000 {
            return Err(Unreadable::Value("a second of more than 10⁹ nanoseconds"));
        }
        Ok(Duration::new(secs, nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_back() {
        for value in [
            0,
            1,
            127,
            128,
            300,
            u64::from(u32::MAX),
            u64::MAX - 1,
            u64::MAX,
        ] {
            let mut writer = Writer::blob(10);
            writer.number(value);
            let blob = writer.into_blob();
            assert_eq!(Reader::blob(&blob).unwrap().number(), Ok(value));
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let mut writer = Writer::blob(10);
        writer.bytes(b"some content");
        let blob = writer.into_blob();
        for bit in 0..blob.len() * 8 {
            let mut flipped = blob.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Reader::blob(&flipped).err(), Some(Unreadable::Checksum));
        }
        assert_eq!(Reader::blob(&blob[..3]).err(), Some(Unreadable::Short));
    }

    #[test]
    fn a_blob_of_a_version_to_come_is_refused() {
        for version in [0, VERSION + 1] {
            let blob = Writer { out: vec![version] }.into_blob();
            assert_eq!(
                Reader::blob(&blob).err(),
                Some(Unreadable::Version(version))
            );
        }
    }

    #[test]
    fn a_length_beyond_the_end_is_refused() {
        let mut writer = Writer::blob(10);
        writer.number(u64::MAX);
        let blob = writer.into_blob();
        let mut reader = Reader::blob(&blob).unwrap();
        assert_eq!(reader.slice(), Err(Unreadable::Short));
    }
}
