//! How many tasks wait: in lines that are open, in those of groups at a limit, and before another one.

use std::collections::BTreeSet;

use super::{ClassId, Closed, Line, LineId, Rank, Ready};
use crate::{Label, explain::Ahead};

/// As a line was counted.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counted {
    closed: Option<Closed>,
    n: usize,
}

/// How many wait in lines of groups at a limit, those included that have left for another reason.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::shard) struct Shut {
    /// As many of the group run as may.
    pub(in crate::shard) n_full: usize,
    /// As many of the group have started lately as may.
    pub(in crate::shard) n_until: usize,
}

impl Ready {
    /// How many wait in lines of groups at a limit.
    pub(in crate::shard) fn shut(&self) -> Shut {
        self.shut
    }

    /// How many wait in open lines for a worker that is not there.
    pub(in crate::shard) fn n_without(
        &self,
        has_worker: impl Fn(&BTreeSet<Label>, u16) -> bool,
    ) -> usize {
        let waits = self.classes.iter().filter(|class| class.n_open > 0);
        let without = waits.filter(|class| !has_worker(&class.needs.labels, class.needs.cost));
        without.map(|class| class.n_open).sum()
    }

    /// How many go before a task of this rank: about, as if ranks were spread evenly over those that wait.
    pub(in crate::shard) fn ahead_of(&self, rank: Rank) -> Ahead {
        let firsts = self.classes.iter().filter_map(|class| class.board.first());
        let first = firsts.map(|(rank, _)| rank.at).min().unwrap_or(rank.at);
        let at_most = self.n_tickets.saturating_sub(1) as u64;
        let span = self.last_rank.saturating_sub(first);
        let passed = rank.at.saturating_sub(first);
        let share = u128::from(passed) * u128::from(at_most);
        let about = share.checked_div(u128::from(span)).unwrap_or(0);
        Ahead {
            about: u64::try_from(about).unwrap_or(u64::MAX).min(at_most),
            at_most,
        }
    }

    /// Counts the tasks of a line where its group stands now.
    pub(super) fn count_line(&mut self, id: LineId, closed: Option<Closed>) {
        let Line {
            class,
            tasks,
            counted,
            ..
        } = &mut self.lines[id as usize];
        let now = Counted {
            closed,
            n: tasks.len(),
        };
        let before = std::mem::replace(counted, now);
        let class = *class;
        *self.counter(class, before.closed) -= before.n;
        *self.counter(class, now.closed) += now.n;
    }

    fn counter(&mut self, class: ClassId, closed: Option<Closed>) -> &mut usize {
        match closed {
            None => &mut self.classes[class as usize].n_open,
            Some(Closed::Full(_)) => &mut self.shut.n_full,
            Some(Closed::Until(_)) => &mut self.shut.n_until,
        }
    }
}
