//! Cancelling many tasks of a pipeline, and counting them before.

use std::collections::BTreeMap;

use tokio::task::JoinSet;

use super::{Scheduler, unreachable_port};
use crate::{
    CancelFilter, CancelId, CancelProgress, CancelRequest, Error, Invalid, ListTasks, Offset,
    Pipeline, PipelinePath, ShardId, StateName,
    member::shards_of,
    port::{PortError, log::Bounds},
    task::fnv1a,
};

/// How many tasks a preview looks at.
const PREVIEW_MAX: usize = 100_000;
/// How many of them at once.
const PAGE: usize = 1_000;

/// A wish to cancel many tasks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CancelMany {
    /// Which.
    pub filter: CancelFilter,
    /// That all tasks are meant, where the filter leaves out none.
    pub all: bool,
    /// Names the bulk cancel. A call with the id and the filter of an earlier one is about that one, for an hour after
    /// it is over: it tells how far it is, and takes no tasks that were accepted since. Without it, a new one.
    pub id: Option<CancelId>,
}

/// A bulk cancel that is durable: no task that it covers starts any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BulkCancel {
    /// Its id: asks how far it is.
    pub id: CancelId,
    /// How far it is.
    pub progress: CancelProgress,
}

/// What a bulk cancel would be about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CancelPreview {
    /// Tasks in memory and in the store that fit, by their state.
    pub n_found: BTreeMap<StateName, u64>,
    /// At most so many more: tasks of the backlog, which nobody has looked at.
    pub n_backlog_max: u64,
    /// Whether there are more tasks than a preview looks at, so that more may fit.
    pub has_more: bool,
}

impl Scheduler {
    /// Cancels all tasks of a pipeline that fit a filter and were accepted before the call: see ADR 9. Once it is
    /// answered, none of them starts any more; they end as they are found.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` for a filter that is none, or that is empty without [`CancelMany::all`]; `WrongState` if the
    /// id is that of another filter; `Overloaded` if too many are not over. After any other error some partitions may have
    /// it: the same call with the same id goes on.
    pub async fn cancel_many(
        &self,
        path: &PipelinePath,
        wish: CancelMany,
    ) -> Result<BulkCancel, Error> {
        let pipeline = self.find_pipeline(path)?;
        check(&wish.filter)?;
        if wish.filter.is_all() && !wish.all {
            let rule = "is empty, which means all tasks of the pipeline; say so with all";
            return Err(Invalid::new("filter", rule).into());
        }
        let bounds = self.ends_of(&pipeline).await?;
        let id = match wish.id {
            Some(id) => id,
            None => self.new_id(&wish.filter, &bounds)?,
        };
        let mut calls = JoinSet::new();
        for (shard, below) in bounds {
            let this = self.clone();
            let request = CancelRequest {
                id: id.clone(),
                filter: wish.filter.clone(),
                below,
            };
            calls.spawn(async move { this.shared.route.cancel_many(shard, request).await });
        }
        let mut progress = CancelProgress {
            n_cancelled: 0,
            is_over: true,
        };
        while let Some(answer) = calls.join_next().await {
            // A call that panicked has no answer.
            let unknown = |_| Error::UnknownOutcome {
                what: format!("bulk cancel {id}").into(),
            };
            progress.add(answer.map_err(unknown)??);
        }
        Ok(BulkCancel { id, progress })
    }

    /// The ends of a pipeline's logs. They are read after the call began, so what was accepted before lies below them.
    async fn ends_of(&self, pipeline: &Pipeline) -> Result<Vec<(ShardId, Offset)>, Error> {
        let shards: Vec<_> = shards_of(pipeline).collect();
        let bounds = self.shared.ports.log.bounds(&shards).await;
        let end = |(shard, bounds): (&ShardId, Result<Bounds, PortError>)| {
            let bounds = bounds.map_err(|err| unreachable_port("the log", &err))?;
            Ok((*shard, bounds.end))
        };
        shards.iter().zip(bounds).map(end).collect()
    }

    /// An id of what is wanted and when: two calls with one id want the same.
    fn new_id(&self, filter: &CancelFilter, ends: &[(ShardId, Offset)]) -> Result<CancelId, Error> {
        let now = self.shared.ports.clock.now().as_millis();
        let wanted = fnv1a(format!("{filter:?} {ends:?}").bytes());
        Ok(CancelId::try_from(
            format!("{now:x}-{wanted:016x}").as_str(),
        )?)
    }

    /// Counts what a bulk cancel would be about, and changes nothing.
    ///
    /// # Errors
    /// `NotFound`, `Invalid`.
    pub async fn preview_cancel(
        &self,
        path: &PipelinePath,
        filter: &CancelFilter,
    ) -> Result<CancelPreview, Error> {
        let pipeline = self.find_pipeline(path)?;
        check(filter)?;
        let is_wanted = |state: &StateName| filter.takes(*state);
        let mut list = ListTasks {
            states: StateName::ALL.into_iter().filter(is_wanted).collect(),
            since: filter.accepted_from,
            limit: PAGE,
            page_token: None,
        };
        let default = pipeline.spec.defaults.group.as_ref();
        let mut preview = CancelPreview::default();
        for n_pages in 1.. {
            let page = self.list(path, list.clone()).await?;
            for task in &page.tasks {
                let options = task.options.as_deref();
                let own = options.and_then(|options| options.group.as_ref());
                if filter.fits(task.accepted_at, options, own.or(default)) {
                    *preview.n_found.entry(task.state).or_default() += 1;
                }
            }
            preview.n_backlog_max = page.backlog;
            list.page_token = page.next_page_token;
            preview.has_more = list.page_token.is_some();
            if !preview.has_more || n_pages * PAGE >= PREVIEW_MAX {
                break;
            }
        }
        Ok(preview)
    }
}

fn check(filter: &CancelFilter) -> Result<(), Invalid> {
    let checked = filter.validate();
    checked.map_err(|fault| fault.within("filter"))
}
