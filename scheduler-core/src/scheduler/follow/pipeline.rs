//! Following a pipeline: all who follow it in this process share one look a second.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, broadcast, broadcast::error::RecvError};

use super::Shared;
use crate::{
    Error, PipelineNumber, PipelinePath, Scheduler, ShardId,
    scheduler::PipelineStats,
    survey::{Change, Heard, ShardSurvey},
};

/// How often members are asked.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The most changes that are told at once.
const CHANGES_MAX: usize = 500;
/// So many events are kept for those who read slowly.
const KEPT: usize = 8;

/// What happened in a pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PipelineEvent {
    /// It stands otherwise than before.
    Stats(Arc<PipelineStats>),
    /// Tasks changed.
    Changes(TaskChanges),
}

/// Tasks that changed, in the order in which each shard noted it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskChanges {
    /// At most 500 changes, the newest of those since the event before.
    pub list: Arc<[Change]>,
    /// So many more there were, which are not told.
    pub n_missed: u64,
}

/// What all who follow a pipeline are told.
#[derive(Debug, Clone)]
enum Told {
    Stats(Arc<PipelineStats>),
    /// Changes, and how many there have been so far with these.
    Changes(Arc<[Change]>, u64),
    Over(Error),
}

/// One that looks for all.
#[derive(Debug)]
struct Hub {
    tell: broadcast::Sender<Told>,
    last: Option<Arc<PipelineStats>>,
    n_changes: u64,
}

/// The pipelines that are followed in this process.
#[derive(Debug, Default)]
pub(in crate::scheduler) struct Hubs(Mutex<BTreeMap<PipelineNumber, Hub>>);

