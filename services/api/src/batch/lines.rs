//! Lines of a body that comes in pieces.

use axum::body::Bytes;

/// A line, without its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Counted from 1.
    pub(super) number: u64,
    /// `None` if it was too long.
    pub(super) text: Option<Bytes>,
}

impl Line {
    pub(super) fn n_bytes(&self) -> usize {
        self.text.as_ref().map_or(0, Bytes::len)
    }
}

/// Splits what comes into lines. Of a line that is too long, nothing is kept but its number.
#[derive(Debug)]
pub(super) struct Lines {
    bytes_max: usize,
    /// What has come and was not taken; up to `begin` it was.
    text: Vec<u8>,
    begin: usize,
    /// Up to here no end of a line was found.
    searched: usize,
    is_too_long: bool,
    has_ended: bool,
    number: u64,
}

impl Lines {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            text: Vec::new(),
            begin: 0,
            searched: 0,
            is_too_long: false,
            has_ended: false,
            number: 0,
        }
    }

    pub(super) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// How many lines have been taken.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Takes a piece. Take out all lines before the next one.
    pub(super) fn push(&mut self, piece: &[u8]) {
        self.text.drain(..self.begin);
        self.searched -= self.begin;
        self.begin = 0;
        self.text.extend_from_slice(piece);
    }

    /// Nothing more comes: what is left is the last line.
    pub(super) fn end(&mut self) {
        self.has_ended = true;
    }

    /// The next line that came whole.
    pub(super) fn next(&mut self) -> Option<Line> {
        let rest = &self.text[self.searched..];
        let end = match rest.iter().position(|byte| *byte == b'\n') {
            Some(at) => self.searched + at,
            None => {
                self.searched = self.text.len();
                if self.searched - self.begin > self.bytes_max {
                    self.is_too_long = true;
                    self.begin = self.searched;
                }
                let is_last = self.has_ended && (self.is_too_long || self.begin < self.text.len());
                if !is_last {
                    return None;
                }
                self.text.len()
            }
        };
        self.number += 1;
        let line = &self.text[self.begin..end];
        let is_too_long = std::mem::take(&mut self.is_too_long) || line.len() > self.bytes_max;
        let text = (!is_too_long).then(|| Bytes::copy_from_slice(line));
        self.begin = (end + 1).min(self.text.len());
        self.searched = self.begin;
        Some(Line {
            number: self.number,
            text,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str, n: usize) -> Vec<Option<String>> {
        let mut lines = Lines::new(4);
        let mut all = Vec::new();
        let mut pieces = text.as_bytes().chunks(n);
        loop {
            match pieces.next() {
                Some(piece) => lines.push(piece),
                None => lines.end(),
            }
            while let Some(line) = lines.next() {
                assert_eq!(line.number, all.len() as u64 + 1);
                all.push(
                    line.text
                        .map(|text| String::from_utf8(text.into()).unwrap()),
                );
            }
            assert!(
                lines.text.len() <= 4 + n,
                "only the piece of a line is kept"
            );
            if lines.has_ended {
                return all;
            }
        }
    }

    #[test]
    fn lines_are_the_same_however_they_come() {
        let text = "ab\n\ncdef\ntoo long\nx\r\nlonger still";
        let expected = [Some("ab"), Some(""), Some("cdef"), None, Some("x\r"), None];
        let expected = expected.map(|line| line.map(ToOwned::to_owned));
        for n in 1..40 {
            assert_eq!(split(text, n), expected, "in pieces of {n}");
        }
        assert_eq!(split("a\n", 1), [Some("a".to_owned())]);
        assert_eq!(split("", 1), []);
    }
}
