//! What the store reads from the database.

use std::{cmp::Reverse, collections::HashMap, sync::Arc};

use futures::TryStreamExt as _;
use scheduler_core::{
    IdempotencyKey, ShardId,
    port::{
        FailureKind, PortError,
        store::{
            Claimed, DuePage, DueTasks, Found, KeyRow, KeyedPage, KeyedTasks, ListPage, Lookup,
            StateName, StoredTask, cut_page,
        },
    },
    watermark::DoneChunk,
};
use sqlx::{Row, SqlitePool, pool::PoolConnection, sqlite::SqliteRow};

use super::state_key;
use crate::{
    codec::{decode_cancels, decode_task},
    error::{damaged, read_failed},
    key::{offset_key, offset_of, shard_key, time_key, time_of},
    writer::{ClaimedShard, json},
};

/// Tasks read by one statement of a page.
const READ_TASKS_MAX: usize = 256;
type Connection = PoolConnection<sqlx::Sqlite>;

async fn connect(readers: &SqlitePool, operation: &'static str) -> Result<Connection, PortError> {
    // An error of the pool itself is no damage: it is closed or has no connection left.
    let unavailable = |err| PortError::new(operation, FailureKind::Unavailable).caused_by(err);
    readers.acquire().await.map_err(unavailable)
}

fn task(operation: &'static str, row: &SqliteRow, column: usize) -> Result<StoredTask, PortError> {
    let body: &[u8] = row.try_get(column).map_err(read_failed(operation))?;
    decode_task(body).map_err(damaged(operation))
}

/// What new owners need beyond what the claim itself told.
pub(super) async fn claimed(
    readers: &SqlitePool,
    shards: Vec<ClaimedShard>,
) -> Result<Vec<Claimed>, PortError> {
    const OPERATION: &str = "read claimed shards";
    let failed = read_failed(OPERATION);
    let db = &mut connect(readers, OPERATION).await?;
    let keys: Vec<_> = shards.iter().map(|found| shard_key(found.shard)).collect();
    let keys = json(&keys);
    let mut done: HashMap<i64, Vec<DoneChunk>> = HashMap::new();
    let sql = "SELECT shard, chunk, bits FROM done WHERE shard IN (SELECT value FROM json_each(?))";
    for row in sqlx::query(sql)
        .bind(&keys)
        .fetch_all(&mut **db)
        .await
        .map_err(&failed)?
    {
        let chunk = chunk(&row).map_err(&failed)?;
        done.entry(row.try_get(0).map_err(&failed)?)
            .or_default()
            .push(chunk);
    }
    let mut running: HashMap<i64, Vec<StoredTask>> = HashMap::new();
    let sql = "SELECT shard, body FROM task INDEXED BY task_rare_state
        WHERE rare_state = 2 AND shard IN (SELECT value FROM json_each(?))";
    for row in sqlx::query(sql)
        .bind(&keys)
        .fetch_all(&mut **db)
        .await
        .map_err(&failed)?
    {
        let task = task(OPERATION, &row, 1)?;
        running
            .entry(row.try_get(0).map_err(&failed)?)
            .or_default()
            .push(task);
    }
    let waiting = waiting(db, &keys).await.map_err(&failed)?;
    let claimed = |found: ClaimedShard| {
        let key = shard_key(found.shard);
        let (due_at, has_keyed) = waiting.get(&key).copied().unwrap_or_default();
        Ok(Claimed {
            shard: found.shard,
            epoch: found.epoch,
            incarnation: found.incarnation,
            watermark: found.watermark,
            done: done.remove(&key).unwrap_or_default(),
            seen_end: found.seen_end,
            running: running.remove(&key).unwrap_or_default(),
            next_due_at: due_at.map(time_of),
            has_keyed,
            cancels: decode_cancels(&found.cancels).map_err(damaged(OPERATION))?,
            released: found.released,
        })
    };
    shards.into_iter().map(claimed).collect()
}

