//! What the log learns of the durable watermark: how far it is, and, a while later, that it may forget.

use std::{collections::VecDeque, time::Duration};

use super::Shard;
use crate::{Offset, Timestamp, action::Action};

/// How many samples of the watermark a trim looks back on.
const TRIM_SAMPLES: u32 = 16;

/// What the watermark was a while ago.
#[derive(Debug)]
pub(super) struct Trim {
    samples: VecDeque<(Timestamp, Offset)>,
    trimmed: Offset,
    published: Offset,
    wake_at: Option<Timestamp>,
}

impl Trim {
    pub(super) fn new() -> Self {
        Self {
            samples: VecDeque::new(),
            trimmed: Offset::ZERO,
            published: Offset::ZERO,
            wake_at: None,
        }
    }

    fn sample(&mut self, watermark: Offset, now: Timestamp, after: Duration) {
        let known = self.samples.back().map_or(self.trimmed, |sample| sample.1);
        let is_spaced = self
            .samples
            .back()
            .is_none_or(|sample| now.since(sample.0) >= after / TRIM_SAMPLES);
        if watermark > known && is_spaced {
            self.samples.push_back((now, watermark));
            self.wake_at.get_or_insert(now + after);
        }
    }

    fn due(&mut self, now: Timestamp, after: Duration) -> Option<Offset> {
        self.wake_at.take_if(|at| *at <= now)?;
        let mut below = None;
        while let Some((_, watermark)) = self.samples.pop_front_if(|sample| sample.0 + after <= now)
        {
            below = Some(watermark);
        }
        self.wake_at = self.samples.front().map(|sample| sample.0 + after);
        self.trimmed = below.unwrap_or(self.trimmed);
        below
    }

    pub(super) fn wake_at(&self) -> Option<Timestamp> {
        self.wake_at
    }
}

impl Shard {
    /// A watermark became durable.
    pub(super) fn watermark_saved(
        &mut self,
        watermark: Offset,
        now: Timestamp,
        out: &mut Vec<Action>,
    ) {
        let trim = &mut self.trim;
        trim.sample(watermark, now, self.config.trim_after);
        if watermark > trim.published {
            trim.published = watermark;
            out.push(Action::Watermark(self.id, watermark));
        }
    }

    pub(super) fn trim_log(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        if let Some(below) = self.trim.due(now, self.config.trim_after) {
            out.push(Action::Trim(self.id, below));
        }
    }
}
