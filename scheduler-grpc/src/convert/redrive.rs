//! A redrive of many dead letters, and how far it is.

#[cfg(feature = "client")]
use scheduler_core::{Error, Failure, PipelinePath};
use scheduler_core::{Halted, Invalid, RedriveMany, Redriving};

use super::{duration_of, some};
use crate::pb::{self, redrive_progress};

impl TryFrom<pb::RedrivePipelineRequest> for RedriveMany {
    type Error = Invalid;

    fn try_from(request: pb::RedrivePipelineRequest) -> Result<Self, Invalid> {
        let default = Self::default();
        Ok(Self {
            code: some(&request.code)?,
            limit: match request.limit {
                0 => default.limit,
                limit => limit as usize,
            },
            patience: match request.patience {
                Some(patience) => duration_of("patience", patience)?,
                None => default.patience,
            },
        })
    }
}

/// The request for a redrive.
#[cfg(feature = "client")]
pub(crate) fn redrive_request(
    path: &PipelinePath,
    query: RedriveMany,
) -> pb::RedrivePipelineRequest {
    pb::RedrivePipelineRequest {
        application: path.application.to_string(),
        pipeline: path.pipeline.to_string(),
        code: query.code.map(|code| code.to_string()).unwrap_or_default(),
        limit: u32::try_from(query.limit).unwrap_or(u32::MAX),
        patience: Some(super::duration(query.patience)),
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

impl From<&Redriving> for pb::RedriveProgress {
    fn from(so_far: &Redriving) -> Self {
        Self {
            found: count(so_far.n_found),
            redriven: count(so_far.n_redriven),
            skipped: count(so_far.n_skipped),
            changed: count(so_far.n_changed),
            halted: so_far.halted.as_ref().map(|halted| match halted {
                Halted::SameFailure { id, failure } => {
                    redrive_progress::Halted::SameFailure(pb::SameFailure {
                        id: id.to_string(),
                        code: failure.code.to_string(),
                        message: failure.message.clone(),
                    })
                }
                Halted::NoVerdict { n } => redrive_progress::Halted::NoVerdict(count(*n)),
            }),
        }
    }
}

/// Reads how far a redrive is. Of a failure, its code and message are told.
#[cfg(feature = "client")]
pub(crate) fn redriving(progress: pb::RedriveProgress) -> Result<Redriving, Error> {
    let halted = match progress.halted {
        Some(redrive_progress::Halted::SameFailure(same)) => Some(Halted::SameFailure {
            id: same.id.parse()?,
            failure: Failure {
                code: same.code.as_str().try_into()?,
                message: same.message,
                retryable: true,
                detail: bytes::Bytes::new(),
            },
        }),
        Some(redrive_progress::Halted::NoVerdict(n)) => Some(Halted::NoVerdict { n: n as usize }),
        None => None,
    };
    Ok(Redriving {
        n_found: progress.found as usize,
        n_redriven: progress.redriven as usize,
        n_skipped: progress.skipped as usize,
        n_changed: progress.changed as usize,
        halted,
    })
}
