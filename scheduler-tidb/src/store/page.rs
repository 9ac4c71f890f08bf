//! Pages: due tasks, tasks of a key, and lists. First which tasks, with their sizes, for all pages at once; then these
//! tasks and no others, as of the same moment. So no more bytes are read than the page may have.

use std::{collections::HashMap, sync::Arc};

use scheduler_core::{
    Offset, ShardId, Timestamp,
    port::{
        PortError,
        store::{DuePage, DueTasks, KeyedPage, KeyedTasks, ListPage, StateName, StoredTask},
    },
};
use sqlx::mysql::MySqlRow;

use super::read::read_tasks;
use crate::{
    call::Call,
    key::{is_shard, join, quoted, quoted_time},
    row::{self, IS_KEPT, value},
    session::{Pool, Session},
};

/// Subselects in one statement: TiDB plans each of them.
const UNION_MAX: usize = 64;
/// Tasks and bytes of tasks in one answer of the server.
const READ_TASKS_MAX: usize = 1_000;
const READ_BYTES_MAX: usize = 16 << 20;

/// A task that a page may have.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    page: usize,
    at: Option<Timestamp>,
    offset: Offset,
    n_bytes: usize,
}

/// A page of parked tasks per shard.
pub(super) async fn due(
    pool: &Arc<Pool>,
    call: &Call,
    pages: &[DuePage],
) -> Result<Vec<DueTasks>, PortError> {
    loop {
        match due_once(pool, pages).await {
            Ok(found) => return Ok(found),
            Err(err) => call.again(err).await?,
        }
    }
}

async fn due_once(pool: &Arc<Pool>, pages: &[DuePage]) -> Result<Vec<DueTasks>, sqlx::Error> {
    let mut session = pool.session().await?;
    session.begin_snapshot().await?;
    let selects = pages.iter().enumerate().flat_map(|(n, page)| {
        let (at, offset) = (quoted_time(page.from.0), page.from.1.0);
        let is_shard = is_shard(page.shard);
        // One more than asked for, whenever it is due: the page tells when that is.
        let limit = limit(page.n_max.saturating_add(1));
        let select = move |after: String| {
            format!(
                "(SELECT {n} AS page, due_at, `offset`, n_bytes FROM task FORCE INDEX (due) WHERE {is_shard} AND {after} \
                 ORDER BY due_at, `offset` LIMIT {limit})"
            )
        };
        // In two ranges of the index, because TiDB reads all of the time's tasks for a comparison of pairs.
        let same_time = select(format!("due_at = {at} AND `offset` >= {offset}"));
        [same_time, select(format!("due_at > {at}"))]
    });
    let selects: Vec<_> = selects.collect();
    let mut candidates = read_candidates(&mut session, &selects).await?;
    candidates.sort_unstable_by_key(|found| (found.page, found.at, found.offset));
    let mut wanted = Vec::new();
    let mut cuts = Vec::with_capacity(pages.len());
    for (n, page) in pages.iter().enumerate() {
        let found = of_page(&candidates, n);
        let is_due = |found: &&Candidate| found.at.is_some_and(|at| at <= page.until);
        let due = found.iter().take_while(is_due);
        let n_taken = n_fitting(due, page.n_max, page.bytes_max);
        wanted.extend(found[..n_taken].iter().map(|found| (page.shard, *found)));
        let next_due_at = found.get(n_taken).and_then(|next| next.at);
        cuts.push((found[..n_taken].to_vec(), next_due_at));
    }
    let tasks = read_wanted(&mut session, &mut wanted).await?;
    session.roll_back().await?;
    let page = |(page, (taken, next_due_at)): (&DuePage, (Vec<Candidate>, _))| {
        let task = |found: &Candidate| tasks.get(&(page.shard, found.offset)).cloned();
        DueTasks {
            tasks: taken.iter().filter_map(task).collect(),
            next_due_at,
        }
    };
    Ok(pages.iter().zip(cuts).map(page).collect())
}

/// What was found for one page, among what is in the order of pages.
fn of_page(candidates: &[Candidate], page: usize) -> &[Candidate] {
    let from = candidates.partition_point(|found| found.page < page);
    let to = candidates.partition_point(|found| found.page <= page);
    &candidates[from..to]
}