/// Of each shard, when its first parked task is due, and whether there is a task that is found by its key.
async fn waiting(
    db: &mut Connection,
    shards: &str,
) -> Result<HashMap<i64, (Option<i64>, bool)>, sqlx::Error> {
    let sql = "SELECT value,
            (SELECT min(due_at) FROM task WHERE shard = value AND due_at IS NOT NULL),
            EXISTS (SELECT 1 FROM task INDEXED BY task_ordering_key
                WHERE shard = value AND ordering_key IS NOT NULL)
        FROM json_each(?)";
    let rows = sqlx::query(sql).bind(shards).fetch_all(&mut **db).await?;
    let of_shard = |row: &SqliteRow| Ok((row.try_get(0)?, (row.try_get(1)?, row.try_get(2)?)));
    rows.iter().map(of_shard).collect()
}

fn chunk(row: &SqliteRow) -> Result<DoneChunk, sqlx::Error> {
    let index: i64 = row.try_get(1)?;
    let bits: &[u8] = row.try_get(2)?;
    let mut words = [0; 16];
    let (found, rest) = bits.as_chunks::<8>();
    if found.len() != words.len() || !rest.is_empty() {
        return Err(sqlx::Error::Decode("done bits of another length".into()));
    }
    for (word, bytes) in words.iter_mut().zip(found) {
        *word = u64::from_le_bytes(*bytes);
    }
    Ok(DoneChunk {
        index: index.cast_unsigned(),
        words,
    })
}

/// A page of parked tasks per shard.
pub(super) async fn due(
    readers: &SqlitePool,
    pages: &[DuePage],
) -> Result<Vec<DueTasks>, PortError> {
    let db = &mut connect(readers, "read due tasks").await?;
    let mut found = Vec::with_capacity(pages.len());
    for page in pages {
        found.push(due_page(db, page).await?);
    }
    Ok(found)
}

