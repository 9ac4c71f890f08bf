//! How long things took: counts in classes that are an eighth of a power of two wide, so that a quantile is at most
//! some percent off and a lot of durations is a short list.

use std::{collections::VecDeque, time::Duration};

use crate::Timestamp;

/// So many bits of a number of milliseconds tell its class, beside its magnitude.
const BITS: u32 = 3;
const PER_OCTAVE: u64 = 1 << BITS;
/// What takes longer (34 years) counts as that long.
const OCTAVE_MAX: u32 = 40;
/// Durations are forgotten in steps of this.
const SLICE: Duration = Duration::from_secs(60);
const N_SLICES: u64 = 5;

/// How far back [`ShardSurvey::waited`](super::ShardSurvey::waited) and its likes reach, to within a minute.
pub const RECENT: Duration = Duration::from_secs(60 * N_SLICES);

/// How long things took.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Durations {
    /// How many are in each class, by class.
    counts: Vec<(u16, u64)>,
}

impl Durations {
    /// Counts one.
    pub fn record(&mut self, took: Duration) {
        self.count(class_of(took), 1);
    }

    /// Counts all that another has counted.
    pub fn add(&mut self, other: &Self) {
        for (class, n) in &other.counts {
            self.count(*class, *n);
        }
    }

    fn count(&mut self, class: u16, n: u64) {
        match self
            .counts
            .binary_search_by_key(&class, |(class, _)| *class)
        {
            Ok(at) => self.counts[at].1 = self.counts[at].1.saturating_add(n),
            Err(at) => self.counts.insert(at, (class, n)),
        }
    }

    /// How many there are.
    #[must_use]
    pub fn n(&self) -> u64 {
        let counts = self.counts.iter().map(|(_, n)| *n);
        counts.fold(0, u64::saturating_add)
    }

    /// The duration that so many of a thousand do not exceed, about; `None` without any.
    #[must_use]
    pub fn quantile(&self, per_mille: u64) -> Option<Duration> {
        let wanted = self.n().saturating_mul(per_mille).div_ceil(1_000).max(1);
        let mut n_below: u64 = 0;
        let class = self.counts.iter().find(|(_, n)| {
            n_below = n_below.saturating_add(*n);
            n_below >= wanted
        });
        class.map(|(class, _)| middle_of(*class))
    }

    /// The classes with their counts, as they travel.
    pub fn counts(&self) -> impl Iterator<Item = (u16, u64)> {
        self.counts.iter().copied()
    }
}

impl FromIterator<(u16, u64)> for Durations {
    /// From classes with their counts. Classes that there are not count as the longest.
    fn from_iter<I: IntoIterator<Item = (u16, u64)>>(counts: I) -> Self {
        let mut durations = Self::default();
        let last = class_of(Duration::MAX);
        for (class, n) in counts {
            durations.count(class.min(last), n);
        }
        durations
    }
}

fn class_of(took: Duration) -> u16 {
    let longest = (1 << (OCTAVE_MAX + 1)) - 1;
    let millis = u64::try_from(took.as_millis()).map_or(longest, |millis| millis.min(longest));
    let class = match millis.checked_ilog2() {
        Some(octave) if octave >= BITS => {
            let part = (millis >> (octave - BITS)) & (PER_OCTAVE - 1);
            u64::from(octave - BITS + 1) * PER_OCTAVE + part
        }
        _ => millis,
    };
    // There are few hundred classes.
    u16::try_from(class).unwrap_or(u16::MAX)
}

fn middle_of(class: u16) -> Duration {
    let (octave, part) = (u64::from(class) / PER_OCTAVE, u64::from(class) % PER_OCTAVE);
    let millis = match octave {
        0 => part,
        _ => {
            let width = 1 << (octave - 1);
            (PER_OCTAVE + part) * width + width / 2
        }
    };
    Duration::from_millis(millis)
}

/// Durations of about the last [`RECENT`].
#[derive(Debug, Default)]
pub(crate) struct Recent {
    slices: VecDeque<(u64, Durations)>,
}

impl Recent {
    pub(crate) fn record(&mut self, took: Duration, now: Timestamp) {
        let number = slice_at(now);
        self.forget(number);
        match self.slices.back_mut() {
            Some((newest, durations)) if *newest == number => durations.record(took),
            _ => {
                let mut durations = Durations::default();
                durations.record(took);
                self.slices.push_back((number, durations));
            }
        }
    }

    fn forget(&mut self, number: u64) {
        while let Some((oldest, _)) = self.slices.front()
            && oldest + N_SLICES <= number
        {
            self.slices.pop_front();
        }
    }

    pub(crate) fn read(&self, now: Timestamp) -> Durations {
        let number = slice_at(now);
        let mut all = Durations::default();
        for (slice, durations) in &self.slices {
            if slice + N_SLICES > number {
                all.add(durations);
            }
        }
        all
    }
}

fn slice_at(now: Timestamp) -> u64 {
    now.as_millis() / u64::try_from(SLICE.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(all: impl IntoIterator<Item = u64>) -> Durations {
        let mut durations = Durations::default();
        for millis in all {
            durations.record(Duration::from_millis(millis));
        }
        durations
    }

    proptest! {
        #[test]
        fn a_class_is_at_most_an_eighth_off(millis in 0_u64..1 << 41) {
            let middle = middle_of(class_of(Duration::from_millis(millis)));
            let middle = u64::try_from(middle.as_millis()).unwrap();
            prop_assert!(middle.abs_diff(millis) <= millis / 8, "{middle} for {millis}");
        }

        #[test]
        fn quantiles_are_those_of_the_sorted_list(
            mut all in prop::collection::vec(0_u64..1 << 30, 1..200),
            per_mille in 0_u64..=1_000,
        ) {
            let told = of(all.clone()).quantile(per_mille).unwrap();
            all.sort_unstable();
            let rank = (all.len() as u64 * per_mille).div_ceil(1_000).max(1);
            let exact = all[usize::try_from(rank).unwrap() - 1];
            prop_assert_eq!(told, middle_of(class_of(Duration::from_millis(exact))));
        }

        #[test]
        fn what_travels_is_what_was_counted(all in prop::collection::vec(any::<u64>(), 0..50)) {
            let durations = of(all);
            prop_assert_eq!(durations.counts().collect::<Durations>(), durations);
        }
    }

    #[test]
    fn without_any_there_is_no_quantile_and_odd_classes_are_taken() {
        assert_eq!(Durations::default().quantile(500), None);
        let odd: Durations = [(u16::MAX, u64::MAX), (u16::MAX, 1)].into_iter().collect();
        assert_eq!(odd.n(), u64::MAX);
        assert_eq!(odd.quantile(990), of([u64::MAX]).quantile(990));
    }

    #[test]
    fn durations_are_forgotten_after_some_minutes() {
        let at = |s: u64| Timestamp::from_millis(1_000 * s);
        let mut recent = Recent::default();
        for s in 0..3_600 {
            recent.record(Duration::from_millis(s), at(s));
            assert!(recent.slices.len() <= 5);
        }
        let n = recent.read(at(3_599)).n();
        assert!((240..=300).contains(&n), "{n}");
        assert_eq!(recent.read(at(3_600 + 300)).n(), 0);
    }
}
