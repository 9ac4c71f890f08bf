//! Reading tasks: what is in memory, in the store, or still in the log.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use data_encoding::BASE32_NOPAD_NOCASE;

use super::{Scheduler, misfit, unreachable_port};
use crate::{
    Error, Invalid, LeaseToken, Offset, Pipeline, PipelinePath, ShardId, StateName, TaskId,
    TenantName, Timestamp,
    action::Seen,
    call::{ListTasks, TaskPage, TaskView},
    explain::{Blocker, Waiting, Waits},
    member::{InMemory, shards_of},
    port::{
        log::{Record, RecordBody},
        store::{Ending, Found, ListPage, Lookup, Parked, StoredState, StoredTask},
    },
};

/// The longest list.
const LIMIT_MAX: usize = 1_000;
const LIMIT: usize = 100;
/// How often a wait looks whether the shard still has the owner that was asked.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How long a wait rests after its owner could not be asked.
const WAIT_AGAIN: Duration = Duration::from_millis(200);
/// At least so many tasks are asked of each shard, unless the page is shorter.
const LIST_SHARE_MIN: usize = 16;
/// The most bytes of a list, but at least one task of each partition may come.
const LIST_BYTES_MAX: usize = 8 << 20;

impl Scheduler {
    /// Reads a task: what is shown is durable, but for the progress.
    ///
    /// # Errors
    /// `NotFound`: unknown, or another tenant's. `Gone`: it ended and is no longer kept.
    pub async fn get(&self, tenant: &TenantName, id: TaskId) -> Result<TaskView, Error> {
        let pipeline = self.pipeline_of(tenant, id)?;
        let mut seen = self.shared.route.see(&[id]).await?;
        match seen.pop().unwrap_or(Seen::Nowhere) {
            Seen::Here {
                task,
                progress,
                waits,
            } => {
                let is_saving = waits.as_ref().is_some_and(|waits| waits.is_saving());
                // The store may have it already, and others may have seen it there.
                if is_saving
                    && let Some(view) = self.read_store(&pipeline, id).await?
                    && view.state.is_terminal()
                {
                    return Ok(view);
                }
                let mut view = view_of(&pipeline, id.shard, *task);
                view.progress = progress;
                view.waits = waits.map(|waits| *waits);
                Ok(view)
            }
            Seen::Backlog(n_before) => match self.read_log(&pipeline, id).await? {
                Some(mut view) => {
                    view.n_before = Some(n_before);
                    Ok(view)
                }
                None => Err(Error::not_found("task", id)),
            },
            Seen::Left => {
                let stored = self.read_store(&pipeline, id).await?;
                stored.ok_or_else(|| Error::Gone(id.to_string()))
            }
            Seen::Nowhere => match self.read_store(&pipeline, id).await? {
                Some(view) => Ok(view),
                None => Err(Error::moved()),
            },
        }
    }

