//! Statements that write or delete many rows at once, bounded in rows and bytes. Task rows are bound as
//! parameters; all others are numbers and short texts, and stand in the statement.

use std::sync::{Arc, OnceLock};

use scheduler_core::{
    Offset, ShardId, Timestamp,
    port::store::{Ending, KeyRow, StoredState},
    watermark::DoneChunk,
};
use sqlx::{AssertSqlSafe, MySql, mysql::MySqlArguments, query::Query};

use crate::{
    key::{is_shard, join, quoted, quoted_time, time_text},
    row::{FORMAT, TaskRow},
    session::Session,
};

/// Task rows per statement, the greatest first: few sizes, so that statements stay prepared.
const SIZES: [usize; 4] = [256, 32, 4, 1];
/// Far below what a packet may have (64 MiB).
const STATEMENT_BYTES_MAX: usize = 4 << 20;
/// Rows of a statement without parameters.
const ROWS_MAX: usize = 512;
/// Offsets in one DELETE.
const DELETES_MAX: usize = 4_096;

type Binding = Query<'static, MySql, MySqlArguments>;

/// `REPLACE` of task rows into one table.
#[derive(Debug)]
pub(super) struct Replace {
    table: &'static str,
    columns: &'static [&'static str],
    bind: fn(Binding, &TaskRow<'_>) -> Binding,
    sql: [OnceLock<Arc<str>>; SIZES.len()],
}

/// Columns that both tables have and [`bind_both`] binds, after the key.
const BOTH: [&str; 14] = [
    "pipeline",
    "`partition`",
    "`offset`",
    "format",
    "attempt",
    "token",
    "accepted_at",
    "started_at",
    "keep_until",
    "ended_at",
    "n_bytes",
    "data",
    "options",
    "errors",
];

/// Tasks that are not completed.
pub(super) static TASKS: Replace = Replace {
    table: "task",
    columns: &[
        "traceparent",
        "state",
        "due_at",
        "worker",
        "leased_at",
        "ordering_key",
    ],
    bind: |query, row| {
        let query = query.bind(row.task.task.traceparent.as_deref().map(str::to_owned));
        let query = query.bind(row.state.as_str());
        let (due_at, worker, leased_at) = match &row.task.state {
            StoredState::Parked { due_at, .. } => (Some(*due_at), None, None),
            StoredState::Running { worker, leased_at } => (None, Some(worker), Some(*leased_at)),
            StoredState::Ended { .. } => (None, None, None),
        };
        query
            .bind(due_at.map(time_text))
            .bind(worker.map(|worker| worker.as_str().to_owned()))
            .bind(leased_at.map(time_text))
            .bind(row.task.ordering_key().map(ToString::to_string))
    },
    sql: [const { OnceLock::new() }; SIZES.len()],
};

/// Completed tasks.
pub(super) static COMPLETED_TASKS: Replace = Replace {
    table: "completed_task",
    columns: &["traceparent", "result"],
    bind: |query, row| {
        let query = query.bind(row.task.task.traceparent.as_deref().map(str::to_owned));
        let result = match &row.task.state {
            StoredState::Ended {
                ending: Ending::Completed { result },
                ..
            } => result.to_vec(),
            _ => Vec::new(),
        };
        query.bind(result)
    },
    sql: [const { OnceLock::new() }; SIZES.len()],
};

fn bind_both(query: Binding, shard: ShardId, row: &TaskRow<'_>) -> Binding {
    let task = row.task;
    let (ended_at, keep_until) = match &task.state {
        StoredState::Ended {
            ended_at,
            keep_until,
            ..
        } => (Some(*ended_at), until(*keep_until)),
        StoredState::Parked { .. } | StoredState::Running { .. } => (None, None),
    };
    query
        .bind(shard.pipeline.0)
        .bind(shard.partition.0)
        .bind(task.offset.0)
        .bind(FORMAT)
        .bind(task.attempt)
        .bind(task.token.to_u64())
        .bind(time_text(task.accepted_at))
        .bind(task.started_at.map(time_text))
        .bind(keep_until.map(time_text))
        .bind(ended_at.map(time_text))
        .bind(row.n_bytes)
        .bind(task.task.data.to_vec())
        .bind(row.options.clone())
        .bind(row.errors.clone())
}

/// A time of which never is no time at all: the TTL passes over null.
fn until(keep_until: Timestamp) -> Option<Timestamp> {
    (keep_until != Timestamp::NEVER).then_some(keep_until)
}

