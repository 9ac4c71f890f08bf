//! What rows hold: which columns, in which order, and how they become the domain's types and back.

mod json;

pub(crate) use self::json::{
    decode_cancels, decode_limits, decode_options, decode_steps, encode_cancels, encode_limits,
    encode_options, encode_steps,
};

use bytes::Bytes;
use scheduler_core::{
    LeaseToken, Offset, Partition, PipelineNumber, ShardId, Timestamp,
    port::{
        BoxError,
        log::NewTask,
        store::{Ending, Parked, StateName, StoredState, StoredTask},
    },
};
use sqlx::{Decode, MySql, Row as _, mysql::MySqlRow};

use crate::key::time_of;

/// The format of rows that this program writes. It reads no greater one.
pub(crate) const FORMAT: u8 = 1;

/// The columns that [`task`] reads, of the table `task`.
pub(crate) const TASK_COLUMNS: &str = "pipeline, `partition`, `offset`, format, state, attempt, token, \
    accepted_at, started_at, due_at, worker, leased_at, ended_at, keep_until, data, \
    CAST(NULL AS BINARY) AS result, options, errors, traceparent";

/// The same of the table `completed_task`.
pub(crate) const COMPLETED_COLUMNS: &str = "pipeline, `partition`, `offset`, format, 'completed' AS state, \
    attempt, token, accepted_at, started_at, CAST(NULL AS DATETIME(3)) AS due_at, \
    CAST(NULL AS CHAR) AS worker, CAST(NULL AS DATETIME(3)) AS leased_at, ended_at, keep_until, data, \
    result, options, errors, traceparent";

/// True of rows that are to be shown: those past their time wait to be removed.
pub(crate) const IS_KEPT: &str = "(keep_until IS NULL OR keep_until > UTC_TIMESTAMP(3))";

/// A value of a row of texts, by its place.
pub(crate) fn value<'r, T: Decode<'r, MySql>>(
    row: &'r MySqlRow,
    at: usize,
) -> Result<T, sqlx::Error> {
    // Without a check of types: what is asked for is what the statement selects.
    row.try_get_unchecked(at)
}

/// A shard from the first two columns.
pub(crate) fn shard(row: &MySqlRow) -> Result<ShardId, sqlx::Error> {
    Ok(ShardId {
        pipeline: PipelineNumber(value(row, 0)?),
        partition: Partition(value(row, 1)?),
    })
}

/// A time that may be null.
pub(crate) fn time(row: &MySqlRow, at: usize) -> Result<Option<Timestamp>, sqlx::Error> {
    let Some(text) = value::<Option<&str>>(row, at)? else {
        return Ok(None);
    };
    let time = time_of(text).ok_or_else(|| {
        sqlx::Error::Decode(format!("column {at} is {text:?}, which is no time").into())
    })?;
    Ok(Some(time))
}

/// A stored task and its shard, from `TASK_COLUMNS`. An error says which row cannot be understood.
pub(crate) fn task(row: &MySqlRow) -> Result<(ShardId, StoredTask), sqlx::Error> {
    let shard = shard(row)?;
    let offset = Offset(value(row, 2)?);
    let task = decode_task(row, offset).map_err(|err| {
        let place = format!("the stored task {shard} at offset {}", offset.0);
        sqlx::Error::Decode(format!("{place} cannot be understood: {err}").into())
    })?;
    Ok((shard, task))
}

/// Refuses a format that a newer program wrote.
pub(crate) fn check_format(format: u8) -> Result<(), BoxError> {
    if format <= FORMAT {
        return Ok(());
    }
    Err(format!("it has format {format}, and this program knows formats up to {FORMAT}").into())
}

fn decode_task(row: &MySqlRow, offset: Offset) -> Result<StoredTask, BoxError> {
    check_format(value(row, 3)?)?;
    let bytes =
        |at| -> Result<Bytes, sqlx::Error> { Ok(Bytes::copy_from_slice(value::<&[u8]>(row, at)?)) };
    let parked = |kind| -> Result<StoredState, BoxError> {
        let due_at = time(row, 9)?.ok_or("due_at is null")?;
        Ok(StoredState::Parked { due_at, kind })
    };
    let ended = |ending| -> Result<StoredState, BoxError> {
        Ok(StoredState::Ended {
            ending,
            ended_at: time(row, 12)?.ok_or("ended_at is null")?,
            keep_until: time(row, 13)?.unwrap_or(Timestamp::NEVER),
        })
    };
    let state = match value(row, 4)? {
        "scheduled" => parked(Parked::Scheduled)?,
        "available" => parked(Parked::Available)?,
        "retryable" => parked(Parked::Retryable)?,
        "running" => StoredState::Running {
            worker: value::<&str>(row, 10)?.try_into()?,
            leased_at: time(row, 11)?.ok_or("leased_at is null")?,
        },
        "completed" => ended(Ending::Completed { result: bytes(15)? })?,
        "cancelled" => ended(Ending::Cancelled)?,
        "discarded" => ended(Ending::Discarded)?,
        other => return Err(format!("its state {other:?} is not known").into()),
    };
    let options = value::<Option<&str>>(row, 16)?.map(decode_options);
    Ok(StoredTask {
        offset,
        accepted_at: time(row, 7)?.ok_or("accepted_at is null")?,
        task: NewTask {
            data: bytes(14)?,
            options: options.transpose()?.map(Into::into),
            traceparent: value::<Option<&str>>(row, 18)?.map(Into::into),
        },
        state,
        attempt: value(row, 5)?,
        token: LeaseToken::from_u64(value(row, 6)?),
        started_at: time(row, 8)?,
        errors: match value::<Option<&str>>(row, 17)? {
            Some(text) => json::decode_errors(text)?,
            None => Vec::new(),
        },
    })
}

/// What one row of `task` or `completed_task` is written from.
#[derive(Debug)]
pub(crate) struct TaskRow<'a> {
    pub(crate) task: &'a StoredTask,
    pub(crate) state: StateName,
    pub(crate) n_bytes: u32,
    pub(crate) options: Option<String>,
    pub(crate) errors: Option<String>,
}

impl<'a> TaskRow<'a> {
    pub(crate) fn new(task: &'a StoredTask) -> Self {
        let errors = (!task.errors.is_empty()).then(|| json::encode_errors(&task.errors));
        let options = task.task.options.as_deref().map(encode_options);
        Self {
            task,
            state: task.state.name(),
            n_bytes: u32::try_from(task.n_bytes()).unwrap_or(u32::MAX),
            options,
            errors,
        }
    }

    /// What the row takes in a statement, about.
    pub(crate) fn len(&self) -> usize {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let result = match &self.task.state {
            StoredState::Ended {
                ending: Ending::Completed { result },
                ..
            } => result.len(),
            _ => 0,
        };
        self.task.task.data.len() + result + text(&self.options) + text(&self.errors) + 200
    }
}
