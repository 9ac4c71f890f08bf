//! What processes of one installation say to each other.

use std::{collections::BTreeMap, sync::Arc};

use scheduler_core::{
    Error, LeaseToken, Offset, Partition, PipelineNumber, ShardId, StateName, TaskOptions,
    Timestamp,
    action::{Counts, Seen},
    member::InMemory,
    port::{
        log::NewTask,
        store::{Ending, Parked, StoredState, StoredTask},
    },
};

use super::{
    missing,
    task::{shared, state, text},
    timestamp, timestamp_of,
};
use crate::pb;

impl From<ShardId> for pb::Shard {
    fn from(shard: ShardId) -> Self {
        Self {
            pipeline: shard.pipeline.0,
            partition: shard.partition.0.into(),
        }
    }
}

/// Reads a shard.
///
/// # Errors
/// [`Error::Malformed`] if it is none.
pub fn shard(shard: Option<pb::Shard>) -> Result<ShardId, Error> {
    let shard = shard.ok_or_else(|| missing("shard"))?;
    let partition = u16::try_from(shard.partition).map_err(|_| missing("partition"))?;
    Ok(ShardId {
        pipeline: PipelineNumber(shard.pipeline),
        partition: Partition(partition),
    })
}

pub(super) fn shards(all: Vec<pb::Shard>) -> Result<Vec<ShardId>, Error> {
    all.into_iter().map(|one| shard(Some(one))).collect()
}

impl From<NewTask> for pb::NewTask {
    fn from(task: NewTask) -> Self {
        Self {
            data: task.data,
            options: task.options.as_deref().map(Into::into),
            delay: None,
            traceparent: text(task.traceparent.as_deref()),
        }
    }
}

/// Reads a task as the log has it.
///
/// # Errors
/// [`Error::Invalid`] names the option that is none.
pub fn logged_task(task: Option<pb::NewTask>) -> Result<NewTask, Error> {
    let task = task.ok_or_else(|| missing("task"))?;
    let options = task.options.map(TaskOptions::try_from).transpose()?;
    Ok(NewTask {
        data: task.data,
        options: options.map(Arc::new),
        traceparent: shared(&task.traceparent),
    })
}

