//! Claiming: the epoch goes up in one transaction, and what the owner needs is read in the next.
//!
//! Not in the same: a transaction reads as of its begin, and what the owner before wrote until its
//! row was locked would be missing.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use scheduler_core::{
    Epoch, Offset, ShardId, Timestamp,
    port::{
        PortError,
        store::{Claim, Claimed, StoredTask},
    },
    watermark::DoneChunk,
};
use sqlx::mysql::MySqlRow;

use super::LIST_MAX;
use crate::{
    call::Call,
    key::{is_shard, join, quoted, shard_list},
    row::{self, TASK_COLUMNS, value},
    session::{Pool, Session},
};

/// Subselects in one statement: TiDB plans each of them.
const UNION_MAX: usize = 64;

/// Raises the epochs of all shards, and reads what their new owner needs.
pub(super) async fn claim(
    pool: &Arc<Pool>,
    call: &Call,
    claims: &[Claim],
) -> Result<Vec<Claimed>, PortError> {
    let mut found: HashMap<ShardId, Claimed> = HashMap::new();
    for batch in claims.chunks(LIST_MAX) {
        let epochs = loop {
            match raise(pool, call, batch).await {
                Ok(epochs) => break epochs,
                Err(err) => call.again(err).await?,
            }
        };
        if let Some((shard, _)) = epochs.iter().find(|(_, owned)| owned.epoch > Epoch::MAX) {
            return Err(call.damaged(format!("shard {shard} has had its last epoch")));
        }
        let loaded = loop {
            match load(pool, batch, &epochs).await {
                Ok(loaded) => break loaded,
                Err(err) => call.again(err).await?,
            }
        };
        found.extend(loaded.into_iter().map(|claimed| (claimed.shard, claimed)));
    }
    let answer = |claim: &Claim| {
        let claimed = found.get(&claim.shard).cloned();
        claimed.ok_or_else(|| call.damaged(format!("the row of shard {} is gone", claim.shard)))
    };
    claims.iter().map(answer).collect()
}

#[derive(Debug, Clone, Copy)]
struct Owned {
    epoch: Epoch,
    released: bool,
}

/// One transaction. Gives the epochs it made; one above the last was not committed.
async fn raise(
    pool: &Arc<Pool>,
    call: &Call,
    claims: &[Claim],
) -> Result<HashMap<ShardId, Owned>, sqlx::Error> {
    let mut session = pool.session().await?;
    session.begin().await?;
    let mut sorted: Vec<&Claim> = claims.iter().collect();
    sorted.sort_by_key(|claim| claim.shard);
    sorted.dedup_by_key(|claim| claim.shard);
    let row = |claim: &&Claim| {
        format!(
            "({},{},1,{},{},UTC_TIMESTAMP(3))",
            claim.shard.pipeline.0,
            claim.shard.partition.0,
            quoted(&claim.address),
            quoted(&claim.incarnation)
        )
    };
    // Counted by the server, so that of two members that claim at once each gets an epoch of its own.
    let raise = format!(
        "INSERT INTO shard (pipeline, `partition`, epoch, address, incarnation, claimed_at) VALUES {} \
         ON DUPLICATE KEY UPDATE epoch = epoch + 1, flush_number = 0, address = VALUES(address), \
         claimed_at = VALUES(claimed_at)",
        join(sorted.iter().map(row), ",")
    );
    session.execute(raise).await?;
    let shards = shard_list(sorted.iter().map(|claim| claim.shard));
    let read = format!(
        "SELECT pipeline, `partition`, epoch, released_epoch FROM shard \
         WHERE (pipeline, `partition`) IN ({shards}) FOR UPDATE"
    );
    let mut owned = HashMap::new();
    for row in session.rows(read).await? {
        let epoch: u32 = value(&row, 2)?;
        let released = value::<Option<u32>>(&row, 3)?;
        let found = Owned {
            epoch: Epoch(epoch),
            // Of the owner before: what an older one released, the one after has taken.
            released: released.is_some_and(|released| released + 1 == epoch),
        };
        owned.insert(row::shard(&row)?, found);
    }
    if owned.values().any(|found| found.epoch > Epoch::MAX) {
        session.roll_back().await?;
    } else {
        session.commit(call).await?;
    }
    Ok(owned)
}

/// Reads what the owners of these epochs need, as of one moment after they were made.
async fn load(
    pool: &Arc<Pool>,
    claims: &[Claim],
    owned: &HashMap<ShardId, Owned>,
) -> Result<Vec<Claimed>, sqlx::Error> {
    let mut session = pool.session().await?;
    session.begin_snapshot().await?;
    let mut shards: Vec<_> = claims.iter().map(|claim| claim.shard).collect();
    shards.sort_unstable();
    shards.dedup();
    let list = shard_list(shards.iter().copied());
    let read = format!(
        "SELECT pipeline, `partition`, incarnation, watermark, seen_end, cancels FROM shard \
         WHERE (pipeline, `partition`) IN ({list})"
    );
    let rows = session.rows(read).await?;
    let mut done = load_done(&mut session, &list).await?;
    let mut running = load_running(&mut session, &list).await?;
    let due = load_due(&mut session, &shards).await?;
    let keyed = load_keyed(&mut session, &shards).await?;
    session.roll_back().await?;
    let claimed = |row: &MySqlRow| {
        let shard = row::shard(row)?;
        let owned = owned.get(&shard).ok_or(sqlx::Error::RowNotFound)?;
        Ok(Claimed {
            shard,
            epoch: owned.epoch,
            incarnation: value::<&str>(row, 2)?.into(),
            watermark: Offset(value(row, 3)?),
            done: done.remove(&shard).unwrap_or_default(),
            seen_end: Offset(value(row, 4)?),
            running: running.remove(&shard).unwrap_or_default(),
            next_due_at: due.get(&shard).copied(),
            has_keyed: keyed.contains(&shard),
            cancels: row::decode_cancels(value(row, 5)?).map_err(sqlx::Error::Decode)?,
            released: owned.released,
        })
    };
    rows.iter().map(claimed).collect()
}

