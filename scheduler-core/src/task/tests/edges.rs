//! Which edges of the state chart are taken: by every task of the test's thread.

use std::{cell::RefCell, collections::BTreeSet};

use super::{chart, shown};
use crate::{
    Outcome,
    task::{event::Event, state::Task},
};

/// From which state, by which event, to which state.
pub(crate) type Edge = (&'static str, &'static str, &'static str);

thread_local! {
    static TAKEN: RefCell<BTreeSet<Edge>> = const { RefCell::new(BTreeSet::new()) };
}

/// An edge of which the end is not known yet.
pub(crate) struct Begun {
    from: &'static str,
    event: &'static str,
}

impl Begun {
    pub(super) fn to(self, task: &Task) -> Edge {
        (self.from, self.event, shown(task))
    }
}

pub(crate) fn begin(task: &Task, event: &Event) -> Begun {
    let event = match event {
        Event::Leased {
            is_offer: false, ..
        } => "leased",
        Event::Leased { is_offer: true, .. } => "offered",
        Event::Adopted { .. } => "adopted",
        Event::Renewed { .. } => "renewed",
        Event::Reported { outcome, .. } => match outcome {
            Outcome::Completed { .. } => "reported completed",
            Outcome::Failed(_) => "reported failed",
            Outcome::Interrupted => "reported interrupted",
            Outcome::Snoozed(_) => "reported snoozed",
        },
        Event::TimerFired => "its time comes",
        Event::CancelRequested => "cancel requested",
        Event::Redriven => "redriven",
    };
    let from = shown(task);
    Begun { from, event }
}

pub(crate) fn end(begun: Begun, task: &Task, is_taken: bool) {
    if is_taken {
        TAKEN.with_borrow_mut(|taken| taken.insert(begun.to(task)));
    }
}

/// Fails unless exactly the edges of the chart were taken since the last call on this thread.
pub(crate) fn assert_all_taken() {
    let taken = TAKEN.take();
    let chart = chart();
    TAKEN.take();
    let never: Vec<_> = chart.difference(&taken).collect();
    assert!(never.is_empty(), "edges that were never taken: {never:#?}");
    let unknown: Vec<_> = taken.difference(&chart).collect();
    assert!(
        unknown.is_empty(),
        "edges that the table lacks: {unknown:#?}"
    );
}