/// How many of the first tasks a page has: one at least, if there is any.
fn n_fitting<'a>(
    found: impl Iterator<Item = &'a Candidate> + Clone,
    n_max: usize,
    bytes_max: usize,
) -> usize {
    let mut n_bytes = 0;
    let fit = found.clone().take(n_max).take_while(|found| {
        n_bytes += found.n_bytes;
        n_bytes <= bytes_max
    });
    fit.count().max(found.take(1).count())
}

/// A page of tasks per ordering key.
pub(super) async fn keyed(
    pool: &Arc<Pool>,
    call: &Call,
    pages: &[KeyedPage],
) -> Result<Vec<KeyedTasks>, PortError> {
    loop {
        match keyed_once(pool, pages).await {
            Ok(found) => return Ok(found),
            Err(err) => call.again(err).await?,
        }
    }
}

async fn keyed_once(pool: &Arc<Pool>, pages: &[KeyedPage]) -> Result<Vec<KeyedTasks>, sqlx::Error> {
    let mut session = pool.session().await?;
    session.begin_snapshot().await?;
    let select = |(n, page): (usize, &KeyedPage)| {
        let (is_shard, key, from) = (is_shard(page.shard), quoted(page.key.as_str()), page.from.0);
        // One more than the page may have: it tells whether there are more.
        let limit = limit(page.n_max.max(1).saturating_add(1));
        format!(
            "(SELECT {n} AS page, NULL AS at, `offset`, n_bytes FROM task FORCE INDEX (ordering_key) \
             WHERE {is_shard} AND ordering_key = {key} AND `offset` >= {from} ORDER BY `offset` LIMIT {limit})"
        )
    };
    let selects: Vec<_> = pages.iter().enumerate().map(select).collect();
    let mut candidates = read_candidates(&mut session, &selects).await?;
    candidates.sort_unstable_by_key(|found| (found.page, found.offset));
    let mut wanted = Vec::new();
    let mut cuts = Vec::with_capacity(pages.len());
    for (n, page) in pages.iter().enumerate() {
        let found = of_page(&candidates, n);
        let n_taken = n_fitting(found.iter(), page.n_max, page.bytes_max);
        let (taken, rest) = found.split_at(n_taken);
        wanted.extend(taken.iter().map(|found| (page.shard, *found)));
        cuts.push((taken, rest.first().map(|next| next.offset)));
    }
    let tasks = read_wanted(&mut session, &mut wanted).await?;
    session.roll_back().await?;
    let page = |(page, (taken, next)): (&KeyedPage, (&[Candidate], _))| {
        let task = |found: &Candidate| tasks.get(&(page.shard, found.offset)).cloned();
        KeyedTasks {
            tasks: taken.iter().filter_map(task).collect(),
            next,
        }
    };
    Ok(pages.iter().zip(cuts).map(page).collect())
}

/// A page of stored tasks per shard, newest first.
pub(super) async fn list(
    pool: &Arc<Pool>,
    call: &Call,
    pages: &[ListPage],
) -> Result<Vec<Vec<StoredTask>>, PortError> {
    loop {
        match list_once(pool, pages).await {
            Ok(found) => return Ok(found),
            Err(err) => call.again(err).await?,
        }
    }
}

