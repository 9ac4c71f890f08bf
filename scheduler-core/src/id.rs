//! Numbers and ids: pipelines, partitions, offsets, shards, tasks, epochs, lease tokens, workers.

use std::{fmt, str::FromStr, sync::Arc};

use data_encoding::{BASE32_NOPAD_NOCASE, Encoding};

use crate::Invalid;

/// A pipeline's number: given once by the catalogue and never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PipelineNumber(pub u32);

/// A partition of a pipeline's log, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition(pub u16);

/// A record's place in its partition, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(pub u64);

impl Offset {
    /// The first offset of every partition.
    pub const ZERO: Self = Self(0);

    /// The offset after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// One partition of one pipeline: the unit of ownership and of single-threaded decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId {
    /// The pipeline.
    pub pipeline: PipelineNumber,
    /// Its partition.
    pub partition: Partition,
}

/// How many [`Slot`]s there are.
pub const N_SLOTS: u16 = 256;

/// A bucket of shards: what members own and what [`Placement`](crate::port::Placement) hands out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u8);

impl ShardId {
    /// The slot this shard belongs to: the same on every member and in every version.
    #[must_use]
    pub fn slot(self) -> Slot {
        let mut bytes = [0; 6];
        bytes[..4].copy_from_slice(&self.pipeline.0.to_be_bytes());
        bytes[4..].copy_from_slice(&self.partition.0.to_be_bytes());
        Slot(murmur2(&bytes).to_be_bytes()[3])
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pipeline.0, self.partition.0)
    }
}

/// A task's id: its place in the log. Text form is opaque to users and safe in paths.
///
/// ```
/// # use scheduler_core::{Offset, Partition, PipelineNumber, ShardId, TaskId};
/// let shard = ShardId { pipeline: PipelineNumber(7), partition: Partition(1) };
/// let id = TaskId { shard, offset: Offset(42) };
/// assert_eq!(id.to_string().parse(), Ok(id));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId {
    /// The shard that schedules the task.
    pub shard: ShardId,
    /// The record's offset in the shard's partition.
    pub offset: Offset,
}

const ID_ENCODING: Encoding = BASE32_NOPAD_NOCASE;
const ID_BYTES: usize = 14;

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0; ID_BYTES];
        bytes[..4].copy_from_slice(&self.shard.pipeline.0.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.shard.partition.0.to_be_bytes());
        bytes[6..].copy_from_slice(&self.offset.0.to_be_bytes());
        f.write_str(&ID_ENCODING.encode(&bytes).to_ascii_lowercase())
    }
}

impl FromStr for TaskId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let not_an_id = || Invalid::new("id", "is not a task id; use one that a submit returned");
        let bytes = ID_ENCODING
            .decode(text.as_bytes())
            .map_err(|_| not_an_id())?;
        let bytes: [u8; ID_BYTES] = bytes.try_into().map_err(|_| not_an_id())?;
        let (pipeline, rest) = bytes.split_first_chunk().ok_or_else(not_an_id)?;
        let (partition, rest) = rest.split_first_chunk().ok_or_else(not_an_id)?;
        let (offset, _) = rest.split_first_chunk().ok_or_else(not_an_id)?;
        Ok(Self {
            shard: ShardId {
                pipeline: PipelineNumber(u32::from_be_bytes(*pipeline)),
                partition: Partition(u16::from_be_bytes(*partition)),
            },
            offset: Offset(u64::from_be_bytes(*offset)),
        })
    }
}

/// Number of a shard's ownership. Grows at every claim; a stale epoch can write nothing.
///
/// At most [`Epoch::MAX`], so that it fits a [`LeaseToken`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u32);

impl Epoch {
    /// Before the first claim.
    pub const NEVER: Self = Self(0);
    /// The last epoch a shard can have: 2²⁴ − 1.
    pub const MAX: Self = Self((1 << 24) - 1);

    /// The epoch of the next claim, or `None` after [`Epoch::MAX`].
    #[must_use]
    pub fn next(self) -> Option<Self> {
        (self < Self::MAX).then_some(Self(self.0 + 1))
    }
}

