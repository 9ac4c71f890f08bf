//! Reading and changing the catalogue: every change locks its one row of counters, so there is one at a time.

use std::sync::Arc;

use scheduler_core::{
    ApplicationPath, Mode, Pipeline, PipelineNumber, PipelinePath, PipelineSpec, PoolName,
    Revision, Timestamp,
    port::{
        BoxError,
        catalog::{Application, CatalogVersion, Change, Changed, Snapshot},
    },
};
use sqlx::mysql::MySqlRow;

use crate::{
    call::Call,
    key::{quoted, quoted_time},
    row::{
        self, FORMAT, check_format, decode_limits, decode_options, decode_steps, encode_limits,
        encode_options, encode_steps, value,
    },
    session::{Pool, Session},
};

/// The whole catalogue as of one moment.
pub(super) async fn snapshot(pool: &Arc<Pool>) -> Result<Snapshot, sqlx::Error> {
    let mut session = pool.session().await?;
    session.begin_snapshot().await?;
    let version = read_version(&mut session).await?;
    let read = "SELECT tenant, application, revision, created_at FROM application";
    let rows = session.rows(read.to_owned()).await?;
    let mut applications: Vec<_> = rows.iter().map(application).collect::<Result<_, _>>()?;
    let read = "SELECT tenant, application, pipeline, number, format, revision, created_at, n_partitions, \
        steps, defaults, mode, paused_by, paused_reason, paused_at, limits, pool FROM pipeline";
    let rows = session.rows(read.to_owned()).await?;
    let mut pipelines: Vec<_> = rows.iter().map(pipeline).collect::<Result<_, _>>()?;
    session.roll_back().await?;
    applications.sort_by(|one, other| one.path.cmp(&other.path));
    pipelines.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(Snapshot {
        version,
        applications,
        pipelines,
    })
}

/// The version alone.
pub(super) async fn read_version(session: &mut Session) -> Result<CatalogVersion, sqlx::Error> {
    let read = "SELECT version FROM catalog WHERE id = 1";
    let rows = session.rows(read.to_owned()).await?;
    let row = rows.first().ok_or_else(no_counters)?;
    Ok(CatalogVersion(value(row, 0)?))
}

fn no_counters() -> sqlx::Error {
    sqlx::Error::Decode("the one row of the table catalog is gone".into())
}

fn application(row: &MySqlRow) -> Result<Application, sqlx::Error> {
    let (tenant, application): (&str, &str) = (value(row, 0)?, value(row, 1)?);
    let decode = || -> Result<Application, BoxError> {
        Ok(Application {
            path: ApplicationPath {
                tenant: tenant.try_into()?,
                application: application.try_into()?,
            },
            revision: Revision(value(row, 2)?),
            created_at: row::time(row, 3)?.ok_or("created_at is null")?,
        })
    };
    decode().map_err(|err| {
        let what = format!("application {tenant}/{application} cannot be understood: {err}");
        sqlx::Error::Decode(what.into())
    })
}

fn pipeline(row: &MySqlRow) -> Result<Pipeline, sqlx::Error> {
    let number: u32 = value(row, 3)?;
    let decode = || -> Result<Pipeline, BoxError> {
        check_format(value(row, 4)?)?;
        Ok(Pipeline {
            number: PipelineNumber(number),
            path: PipelinePath {
                tenant: value::<&str>(row, 0)?.try_into()?,
                application: value::<&str>(row, 1)?.try_into()?,
                pipeline: value::<&str>(row, 2)?.try_into()?,
            },
            revision: Revision(value(row, 5)?),
            spec: PipelineSpec {
                steps: decode_steps(value(row, 8)?)?,
                defaults: decode_options(value(row, 9)?)?,
                pool: value::<Option<&str>>(row, 15)?
                    .map(TryInto::try_into)
                    .transpose()?,
                limits: decode_limits(value(row, 14)?)?,
                n_partitions: value(row, 7)?,
            },
            mode: mode(row)?,
            created_at: row::time(row, 6)?.ok_or("created_at is null")?,
        })
    };
    decode().map_err(|err| {
        let what = format!("pipeline {number} cannot be understood: {err}");
        sqlx::Error::Decode(what.into())
    })
}

