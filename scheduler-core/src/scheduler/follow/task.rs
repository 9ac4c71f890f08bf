//! Following one task to its end.

use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use crate::{
    Error, Scheduler, TaskId, TaskView, TenantName, Timestamp, owner::shape_of, task::fnv1a,
};

/// How often a watch looks at what changes without a notice: why a task waits, and who owns its shard.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How far views are apart at least: what changes faster is seen less often.
const SPACING: Duration = Duration::from_millis(100);
/// How long a watch rests after the owner could not be asked.
const AGAIN: Duration = Duration::from_millis(500);

/// Shows a task whenever something of it has changed, until it has ended.
#[derive(Debug)]
pub struct TaskWatch {
    scheduler: Scheduler,
    tenant: TenantName,
    id: TaskId,
    first: Option<TaskView>,
    /// What the reader has seen last.
    seen: Option<u64>,
    /// As the owner would say that it stands.
    shape: u64,
    /// No sooner than this is the next view.
    next_at: Timestamp,
    is_over: bool,
    _place: OwnedSemaphorePermit,
}

impl Scheduler {
    /// Follows a task: as it stands now, and whenever that changes. A reader that says what it has
    /// [seen](TaskView::digest) before is not shown that again.
    ///
    /// # Errors
    /// As [`get`](Self::get); `Overloaded`, if too many are followed already.
    pub async fn watch_task(
        &self,
        tenant: &TenantName,
        id: TaskId,
        seen: Option<u64>,
    ) -> Result<TaskWatch, Error> {
        // What does not exist takes no place.
        let first = self.get(tenant, id).await?;
        Ok(TaskWatch {
            shape: shape(&first),
            is_over: first.state.is_terminal() && seen == Some(first.digest()),
            first: Some(first),
            scheduler: self.clone(),
            tenant: tenant.clone(),
            id,
            seen,
            next_at: Timestamp::EPOCH,
            _place: self.shared.watch_place()?,
        })
    }
}

impl TaskWatch {
    /// Whether there is nothing more to come: the end has been shown, to this reader or to one before.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// The next view; `None` after that of its end.
    ///
    /// # Errors
    /// As [`Scheduler::get`], but for what passes. Nothing comes after an error.
    ///
    /// # Cancel safety
    /// Dropping it loses nothing.
    pub async fn next(&mut self) -> Result<Option<TaskView>, Error> {
        let clock = self.scheduler.shared.ports.clock.clone();
        while !self.is_over {
            clock.sleep_until(self.next_at).await;
            let read = match self.first.take() {
                Some(first) => Ok(first),
                None => self.scheduler.get(&self.tenant, self.id).await,
            };
            let view = match read {
                Ok(view) => view,
                Err(Error::Unavailable { .. } | Error::Overloaded { .. }) => {
                    self.next_at = clock.now() + AGAIN;
                    continue;
                }
                Err(error) => {
                    self.is_over = true;
                    return Err(error);
                }
            };
            self.shape = shape(&view);
            self.next_at = clock.now() + SPACING;
            let digest = Some(view.digest());
            self.is_over = view.state.is_terminal();
            if self.seen != digest {
                self.seen = digest;
                return Ok(Some(view));
            }
            if self.is_over {
                break;
            }
            let route = &self.scheduler.shared.route;
            let waited = route.await_change(self.id, self.shape, LOOK_EVERY).await;
            if waited.is_err() {
                // Another owner is coming.
                self.next_at = clock.now() + AGAIN;
            }
        }
        Ok(None)
    }
}

fn shape(view: &TaskView) -> u64 {
    shape_of(view.state, view.attempt, view.progress.as_deref())
}

impl TaskView {
    /// Another one when something is shown otherwise that a watch shows: state, attempt, worker, progress, errors, when it
    /// is due, and what it waits for. FNV-1a, 64 bit.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let numbers = [
            shape(self),
            self.due_at.map_or(0, Timestamp::as_millis),
            self.errors.len() as u64,
            self.errors.last().map_or(0, |error| error.at.as_millis()),
        ];
        let worker = self.worker.as_ref().map_or("", |worker| worker.as_str());
        let reason = self.waits.as_ref().map_or("", |waits| &waits.reason);
        let numbers = numbers.into_iter().flat_map(u64::to_be_bytes);
        fnv1a(
            numbers
                .chain(worker.bytes())
                .chain([0])
                .chain(reason.bytes()),
        )
    }
}