impl Replace {
    /// Saves all rows.
    pub(super) async fn save(
        &self,
        session: &mut Session,
        rows: &[(ShardId, TaskRow<'_>)],
    ) -> Result<(), sqlx::Error> {
        let mut rest = rows;
        while !rest.is_empty() {
            let n = n_fitting(rest.iter().map(|(_, row)| row.len()));
            let sizes = SIZES.into_iter().zip(&self.sql);
            let Some((size, sql)) = sizes.into_iter().find(|(size, _)| *size <= n) else {
                return Ok(());
            };
            let (now, later) = rest.split_at(size);
            // The text is made of constants only.
            let sql = Arc::clone(sql.get_or_init(|| self.statement(size)));
            let mut query = sqlx::query(AssertSqlSafe(sql));
            for (shard, row) in now {
                query = (self.bind)(bind_both(query, *shard, row), row);
            }
            session.bound(query).await?;
            rest = later;
        }
        Ok(())
    }

    fn statement(&self, n_rows: usize) -> Arc<str> {
        let columns = [&BOTH, self.columns].concat();
        let row = format!("({})", vec!["?"; columns.len()].join(","));
        let (table, columns) = (self.table, columns.join(", "));
        let rows = vec![row; n_rows].join(",");
        format!("REPLACE INTO {table} ({columns}) VALUES {rows}").into()
    }
}

/// How many of the first rows fit into one statement: one at least.
fn n_fitting(lens: impl Iterator<Item = usize>) -> usize {
    let mut n_bytes = 0;
    let fit = lens.take_while(|len| {
        n_bytes += len;
        n_bytes <= STATEMENT_BYTES_MAX
    });
    fit.count().max(1)
}

/// Deletes tasks from one of the tables. Those that are not there are no fault.
pub(super) fn delete_tasks(table: &'static str, places: &[(ShardId, Offset)]) -> Vec<String> {
    let delete = |batch| format!("DELETE FROM {table} WHERE {}", is_any_of(batch));
    places.chunks(DELETES_MAX).map(delete).collect()
}

/// The condition that picks these tasks. By shard: TiDB makes ranges of such lists in a tenth of the
/// time that a list of triples takes.
pub(super) fn is_any_of(places: &[(ShardId, Offset)]) -> String {
    let by_shard = places.chunk_by(|one, other| one.0 == other.0);
    let of_shard = |places: &[(ShardId, Offset)]| {
        let offsets = join(places.iter().map(|(_, offset)| offset.0), ",");
        format!("({} AND `offset` IN ({offsets}))", is_shard(places[0].0))
    };
    join(by_shard.map(of_shard), " OR ")
}

/// Deletes the chunks of each shard before the first one that is kept.
pub(super) fn delete_done(first_kept: impl Iterator<Item = (ShardId, u64)>) -> Vec<String> {
    let is_below = |(shard, chunk)| format!("({} AND chunk < {chunk})", is_shard(shard));
    let conditions: Vec<_> = first_kept.map(is_below).collect();
    let delete = |batch: &[String]| format!("DELETE FROM done WHERE {}", batch.join(" OR "));
    conditions.chunks(ROWS_MAX).map(delete).collect()
}

/// Saves chunks.
pub(super) fn save_done<'a>(chunks: impl Iterator<Item = (ShardId, &'a DoneChunk)>) -> Vec<String> {
    let row = |(shard, chunk): (ShardId, &DoneChunk)| {
        let n_done: u32 = chunk.words.iter().map(|word| word.count_ones()).sum();
        let bits = chunk.words.iter().flat_map(|word| word.to_le_bytes());
        let bits: Vec<u8> = bits.collect();
        let bits = data_encoding::HEXLOWER.encode(&bits);
        let (pipeline, partition) = (shard.pipeline.0, shard.partition.0);
        format!(
            "({pipeline},{partition},{},{n_done},x'{bits}')",
            chunk.index
        )
    };
    let columns = "pipeline, `partition`, chunk, n_done, bits";
    replace("done", columns, &chunks.map(row).collect::<Vec<_>>())
}

/// Saves idempotency keys.
pub(super) fn save_keys<'a>(keys: impl Iterator<Item = (ShardId, &'a KeyRow)>) -> Vec<String> {
    let row = |(shard, key): (ShardId, &KeyRow)| {
        let keep_until = until(key.keep_until).map_or("NULL".to_owned(), quoted_time);
        let (pipeline, partition) = (shard.pipeline.0, shard.partition.0);
        let text = quoted(key.key.as_str());
        let (offset, fingerprint) = (key.offset.0, key.fingerprint);
        format!("({pipeline},{partition},{text},{offset},{fingerprint},{keep_until})")
    };
    let columns = "pipeline, `partition`, `key`, `offset`, fingerprint, keep_until";
    replace(
        "idempotency_key",
        columns,
        &keys.map(row).collect::<Vec<_>>(),
    )
}

fn replace(table: &str, columns: &str, rows: &[String]) -> Vec<String> {
    let replace = |batch: &[String]| {
        format!(
            "REPLACE INTO {table} ({columns}) VALUES {}",
            batch.join(",")
        )
    };
    rows.chunks(ROWS_MAX).map(replace).collect()
}
