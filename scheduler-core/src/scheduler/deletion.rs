//! Deletions: what a pipeline has is removed step by step, and its row last, so that its name is free only
//! once nothing of it is left. Each step can be done again, by whoever goes on after a crash.

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::sync::watch;

use super::{
    Scheduler, Shared,
    directory::{Directory, lock, wait_for},
    unreachable_port,
};
use crate::{
    Error, Mode, Partition, Pipeline, PipelineNumber, PipelinePath, ShardId,
    driver::Handle,
    member::shards_of,
    port::{
        catalog::{Change, Changed},
        log::Bounds,
    },
};

/// How long a call waits for the end of a deletion that it has begun. Without tasks it takes some round
/// trips, and a member elsewhere learns of it within its look at the catalogue.
const WAIT: Duration = Duration::from_secs(5);
/// How often it is looked whether the last tasks of a deleted pipeline have ended: soon for a person, and
/// rare beside what their end costs.
const LOOK: Duration = Duration::from_secs(2);

/// How a deletion stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// Nothing of the pipeline is left, and its name is free.
    Done,
    /// It takes no more tasks. It goes on by itself: a task that was accepted meanwhile ends first, or the
    /// member that carries it out is away.
    Pending,
}

impl Scheduler {
    /// Deletes a pipeline whose tasks have all ended, with their results. What begins here is carried on by
    /// the members, whatever becomes of this process.
    ///
    /// # Errors
    /// `NotFound`, or `WrongState` while a task of it has not ended.
    ///
    /// # Cancel safety
    /// A dropped call may have begun the deletion; another one waits for it.
    pub async fn delete_pipeline(&self, path: &PipelinePath) -> Result<Deleted, Error> {
        let pipeline = self.find_pipeline(path)?;
        if pipeline.mode != Mode::Deleting {
            self.check_idle(&pipeline).await?;
            let change = Change::SetMode {
                path: path.clone(),
                number: pipeline.number,
                mode: Mode::Deleting,
            };
            match self.shared.change(change).await? {
                Changed::Done(_) | Changed::Deleting => {}
                Changed::Exists | Changed::Missing | Changed::NotEmpty | Changed::Stale(_) => {
                    return Err(Error::not_found("pipeline", &path.pipeline));
                }
            }
        }
        let mut directory = self.shared.directory.subscribe();
        let is_gone = |directory: &Arc<Directory>| !directory.has(pipeline.number);
        let clock = &self.shared.ports.clock;
        tokio::select! {
            // The sender lives as long as this handle, so this cannot fail.
            _ = directory.wait_for(is_gone) => Ok(Deleted::Done),
            () = clock.sleep_until(clock.now() + WAIT) => Ok(Deleted::Pending),
        }
    }

    async fn check_idle(&self, pipeline: &Pipeline) -> Result<(), Error> {
        let counts = self.shared.count(pipeline, None).await?;
        if !counts.absent.is_empty() {
            return Err(Error::moved());
        }
        let backlog = self.shared.backlog_of(pipeline, &counts).await?;
        if backlog > 0 || counts.n_window > 0 || counts.has_parked {
            let what =
                "the pipeline has tasks that have not ended; cancel them or let them end first";
            return Err(Error::WrongState(what.to_owned()));
        }
        Ok(())
    }
}

impl Shared {
    /// Carries a deletion on as far as it goes now; true once it is over.
    async fn delete(&self, pipeline: &Pipeline) -> Result<bool, Error> {
        let of_log = |err| unreachable_port("the log", &err);
        if !self.is_deleting(pipeline).await? {
            return Ok(true);
        }
        let known = lock(&self.closed).get(&pipeline.number).cloned();
        let bounds = match known {
            Some(bounds) => Some(bounds),
            None => self.ports.log.close(pipeline).await.map_err(of_log)?,
        };
        if let Some(bounds) = bounds {
            lock(&self.closed).insert(pipeline.number, bounds.clone());
            if !self.has_ended(pipeline, &bounds).await? {
                return Ok(false);
            }
            // From here on the log may be gone, and only closing it again tells.
            lock(&self.closed).remove(&pipeline.number);
            // Its name may be another pipeline's by now, if another member was faster.
            if !self.is_deleting(pipeline).await? {
                return Ok(true);
            }
            self.ports.log.remove(pipeline).await.map_err(of_log)?;
        }
        let forgotten = self.ports.store.forget(pipeline.number).await;
        forgotten.map_err(|err| unreachable_port("the store", &err))?;
        let change = Change::DeletePipeline {
            path: pipeline.path.clone(),
            number: pipeline.number,
        };
        // Missing: another member was faster.
        self.change(change).await?;
        Ok(true)
    }

