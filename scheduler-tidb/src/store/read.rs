//! Reading by key: tasks, idempotency keys and owners, many in one statement.

use std::{collections::HashMap, sync::Arc};

use scheduler_core::{
    IdempotencyKey, Offset, ShardId, Timestamp,
    port::{
        PortError,
        store::{Found, KeyRow, Lookup, StoredTask},
    },
};

use super::{LIST_MAX, write::is_any_of};
use crate::{
    call::Call,
    key::{is_shard, join, quoted, shard_list},
    row::{self, COMPLETED_COLUMNS, IS_KEPT, TASK_COLUMNS, value},
    session::{Pool, Session},
};

type Tasks = HashMap<(ShardId, Offset), StoredTask>;
type Keys = HashMap<(ShardId, IdempotencyKey), KeyRow>;

/// Tasks and keys, in the order asked.
pub(super) async fn get(
    pool: &Arc<Pool>,
    call: &Call,
    lookups: &[Lookup],
) -> Result<Vec<Option<Found>>, PortError> {
    let (tasks, keys) = loop {
        match read(pool, lookups).await {
            Ok(found) => break found,
            Err(err) => call.again(err).await?,
        }
    };
    let find = |lookup: &Lookup| match lookup {
        Lookup::Task(shard, offset) => {
            let task = tasks.get(&(*shard, *offset)).cloned();
            task.map(|task| Found::Task(Box::new(task)))
        }
        Lookup::Key(shard, key) => keys.get(&(*shard, key.clone())).cloned().map(Found::Key),
    };
    Ok(lookups.iter().map(find).collect())
}

async fn read(pool: &Arc<Pool>, lookups: &[Lookup]) -> Result<(Tasks, Keys), sqlx::Error> {
    let (mut places, mut wanted) = (Vec::new(), Vec::new());
    for lookup in lookups {
        match lookup {
            Lookup::Task(shard, offset) => places.push((*shard, *offset)),
            Lookup::Key(shard, key) => wanted.push((*shard, key)),
        }
    }
    places.sort_unstable();
    places.dedup();
    wanted.sort_unstable();
    wanted.dedup();
    let mut session = pool.session().await?;
    let mut tasks = HashMap::new();
    for batch in places.chunks(LIST_MAX) {
        read_tasks(&mut session, batch, &mut tasks).await?;
    }
    let mut keys = HashMap::new();
    for batch in wanted.chunks(LIST_MAX) {
        read_keys(&mut session, batch, &mut keys).await?;
    }
    Ok((tasks, keys))
}

/// Reads tasks that are kept. From both tables in one statement: a task that moves is seen in one of them.
pub(super) async fn read_tasks(
    session: &mut Session,
    places: &[(ShardId, Offset)],
    found: &mut Tasks,
) -> Result<(), sqlx::Error> {
    let is_asked = is_any_of(places);
    let read = format!(
        "SELECT {TASK_COLUMNS} FROM task WHERE ({is_asked}) AND {IS_KEPT} \
         UNION ALL SELECT {COMPLETED_COLUMNS} FROM completed_task WHERE ({is_asked}) AND {IS_KEPT}"
    );
    for row in session.rows(read).await? {
        let (shard, task) = row::task(&row)?;
        found.insert((shard, task.offset), task);
    }
    Ok(())
}

async fn read_keys(
    session: &mut Session,
    wanted: &[(ShardId, &IdempotencyKey)],
    found: &mut Keys,
) -> Result<(), sqlx::Error> {
    let by_shard = wanted.chunk_by(|one, other| one.0 == other.0);
    let of_shard = |keys: &[(ShardId, &IdempotencyKey)]| {
        let texts = join(keys.iter().map(|(_, key)| quoted(key.as_str())), ",");
        format!("({} AND `key` IN ({texts}))", is_shard(keys[0].0))
    };
    let read = format!(
        "SELECT pipeline, `partition`, `key`, `offset`, fingerprint, keep_until FROM idempotency_key \
         WHERE ({}) AND {IS_KEPT}",
        join(by_shard.map(of_shard), " OR ")
    );
    for row in session.rows(read).await? {
        let shard = row::shard(&row)?;
        let text: &str = value(&row, 2)?;
        let key = IdempotencyKey::try_from(text).map_err(|_| {
            let what = format!("the idempotency key {text:?} of shard {shard} is none");
            sqlx::Error::Decode(what.into())
        })?;
        let key_row = KeyRow {
            key: key.clone(),
            offset: Offset(value(&row, 3)?),
            fingerprint: value(&row, 4)?,
            keep_until: row::time(&row, 5)?.unwrap_or(Timestamp::NEVER),
        };
        found.insert((shard, key), key_row);
    }
    Ok(())
}

/// Who claimed each shard last.
pub(super) async fn owners(
    pool: &Arc<Pool>,
    call: &Call,
    shards: &[ShardId],
) -> Result<Vec<Option<Arc<str>>>, PortError> {
    let mut found: HashMap<ShardId, Arc<str>> = HashMap::new();
    for batch in shards.chunks(LIST_MAX) {
        let read = format!(
            "SELECT pipeline, `partition`, address FROM shard WHERE (pipeline, `partition`) IN ({})",
            shard_list(batch.iter().copied())
        );
        let rows = loop {
            let once = async { pool.session().await?.rows(read.clone()).await };
            match once.await {
                Ok(rows) => break rows,
                Err(err) => call.again(err).await?,
            }
        };
        for row in rows {
            let failed = |err| call.failed(err);
            let address = value::<&str>(&row, 2).map_err(failed)?;
            found.insert(row::shard(&row).map_err(failed)?, address.into());
        }
    }
    let owner = |shard| found.get(shard).map(Arc::clone);
    Ok(shards.iter().map(owner).collect())
}
