//! How many tasks wait for what.

use std::ops::AddAssign;

/// How many tasks in memory wait, by the [`name`](super::Blocker::name) of what they wait for, and how many do not.
///
/// Each task in memory is counted once. Parked tasks are not in memory, and what waits in the log is `backlog`, which
/// nobody counts here. Which of the tasks that could start wait for a group's `rate` or `concurrency`, for a `worker`
/// or for their `turn` is told by the lines they wait in: a task that left its line early, by a cancel for example, may
/// be taken for one of those that wait until that line moves, and one that is just being saved counts as `turn`. The sum
/// of these four is exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Tally {
    /// They were asked to run later, and that is soon: others are parked.
    pub n_scheduled: usize,
    /// They failed and are tried again soon: others are parked.
    pub n_backoff: usize,
    /// Their last change is being saved, which may be their end.
    pub n_saving: usize,
    /// It is being looked up whether they are repetitions.
    pub n_repetition: usize,
    /// A worker may still have them from before a crash.
    pub n_adoption: usize,
    /// Their pipeline is paused.
    pub n_paused: usize,
    /// Everything fails in their pipeline.
    pub n_failing: usize,
    /// Another task with their ordering key goes first.
    pub n_key: usize,
    /// As many run as may: of the pipeline, the group or the tenant.
    pub n_concurrency: usize,
    /// As many have started lately as may: of the pipeline, the group or the tenant.
    pub n_rate: usize,
    /// They make room for others.
    pub n_aside: usize,
    /// No worker asks that has what they need.
    pub n_worker: usize,
    /// Others go first.
    pub n_turn: usize,
    /// They run.
    pub n_running: usize,
    /// They have ended without having been shown otherwise, and are being saved.
    pub n_ended: usize,
}

impl Tally {
    /// Those that wait, each with the stable name of what they wait for.
    #[must_use]
    pub const fn waiting(&self) -> [(&'static str, usize); 13] {
        [
            ("scheduled", self.n_scheduled),
            ("backoff", self.n_backoff),
            ("saving", self.n_saving),
            ("repetition", self.n_repetition),
            ("adoption", self.n_adoption),
            ("paused", self.n_paused),
            ("failing", self.n_failing),
            ("key", self.n_key),
            ("concurrency", self.n_concurrency),
            ("rate", self.n_rate),
            ("aside", self.n_aside),
            ("worker", self.n_worker),
            ("turn", self.n_turn),
        ]
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        let Self {
            n_scheduled,
            n_backoff,
            n_saving,
            n_repetition,
            n_adoption,
            n_paused,
            n_failing,
            n_key,
            n_concurrency,
            n_rate,
            n_aside,
            n_worker,
            n_turn,
            n_running,
            n_ended,
        } = other;
        self.n_scheduled += n_scheduled;
        self.n_backoff += n_backoff;
        self.n_saving += n_saving;
        self.n_repetition += n_repetition;
        self.n_adoption += n_adoption;
        self.n_paused += n_paused;
        self.n_failing += n_failing;
        self.n_key += n_key;
        self.n_concurrency += n_concurrency;
        self.n_rate += n_rate;
        self.n_aside += n_aside;
        self.n_worker += n_worker;
        self.n_turn += n_turn;
        self.n_running += n_running;
        self.n_ended += n_ended;
    }
}