impl Hubs {
    fn with<T>(&self, change: impl FnOnce(&mut BTreeMap<PipelineNumber, Hub>) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Shows how a pipeline stands and which tasks change.
#[derive(Debug)]
pub struct PipelineWatch {
    told: broadcast::Receiver<Told>,
    first: Option<Arc<PipelineStats>>,
    /// So many changes have been told or counted as missed.
    n_changes: u64,
    _place: OwnedSemaphorePermit,
}

impl Scheduler {
    /// Follows a pipeline: how it stands now and whenever that changes, and which tasks change, at most once a second
    /// each. Not every change is told.
    ///
    /// # Errors
    /// `NotFound`; `Overloaded`, if too many are followed already.
    pub fn watch_pipeline(&self, path: &PipelinePath) -> Result<PipelineWatch, Error> {
        let number = self.find_pipeline(path)?.number;
        let place = self.shared.watch_place()?;
        Ok(self.shared.hubs.with(|hubs| {
            let hub = hubs.entry(number).or_insert_with(|| {
                let (tell, _) = broadcast::channel(KEPT);
                tokio::spawn(look(Arc::downgrade(&self.shared), number));
                Hub {
                    tell,
                    last: None,
                    n_changes: 0,
                }
            });
            PipelineWatch {
                told: hub.tell.subscribe(),
                first: hub.last.clone(),
                n_changes: hub.n_changes,
                _place: place,
            }
        }))
    }
}

impl PipelineWatch {
    /// The next event; `None` when the scheduler is gone.
    ///
    /// # Errors
    /// `NotFound`, once the pipeline is deleted. Nothing comes after an error.
    ///
    /// # Cancel safety
    /// Dropping it loses nothing.
    pub async fn next(&mut self) -> Result<Option<PipelineEvent>, Error> {
        if let Some(first) = self.first.take() {
            return Ok(Some(PipelineEvent::Stats(first)));
        }
        loop {
            return match self.told.recv().await {
                Ok(Told::Stats(stats)) => Ok(Some(PipelineEvent::Stats(stats))),
                Ok(Told::Changes(list, n)) => {
                    let n_new = n.saturating_sub(self.n_changes);
                    self.n_changes = n;
                    let n_missed = n_new.saturating_sub(list.len() as u64);
                    Ok(Some(PipelineEvent::Changes(TaskChanges { list, n_missed })))
                }
                Ok(Told::Over(error)) => Err(error),
                // What was in the events that are lost is counted by the next one.
                Err(RecvError::Lagged(_)) => continue,
                Err(RecvError::Closed) => Ok(None),
            };
        }
    }
}

/// Looks at a pipeline for as long as somebody follows it.
async fn look(shared: Weak<Shared>, number: PipelineNumber) {
    let mut ear = Ear::default();
    loop {
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let clock = Arc::clone(&shared.ports.clock);
        let next_at = clock.now() + LOOK_EVERY;
        let pipeline = shared.directory.borrow().by_number.get(&number).cloned();
        let Some(pipeline) = pipeline else {
            let gone = Told::Over(Error::not_found("pipeline", number.0));
            // Whoever is no longer there needs not be told.
            let tell = |hub: Hub| hub.tell.send(gone).ok();
            shared.hubs.with(|hubs| hubs.remove(&number).map(tell));
            return;
        };
        match shared.look_at(&pipeline, Some(ear.heard.clone())).await {
            Ok((stats, seen)) => {
                let changes = ear.hear(&seen);
                let told = shared.hubs.with(|hubs| tell(hubs, number, stats, changes));
                if told.is_none() {
                    return;
                }
            }
            // It may pass; meanwhile nothing is known.
            Err(error) => {
                tracing::debug!(%error, pipeline = number.0, "cannot look at a pipeline");
                if !shared.hubs.with(|hubs| is_followed(hubs, number)) {
                    return;
                }
            }
        }
        drop(shared);
        clock.sleep_until(next_at).await;
    }
}

/// Whether somebody follows a pipeline; otherwise it is followed no longer.
fn is_followed(hubs: &mut BTreeMap<PipelineNumber, Hub>, number: PipelineNumber) -> bool {
    let hub = hubs.get(&number);
    let is_followed = hub.is_some_and(|hub| hub.tell.receiver_count() > 0);
    if !is_followed {
        hubs.remove(&number);
    }
    is_followed
}

/// Tells those who follow a pipeline; `None` if there are none any more.
fn tell(
    hubs: &mut BTreeMap<PipelineNumber, Hub>,
    number: PipelineNumber,
    stats: PipelineStats,
    (list, n_new): (Vec<Change>, u64),
) -> Option<()> {
    if !is_followed(hubs, number) {
        return None;
    }
    let hub = hubs.get_mut(&number)?;
    // Receivers that have gone meanwhile need not be told.
    if hub.last.as_deref() != Some(&stats) {
        let stats = Arc::new(stats);
        hub.last = Some(Arc::clone(&stats));
        hub.tell.send(Told::Stats(stats)).ok();
    }
    if n_new > 0 {
        hub.n_changes += n_new;
        hub.tell
            .send(Told::Changes(list.into(), hub.n_changes))
            .ok();
    }
    Some(())
}

/// What was heard of each shard.
#[derive(Debug, Default)]
struct Ear {
    heard: BTreeMap<ShardId, Heard>,
}

impl Ear {
    /// The newest changes that are new, and how many are.
    fn hear(&mut self, seen: &[ShardSurvey]) -> (Vec<Change>, u64) {
        let mut changes: Vec<Change> = Vec::new();
        let mut n_new = 0;
        for shard in seen {
            let heard = Heard {
                epoch: shard.epoch,
                n: shard.changes.n,
            };
            // Before the first look nobody listened, so what was noted then was for others.
            if let Some(before) = self.heard.insert(shard.shard, heard) {
                let is_same = before.epoch == heard.epoch;
                let n_before = if is_same { before.n } else { 0 };
                n_new += heard.n.saturating_sub(n_before);
                changes.extend(&shard.changes.list);
            }
        }
        changes.sort_by_key(|change| change.at);
        let n_over = changes.len().saturating_sub(CHANGES_MAX);
        changes.drain(..n_over);
        (changes, n_new)
    }
}
