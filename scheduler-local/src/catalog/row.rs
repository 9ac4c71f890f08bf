//! Rows of the catalogue: what a pipeline's row holds as text and as a blob.

use std::{sync::Arc, time::Duration};

use scheduler_core::{
    ApplicationPath, Mode, Pipeline, PipelineNumber, PipelinePath, PipelineSpec, PoolName,
    Revision, Step,
    pipeline::{
        command::CommandTemplate,
        limits::{Limit, Limits, Rate},
    },
    port::{BoxError, catalog::Application},
};
use serde::{Deserialize, Serialize};
use sqlx::{Row, sqlite::SqliteRow};

use crate::{
    codec::decode_options,
    key::{time_key, time_of},
};

/// A step as JSON, so that people can read it in the table.
#[derive(Debug, Serialize, Deserialize)]
struct StepRow {
    executor: String,
    commands: Vec<String>,
}

/// Limits as JSON, for the same reason. What is not there has no limit.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct LimitsRow {
    all: LimitRow,
    group: LimitRow,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct LimitRow {
    concurrency: Option<u32>,
    rate: Option<RateRow>,
}

#[derive(Debug, Serialize, Deserialize)]
struct RateRow {
    n: u32,
    per_ms: u64,
}

impl From<Limit> for LimitRow {
    fn from(limit: Limit) -> Self {
        let Limit { concurrency, rate } = limit;
        let rate = rate.map(|Rate { n, per }| RateRow {
            n,
            per_ms: u64::try_from(per.as_millis()).unwrap_or(u64::MAX),
        });
        Self { concurrency, rate }
    }
}

impl From<LimitRow> for Limit {
    fn from(row: LimitRow) -> Self {
        let rate = row.rate.map(|row| Rate {
            n: row.n,
            per: Duration::from_millis(row.per_ms),
        });
        Self {
            concurrency: row.concurrency,
            rate,
        }
    }
}

/// The limits of a pipeline as a JSON object.
pub(super) fn encode_limits(limits: &Limits) -> String {
    let Limits { all, group } = *limits;
    let row = LimitsRow {
        all: all.into(),
        group: group.into(),
    };
    serde_json::to_string(&row).expect("numbers have a JSON form")
}

fn decode_limits(text: &str) -> Result<Limits, BoxError> {
    let row: LimitsRow = serde_json::from_str(text)?;
    Ok(Limits {
        all: row.all.into(),
        group: row.group.into(),
    })
}

/// The steps of a pipeline as a JSON array.
pub(super) fn encode_steps(steps: &[Step]) -> String {
    let step = |step: &Step| StepRow {
        executor: step.executor.as_str().to_owned(),
        commands: step
            .commands
            .iter()
            .map(|command| command.source().to_owned())
            .collect(),
    };
    let rows: Vec<_> = steps.iter().map(step).collect();
    serde_json::to_string(&rows).expect("texts and lists have a JSON form")
}

fn decode_steps(text: &str) -> Result<Arc<[Step]>, BoxError> {
    let rows: Vec<StepRow> = serde_json::from_str(text)?;
    let step = |row: StepRow| -> Result<Step, BoxError> {
        let commands = row
            .commands
            .iter()
            .map(|source| CommandTemplate::parse(source));
        Ok(Step {
            executor: row.executor.as_str().try_into()?,
            commands: commands.collect::<Result<_, _>>()?,
        })
    };
    rows.into_iter().map(step).collect()
}

fn damaged(err: impl Into<BoxError>) -> sqlx::Error {
    sqlx::Error::Decode(err.into())
}

/// From `tenant, application, revision, created_at`.
pub(super) fn application(row: &SqliteRow) -> Result<Application, sqlx::Error> {
    let revision: i64 = row.try_get(2)?;
    Ok(Application {
        path: ApplicationPath {
            tenant: row.try_get::<&str, _>(0)?.try_into().map_err(damaged)?,
            application: row.try_get::<&str, _>(1)?.try_into().map_err(damaged)?,
        },
        revision: Revision(revision.cast_unsigned()),
        created_at: time_of(row.try_get(3)?),
    })
}

/// From `number, tenant, application, pipeline, revision, created_at, n_partitions, steps, defaults, mode, paused_by,
/// paused_reason, paused_at, limits, pool`.
pub(super) fn pipeline(row: &SqliteRow) -> Result<Pipeline, sqlx::Error> {
    let revision: i64 = row.try_get(4)?;
    let pool: Option<&str> = row.try_get(14)?;
    Ok(Pipeline {
        number: PipelineNumber(row.try_get(0)?),
        path: PipelinePath {
            tenant: row.try_get::<&str, _>(1)?.try_into().map_err(damaged)?,
            application: row.try_get::<&str, _>(2)?.try_into().map_err(damaged)?,
            pipeline: row.try_get::<&str, _>(3)?.try_into().map_err(damaged)?,
        },
        revision: Revision(revision.cast_unsigned()),
        spec: PipelineSpec {
            steps: decode_steps(row.try_get(7)?).map_err(damaged)?,
            defaults: decode_options(row.try_get(8)?).map_err(damaged)?,
            pool: pool.map(PoolName::try_from).transpose().map_err(damaged)?,
            limits: decode_limits(row.try_get(13)?).map_err(damaged)?,
            n_partitions: row.try_get(6)?,
        },
        mode: mode(row)?,
        created_at: time_of(row.try_get(5)?),
    })
}

fn mode(row: &SqliteRow) -> Result<Mode, sqlx::Error> {
    Ok(match row.try_get(9)? {
        "active" => Mode::Active,
        "paused" => Mode::Paused {
            by: row.try_get(10)?,
            reason: row.try_get(11)?,
            at: time_of(row.try_get(12)?),
        },
        "draining" => Mode::Draining,
        "deleting" => Mode::Deleting,
        other => return Err(damaged(format!("the mode {other:?} is not known"))),
    })
}

/// Who paused it, why and when; nothing of a mode that is not paused.
pub(super) fn pause(mode: &Mode) -> (Option<&str>, Option<&str>, Option<i64>) {
    match mode {
        Mode::Paused { by, reason, at } => (Some(by), Some(reason), Some(time_key(*at))),
        Mode::Active | Mode::Draining | Mode::Deleting => (None, None, None),
    }
}