    /// Waits until a task has ended, at most as long as given, and reads it as it then is.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn wait(
        &self,
        tenant: &TenantName,
        id: TaskId,
        wait: Duration,
    ) -> Result<TaskView, Error> {
        self.pipeline_of(tenant, id)?;
        let clock = &self.shared.ports.clock;
        let until = clock.now() + wait;
        loop {
            let wait = until.since(clock.now()).min(LOOK_EVERY);
            let waited = self.shared.route.await_end(id, wait).await;
            let view = self.get(tenant, id).await;
            let has_ended = view.as_ref().is_ok_and(|view| view.state.is_terminal());
            let can_come = matches!(view, Ok(_) | Err(Error::Unavailable { .. }));
            if has_ended || !can_come || clock.now() >= until {
                return view;
            }
            if waited.is_err() {
                // The owner is away or another one is coming: it may be there before the time is over.
                clock.sleep_until(until.min(clock.now() + WAIT_AGAIN)).await;
            }
        }
    }

    /// Lists the tasks of a pipeline that have left the backlog, newest first, and counts the backlog.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` for a limit or page token that is none.
    pub async fn list(&self, path: &PipelinePath, query: ListTasks) -> Result<TaskPage, Error> {
        let pipeline = self.find_pipeline(path)?;
        let limit = match query.limit {
            0 => LIMIT,
            limit if limit <= LIMIT_MAX => limit,
            _ => return Err(Invalid::new("limit", "must be 1 to 1000").into()),
        };
        let mut below = match &query.page_token {
            Some(token) => decode_token(token, &pipeline)?,
            None => shards_of(&pipeline).map(|id| (id, None)).collect(),
        };
        let size = PageSize::of(limit, below.len().max(1));
        // Memory first: what leaves it meanwhile is found in the store, and what comes back is seen there.
        let in_memory = InMemory {
            states: query.states.clone(),
            below: below.clone(),
            n_max: size.n_max,
            bytes_max: size.bytes_max,
        };
        let mut counts = self.shared.count(&pipeline, Some(in_memory)).await?;
        let mut pages = pages_of(std::mem::take(&mut counts.tasks), size);
        let stored = self.list_stored(&query, &below, size).await?;
        let newer: BTreeSet<_> = stored
            .iter()
            .flat_map(|page| &page.tasks)
            .map(|(id, _)| *id)
            .collect();
        for page in &mut pages {
            page.tasks.retain(|(id, _)| !newer.contains(id));
        }
        pages.extend(stored);
        let Merged { tasks, read_to } = merge(pages, limit);
        let next_page_token = read_to.map(|read_to| {
            for (shard, offset) in read_to {
                below.insert(shard, Some(offset));
            }
            encode_token(&below)
        });
        let since = query.since.unwrap_or(Timestamp::EPOCH);
        let tasks = tasks
            .into_iter()
            .filter(|(_, task)| task.accepted_at >= since)
            .map(|(id, task)| view_of(&pipeline, id.shard, task));
        Ok(TaskPage {
            tasks: tasks.collect(),
            next_page_token,
            backlog: self.shared.backlog_of(&pipeline, &counts).await?,
        })
    }

    async fn list_stored(
        &self,
        query: &ListTasks,
        below: &BTreeMap<ShardId, Option<Offset>>,
        size: PageSize,
    ) -> Result<Vec<Page>, Error> {
        let pages: Vec<_> = below
            .iter()
            .map(|(shard, below)| ListPage {
                shard: *shard,
                states: query.states.clone(),
                since: query.since.unwrap_or(Timestamp::EPOCH),
                below: *below,
                n_max: size.n_max,
                bytes_max: size.bytes_max,
            })
            .collect();
        let listed = self.shared.ports.store.list(&pages).await;
        let listed = listed.map_err(|err| unreachable_port("the store", &err))?;
        let pages = pages.iter().zip(listed);
        let mut pages: Vec<_> = pages
            .map(|(page, tasks)| Page::new(page.shard, tasks, size))
            .collect();
        // A row of a task that is in memory may be older than what is shown of it.
        let live: Vec<_> = pages
            .iter()
            .flat_map(|page| &page.tasks)
            .filter(|(_, task)| !task.state.name().is_terminal())
            .map(|(id, _)| *id)
            .collect();
        let seen = self.shared.route.see(&live).await?;
        let mut here: BTreeMap<_, _> = live
            .into_iter()
            .zip(seen)
            .filter_map(|(id, seen)| match seen {
                Seen::Here { task, .. } => Some((id, *task)),
                Seen::Backlog(_) | Seen::Left | Seen::Nowhere => None,
            })
            .collect();
        let is_wanted = |state| query.states.is_empty() || query.states.contains(&state);
        for page in &mut pages {
            page.tasks.retain_mut(|(id, task)| {
                if let Some(shown) = here.remove(id) {
                    *task = shown;
                }
                is_wanted(task.state.name())
            });
        }
        Ok(pages)
    }

    async fn read_store(&self, pipeline: &Pipeline, id: TaskId) -> Result<Option<TaskView>, Error> {
        let lookup = [Lookup::Task(id.shard, id.offset)];
        let found = self.shared.ports.store.get(&lookup).await;
        let found = found.map_err(|err| unreachable_port("the store", &err))?;
        Ok(match found.into_iter().next().flatten() {
            Some(Found::Task(task)) => Some(view_of(pipeline, id.shard, *task)),
            _ => None,
        })
    }

    async fn read_log(&self, pipeline: &Pipeline, id: TaskId) -> Result<Option<TaskView>, Error> {
        let read = self.shared.ports.log.read_at(&[id]).await.pop();
        let record = read.ok_or_else(misfit)?;
        let record = record.map_err(|err| unreachable_port("the log", &err))?;
        let now = self.shared.ports.clock.now();
        Ok(record.map(|record| view_of_record(pipeline, id, record, now)))
    }
}

