//! Submitting tasks.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use serde_json::{Map, Value};
use tokio::task::JoinSet;

use super::Scheduler;
use crate::{
    Error, GroupName, IdempotencyKey, Invalid, OrderingKey, Partition, Pipeline, PipelinePath,
    ShardId, StateName, TaskId, TaskOptions, Timestamp,
    call::{Submit, Submitted},
    driver::stopping,
    port::log::{NewRecord, NewTask},
    task::options::DELAY_MAX,
};

/// The most tasks of one batch.
const BATCH_MAX: usize = 10_000;

/// A submit that was found good.
struct Checked {
    shard: ShardId,
    task: NewTask,
    key: Option<IdempotencyKey>,
    state: StateName,
}

impl Scheduler {
    /// Submits a task; answered when it is durable in the log.
    ///
    /// # Errors
    /// `Invalid` names the field or the missing placeholder; `TooLarge`, `NotFound`, `WrongState`, `KeyReused`; `Unavailable` if it was
    /// not accepted; `UnknownOutcome` if it may have been.
    ///
    /// # Cancel safety
    /// A dropped call may have submitted the task.
    pub async fn submit(&self, path: &PipelinePath, submit: Submit) -> Result<Submitted, Error> {
        let answers = self.submit_batch(path, vec![submit]).await?;
        answers
            .into_iter()
            .next()
            .unwrap_or_else(|| Err(stopping()))
    }

    /// Submits up to 10,000 tasks of one pipeline, each on its own: one answer each, in their order.
    ///
    /// # Errors
    /// `NotFound`, `WrongState` of a pipeline that takes no tasks, or a batch that is too long: nothing was submitted.
    pub async fn submit_batch(
        &self,
        path: &PipelinePath,
        submits: Vec<Submit>,
    ) -> Result<Vec<Result<Submitted, Error>>, Error> {
        let pipeline = self.find_pipeline(path)?;
        if let Some(why) = pipeline.mode.refusal() {
            return Err(Error::WrongState(why.to_owned()));
        }
        if submits.len() > BATCH_MAX {
            return Err(Invalid::new("tasks", "must be at most 10000 in one batch").into());
        }
        let mut answers: Vec<Option<Result<Submitted, Error>>> = Vec::with_capacity(submits.len());
        let mut plain = Vec::new();
        // All at once; a dropped call gives them up.
        let mut keyed = JoinSet::new();
        for submit in submits {
            let at = answers.len();
            answers.push(None);
            match self.check(&pipeline, submit) {
                Err(error) => answers[at] = Some(Err(error)),
                Ok(checked) => match checked.key {
                    None => plain.push((at, checked)),
                    Some(key) => {
                        let (shared, state) = (Arc::clone(&self.shared), checked.state);
                        let (shard, task) = (checked.shard, checked.task);
                        keyed.spawn(async move {
                            (at, state, shared.route.submit(shard, key, task).await)
                        });
                    }
                },
            }
        }
        self.append_plain(plain, &mut answers).await;
        while let Some(joined) = keyed.join_next().await {
            let (at, state, answer) = joined.map_err(|err| Error::Internal(err.to_string()))?;
            answers[at] = Some(answer.map(|(id, repeated)| submitted(id, repeated, state)));
        }
        Ok(answers.into_iter().flatten().collect())
    }

    async fn append_plain(
        &self,
        plain: Vec<(usize, Checked)>,
        answers: &mut [Option<Result<Submitted, Error>>],
    ) {
        if plain.is_empty() {
            return;
        }
        let (places, records): (Vec<_>, Vec<_>) = plain
            .into_iter()
            .map(|(at, checked)| {
                let (shard, task) = (checked.shard, checked.task);
                ((at, shard, checked.state), NewRecord { shard, task })
            })
            .unzip();
        let appended = self.shared.ports.log.append(records).await;
        for ((at, shard, state), appended) in places.into_iter().zip(appended) {
            answers[at] = Some(match appended {
                Ok(appended) => Ok(Submitted {
                    id: TaskId {
                        shard,
                        offset: appended.offset,
                    },
                    state,
                    repeated: false,
                }),
                Err(err) => {
                    tracing::warn!(%err, source = ?std::error::Error::source(&err), "cannot append");
                    Err(Error::of_append(err.kind()))
                }
            });
        }
    }

    fn check(&self, pipeline: &Pipeline, submit: Submit) -> Result<Checked, Error> {
        let max = self.shared.config.payload_bytes_max;
        if submit.data.len() > max {
            return Err(Error::TooLarge {
                what: "the task's data".into(),
                max,
            });
        }
        check_data(pipeline, &submit.data)?;
        let now = self.shared.ports.clock.now();
        let options = resolve_delay(submit.options, submit.delay, now)?;
        options.validate()?;
        let state = match options.run_at {
            Some(run_at) if run_at > now => StateName::Scheduled,
            _ => StateName::Available,
        };
        let key = options.idempotency_key.clone();
        let n = pipeline.spec.n_partitions;
        // Tasks of one key must meet in one shard; those of one group share a limit there.
        let ordering = options.key.as_ref().map(OrderingKey::as_str);
        let idempotency = key.as_ref().map(IdempotencyKey::as_str);
        let group = options.group.as_ref().map(GroupName::as_str);
        let partition = match ordering.or(idempotency).or(group) {
            Some(name) => Partition::of_key(name.as_bytes(), n),
            None => {
                let turn = self.shared.next_partition.fetch_add(1, Ordering::Relaxed);
                Partition(u16::try_from(turn % u64::from(n)).unwrap_or_default())
            }
        };
        Ok(Checked {
            shard: ShardId {
                pipeline: pipeline.number,
                partition,
            },
            task: NewTask {
                // A slice of a connection's buffer would keep the whole buffer as long as the task waits.
                data: Bytes::copy_from_slice(&submit.data),
                options: (!options.is_empty()).then(|| Arc::new(options)),
                traceparent: submit.traceparent,
            },
            key,
            state,
        })
    }
}

fn resolve_delay(
    mut options: TaskOptions,
    delay: Option<std::time::Duration>,
    now: Timestamp,
) -> Result<TaskOptions, Invalid> {
    if let Some(delay) = delay {
        if options.run_at.is_some() {
            return Err(Invalid::new(
                "delay",
                "cannot be given together with run_at",
            ));
        }
        if delay > DELAY_MAX {
            return Err(Invalid::new("delay", "must be at most 8760h"));
        }
        options.run_at = Some(now + delay);
    }
    if options
        .run_at
        .is_some_and(|run_at| run_at > now + DELAY_MAX)
    {
        return Err(Invalid::new("run_at", "must lie within a year from now"));
    }
    Ok(options)
}

/// The data must be an object that has every field which a command of the pipeline needs.
fn check_data(pipeline: &Pipeline, data: &Bytes) -> Result<(), Error> {
    let data: Map<String, Value> = serde_json::from_slice(data)
        .map_err(|err| Error::Malformed(format!("the task's data must be a JSON object: {err}")))?;
    for command in pipeline.spec.steps.iter().flat_map(|step| &step.commands) {
        command.check(&data)?;
    }
    Ok(())
}

fn submitted(id: TaskId, repeated: bool, state: StateName) -> Submitted {
    Submitted {
        id,
        state: if repeated {
            StateName::Available
        } else {
            state
        },
        repeated,
    }
}