async fn list_once(
    pool: &Arc<Pool>,
    pages: &[ListPage],
) -> Result<Vec<Vec<StoredTask>>, sqlx::Error> {
    let mut session = pool.session().await?;
    session.begin_snapshot().await?;
    let selects = pages.iter().enumerate();
    let selects: Vec<_> = selects
        .flat_map(|(n, page)| list_selects(n, page))
        .collect();
    let mut candidates = read_candidates(&mut session, &selects).await?;
    candidates.sort_unstable_by_key(|found| (found.page, std::cmp::Reverse(found.offset)));
    candidates.dedup_by_key(|found| (found.page, found.offset));
    let mut wanted = Vec::new();
    let mut cuts = Vec::with_capacity(pages.len());
    for (n, page) in pages.iter().enumerate() {
        let found = of_page(&candidates, n);
        let mut n_bytes = 0;
        let fit = found.iter().take(page.n_max).take_while(|found| {
            let fits = n_bytes < page.bytes_max;
            n_bytes += found.n_bytes;
            fits
        });
        // One at least, if there is any.
        let taken = &found[..fit.count().max(found.len().min(1))];
        wanted.extend(taken.iter().map(|found| (page.shard, *found)));
        cuts.push(taken.to_vec());
    }
    let tasks = read_wanted(&mut session, &mut wanted).await?;
    session.roll_back().await?;
    let page = |(page, taken): (&ListPage, Vec<Candidate>)| {
        let task = |found: &Candidate| tasks.get(&(page.shard, found.offset)).cloned();
        taken.iter().filter_map(task).collect()
    };
    Ok(pages.iter().zip(cuts).map(page).collect())
}

/// One select for each state, in the order of its index, and one for all completed tasks.
fn list_selects(n: usize, page: &ListPage) -> Vec<String> {
    let is_shard = is_shard(page.shard);
    let below = page
        .below
        .map(|below| format!(" AND `offset` < {}", below.0));
    let below = below.unwrap_or_default();
    let (since, limit) = (quoted_time(page.since), limit(page.n_max));
    let select = |table: &str, state: &str| {
        format!(
            "(SELECT {n} AS page, NULL AS at, `offset`, n_bytes FROM {table} WHERE {is_shard}{state}{below} \
             AND accepted_at >= {since} AND {IS_KEPT} ORDER BY `offset` DESC LIMIT {limit})"
        )
    };
    if page.states.is_empty() {
        return vec![select("task", ""), select("completed_task", "")];
    }
    let mut states = page.states.clone();
    states.sort_unstable();
    states.dedup();
    let of_state = |state: StateName| match state {
        StateName::Completed => select("completed_task", ""),
        // Forced: where TiDB thinks that most tasks have the state, it would read them all, with their data.
        state => select(
            "task FORCE INDEX (state)",
            &format!(" AND state = '{}'", state.as_str()),
        ),
    };
    states.into_iter().map(of_state).collect()
}

/// As TiDB takes it.
fn limit(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX).min(1 << 32)
}

async fn read_candidates(
    session: &mut Session,
    selects: &[String],
) -> Result<Vec<Candidate>, sqlx::Error> {
    let mut found = Vec::new();
    for batch in selects.chunks(UNION_MAX) {
        let rows = session.rows(join(batch, " UNION ALL ")).await?;
        let candidates = rows.iter().map(candidate);
        found.extend(candidates.collect::<Result<Vec<_>, _>>()?);
    }
    Ok(found)
}

fn candidate(row: &MySqlRow) -> Result<Candidate, sqlx::Error> {
    Ok(Candidate {
        page: usize::try_from(value::<u64>(row, 0)?).unwrap_or(usize::MAX),
        at: row::time(row, 1)?,
        offset: Offset(value(row, 2)?),
        n_bytes: usize::try_from(value::<u64>(row, 3)?).unwrap_or(usize::MAX),
    })
}

/// Reads tasks in answers of a bounded size.
async fn read_wanted(
    session: &mut Session,
    wanted: &mut [(ShardId, Candidate)],
) -> Result<HashMap<(ShardId, Offset), StoredTask>, sqlx::Error> {
    wanted.sort_unstable_by_key(|(shard, found)| (*shard, found.offset));
    let mut tasks = HashMap::new();
    let mut rest: &[_] = wanted;
    while !rest.is_empty() {
        let mut n_bytes = 0;
        let fit = rest.iter().take(READ_TASKS_MAX).take_while(|(_, found)| {
            n_bytes += found.n_bytes;
            n_bytes <= READ_BYTES_MAX
        });
        let (now, later) = rest.split_at(fit.count().max(1));
        let places: Vec<_> = now
            .iter()
            .map(|(shard, found)| (*shard, found.offset))
            .collect();
        read_tasks(session, &places, &mut tasks).await?;
        rest = later;
    }
    Ok(tasks)
}