impl From<StoredTask> for pb::StoredTask {
    fn from(task: StoredTask) -> Self {
        let name = pb::TaskState::from(task.state.name());
        let state = match task.state {
            StoredState::Parked { due_at, .. } => pb::stored_task::State::Parked(pb::ParkedState {
                due_at: Some(timestamp(due_at)),
                state: name.into(),
            }),
            StoredState::Running { worker, leased_at } => {
                pb::stored_task::State::Running(pb::RunningState {
                    worker: worker.to_string(),
                    leased_at: Some(timestamp(leased_at)),
                })
            }
            StoredState::Ended {
                ending,
                ended_at,
                keep_until,
            } => pb::stored_task::State::Ended(pb::EndedState {
                state: name.into(),
                result: match ending {
                    Ending::Completed { result } => result,
                    Ending::Cancelled | Ending::Discarded => Default::default(),
                },
                ended_at: Some(timestamp(ended_at)),
                keep_until: (keep_until != Timestamp::NEVER).then(|| timestamp(keep_until)),
            }),
        };
        Self {
            offset: task.offset.0,
            accepted_at: Some(timestamp(task.accepted_at)),
            task: Some(task.task.into()),
            state: Some(state),
            attempt: task.attempt,
            lease_token: task.token.to_u64(),
            started_at: task.started_at.map(timestamp),
            errors: task.errors.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<pb::StoredTask> for StoredTask {
    type Error = Error;

    fn try_from(task: pb::StoredTask) -> Result<Self, Error> {
        let at = |field, at: Option<_>| {
            let at = at.ok_or_else(|| missing(field))?;
            timestamp_of(field, at).map_err(Error::from)
        };
        let unknown = || missing("state");
        let stored = match task.state.ok_or_else(unknown)? {
            pb::stored_task::State::Parked(parked) => StoredState::Parked {
                due_at: at("due_at", parked.due_at)?,
                kind: match state(parked.state)? {
                    StateName::Scheduled => Parked::Scheduled,
                    StateName::Available => Parked::Available,
                    StateName::Retryable => Parked::Retryable,
                    _ => return Err(unknown()),
                },
            },
            pb::stored_task::State::Running(running) => StoredState::Running {
                worker: running.worker.as_str().try_into()?,
                leased_at: at("leased_at", running.leased_at)?,
            },
            pb::stored_task::State::Ended(ended) => StoredState::Ended {
                ending: match state(ended.state)? {
                    StateName::Completed => Ending::Completed {
                        result: ended.result,
                    },
                    StateName::Cancelled => Ending::Cancelled,
                    StateName::Discarded => Ending::Discarded,
                    _ => return Err(unknown()),
                },
                ended_at: at("ended_at", ended.ended_at)?,
                keep_until: match ended.keep_until {
                    Some(until) => timestamp_of("keep_until", until)?,
                    None => Timestamp::NEVER,
                },
            },
        };
        let started_at = task.started_at.map(|at| timestamp_of("started_at", at));
        let errors = task.errors.into_iter().map(TryInto::try_into);
        Ok(Self {
            offset: Offset(task.offset),
            accepted_at: at("accepted_at", task.accepted_at)?,
            task: logged_task(task.task)?,
            state: stored,
            attempt: task.attempt,
            token: LeaseToken::from_u64(task.lease_token),
            started_at: started_at.transpose()?,
            errors: errors.collect::<Result<_, Error>>()?,
        })
    }
}

impl From<Seen> for pb::Seen {
    fn from(seen: Seen) -> Self {
        use pb::seen::Where;
        let place = match seen {
            Seen::Here {
                task,
                progress,
                waits,
            } => Where::Here(pb::SeenHere {
                task: Some((*task).into()),
                progress,
                waiting: waits.map(|waits| (*waits).into()),
            }),
            Seen::Backlog(n_before) => Where::Backlog(n_before),
            Seen::Left => Where::Left(true),
            Seen::Nowhere => Where::Nowhere(true),
        };
        Self {
            r#where: Some(place),
        }
    }
}

impl TryFrom<pb::Seen> for Seen {
    type Error = Error;

    fn try_from(seen: pb::Seen) -> Result<Self, Error> {
        use pb::seen::Where;
        Ok(match seen.r#where.ok_or_else(|| missing("where"))? {
            Where::Here(here) => Self::Here {
                task: Box::new(here.task.ok_or_else(|| missing("task"))?.try_into()?),
                progress: here.progress,
                waits: match here.waiting {
                    Some(waiting) => Some(Box::new(waiting.try_into()?)),
                    None => None,
                },
            },
            Where::Backlog(n_before) => Self::Backlog(n_before),
            Where::Left(_) => Self::Left,
            Where::Nowhere(_) => Self::Nowhere,
        })
    }
}

impl From<InMemory> for pb::CountListing {
    fn from(listed: InMemory) -> Self {
        let states = listed.states.into_iter();
        let below = listed
            .below
            .into_iter()
            .map(|(shard, below)| pb::ListBelow {
                shard: Some(shard.into()),
                offset: below.map(|offset| offset.0),
            });
        Self {
            states: states
                .map(|state| pb::TaskState::from(state).into())
                .collect(),
            below: below.collect(),
            n_max: u32::try_from(listed.n_max).unwrap_or(u32::MAX),
            bytes_max: u64::try_from(listed.bytes_max).unwrap_or(u64::MAX),
        }
    }
}

impl TryFrom<pb::CountListing> for InMemory {
    type Error = Error;

    fn try_from(listed: pb::CountListing) -> Result<Self, Error> {
        let states = listed.states.into_iter().map(state);
        let below = listed.below.into_iter();
        let below = below.map(|below| Ok((shard(below.shard)?, below.offset.map(Offset))));
        Ok(Self {
            states: states.collect::<Result<_, _>>()?,
            below: below.collect::<Result<BTreeMap<_, _>, Error>>()?,
            n_max: usize::try_from(listed.n_max).unwrap_or(usize::MAX),
            bytes_max: usize::try_from(listed.bytes_max).unwrap_or(usize::MAX),
        })
    }
}

/// Reads which shards to count and what to list of them.
///
/// # Errors
/// [`Error::Malformed`] if the other side speaks another version.
pub fn count(request: pb::CountRequest) -> Result<(Vec<ShardId>, Option<InMemory>), Error> {
    let listing = request.listing.map(TryInto::try_into).transpose()?;
    Ok((shards(request.shards)?, listing))
}

impl From<Counts> for pb::CountResponse {
    fn from(counts: Counts) -> Self {
        let offsets = counts.next_offsets.into_iter();
        let tasks = counts.tasks.into_iter();
        Self {
            n_window: counts.n_window,
            has_parked: counts.has_parked,
            next_offsets: offsets
                .map(|(shard, offset)| pb::ShardOffset {
                    shard: Some(shard.into()),
                    offset: offset.0,
                })
                .collect(),
            tasks: tasks
                .map(|(shard, task)| pb::OwnedTask {
                    shard: Some(shard.into()),
                    task: Some(task.into()),
                })
                .collect(),
            absent: counts.absent.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<pb::CountResponse> for Counts {
    type Error = Error;

    fn try_from(counts: pb::CountResponse) -> Result<Self, Error> {
        let offsets = counts.next_offsets.into_iter();
        let offsets = offsets.map(|next| Ok((shard(next.shard)?, Offset(next.offset))));
        let tasks = counts.tasks.into_iter().map(|owned| {
            let task = owned.task.ok_or_else(|| missing("task"))?;
            Ok((shard(owned.shard)?, task.try_into()?))
        });
        Ok(Self {
            n_window: counts.n_window,
            has_parked: counts.has_parked,
            next_offsets: offsets.collect::<Result<_, Error>>()?,
            tasks: tasks.collect::<Result<_, Error>>()?,
            absent: shards(counts.absent)?,
        })
    }
}