fn mode(row: &MySqlRow) -> Result<Mode, BoxError> {
    Ok(match value(row, 10)? {
        "active" => Mode::Active,
        "paused" => Mode::Paused {
            by: value(row, 11)?,
            reason: value(row, 12)?,
            at: row::time(row, 13)?.ok_or("paused_at is null")?,
        },
        "draining" => Mode::Draining,
        "deleting" => Mode::Deleting,
        other => return Err(format!("its mode {other:?} is not known").into()),
    })
}

/// Does one change in one transaction, or says why not.
pub(super) async fn change(
    pool: &Arc<Pool>,
    call: &Call,
    change: &Change,
) -> Result<Changed, sqlx::Error> {
    let mut session = pool.session().await?;
    session.begin().await?;
    let read = "SELECT version, last_pipeline FROM catalog WHERE id = 1 FOR UPDATE";
    let rows = session.rows(read.to_owned()).await?;
    let row = rows.first().ok_or_else(no_counters)?;
    let (version, last_pipeline): (u64, u32) = (value(row, 0)?, value(row, 1)?);
    let number = last_pipeline + 1;
    if let Some(refused) = apply(&mut session, change, number).await? {
        session.roll_back().await?;
        return Ok(refused);
    }
    let is_creation = matches!(change, Change::CreatePipeline { .. });
    let last_pipeline = if is_creation { number } else { last_pipeline };
    let version = version + 1;
    let count = format!(
        "UPDATE catalog SET version = {version}, last_pipeline = {last_pipeline} WHERE id = 1"
    );
    session.execute(count).await?;
    session.commit(call).await?;
    Ok(Changed::Done(CatalogVersion(version)))
}

async fn apply(
    session: &mut Session,
    change: &Change,
    number: u32,
) -> Result<Option<Changed>, sqlx::Error> {
    match change {
        Change::CreateApplication { path, at } => {
            let n_made = create_application(session, path, *at).await?;
            Ok((n_made == 0).then_some(Changed::Exists))
        }
        Change::DeleteApplication { path } => delete_application(session, path).await,
        Change::CreatePipeline { path, spec, at } => {
            if find(session, path).await?.is_some() {
                return Ok(Some(Changed::Exists));
            }
            create_application(session, &path.application_path(), *at).await?;
            create_pipeline(session, path, spec, *at, number).await?;
            Ok(None)
        }
        Change::UpdatePipeline {
            path,
            expected,
            spec,
        } => match find(session, path).await? {
            None => Ok(Some(Changed::Missing)),
            Some(found) if found.revision != *expected => Ok(Some(Changed::Stale(found.revision))),
            Some(_) => {
                update_pipeline(session, path, spec).await?;
                Ok(None)
            }
        },
        Change::SetMode { path, number, mode } => match find(session, path).await? {
            Some(found) if found.number == *number => {
                if found.is_deleting {
                    return Ok(Some(Changed::Deleting));
                }
                set_mode(session, path, mode).await?;
                Ok(None)
            }
            Some(_) | None => Ok(Some(Changed::Missing)),
        },
        Change::DeletePipeline { path, number } => {
            let delete = format!(
                "DELETE FROM pipeline WHERE {} AND number = {}",
                is_pipeline(path),
                number.0
            );
            let n_deleted = session.execute(delete).await?;
            Ok((n_deleted == 0).then_some(Changed::Missing))
        }
    }
}

fn is_application(path: &ApplicationPath) -> String {
    let (tenant, application) = (path.tenant.as_str(), path.application.as_str());
    let (tenant, application) = (quoted(tenant), quoted(application));
    format!("tenant = {tenant} AND application = {application}")
}

fn is_pipeline(path: &PipelinePath) -> String {
    let application = is_application(&path.application_path());
    format!(
        "{application} AND pipeline = {}",
        quoted(path.pipeline.as_str())
    )
}

/// What a change of a pipeline is decided on.
#[derive(Debug)]
struct Found {
    number: PipelineNumber,
    revision: Revision,
    is_deleting: bool,
}

