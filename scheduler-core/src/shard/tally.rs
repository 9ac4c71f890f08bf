//! What the tasks of a shard wait for, from counters that are kept as tasks change: no task is looked at.

use std::collections::BTreeSet;

use super::{Shard, limit::Closed, window::Standing};
use crate::{Label, Mode, Timestamp, explain::Tally};

impl Shard {
    /// How many tasks wait for what. `tenant` is what keeps the tenant's tasks from starting, if anything does;
    /// `has_worker` tells whether a worker asks that has these labels and so many free slots.
    #[must_use]
    pub(crate) fn tally(
        &self,
        tenant: Option<Closed>,
        has_worker: impl Fn(&BTreeSet<Label>, u16) -> bool,
        now: Timestamp,
    ) -> Tally {
        let standings = self.window.standings();
        let mut tally = Tally {
            n_running: standings.of(Standing::Running),
            n_ended: standings.of(Standing::Ended),
            n_saving: standings.of(Standing::Saving),
            n_scheduled: standings.of(Standing::Scheduled),
            n_backoff: standings.of(Standing::Backoff),
            n_repetition: standings.of(Standing::Repetition),
            n_adoption: standings.of(Standing::Adoption),
            n_aside: standings.of(Standing::Aside),
            ..Tally::default()
        };
        let (n_behind, n_free) = (standings.of(Standing::Behind), standings.of(Standing::Free));
        if matches!(self.mode, Mode::Paused { .. }) {
            tally.n_paused = n_behind + n_free;
            return tally;
        }
        tally.n_key = n_behind;
        if self.outage.probing().is_some() {
            tally.n_failing = n_free;
        } else if let Some(closed) = self.gauge.closed(&self.limits.all, now) {
            *limited(&mut tally, closed) += n_free;
        } else {
            // Lines may hold tickets of tasks that have left, so none says more than there are.
            let shut = self.ready.shut();
            tally.n_concurrency = shut.n_full.min(n_free);
            tally.n_rate = shut.n_until.min(n_free - tally.n_concurrency);
            let n_open = n_free - tally.n_concurrency - tally.n_rate;
            if let Some(closed) = tenant {
                *limited(&mut tally, closed) += n_open;
            } else {
                tally.n_worker = self.ready.n_without(has_worker).min(n_open);
                tally.n_turn = n_open - tally.n_worker;
            }
        }
        tally
    }
}

fn limited(tally: &mut Tally, closed: Closed) -> &mut usize {
    match closed {
        Closed::Full(_) => &mut tally.n_concurrency,
        Closed::Until(_) => &mut tally.n_rate,
    }
}
