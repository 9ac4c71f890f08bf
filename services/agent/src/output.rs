//! What is kept of what commands write: all of it, or the end of it.

use std::collections::VecDeque;

use data_encoding::BASE64;

/// The most bytes that are kept of a step's stderr, and of the stdout of a step that is not the last.
pub(crate) const TAIL_MAX: usize = 64 * 1024;

/// The last bytes of one stream of one command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    bytes: VecDeque<u8>,
    is_cut: bool,
}

/// A stream's bytes as text for JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text {
    pub(crate) text: String,
    /// It is base64, since the bytes are no UTF-8.
    pub(crate) is_base64: bool,
    /// The beginning is missing.
    pub(crate) is_truncated: bool,
}

impl Kept {
    pub(crate) fn push(&mut self, chunk: &[u8]) {
        self.bytes.extend(chunk);
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Forgets this many of the first bytes.
    fn cut(&mut self, n: usize) {
        self.bytes.drain(..n);
        self.is_cut |= n > 0;
    }

    /// The text of at most the last `max` bytes. A character that the cut has split is left out.
    pub(crate) fn text(&self, max: usize) -> Text {
        let n_left_out = self.bytes.len().saturating_sub(max);
        let is_truncated = self.is_cut || n_left_out > 0;
        let bytes: Vec<u8> = self.bytes.iter().skip(n_left_out).copied().collect();
        let is_rest_of_character = |byte: &&u8| **byte & 0b1100_0000 == 0b1000_0000;
        let split = match is_truncated {
            true => bytes
                .iter()
                .take(3)
                .take_while(is_rest_of_character)
                .count(),
            false => 0,
        };
        match std::str::from_utf8(&bytes[split..]) {
            Ok(text) => Text {
                text: text.to_owned(),
                is_base64: false,
                is_truncated,
            },
            Err(_) => Text {
                text: BASE64.encode(&bytes),
                is_base64: true,
                is_truncated,
            },
        }
    }
}

/// Cuts a step's streams, oldest first, until they have at most `max` bytes together.
pub(crate) fn cut_to<'a>(kept: impl Iterator<Item = &'a mut Kept>, max: usize) {
    let kept: Vec<&mut Kept> = kept.collect();
    let total: usize = kept.iter().map(|kept| kept.len()).sum();
    let mut excess = total.saturating_sub(max);
    for kept in kept {
        let n = excess.min(kept.len());
        kept.cut(n);
        excess -= n;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(bytes: &[u8]) -> Kept {
        let mut kept = Kept::default();
        kept.push(bytes);
        kept
    }

    #[test]
    fn the_oldest_output_of_a_step_is_cut_first() {
        let mut all = [kept(b"first"), kept(b"second"), kept(b"third")];
        cut_to(all.iter_mut(), 8);
        let texts: Vec<Text> = all.iter().map(|kept| kept.text(100)).collect();
        let seen: Vec<_> = texts
            .iter()
            .map(|text| (text.text.as_str(), text.is_truncated))
            .collect();
        assert_eq!(seen, [("", true), ("ond", true), ("third", false)]);
    }

    #[test]
    fn bytes_that_are_no_text_are_base64() {
        let text = kept(b"\xff\x00").text(100);
        assert_eq!((text.text.as_str(), text.is_base64), ("/wA=", true));
    }

    #[test]
    fn a_character_that_a_cut_has_split_does_not_make_it_base64() {
        let text = kept("aé€".as_bytes()).text(4);
        assert_eq!(
            (text.text.as_str(), text.is_base64, text.is_truncated),
            ("€", false, true)
        );
    }
}
