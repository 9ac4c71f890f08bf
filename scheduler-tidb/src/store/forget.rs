//! Forgetting a pipeline: in bounded steps, of which each can be the last that is done before a crash.

use std::{sync::Arc, time::Duration};

use scheduler_core::{PipelineNumber, port::PortError};

use crate::{
    call::{Call, Repeat},
    key::quoted,
    row::value,
    session::Pool,
};

/// Rows that one step deletes.
const STEP_ROWS: u32 = 2_000;

/// A table, and the last column of its key.
#[derive(Debug, Clone, Copy)]
struct Table {
    name: &'static str,
    column: &'static str,
}

const TABLES: [Table; 4] = [
    Table {
        name: "task",
        column: "`offset`",
    },
    Table {
        name: "completed_task",
        column: "`offset`",
    },
    Table {
        name: "done",
        column: "chunk",
    },
    Table {
        name: "idempotency_key",
        column: "`key`",
    },
];

/// Forgets all that is stored of a pipeline. Each step ends within `step_timeout`, and there are as many
/// as the pipeline has rows, so this takes as long as it makes progress. Doing it again goes on where it ended.
pub(super) async fn forget(
    pool: &Arc<Pool>,
    step_timeout: Duration,
    pipeline: PipelineNumber,
) -> Result<(), PortError> {
    let step = async |sql: String, read: bool| {
        let call = Call::new("forget a pipeline", Repeat::Safe, step_timeout);
        call.run(run_step(pool, &call, sql, read)).await
    };
    // Without its row a shard takes no flush, so nothing is added behind the steps.
    let pipeline = pipeline.0;
    step(
        format!("DELETE FROM shard WHERE pipeline = {pipeline}"),
        false,
    )
    .await?;
    for Table { name, column } in TABLES {
        let mut partition = 0_u64;
        // Deleted rows are still read over until TiDB collects them: so each is passed only once.
        while let Some(found) = step(
            format!(
                "SELECT CAST(MIN(`partition`) AS CHAR) FROM {name} \
                 WHERE pipeline = {pipeline} AND `partition` >= {partition}"
            ),
            true,
        )
        .await?
        {
            let found = found.parse().unwrap_or(u64::MAX);
            let shard = format!("pipeline = {pipeline} AND `partition` = {found}");
            let mut after = String::new();
            loop {
                let last = format!(
                    "SELECT CAST(MAX(k) AS CHAR) FROM (SELECT {column} AS k FROM {name} \
                     WHERE {shard}{after} ORDER BY {column} LIMIT {STEP_ROWS}) AS step"
                );
                let Some(last) = step(last, true).await? else {
                    break;
                };
                let last = if column == "`key`" {
                    quoted(&last)
                } else {
                    last
                };
                let delete =
                    format!("DELETE FROM {name} WHERE {shard}{after} AND {column} <= {last}");
                step(delete, false).await?;
                after = format!(" AND {column} > {last}");
            }
            partition = found.saturating_add(1);
        }
    }
    Ok(())
}

/// One statement, as a transaction of its own. Gives the text that a read found.
async fn run_step(
    pool: &Arc<Pool>,
    call: &Call,
    sql: String,
    read: bool,
) -> Result<Option<String>, PortError> {
    let once = async || {
        let mut session = pool.session().await?;
        if read {
            let rows = session.rows(sql.clone()).await?;
            let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
            return value(row, 0);
        }
        session.begin().await?;
        session.execute(sql.as_str()).await?;
        session.commit(call).await?;
        Ok(None)
    };
    loop {
        match once().await {
            Ok(found) => return Ok(found),
            Err(err) => call.again(err).await?,
        }
    }
}