/// How much each shard lists.
#[derive(Debug, Clone, Copy)]
struct PageSize {
    n_max: usize,
    bytes_max: usize,
}

impl PageSize {
    /// Twice the share of each shard: enough where tasks are spread evenly, and without reading a whole page
    /// of every shard. Where they are not, the page is shorter, and the next one goes on.
    fn of(limit: usize, n_shards: usize) -> Self {
        Self {
            n_max: (2 * limit.div_ceil(n_shards)).clamp(LIST_SHARE_MIN.min(limit), limit),
            bytes_max: LIST_BYTES_MAX / n_shards,
        }
    }
}

/// What one shard listed, from the store or from memory.
#[derive(Debug)]
struct Page {
    tasks: Vec<(TaskId, StoredTask)>,
    /// There may be more behind this place.
    cut_at: Option<Place>,
}

/// Where a task stands in a list of all shards.
type Place = (Timestamp, Offset, ShardId);

fn place((id, task): &(TaskId, StoredTask)) -> Place {
    (task.accepted_at, id.offset, id.shard)
}

impl Page {
    fn new(shard: ShardId, tasks: Vec<StoredTask>, size: PageSize) -> Self {
        let n_bytes: usize = tasks.iter().map(StoredTask::n_bytes).sum();
        let is_cut = tasks.len() >= size.n_max || n_bytes >= size.bytes_max;
        let with_id = |task: StoredTask| {
            let offset = task.offset;
            (TaskId { shard, offset }, task)
        };
        let tasks: Vec<_> = tasks.into_iter().map(with_id).collect();
        let cut_at = tasks.last().filter(|_| is_cut).map(place);
        Self { tasks, cut_at }
    }
}

/// What pages show together.
#[derive(Debug)]
struct Merged {
    tasks: Vec<(TaskId, StoredTask)>,
    /// If there may be more: for the shards that were read, how far.
    read_to: Option<Vec<(ShardId, Offset)>>,
}

/// The pages of what is in memory.
fn pages_of(tasks: Vec<(ShardId, StoredTask)>, size: PageSize) -> Vec<Page> {
    let mut by_shard: BTreeMap<ShardId, Vec<StoredTask>> = BTreeMap::new();
    for (shard, task) in tasks {
        by_shard.entry(shard).or_default().push(task);
    }
    let pages = by_shard.into_iter();
    pages
        .map(|(shard, tasks)| Page::new(shard, tasks, size))
        .collect()
}

/// Merges pages, newest first, as far as all of them are known.
fn merge(pages: Vec<Page>, limit: usize) -> Merged {
    let known_to = pages.iter().filter_map(|page| page.cut_at).max();
    let mut tasks: Vec<_> = pages.into_iter().flat_map(|page| page.tasks).collect();
    tasks.retain(|task| known_to.is_none_or(|known_to| place(task) >= known_to));
    tasks.sort_by_key(|task| Reverse(place(task)));
    let is_long = tasks.len() > limit;
    tasks.truncate(limit);
    if !is_long && known_to.is_none() {
        return Merged {
            tasks,
            read_to: None,
        };
    }
    let mut read_to: Vec<_> = tasks.iter().map(|(id, _)| (id.shard, id.offset)).collect();
    if let Some((_, offset, shard)) = known_to.filter(|_| !is_long) {
        read_to.push((shard, offset));
    }
    Merged {
        tasks,
        read_to: Some(read_to),
    }
}

