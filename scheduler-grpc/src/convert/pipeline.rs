//! Applications and pipelines.

use scheduler_core::{
    ApplicationPath, Deleted, Error, Invalid, Mode, Pipeline, PipelineNumber, PipelinePath,
    PipelineSpec, Revision, Step, TaskOptions, TenantName,
    pipeline::{
        command::CommandTemplate,
        limits::{Limit, Limits, Rate},
    },
    port::catalog::Application,
};

use super::{duration, duration_of, missing, timestamp, timestamp_of};
use crate::pb;

impl From<&Step> for pb::Step {
    fn from(step: &Step) -> Self {
        Self {
            executor: step.executor.to_string(),
            commands: step.commands.iter().map(ToString::to_string).collect(),
        }
    }
}

impl TryFrom<pb::Step> for Step {
    type Error = Invalid;

    fn try_from(step: pb::Step) -> Result<Self, Invalid> {
        let commands = step.commands.iter().enumerate().map(|(i, command)| {
            CommandTemplate::parse(command)
                .map_err(|fault| Invalid::new(format!("commands[{i}]"), fault.rule))
        });
        Ok(Self {
            executor: step.executor.as_str().try_into()?,
            commands: commands.collect::<Result<_, _>>()?,
        })
    }
}

fn limit(limit: &Limit) -> Option<pb::Limit> {
    (!limit.is_none()).then(|| pb::Limit {
        concurrency: limit.concurrency,
        rate: limit.rate.map(|rate| pb::Rate {
            n: rate.n,
            per: Some(duration(rate.per)),
        }),
    })
}

fn limit_of(limit: Option<pb::Limit>) -> Result<Limit, Invalid> {
    let limit = limit.unwrap_or_default();
    let rate = limit.rate.map(|rate| {
        let per = rate.per.unwrap_or_default();
        Ok::<_, Invalid>(Rate {
            n: rate.n,
            per: duration_of("limits.rate.per", per)?,
        })
    });
    Ok(Limit {
        concurrency: limit.concurrency,
        rate: rate.transpose()?,
    })
}

impl From<&PipelineSpec> for pb::PipelineSpec {
    fn from(spec: &PipelineSpec) -> Self {
        Self {
            steps: spec.steps.iter().map(Into::into).collect(),
            options: (!spec.defaults.is_empty()).then(|| (&spec.defaults).into()),
            partitions: spec.n_partitions.into(),
            limit: limit(&spec.limits.all),
            group_limit: limit(&spec.limits.group),
            pool: spec
                .pool
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
        }
    }
}

impl TryFrom<pb::PipelineSpec> for PipelineSpec {
    type Error = Invalid;

    fn try_from(spec: pb::PipelineSpec) -> Result<Self, Invalid> {
        let steps = spec.steps.into_iter().enumerate().map(|(i, step)| {
            Step::try_from(step).map_err(|fault| fault.within(&format!("steps[{i}]")))
        });
        let options = spec.options.unwrap_or_default();
        let spec = Self {
            steps: steps.collect::<Result<_, _>>()?,
            defaults: TaskOptions::try_from(options).map_err(|fault| fault.within("options"))?,
            limits: Limits {
                all: limit_of(spec.limit)?,
                group: limit_of(spec.group_limit)?,
            },
            pool: match spec.pool.as_str() {
                "" => None,
                pool => Some(pool.try_into()?),
            },
            n_partitions: match spec.partitions {
                0 => 1,
                n => u16::try_from(n).unwrap_or(u16::MAX),
            },
        };
        spec.validate()?;
        Ok(spec)
    }
}

