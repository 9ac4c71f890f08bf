//! Flushing: fenced transactions that lock shard rows, write what changed, and raise the number of
//! the flush last.
//!
//! The row of a shard is locked and then changed in the same transaction, so of two owners only one
//! commits. A transaction whose COMMIT got no answer is done again: it locks the row, and finds its
//! number there, or writes and commits the row itself, after which the lost one cannot land any more.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use scheduler_core::{
    Offset, ShardId,
    port::{
        PortError,
        store::{Flushed, ShardFlush, StateName, StoredTask},
    },
    watermark::CHUNK_BITS,
};

use super::write;
use crate::{
    call::Call,
    key::{is_shard, quoted, shard_list},
    row::{self, TaskRow, value},
    session::{Pool, Session},
};

/// Parts go into one transaction up to so many rows and bytes; a part with more has one of its own.
const TRANSACTION_ROWS_MAX: usize = 5_000;
const TRANSACTION_BYTES_MAX: usize = 8 << 20;
/// Shards in one transaction.
const TRANSACTION_SHARDS_MAX: usize = 512;

/// Saves each part whole or not at all.
pub(super) async fn flush(
    pool: &Arc<Pool>,
    call: &Call,
    parts: &[ShardFlush],
) -> Result<Vec<Flushed>, PortError> {
    let mut answers = Vec::with_capacity(parts.len());
    let mut rest = parts;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(n_together(rest));
        let saved = loop {
            let was_unsure = call.is_unsure();
            match save(pool, call, now).await {
                Ok(saved) => {
                    if was_unsure && saved.contains(&Flushed::Fenced) {
                        // The lost COMMIT may have saved the part before the shard was claimed.
                        return Err(
                            call.unknown("the shard was claimed before the outcome was known")
                        );
                    }
                    if was_unsure {
                        call.committed();
                    }
                    break saved;
                }
                Err(err) => call.again(err).await?,
            }
        };
        answers.extend(saved);
        rest = later;
    }
    Ok(answers)
}

/// How many of the first parts go into one transaction: no shard twice, so that order is kept.
fn n_together(parts: &[ShardFlush]) -> usize {
    let mut shards = HashSet::new();
    let (mut n_rows, mut n_bytes) = (0, 0);
    let fit = parts.iter().take_while(|part| {
        n_rows += 1 + part.done.len() + part.tasks.len() + part.forgotten.len() + part.keys.len();
        n_bytes += part
            .tasks
            .iter()
            .map(|task| task.n_bytes() + 200)
            .sum::<usize>();
        let is_first = shards.is_empty();
        let is_new = shards.insert(part.shard);
        let fits = n_rows <= TRANSACTION_ROWS_MAX
            && n_bytes <= TRANSACTION_BYTES_MAX
            && shards.len() <= TRANSACTION_SHARDS_MAX;
        is_first || is_new && fits
    });
    fit.count()
}

/// What a shard's row said when it was locked.
#[derive(Debug, Clone, Copy)]
struct Locked {
    epoch: u32,
    number: u64,
    watermark: u64,
}

/// One transaction.
async fn save(
    pool: &Arc<Pool>,
    call: &Call,
    parts: &[ShardFlush],
) -> Result<Vec<Flushed>, sqlx::Error> {
    let mut session = pool.session().await?;
    session.begin().await?;
    let locked = lock(&mut session, parts).await?;
    let mut answers = Vec::with_capacity(parts.len());
    let mut wanted = Vec::new();
    for part in parts {
        match locked.get(&part.shard) {
            Some(found) if found.epoch == part.epoch.0 => {
                answers.push(Flushed::Saved);
                if part.number > found.number {
                    wanted.push((part, *found));
                }
            }
            Some(_) | None => answers.push(Flushed::Fenced),
        }
    }
    if wanted.is_empty() {
        session.roll_back().await?;
        return Ok(answers);
    }
    let rows = Rows::of(&wanted);
    write::TASKS.save(&mut session, &rows.tasks).await?;
    write::COMPLETED_TASKS
        .save(&mut session, &rows.completed)
        .await?;
    for statement in rows.statements {
        session.execute(statement).await?;
    }
    session.commit(call).await?;
    Ok(answers)
}

/// Locks the rows of the parts' shards, in the order of their keys. A shard that was never claimed has none.
async fn lock(
    session: &mut Session,
    parts: &[ShardFlush],
) -> Result<HashMap<ShardId, Locked>, sqlx::Error> {
    let mut shards: Vec<_> = parts.iter().map(|part| part.shard).collect();
    shards.sort_unstable();
    let read = format!(
        "SELECT pipeline, `partition`, epoch, flush_number, watermark FROM shard \
         WHERE (pipeline, `partition`) IN ({}) FOR UPDATE",
        shard_list(shards)
    );
    let locked = |row| {
        let found = Locked {
            epoch: value(row, 2)?,
            number: value(row, 3)?,
            watermark: value(row, 4)?,
        };
        Ok((row::shard(row)?, found))
    };
    session.rows(read).await?.iter().map(locked).collect()
}

