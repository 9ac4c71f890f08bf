//! Which offsets of a partition are done, and below which all of them are.

use std::collections::BTreeMap;

use crate::Offset;

/// Offsets in one chunk.
pub const CHUNK_BITS: u64 = 1024;
const WORDS: usize = 16;

/// The done bits of 1,024 offsets that start at `index · 1024`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DoneChunk {
    /// The chunk's number.
    pub index: u64,
    /// Bit `o mod 64` of word `(o mod 1024) / 64` stands for offset `o`.
    pub words: [u64; WORDS],
}

#[derive(Debug, Clone, Copy)]
struct Chunk {
    words: [u64; WORDS],
    n_set: u32,
    changed: bool,
}

/// The set of done offsets of one partition, with everything below [`low`](Self::low) in it.
///
/// Memory is one bit per offset between the watermark and the newest done offset, in chunks, and
/// nothing for stretches without done offsets.
#[derive(Debug, Clone)]
pub struct Watermark {
    low: u64,
    chunks: BTreeMap<u64, Chunk>,
    n_above: u64,
}

impl Watermark {
    /// Everything below `low` is done, and nothing else.
    #[must_use]
    pub fn new(low: Offset) -> Self {
        Self {
            low: low.0,
            chunks: BTreeMap::new(),
            n_above: 0,
        }
    }

    /// As it was stored.
    #[must_use]
    pub fn restore(low: Offset, chunks: &[DoneChunk]) -> Self {
        let mut this = Self::new(low);
        for chunk in chunks {
            for bit in 0..CHUNK_BITS {
                let (word, mask) = place(bit);
                if chunk.words[word] & mask != 0 {
                    this.mark(Offset(chunk.index * CHUNK_BITS + bit));
                }
            }
        }
        for chunk in this.chunks.values_mut() {
            chunk.changed = false;
        }
        this
    }

    /// The offset below which everything is done.
    #[must_use]
    pub fn low(&self) -> Offset {
        Offset(self.low)
    }

    /// How many offsets above [`low`](Self::low) are done.
    #[must_use]
    pub fn n_above(&self) -> u64 {
        self.n_above
    }

    /// Whether an offset is done.
    #[must_use]
    pub fn is_done(&self, offset: Offset) -> bool {
        offset.0 < self.low || {
            let (word, mask) = place(offset.0 % CHUNK_BITS);
            self.chunks
                .get(&(offset.0 / CHUNK_BITS))
                .is_some_and(|chunk| chunk.words[word] & mask != 0)
        }
    }

    /// Marks an offset as done; again is no fault.
    pub fn mark(&mut self, offset: Offset) {
        if offset.0 < self.low {
            return;
        }
        let (word, mask) = place(offset.0 % CHUNK_BITS);
        let chunk = self.chunks.entry(offset.0 / CHUNK_BITS).or_insert(Chunk {
            words: [0; WORDS],
            n_set: 0,
            changed: false,
        });
        if chunk.words[word] & mask != 0 {
            return;
        }
        chunk.words[word] |= mask;
        chunk.n_set += 1;
        chunk.changed = true;
        self.n_above += 1;
        if offset.0 == self.low {
            self.advance();
        }
    }

    /// Marks `from` and everything up to but without `to`: offsets that are absent from the log.
    pub fn mark_range(&mut self, from: Offset, to: Offset) {
        if from.0 <= self.low && to.0 > self.low {
            self.raise(to.0);
        } else {
            for offset in from.0..to.0 {
                self.mark(Offset(offset));
            }
        }
    }

    /// The chunks above the watermark that changed since the last call.
    pub fn take_changed(&mut self) -> Vec<DoneChunk> {
        let mut changed = Vec::new();
        for (index, chunk) in &mut self.chunks {
            if std::mem::take(&mut chunk.changed) {
                changed.push(DoneChunk {
                    index: *index,
                    words: chunk.words,
                });
            }
        }
        changed
    }

    /// Moves `low` over all done offsets that follow it.
    fn advance(&mut self) {
        while let Some((&index, chunk)) = self.chunks.first_key_value() {
            if index != self.low / CHUNK_BITS {
                return;
            }
            let mut bit = self.low % CHUNK_BITS;
            while bit < CHUNK_BITS {
                let (word, mask) = place(bit);
                let ones = u64::from((chunk.words[word] >> mask.trailing_zeros()).trailing_ones());
                bit += ones;
                self.low += ones;
                self.n_above -= ones;
                if ones == 0 || !bit.is_multiple_of(64) {
                    return;
                }
            }
            self.chunks.pop_first();
        }
    }

    /// Moves `low` up to `to`, over offsets of which some may be done already.
    fn raise(&mut self, to: u64) {
        let kept = self.chunks.split_off(&(to / CHUNK_BITS));
        let passed = std::mem::replace(&mut self.chunks, kept);
        let low = self.low;
        let count = |index: u64, chunk: &Chunk, below: u64| {
            (0..CHUNK_BITS)
                .map(|bit| (index * CHUNK_BITS + bit, place(bit)))
                .filter(|(offset, (word, mask))| {
                    (low..below).contains(offset) && chunk.words[*word] & mask != 0
                })
                .count() as u64
        };
        let mut n_passed: u64 = passed.iter().map(|(i, chunk)| count(*i, chunk, to)).sum();
        if let Some(chunk) = self.chunks.get(&(to / CHUNK_BITS)) {
            n_passed += count(to / CHUNK_BITS, chunk, to);
        }
        self.n_above -= n_passed;
        self.low = to;
        self.advance();
    }
}

fn place(bit: u64) -> (usize, u64) {
    ((bit % CHUNK_BITS / 64) as usize, 1 << (bit % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Mark(u64),
        Range(u64, u64),
        Restore,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (0u64..5000).prop_map(Step::Mark),
            2 => (0u64..5000, 0u64..2100).prop_map(|(from, len)| Step::Range(from, from + len)),
            1 => Just(Step::Restore),
        ]
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_set(start in 0u64..3000, steps in prop::collection::vec(step(), 0..200)) {
            let mut watermark = Watermark::new(Offset(start));
            let mut stored = BTreeMap::new();
            let mut model: BTreeSet<u64> = (0..start).collect();
            for step in steps {
                match step {
                    Step::Mark(offset) => {
                        watermark.mark(Offset(offset));
                        model.insert(offset);
                    }
                    Step::Range(from, to) => {
                        watermark.mark_range(Offset(from), Offset(to));
                        model.extend(from..to);
                    }
                    Step::Restore => {
                        let low = watermark.low();
                        stored.extend(watermark.take_changed().into_iter().map(|chunk| (chunk.index, chunk)));
                        stored.retain(|index, _| (index + 1) * CHUNK_BITS > low.0);
                        let chunks: Vec<_> = stored.values().copied().collect();
                        watermark = Watermark::restore(low, &chunks);
                    }
                }
                let low = (0..).find(|offset| !model.contains(offset)).unwrap_or(0);
                prop_assert_eq!(watermark.low(), Offset(low));
                prop_assert_eq!(watermark.n_above(), model.range(low..).count() as u64);
            }
            for offset in 0..8000 {
                prop_assert_eq!(watermark.is_done(Offset(offset)), model.contains(&offset));
            }
        }
    }
}
