//! Which workers are connected to a process, and what they had to offer last.

use std::collections::BTreeMap;

use crate::{
    PipelineNumber, Timestamp, WorkerId,
    call::Poll,
    survey::{PRESENT_KEPT, Present},
};

/// So many workers of one pipeline, and of all, are known at most; more are not shown.
const WORKERS_MAX: usize = 4_096;
const ALL_WORKERS_MAX: usize = 65_536;

#[derive(Debug)]
struct Known {
    present: Present,
    n_polls: usize,
}

/// The workers of one process.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    pipelines: BTreeMap<PipelineNumber, BTreeMap<WorkerId, Known>>,
    n: usize,
    swept_at: Timestamp,
}

impl Roster {
    /// A worker asks for tasks: follow it with one [`end`](Self::end).
    pub(crate) fn begin(&mut self, pipeline: PipelineNumber, poll: &Poll, now: Timestamp) {
        if now.since(self.swept_at) >= PRESENT_KEPT {
            self.sweep(now);
        }
        let workers = self.pipelines.entry(pipeline).or_default();
        if let Some(known) = workers.get_mut(&poll.worker) {
            known.n_polls += 1;
            let present = &mut known.present;
            if present.labels != poll.labels {
                present.labels.clone_from(&poll.labels);
            }
            present.credit = poll.credit;
            present.seen_at = now;
        } else if workers.len() < WORKERS_MAX && self.n < ALL_WORKERS_MAX {
            self.n += 1;
            let present = Present {
                worker: poll.worker.clone(),
                labels: poll.labels.clone(),
                credit: poll.credit,
                is_polling: true,
                since: now,
                seen_at: now,
            };
            let n_polls = 1;
            let known = Known { present, n_polls };
            workers.insert(poll.worker.clone(), known);
        }
    }

    /// It was answered, or has gone.
    pub(crate) fn end(&mut self, pipeline: PipelineNumber, worker: &WorkerId, now: Timestamp) {
        let workers = self.pipelines.get_mut(&pipeline);
        if let Some(known) = workers.and_then(|workers| workers.get_mut(worker)) {
            known.n_polls = known.n_polls.saturating_sub(1);
            known.present.seen_at = now;
        }
    }

    fn sweep(&mut self, now: Timestamp) {
        self.swept_at = now;
        self.pipelines.retain(|_, workers| {
            workers.retain(|_, known| known.is_kept(now));
            !workers.is_empty()
        });
        self.n = self.pipelines.values().map(BTreeMap::len).sum();
    }

    /// The workers of a pipeline, by name.
    pub(crate) fn read(&self, pipeline: PipelineNumber, now: Timestamp) -> Vec<Present> {
        let workers = self.pipelines.get(&pipeline).into_iter().flatten();
        let kept = workers.filter(|(_, known)| known.is_kept(now));
        let present = kept.map(|(_, known)| Present {
            is_polling: known.n_polls > 0,
            ..known.present.clone()
        });
        present.collect()
    }
}

impl Known {
    fn is_kept(&self, now: Timestamp) -> bool {
        self.n_polls > 0 || now.since(self.present.seen_at) < PRESENT_KEPT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIPELINE: PipelineNumber = PipelineNumber(1);

    fn at(s: u64) -> Timestamp {
        Timestamp::from_millis(1_000 * s)
    }

    fn poll(worker: &str, credit: usize) -> Poll {
        Poll::new(worker.try_into().unwrap(), credit)
    }

    #[test]
    fn a_worker_is_shown_while_it_polls_and_a_minute_longer() {
        let mut roster = Roster::default();
        let worker = poll("w", 3);
        roster.begin(PIPELINE, &worker, at(0));
        roster.begin(PIPELINE, &poll("w", 0), at(1));
        roster.end(PIPELINE, &worker.worker, at(5));
        let told = roster.read(PIPELINE, at(100));
        assert_eq!((told[0].credit, told[0].is_polling), (0, true));
        roster.end(PIPELINE, &worker.worker, at(110));
        let told = roster.read(PIPELINE, at(169));
        assert!(!told[0].is_polling);
        assert_eq!((told[0].since, told[0].seen_at), (at(0), at(110)));
        assert_eq!(roster.read(PIPELINE, at(170)), []);
        assert_eq!(roster.read(PipelineNumber(2), at(100)), []);
    }

    #[test]
    fn only_so_many_workers_are_known_and_those_that_left_make_room() {
        let mut roster = Roster::default();
        for n in 0..WORKERS_MAX + 10 {
            let worker = poll(&format!("w{n}"), 1);
            roster.begin(PIPELINE, &worker, at(0));
            roster.end(PIPELINE, &worker.worker, at(0));
        }
        assert_eq!(roster.read(PIPELINE, at(0)).len(), WORKERS_MAX);
        let late = poll("late", 1);
        roster.begin(PIPELINE, &late, at(100));
        let told = roster.read(PIPELINE, at(100));
        assert_eq!((told.len(), roster.n), (1, 1));
        // What was not taken is not missed when it ends.
        roster.end(PIPELINE, &poll("w4100", 1).worker, at(100));
    }
}