/// Why a task that is stored and not in memory does not run; `None` if it runs or has ended.
fn explain_stored(stored: &StoredTask) -> Option<Waits> {
    let StoredState::Parked { due_at, kind } = stored.state else {
        return None;
    };
    let key = stored
        .task
        .options
        .as_ref()
        .and_then(|options| options.key.clone());
    let blocker = match (kind, key) {
        (Parked::Scheduled, _) => Blocker::Scheduled { until: due_at },
        (Parked::Retryable, _) => Blocker::Backoff { until: due_at },
        (Parked::Available, Some(key)) if stored.token == LeaseToken::NONE => {
            Blocker::Key { key, behind: None }
        }
        (Parked::Available, _) => Blocker::Aside { until: due_at },
    };
    Some(blocker.into())
}

fn view_of(pipeline: &Pipeline, shard: ShardId, stored: StoredTask) -> TaskView {
    let waits = explain_stored(&stored).map(Waiting::from);
    let options = stored.task.options;
    let state = stored.state.name();
    let (mut due_at, mut ended_at, mut worker, mut result) = (None, None, None, None);
    match stored.state {
        StoredState::Parked { due_at: at, .. } => {
            due_at = (state != StateName::Available).then_some(at);
        }
        StoredState::Running { worker: by, .. } => worker = Some(by),
        StoredState::Ended {
            ending,
            ended_at: at,
            ..
        } => {
            ended_at = Some(at);
            if let Ending::Completed { result: value } = ending {
                result = Some(value);
            }
        }
    }
    TaskView {
        id: TaskId {
            shard,
            offset: stored.offset,
        },
        path: pipeline.path.clone(),
        state,
        attempt: stored.attempt,
        max_attempts: pipeline.retry_policy(options.as_deref()).max_attempts,
        data: stored.task.data,
        options,
        accepted_at: stored.accepted_at,
        due_at,
        started_at: stored.started_at,
        ended_at,
        worker,
        progress: None,
        errors: stored.errors,
        result,
        n_before: None,
        waits,
    }
}

/// A task that its shard has not read yet.
fn view_of_record(pipeline: &Pipeline, id: TaskId, record: Record, now: Timestamp) -> TaskView {
    let (data, options) = match record.body {
        RecordBody::Task(task) => (task.data, task.options),
        RecordBody::Malformed { head, .. } => (head, None),
    };
    let due_at = options
        .as_ref()
        .and_then(|options: &Arc<crate::TaskOptions>| options.run_at)
        .filter(|at| *at > now);
    TaskView {
        id,
        path: pipeline.path.clone(),
        state: if due_at.is_some() {
            StateName::Scheduled
        } else {
            StateName::Available
        },
        attempt: 0,
        max_attempts: pipeline.retry_policy(options.as_deref()).max_attempts,
        data,
        options,
        accepted_at: record.accepted_at,
        due_at,
        started_at: None,
        ended_at: None,
        worker: None,
        progress: None,
        errors: Vec::new(),
        result: None,
        n_before: None,
        waits: Some(Waits::from(Blocker::Backlog).into()),
    }
}

/// A page token holds for each partition the offset below which to read on.
fn encode_token(below: &BTreeMap<ShardId, Option<Offset>>) -> String {
    let bytes: Vec<u8> = below
        .values()
        .flat_map(|below| below.map_or(u64::MAX, |offset| offset.0).to_be_bytes())
        .collect();
    BASE32_NOPAD_NOCASE.encode(&bytes).to_ascii_lowercase()
}

fn decode_token(
    token: &str,
    pipeline: &Pipeline,
) -> Result<BTreeMap<ShardId, Option<Offset>>, Invalid> {
    let not_a_token = || {
        Invalid::new(
            "page_token",
            "must be the next_page_token of a page of this pipeline",
        )
    };
    let bytes = BASE32_NOPAD_NOCASE
        .decode(token.as_bytes())
        .map_err(|_| not_a_token())?;
    let (offsets, rest) = bytes.as_chunks::<8>();
    if !rest.is_empty() || offsets.len() != usize::from(pipeline.spec.n_partitions) {
        return Err(not_a_token());
    }
    let below = |bytes: &[u8; 8]| match u64::from_be_bytes(*bytes) {
        u64::MAX => None,
        offset => Some(Offset(offset)),
    };
    Ok(shards_of(pipeline).zip(offsets.iter().map(below)).collect())
}