/// Locks the row, because only a locking read sees what was committed since the begin.
async fn find(session: &mut Session, path: &PipelinePath) -> Result<Option<Found>, sqlx::Error> {
    let read = format!(
        "SELECT number, revision, mode = 'deleting' FROM pipeline WHERE {} FOR UPDATE",
        is_pipeline(path)
    );
    let rows = session.rows(read).await?;
    let found = |row: &MySqlRow| {
        Ok(Found {
            number: PipelineNumber(value(row, 0)?),
            revision: Revision(value(row, 1)?),
            is_deleting: value::<u8>(row, 2)? != 0,
        })
    };
    rows.first().map(found).transpose()
}

/// Creates an application unless it is there; how many it made.
async fn create_application(
    session: &mut Session,
    path: &ApplicationPath,
    at: Timestamp,
) -> Result<u64, sqlx::Error> {
    let create = format!(
        "INSERT IGNORE INTO application (tenant, application, revision, created_at) VALUES ({}, {}, 1, {})",
        quoted(path.tenant.as_str()),
        quoted(path.application.as_str()),
        quoted_time(at)
    );
    session.execute(create).await
}

async fn delete_application(
    session: &mut Session,
    path: &ApplicationPath,
) -> Result<Option<Changed>, sqlx::Error> {
    let is_application = is_application(path);
    let read = format!("SELECT number FROM pipeline WHERE {is_application} LIMIT 1 FOR UPDATE");
    if !session.rows(read).await?.is_empty() {
        return Ok(Some(Changed::NotEmpty));
    }
    let delete = format!("DELETE FROM application WHERE {is_application}");
    let n_deleted = session.execute(delete).await?;
    Ok((n_deleted == 0).then_some(Changed::Missing))
}

fn quoted_or_null(text: Option<&str>) -> String {
    text.map_or_else(|| "NULL".to_owned(), quoted)
}

async fn create_pipeline(
    session: &mut Session,
    path: &PipelinePath,
    spec: &PipelineSpec,
    at: Timestamp,
    number: u32,
) -> Result<(), sqlx::Error> {
    let create = format!(
        "INSERT INTO pipeline (tenant, application, pipeline, number, format, revision, created_at, n_partitions, \
         steps, defaults, limits, pool) VALUES ({}, {}, {}, {number}, {FORMAT}, 1, {}, {}, {}, {}, {}, {})",
        quoted(path.tenant.as_str()),
        quoted(path.application.as_str()),
        quoted(path.pipeline.as_str()),
        quoted_time(at),
        spec.n_partitions,
        quoted(&encode_steps(&spec.steps)),
        quoted(&encode_options(&spec.defaults)),
        quoted_or_null(encode_limits(&spec.limits).as_deref()),
        quoted_or_null(spec.pool.as_ref().map(PoolName::as_str)),
    );
    session.execute(create).await.map(|_| ())
}

/// All but number and partitions.
async fn update_pipeline(
    session: &mut Session,
    path: &PipelinePath,
    spec: &PipelineSpec,
) -> Result<(), sqlx::Error> {
    let update = format!(
        "UPDATE pipeline SET revision = revision + 1, format = {FORMAT}, steps = {}, defaults = {}, limits = {}, \
         pool = {} WHERE {}",
        quoted(&encode_steps(&spec.steps)),
        quoted(&encode_options(&spec.defaults)),
        quoted_or_null(encode_limits(&spec.limits).as_deref()),
        quoted_or_null(spec.pool.as_ref().map(PoolName::as_str)),
        is_pipeline(path)
    );
    session.execute(update).await.map(|_| ())
}

async fn set_mode(
    session: &mut Session,
    path: &PipelinePath,
    mode: &Mode,
) -> Result<(), sqlx::Error> {
    let pause = match mode {
        Mode::Paused { by, reason, at } => {
            format!(
                "paused_by = {}, paused_reason = {}, paused_at = {}",
                quoted(by),
                quoted(reason),
                quoted_time(*at)
            )
        }
        Mode::Active | Mode::Draining | Mode::Deleting => {
            "paused_by = NULL, paused_reason = NULL, paused_at = NULL".to_owned()
        }
    };
    let update = format!(
        "UPDATE pipeline SET mode = {}, {pause} WHERE {}",
        quoted(mode.as_str()),
        is_pipeline(path)
    );
    session.execute(update).await.map(|_| ())
}