/// One holder's claim on a task: (epoch, n) packed into one ordered number, where n counts the
/// leases that the shard granted in that epoch (24 and 40 bits). Tokens of one task only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseToken(u64);

impl LeaseToken {
    const N_BITS: u32 = 40;

    /// Below every token that was ever granted.
    pub const NONE: Self = Self(0);

    /// The token before the first of an epoch.
    #[must_use]
    pub const fn before_first(epoch: Epoch) -> Self {
        Self((epoch.0 as u64) << Self::N_BITS)
    }

    /// The next token of the same epoch, or `None` after 2⁴⁰ − 1 leases in one epoch.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        let next = Self(self.0 + 1);
        (next.epoch() == self.epoch()).then_some(next)
    }

    /// The epoch that granted it.
    #[must_use]
    pub const fn epoch(self) -> Epoch {
        Epoch((self.0 >> Self::N_BITS) as u32)
    }

    /// As one number, for the wire and for stores.
    #[must_use]
    pub const fn to_u64(self) -> u64 {
        self.0
    }

    /// From the number that [`to_u64`](Self::to_u64) gave.
    #[must_use]
    pub const fn from_u64(value: u64) -> Self {
        Self(value)
    }
}

/// A worker's own name for itself: 1 to 128 bytes of printable ASCII without spaces.
///
/// Each run of a worker takes a new one, so that leases of an earlier run are not mistaken for its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(Arc<str>);

impl WorkerId {
    /// The longest id in bytes.
    pub const LEN_MAX: usize = 128;

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Stands where no worker is known.
    #[must_use]
    pub fn nobody() -> Self {
        Self("-".into())
    }
}

impl TryFrom<&str> for WorkerId {
    type Error = Invalid;

    fn try_from(text: &str) -> Result<Self, Invalid> {
        let fits = (1..=Self::LEN_MAX).contains(&text.len());
        if fits && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(Self(text.into()))
        } else {
            Err(Invalid::new(
                "worker",
                "must be 1 to 128 printable ASCII characters without spaces",
            ))
        }
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// MurmurHash2 with the seed that Kafka's own producer uses, so that keys land on the same partition
/// whoever produces them. Source: `org.apache.kafka.common.utils.Utils.murmur2`.
#[must_use]
pub fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the original takes 32 bits"
    )]
    let mut hash = 0x9747_b28c_u32 ^ (data.len() as u32);
    let mut words = data.chunks_exact(4);
    for word in words.by_ref() {
        let mut k = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        k = k.wrapping_mul(M);
        k ^= k >> R;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (i, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * i);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

impl Partition {
    /// The partition of a keyed record among `n` partitions, as Kafka's default partitioner picks it.
    #[must_use]
    pub fn of_key(key: &[u8], n: u16) -> Self {
        let positive = murmur2(key) & 0x7fff_ffff;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the remainder is below n, which is 16 bits"
        )]
        Self((positive % u32::from(n.max(1))) as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn murmur2_agrees_with_kafka() {
        // The vectors of Kafka's own UtilsTest.testMurmur2.
        for (text, hash) in [
            ("21", -973_932_308_i32),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            (
                "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(text.as_bytes()).cast_signed(), hash, "{text}");
        }
    }

    #[test]
    fn tokens_of_a_later_epoch_are_greater() {
        let mut token = LeaseToken::before_first(Epoch(3));
        for _ in 0..1000 {
            let next = token.next().unwrap();
            assert!(next > token);
            token = next;
        }
        assert!(LeaseToken::before_first(Epoch(4)) > token);
        assert_eq!(token.epoch(), Epoch(3));
    }

    #[test]
    fn a_token_never_runs_into_the_next_epoch() {
        let last = LeaseToken::from_u64((5 << 40) - 1);
        assert_eq!(last.epoch(), Epoch(4));
        assert_eq!(last.next(), None);
    }

    #[test]
    fn ids_that_are_not_ids_are_refused() {
        for text in [
            "",
            "a",
            "0000",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "../../etc",
            "é",
        ] {
            assert!(text.parse::<TaskId>().is_err(), "{text}");
        }
    }
}
