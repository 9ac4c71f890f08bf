//! The promises, each with a checker that looks at everything that happens.
//!
//! A promise has its own file under `check/` and a line in [`all`].

mod bounded;
mod durable_reply;
mod explained;
mod fair_share;
mod isolation;
mod key_order;
mod no_blocking;
mod no_loss;
mod no_needless_rerun;
mod one_key_one_task;
mod one_lease;
mod outage_is_not_failure;
mod poison_alone;
mod promptness;
mod stale_is_refused;

use std::{fmt::Debug, sync::Arc};

use scheduler_core::{Config, Pipeline, PipelineNumber, TaskId, Timestamp};

use crate::{fact::Fact, log::Log, store::Store};

/// What checkers may look at beside what happens: the truth.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Truth<'a> {
    pub(crate) now: Timestamp,
    pub(crate) config: &'a Config,
    pub(crate) log: &'a Log,
    pub(crate) store: &'a Store,
    pub(crate) pipelines: &'a [Arc<Pipeline>],
}

impl<'a> Truth<'a> {
    pub(crate) fn pipeline(&self, number: PipelineNumber) -> Option<&'a Pipeline> {
        let mut all = self.pipelines.iter();
        all.find(|pipeline| pipeline.number == number)
            .map(Arc::as_ref)
    }
}

/// A promise that was not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Which one.
    pub promise: &'static str,
    /// For which task, if it is about one.
    pub task: Option<TaskId>,
    /// How.
    pub why: String,
}

/// What a checker finds: for which task, if any, and what is wrong.
pub(crate) type Found = Result<(), (Option<TaskId>, String)>;

/// Watches over one promise.
pub(crate) trait Check: Debug {
    /// The promise, as `docs/guarantees.md` names it.
    fn promise(&self) -> &'static str;

    /// Looks at what happened.
    fn see(&mut self, fact: &Fact, truth: Truth<'_>) -> Found;

    /// Looks once faults are over and some tasks never end by intention.
    fn at_rest(&mut self, _truth: Truth<'_>) -> Found {
        Ok(())
    }

    /// Looks when everything should have ended.
    fn at_end(&mut self, _truth: Truth<'_>) -> Found {
        Ok(())
    }
}

/// One checker per promise.
pub(crate) fn all() -> Vec<Box<dyn Check>> {
    vec![
        Box::new(no_loss::NoLoss::default()),
        Box::new(durable_reply::DurableReply::default()),
        Box::new(one_lease::OneLease::default()),
        Box::new(stale_is_refused::StaleIsRefused::default()),
        Box::new(no_needless_rerun::NoNeedlessRerun::default()),
        Box::new(no_blocking::NoBlocking),
        Box::new(bounded::Bounded),
        Box::new(isolation::Isolation),
        Box::new(promptness::Promptness::default()),
        Box::new(one_key_one_task::OneKeyOneTask::default()),
        Box::new(key_order::KeyOrder),
        Box::new(fair_share::FairShare::default()),
        Box::new(poison_alone::PoisonAlone),
        Box::new(outage_is_not_failure::OutageIsNotFailure::default()),
        Box::new(explained::Explained),
    ]
}

pub(crate) fn broken(task: TaskId, why: impl Into<String>) -> Found {
    Err((Some(task), why.into()))
}