impl From<&Pipeline> for pb::Pipeline {
    fn from(pipeline: &Pipeline) -> Self {
        Self {
            application: pipeline.path.application.to_string(),
            pipeline: pipeline.path.pipeline.to_string(),
            number: pipeline.number.0,
            revision: pipeline.revision.0,
            spec: Some((&pipeline.spec).into()),
            created_at: Some(timestamp(pipeline.created_at)),
            state: state(&pipeline.mode).into(),
            pause: match &pipeline.mode {
                Mode::Paused { by, reason, at } => Some(pb::Pause {
                    by: by.clone(),
                    reason: reason.clone(),
                    at: Some(timestamp(*at)),
                }),
                Mode::Active | Mode::Draining | Mode::Deleting => None,
            },
        }
    }
}

fn state(mode: &Mode) -> pb::PipelineState {
    match mode {
        Mode::Active => pb::PipelineState::Active,
        Mode::Paused { .. } => pb::PipelineState::Paused,
        Mode::Draining => pb::PipelineState::Draining,
        Mode::Deleting => pb::PipelineState::Deleting,
    }
}

fn mode(state: pb::PipelineState, pause: Option<pb::Pause>) -> Result<Mode, Error> {
    Ok(match state {
        pb::PipelineState::Unspecified | pb::PipelineState::Active => Mode::Active,
        pb::PipelineState::Paused => {
            let pause = pause.ok_or_else(|| missing("pause"))?;
            let at = pause.at.ok_or_else(|| missing("pause.at"))?;
            Mode::Paused {
                by: pause.by,
                reason: pause.reason,
                at: timestamp_of("pause.at", at)?,
            }
        }
        pb::PipelineState::Draining => Mode::Draining,
        pb::PipelineState::Deleting => Mode::Deleting,
    })
}

/// Reads a pipeline of a tenant.
///
/// # Errors
/// [`Error::Malformed`] or [`Error::Invalid`] if the other side speaks another version.
pub fn pipeline(tenant: &TenantName, pipeline: pb::Pipeline) -> Result<Pipeline, Error> {
    let created_at = pipeline.created_at.ok_or_else(|| missing("created_at"))?;
    let mode = mode(pipeline.state(), pipeline.pause)?;
    Ok(Pipeline {
        number: PipelineNumber(pipeline.number),
        path: PipelinePath {
            tenant: tenant.clone(),
            application: pipeline.application.as_str().try_into()?,
            pipeline: pipeline.pipeline.as_str().try_into()?,
        },
        revision: Revision(pipeline.revision),
        spec: pipeline.spec.ok_or_else(|| missing("spec"))?.try_into()?,
        mode,
        created_at: timestamp_of("created_at", created_at)?,
    })
}

impl From<Deleted> for pb::DeletePipelineResponse {
    fn from(deleted: Deleted) -> Self {
        let state = match deleted {
            Deleted::Done => pb::PipelineState::Unspecified,
            Deleted::Pending => pb::PipelineState::Deleting,
        };
        Self {
            state: state.into(),
        }
    }
}

/// Reads how a deletion stands.
#[cfg(feature = "client")]
pub(crate) fn deleted(answer: &pb::DeletePipelineResponse) -> Deleted {
    match answer.state() {
        pb::PipelineState::Deleting => Deleted::Pending,
        pb::PipelineState::Unspecified
        | pb::PipelineState::Active
        | pb::PipelineState::Paused
        | pb::PipelineState::Draining => Deleted::Done,
    }
}

impl From<Application> for pb::Application {
    fn from(application: Application) -> Self {
        Self {
            application: application.path.application.to_string(),
            revision: application.revision.0,
            created_at: Some(timestamp(application.created_at)),
        }
    }
}

/// Reads an application of a tenant.
///
/// # Errors
/// [`Error::Malformed`] or [`Error::Invalid`] if the other side speaks another version.
pub fn application(
    tenant: &TenantName,
    application: pb::Application,
) -> Result<Application, Error> {
    let created_at = application
        .created_at
        .ok_or_else(|| missing("created_at"))?;
    Ok(Application {
        path: ApplicationPath {
            tenant: tenant.clone(),
            application: application.application.as_str().try_into()?,
        },
        revision: Revision(application.revision),
        created_at: timestamp_of("created_at", created_at)?,
    })
}