/// What a transaction writes.
#[derive(Debug)]
struct Rows<'a> {
    tasks: Vec<(ShardId, TaskRow<'a>)>,
    completed: Vec<(ShardId, TaskRow<'a>)>,
    /// Run after the tasks are saved, the shards' rows last.
    statements: Vec<String>,
}

impl<'a> Rows<'a> {
    fn of(wanted: &[(&'a ShardFlush, Locked)]) -> Self {
        let mut this = Self {
            tasks: Vec::new(),
            completed: Vec::new(),
            statements: Vec::new(),
        };
        this.sort_tasks(wanted);
        this.write_done(wanted);
        let keys = wanted.iter().flat_map(|(part, _)| {
            let shard = part.shard;
            part.keys.iter().map(move |key| (shard, key))
        });
        this.statements.extend(write::save_keys(keys));
        this.statements.extend(save_cancels(wanted));
        this.statements.push(save_shards(wanted));
        this
    }

    /// A task is in one of two tables, so what is saved into one is deleted from the other.
    fn sort_tasks(&mut self, wanted: &[(&'a ShardFlush, Locked)]) {
        let (mut not_in_tasks, mut not_in_completed) = (Vec::new(), Vec::new());
        for (part, _) in wanted {
            // What is named twice has what was said last, and a forgotten one is forgotten.
            let mut last: BTreeMap<Offset, Option<&StoredTask>> = BTreeMap::new();
            last.extend(part.tasks.iter().map(|task| (task.offset, Some(task))));
            last.extend(part.forgotten.iter().map(|offset| (*offset, None)));
            for (offset, task) in last {
                let place = (part.shard, offset);
                match task.map(TaskRow::new) {
                    Some(row) if row.state == StateName::Completed => {
                        self.completed.push((part.shard, row));
                        not_in_tasks.push(place);
                    }
                    Some(row) => {
                        self.tasks.push((part.shard, row));
                        not_in_completed.push(place);
                    }
                    None => {
                        not_in_tasks.push(place);
                        not_in_completed.push(place);
                    }
                }
            }
        }
        let deletes = write::delete_tasks("task", &not_in_tasks);
        self.statements.extend(deletes);
        let deletes = write::delete_tasks("completed_task", &not_in_completed);
        self.statements.extend(deletes);
    }

    fn write_done(&mut self, wanted: &[(&'a ShardFlush, Locked)]) {
        let first = |watermark: u64| watermark / CHUNK_BITS;
        let passed = wanted.iter().filter_map(|(part, found)| {
            let first_kept = first(part.watermark.0);
            (first_kept > first(found.watermark)).then_some((part.shard, first_kept))
        });
        self.statements.extend(write::delete_done(passed));
        let chunks = wanted.iter().flat_map(|(part, _)| {
            let kept = move |index| index >= first(part.watermark.0);
            let chunks = part.done.iter().filter(move |chunk| kept(chunk.index));
            chunks.map(|chunk| (part.shard, chunk))
        });
        self.statements.extend(write::save_done(chunks));
    }
}

/// One statement for each shard: few have bulk cancels, and an older member's row must not lose its own.
fn save_cancels(wanted: &[(&ShardFlush, Locked)]) -> Vec<String> {
    let save = |(part, _): &(&ShardFlush, Locked)| {
        let cancels = part.cancels.as_ref()?;
        Some(format!(
            "UPDATE shard SET cancels = {} WHERE {} AND epoch = {}",
            quoted(&row::encode_cancels(cancels)),
            is_shard(part.shard),
            part.epoch.0
        ))
    };
    wanted.iter().filter_map(save).collect()
}

fn save_shards(wanted: &[(&ShardFlush, Locked)]) -> String {
    let row = |(part, _): &(&ShardFlush, Locked)| {
        let (shard, epoch) = (part.shard, part.epoch.0);
        format!(
            "({},{},{epoch},{},{},{},'','',UTC_TIMESTAMP(3))",
            shard.pipeline.0, shard.partition.0, part.number, part.watermark.0, part.seen_end.0
        )
    };
    let rows: Vec<_> = wanted.iter().map(row).collect();
    // The rows are there and locked, so none is inserted; the epoch is asked for once more where it counts.
    format!(
        "INSERT INTO shard (pipeline, `partition`, epoch, flush_number, watermark, seen_end, address, \
         incarnation, claimed_at) VALUES {} ON DUPLICATE KEY UPDATE \
         flush_number = IF(epoch = VALUES(epoch), VALUES(flush_number), flush_number), \
         watermark = IF(epoch = VALUES(epoch), VALUES(watermark), watermark), \
         seen_end = IF(epoch = VALUES(epoch), VALUES(seen_end), seen_end), \
         flushed_at = UTC_TIMESTAMP(3)",
        rows.join(",")
    )
}

#[cfg(test)]
mod tests {
    use scheduler_core::{Epoch, Partition, PipelineNumber};

    use super::*;

    fn part(partition: u16, n_forgotten: u64) -> ShardFlush {
        ShardFlush {
            shard: ShardId {
                pipeline: PipelineNumber(1),
                partition: Partition(partition),
            },
            epoch: Epoch(1),
            number: 1,
            watermark: Offset::ZERO,
            seen_end: Offset::ZERO,
            done: Vec::new(),
            tasks: Vec::new(),
            forgotten: (0..n_forgotten).map(Offset).collect(),
            keys: Vec::new(),
            cancels: None,
        }
    }

    #[test]
    fn parts_go_together_as_far_as_they_fit() {
        assert_eq!(n_together(&[part(0, 10), part(1, 10)]), 2);
        assert_eq!(n_together(&[part(0, 4_000), part(1, 4_000)]), 1);
        assert_eq!(n_together(&[part(0, 10), part(1, 40_000)]), 1);
        assert_eq!(n_together(&[part(0, 40_000), part(1, 1)]), 1);
    }

    #[test]
    fn no_shard_is_twice_in_one_transaction() {
        assert_eq!(n_together(&[part(0, 1), part(1, 1), part(0, 1)]), 2);
    }
}