async fn due_page(db: &mut Connection, page: &DuePage) -> Result<DueTasks, PortError> {
    const OPERATION: &str = "read due tasks";
    let mut tasks: Vec<StoredTask> = Vec::new();
    let mut n_bytes = 0;
    let mut from = (time_key(page.from.0), offset_key(page.from.1));
    let until = time_key(page.until);
    let next = |at: i64| Some(time_of(at));
    loop {
        let n_max =
            READ_TASKS_MAX.min((page.n_max - tasks.len().min(page.n_max)).saturating_add(1));
        let rows = sqlx::query(
            "SELECT due_at, \"offset\", CASE WHEN due_at <= ?4 THEN body END FROM task
             WHERE shard = ?1 AND due_at IS NOT NULL AND (due_at, \"offset\") >= (?2, ?3)
             ORDER BY due_at, \"offset\" LIMIT ?5",
        )
        .bind(shard_key(page.shard))
        .bind(from.0)
        .bind(from.1)
        .bind(until)
        .bind(i64::try_from(n_max).unwrap_or(i64::MAX))
        .fetch_all(&mut **db)
        .await
        .map_err(read_failed(OPERATION))?;
        let n_rows = rows.len();
        for row in rows {
            let due_at: i64 = row.try_get(0).map_err(read_failed(OPERATION))?;
            if due_at > until {
                let next_due_at = next(due_at);
                return Ok(DueTasks { tasks, next_due_at });
            }
            let task = task(OPERATION, &row, 2)?;
            n_bytes += task.task.data.len();
            let full = tasks.len() >= page.n_max || n_bytes > page.bytes_max;
            if full && !tasks.is_empty() {
                let next_due_at = next(due_at);
                return Ok(DueTasks { tasks, next_due_at });
            }
            from = (due_at, offset_key(task.offset.next()));
            tasks.push(task);
        }
        if n_rows < n_max {
            let next_due_at = None;
            return Ok(DueTasks { tasks, next_due_at });
        }
    }
}

/// A page of tasks per ordering key.
pub(super) async fn keyed(
    readers: &SqlitePool,
    pages: &[KeyedPage],
) -> Result<Vec<KeyedTasks>, PortError> {
    let db = &mut connect(readers, "read tasks of a key").await?;
    let mut found = Vec::with_capacity(pages.len());
    for page in pages {
        found.push(keyed_page(db, page).await?);
    }
    Ok(found)
}

async fn keyed_page(db: &mut Connection, page: &KeyedPage) -> Result<KeyedTasks, PortError> {
    const OPERATION: &str = "read tasks of a key";
    // One more than the page takes, which tells where to read on.
    let n_max = page.n_max.max(1).saturating_add(1);
    let mut rows = sqlx::query(
        "SELECT body FROM task INDEXED BY task_ordering_key
         WHERE shard = ?1 AND ordering_key = ?2 AND \"offset\" >= ?3
         ORDER BY \"offset\" LIMIT ?4",
    )
    .bind(shard_key(page.shard))
    .bind(page.key.as_str())
    .bind(offset_key(page.from))
    .bind(i64::try_from(n_max).unwrap_or(i64::MAX))
    .fetch(&mut **db);
    let mut found = KeyedTasks::default();
    let mut n_bytes = 0;
    while let Some(row) = rows.try_next().await.map_err(read_failed(OPERATION))? {
        let task = task(OPERATION, &row, 0)?;
        n_bytes += task.n_bytes();
        let full = found.tasks.len() >= page.n_max || n_bytes > page.bytes_max;
        if full && !found.tasks.is_empty() {
            found.next = Some(task.offset);
            break;
        }
        found.tasks.push(task);
    }
    Ok(found)
}

/// Tasks and keys, in the order asked. `now` tells what is past its time.
pub(super) async fn get(
    readers: &SqlitePool,
    lookups: &[Lookup],
    now: i64,
) -> Result<Vec<Option<Found>>, PortError> {
    const OPERATION: &str = "read tasks";
    let db = &mut connect(readers, OPERATION).await?;
    let wanted = lookups.iter().filter_map(|lookup| match lookup {
        Lookup::Task(shard, offset) => Some([shard_key(*shard), offset_key(*offset)]),
        Lookup::Key(..) => None,
    });
    let wanted: Vec<i64> = wanted.flatten().collect();
    let mut tasks = HashMap::new();
    if !wanted.is_empty() {
        // One array of shard, offset, shard, offset, …: one statement whatever the number.
        let rows = sqlx::query(
            "SELECT task.shard, body FROM json_each(?1) AS s
             JOIN json_each(?1) AS o ON o.key = s.key + 1
             CROSS JOIN task ON task.shard = s.value AND task.\"offset\" = o.value
             WHERE s.key % 2 = 0 AND (keep_until IS NULL OR keep_until > ?2)",
        )
        .bind(json(&wanted))
        .bind(now)
        .fetch_all(&mut **db)
        .await
        .map_err(read_failed(OPERATION))?;
        for row in rows {
            let shard: i64 = row.try_get(0).map_err(read_failed(OPERATION))?;
            let task = task(OPERATION, &row, 1)?;
            tasks.insert((shard, task.offset), task);
        }
    }
    let mut found = Vec::with_capacity(lookups.len());
    for lookup in lookups {
        found.push(match lookup {
            Lookup::Task(shard, offset) => tasks
                .get(&(shard_key(*shard), *offset))
                .map(|task| Found::Task(Box::new(task.clone()))),
            Lookup::Key(shard, key) => get_key(db, *shard, key, now).await?.map(Found::Key),
        });
    }
    Ok(found)
}

async fn get_key(
    db: &mut Connection,
    shard: ShardId,
    key: &IdempotencyKey,
    now: i64,
) -> Result<Option<KeyRow>, PortError> {
    let found: Option<(i64, i64, i64)> = sqlx::query_as(
        "SELECT \"offset\", fingerprint, keep_until FROM idempotency_key
         WHERE shard = ? AND key = ? AND keep_until > ?",
    )
    .bind(shard_key(shard))
    .bind(key.as_str())
    .bind(now)
    .fetch_optional(&mut **db)
    .await
    .map_err(read_failed("read an idempotency key"))?;
    Ok(found.map(|(offset, fingerprint, keep_until)| KeyRow {
        key: key.clone(),
        offset: offset_of(offset),
        fingerprint: fingerprint.cast_unsigned(),
        keep_until: time_of(keep_until),
    }))
}

/// A page of stored tasks per shard, newest first.
pub(super) async fn list(
    readers: &SqlitePool,
    pages: &[ListPage],
    now: i64,
) -> Result<Vec<Vec<StoredTask>>, PortError> {
    let db = &mut connect(readers, "list tasks").await?;
    let mut found = Vec::with_capacity(pages.len());
    for page in pages {
        let mut tasks = Vec::new();
        // Each state is read in the order of its index; the pages of all of them together hold theirs.
        for state in &page.states {
            tasks.extend(list_state(db, page, Some(*state), now).await?);
        }
        if page.states.is_empty() {
            tasks = list_state(db, page, None, now).await?;
        }
        tasks.sort_by_key(|task| Reverse(task.offset));
        tasks.dedup_by_key(|task| task.offset);
        cut_page(&mut tasks, page.n_max, page.bytes_max);
        found.push(tasks);
    }
    Ok(found)
}

/// Who claimed each shard last.
pub(super) async fn owners(
    readers: &SqlitePool,
    shards: &[ShardId],
) -> Result<Vec<Option<Arc<str>>>, PortError> {
    const OPERATION: &str = "read owners";
    let failed = read_failed(OPERATION);
    let db = &mut connect(readers, OPERATION).await?;
    let keys: Vec<_> = shards.iter().map(|shard| shard_key(*shard)).collect();
    let sql = "SELECT shard, address FROM shard WHERE shard IN (SELECT value FROM json_each(?))";
    let rows = sqlx::query(sql).bind(json(&keys)).fetch_all(&mut **db);
    let mut addresses: HashMap<i64, Arc<str>> = HashMap::new();
    for row in rows.await.map_err(&failed)? {
        let address: String = row.try_get(1).map_err(&failed)?;
        addresses.insert(row.try_get(0).map_err(&failed)?, address.into());
    }
    let owner = |key| addresses.get(key).map(Arc::clone);
    Ok(keys.iter().map(owner).collect())
}

async fn list_state(
    db: &mut Connection,
    page: &ListPage,
    state: Option<StateName>,
    now: i64,
) -> Result<Vec<StoredTask>, PortError> {
    const OPERATION: &str = "list tasks";
    let sql = match state {
        None => {
            "SELECT body FROM task WHERE shard = ?1 AND \"offset\" < ?2 AND accepted_at >= ?3
                AND (keep_until IS NULL OR keep_until > ?4) ORDER BY \"offset\" DESC LIMIT ?5"
        }
        Some(StateName::Completed) => {
            "SELECT body FROM task WHERE shard = ?1 AND \"offset\" < ?2 AND accepted_at >= ?3
                AND (keep_until IS NULL OR keep_until > ?4) AND state = ?6
                ORDER BY \"offset\" DESC LIMIT ?5"
        }
        Some(_) => {
            "SELECT body FROM task INDEXED BY task_rare_state
                WHERE shard = ?1 AND \"offset\" < ?2 AND accepted_at >= ?3
                AND (keep_until IS NULL OR keep_until > ?4) AND rare_state = ?6
                ORDER BY \"offset\" DESC LIMIT ?5"
        }
    };
    let mut query = sqlx::query(sql)
        .bind(shard_key(page.shard))
        .bind(page.below.map_or(i64::MAX, offset_key))
        .bind(time_key(page.since))
        .bind(now)
        .bind(i64::try_from(page.n_max).unwrap_or(i64::MAX));
    if let Some(state) = state {
        query = query.bind(state_key(state));
    }
    let mut rows = query.fetch(&mut **db);
    let mut tasks = Vec::new();
    let mut n_bytes = 0;
    while (tasks.is_empty() || n_bytes < page.bytes_max)
        && let Some(row) = rows.try_next().await.map_err(read_failed(OPERATION))?
    {
        let task = task(OPERATION, &row, 0)?;
        n_bytes += task.n_bytes();
        tasks.push(task);
    }
    Ok(tasks)
}
