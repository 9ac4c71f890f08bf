//! Bulk cancels: what is asked, and how far they are.

#[cfg(feature = "client")]
use std::collections::BTreeMap;

#[cfg(feature = "client")]
use scheduler_core::{BulkCancel, PipelinePath};
use scheduler_core::{
    CancelFilter, CancelMany, CancelPreview, CancelProgress, CancelRequest, Error, Invalid, Offset,
    ShardId,
};

use super::{shard, some, task::state, timestamp, timestamp_of};
use crate::pb;

/// A filter that is not said leaves out nothing.
pub(crate) fn filter(filter: Option<pb::CancelFilter>) -> Result<CancelFilter, Invalid> {
    let filter = filter.unwrap_or_default();
    let states = filter.states.into_iter().map(state);
    let from = filter.accepted_from;
    let before = filter.accepted_before;
    Ok(CancelFilter {
        key: some(&filter.key)?,
        group: some(&filter.group)?,
        states: states
            .collect::<Result<_, _>>()
            .map_err(|fault| Invalid::new("states", fault.rule))?,
        accepted_from: from
            .map(|at| timestamp_of("accepted_from", at))
            .transpose()?,
        accepted_before: before
            .map(|at| timestamp_of("accepted_before", at))
            .transpose()?,
        metadata: filter.metadata.into_iter().collect(),
    })
}

impl From<CancelFilter> for pb::CancelFilter {
    fn from(filter: CancelFilter) -> Self {
        let states = filter.states.into_iter();
        Self {
            key: filter.key.map(|key| key.to_string()).unwrap_or_default(),
            group: filter.group.map(|key| key.to_string()).unwrap_or_default(),
            states: states
                .map(|state| pb::TaskState::from(state).into())
                .collect(),
            accepted_from: filter.accepted_from.map(timestamp),
            accepted_before: filter.accepted_before.map(timestamp),
            metadata: filter.metadata.into_iter().collect(),
        }
    }
}

impl TryFrom<pb::CancelManyRequest> for CancelMany {
    type Error = Invalid;

    fn try_from(request: pb::CancelManyRequest) -> Result<Self, Invalid> {
        Ok(Self {
            filter: filter(request.filter).map_err(|fault| fault.within("filter"))?,
            all: request.all,
            id: some(&request.id)?,
        })
    }
}

/// The request for a bulk cancel.
#[cfg(feature = "client")]
pub(crate) fn cancel_request(path: &PipelinePath, wish: CancelMany) -> pb::CancelManyRequest {
    pb::CancelManyRequest {
        application: path.application.to_string(),
        pipeline: path.pipeline.to_string(),
        filter: Some(wish.filter.into()),
        all: wish.all,
        id: wish.id.map(|id| id.to_string()).unwrap_or_default(),
    }
}

/// Reads how far a bulk cancel is.
#[cfg(feature = "client")]
pub(crate) fn bulk_cancel(answer: pb::CancelManyResponse) -> Result<BulkCancel, Error> {
    Ok(BulkCancel {
        id: answer.id.as_str().try_into()?,
        progress: CancelProgress {
            n_cancelled: answer.cancelled,
            is_over: answer.over,
        },
    })
}

impl From<CancelPreview> for pb::PreviewCancelResponse {
    fn from(preview: CancelPreview) -> Self {
        let found = preview.n_found.into_iter();
        Self {
            found: found
                .map(|(state, count)| pb::StateCount {
                    state: pb::TaskState::from(state).into(),
                    count,
                })
                .collect(),
            backlog_max: preview.n_backlog_max,
            has_more: preview.has_more,
        }
    }
}

/// Reads what a bulk cancel would be about.
#[cfg(feature = "client")]
pub(crate) fn cancel_preview(answer: pb::PreviewCancelResponse) -> Result<CancelPreview, Error> {
    let found = answer.found.into_iter();
    let found = found.map(|found| Ok((state(found.state)?, found.count)));
    Ok(CancelPreview {
        n_found: found.collect::<Result<BTreeMap<_, _>, Invalid>>()?,
        n_backlog_max: answer.backlog_max,
        has_more: answer.has_more,
    })
}

/// Reads a bulk cancel as an owner is asked for it.
///
/// # Errors
/// What is missing or out of range.
pub fn owned_cancel(
    request: pb::CancelManyOwnedRequest,
) -> Result<(ShardId, CancelRequest), Error> {
    let wanted = CancelRequest {
        id: request.id.as_str().try_into()?,
        filter: filter(request.filter)?,
        below: Offset(request.below),
    };
    Ok((shard(request.shard)?, wanted))
}

impl From<CancelProgress> for pb::CancelManyOwnedResponse {
    fn from(progress: CancelProgress) -> Self {
        Self {
            cancelled: progress.n_cancelled,
            over: progress.is_over,
        }
    }
}