    /// Whether every task that its closed log took has ended.
    async fn has_ended(&self, pipeline: &Pipeline, bounds: &[Bounds]) -> Result<bool, Error> {
        let counts = self.count(pipeline, None).await?;
        let is_read = |(id, bounds): (ShardId, &Bounds)| {
            let next = counts.next_offsets.iter().find(|(of, _)| *of == id);
            next.is_some_and(|(_, next)| *next >= bounds.end)
        };
        let is_read = shards_of(pipeline).zip(bounds).all(is_read);
        let is_counted = counts.absent.is_empty();
        Ok(is_read && is_counted && counts.n_window == 0 && !counts.has_parked)
    }

    /// Asks the catalogue itself: what this process remembers may be outdated.
    async fn is_deleting(&self, pipeline: &Pipeline) -> Result<bool, Error> {
        let snapshot = self.ports.catalog.snapshot().await;
        let snapshot = snapshot.map_err(|err| unreachable_port("the catalogue", &err))?;
        let mut all = snapshot.pipelines.iter();
        let found = all.find(|found| found.number == pipeline.number);
        Ok(found.is_some_and(|found| found.mode == Mode::Deleting))
    }

    /// Carries on the deletions that are this member's: those of pipelines whose first partition it owns. So
    /// there is one at a time, but for a member that does not know yet that it was replaced.
    async fn delete_all(&self) {
        let deleting = self.directory.borrow().deleting();
        let numbers: BTreeSet<_> = deleting.iter().map(|pipeline| pipeline.number).collect();
        lock(&self.closed).retain(|number, _| numbers.contains(number));
        for pipeline in deleting
            .iter()
            .filter(|pipeline| self.is_first(pipeline.number))
        {
            let path = &pipeline.path;
            match self.delete(pipeline).await {
                Ok(true) => tracing::info!(pipeline = %path, "pipeline deleted"),
                Ok(false) => {
                    tracing::debug!(pipeline = %path, "the last tasks of a deleted pipeline run");
                }
                Err(err) => {
                    tracing::warn!(%err, pipeline = %path, "cannot carry on a deletion; it is tried again");
                }
            }
        }
        if !deleting.is_empty()
            && let Err(err) = self.refresh().await
        {
            tracing::warn!(%err, "cannot read the catalogue");
        }
    }

    fn is_first(&self, pipeline: PipelineNumber) -> bool {
        let partition = Partition(0);
        let first = ShardId {
            pipeline,
            partition,
        };
        let driver = self.driver.as_ref();
        driver.is_some_and(|driver| driver.owns(first.slot()))
    }
}

/// Carries deletions on for as long as the scheduler lives.
pub(super) async fn carry_on(shared: Weak<Shared>) {
    let Some((mut directory, clock)) = shared.upgrade().map(|shared| {
        (
            shared.directory.subscribe(),
            Arc::clone(&shared.ports.clock),
        )
    }) else {
        return;
    };
    loop {
        let is_due = directory.borrow_and_update().has_deleting();
        let Some(stopped) = shared.upgrade().map(|shared| {
            let driver = shared.driver.as_ref();
            driver.map(Handle::stopped)
        }) else {
            return;
        };
        if is_due && let Some(shared) = shared.upgrade() {
            shared.delete_all().await;
        }
        let look = is_due.then(|| clock.sleep_until(clock.now() + LOOK));
        tokio::select! {
            changed = next(&mut directory) => if changed.is_none() { return },
            Some(()) = wait_for(stopped) => return,
            Some(()) = wait_for(look) => {}
        }
    }
}

/// Waits for another directory; `None` once there will be none.
async fn next(directory: &mut watch::Receiver<Arc<Directory>>) -> Option<()> {
    directory.changed().await.ok()
}