async fn load_done(
    session: &mut Session,
    list: &str,
) -> Result<HashMap<ShardId, Vec<DoneChunk>>, sqlx::Error> {
    let read = format!(
        "SELECT pipeline, `partition`, chunk, bits FROM done WHERE (pipeline, `partition`) IN ({list})"
    );
    let mut done: HashMap<_, Vec<_>> = HashMap::new();
    for row in session.rows(read).await? {
        let (shard, index) = (row::shard(&row)?, value(&row, 2)?);
        let words = words(value(&row, 3)?).ok_or_else(|| {
            let what =
                format!("chunk {index} of the done bits of shard {shard} has another length");
            sqlx::Error::Decode(what.into())
        })?;
        done.entry(shard)
            .or_default()
            .push(DoneChunk { index, words });
    }
    Ok(done)
}

fn words(bits: &[u8]) -> Option<[u64; 16]> {
    let mut words = [0; 16];
    let (found, rest) = bits.as_chunks::<8>();
    if found.len() != words.len() || !rest.is_empty() {
        return None;
    }
    for (word, bytes) in words.iter_mut().zip(found) {
        *word = u64::from_le_bytes(*bytes);
    }
    Some(words)
}

async fn load_running(
    session: &mut Session,
    list: &str,
) -> Result<HashMap<ShardId, Vec<StoredTask>>, sqlx::Error> {
    let read = format!(
        "SELECT {TASK_COLUMNS} FROM task FORCE INDEX (state) \
         WHERE (pipeline, `partition`) IN ({list}) AND state = 'running'"
    );
    let mut running: HashMap<_, Vec<_>> = HashMap::new();
    for row in session.rows(read).await? {
        let (shard, task) = row::task(&row)?;
        running.entry(shard).or_default().push(task);
    }
    Ok(running)
}

/// When the first parked task of each shard is due.
async fn load_due(
    session: &mut Session,
    shards: &[ShardId],
) -> Result<HashMap<ShardId, Timestamp>, sqlx::Error> {
    let mut due = HashMap::new();
    for shards in shards.chunks(UNION_MAX) {
        // Each reads one entry of the index. A GROUP BY would read all of them.
        let first = |shard: &ShardId| {
            format!(
                "(SELECT pipeline, `partition`, due_at FROM task FORCE INDEX (due) WHERE {} AND due_at IS NOT NULL \
                 ORDER BY due_at LIMIT 1)",
                is_shard(*shard)
            )
        };
        for row in session
            .rows(join(shards.iter().map(first), " UNION ALL "))
            .await?
        {
            if let Some(at) = row::time(&row, 2)? {
                due.insert(row::shard(&row)?, at);
            }
        }
    }
    Ok(due)
}

/// The shards that have tasks with an ordering key.
async fn load_keyed(
    session: &mut Session,
    shards: &[ShardId],
) -> Result<HashSet<ShardId>, sqlx::Error> {
    let mut keyed = HashSet::new();
    for shards in shards.chunks(UNION_MAX) {
        // Each reads one entry of the index.
        let any = |shard: &ShardId| {
            format!(
                "(SELECT pipeline, `partition` FROM task FORCE INDEX (ordering_key) WHERE {} \
                 AND ordering_key IS NOT NULL LIMIT 1)",
                is_shard(*shard)
            )
        };
        for row in session
            .rows(join(shards.iter().map(any), " UNION ALL "))
            .await?
        {
            keyed.insert(row::shard(&row)?);
        }
    }
    Ok(keyed)
}

/// Notes who has given up which shard in order.
pub(super) async fn release(
    pool: &Arc<Pool>,
    call: &Call,
    shards: &[(ShardId, Epoch)],
) -> Result<(), PortError> {
    let mut sorted = shards.to_vec();
    sorted.sort_unstable();
    for batch in sorted.chunks(LIST_MAX) {
        let is_owned = |(shard, epoch): &(ShardId, Epoch)| {
            format!("({} AND epoch = {})", is_shard(*shard), epoch.0)
        };
        let release = format!(
            "UPDATE shard SET released_epoch = epoch WHERE {}",
            join(batch.iter().map(is_owned), " OR ")
        );
        let once = async || {
            let mut session = pool.session().await?;
            session.begin().await?;
            session.execute(release.as_str()).await?;
            session.commit(call).await
        };
        while let Err(err) = once().await {
            call.again(err).await?;
        }
    }
    Ok(())
}
