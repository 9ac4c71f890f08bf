//! The driver as an owner: the calls of other processes, which it never forwards.

use std::time::Duration;

use async_trait::async_trait;

use super::Handle;
use crate::{
    Error, IdempotencyKey, ShardId, TaskId,
    action::{Answer, Counts, Seen},
    member::{Call, InMemory},
    owner::Owner,
    port::{
        log::NewTask,
        store::{Found, Lookup},
    },
    scheduler::{misfit, unreachable_port},
};

#[async_trait]
impl Owner for Handle {
    async fn submit(
        &self,
        shard: ShardId,
        key: IdempotencyKey,
        task: NewTask,
    ) -> Result<(TaskId, bool), Error> {
        let answers = self.begin(Call::SubmitKeyed(shard, key, task), 1)?;
        let unknown = || Error::UnknownOutcome {
            what: "the submit".into(),
        };
        match answers.wait().await.ok_or_else(unknown)??.pop() {
            Some(Answer::Submitted(answer)) => answer,
            _ => Err(misfit()),
        }
    }

    async fn cancel(&self, id: TaskId) -> Result<(), Error> {
        match self.ask(Call::Cancel(id)).await? {
            Answer::Cancelled(answer) => answer,
            _ => Err(misfit()),
        }
    }

    async fn redrive(&self, id: TaskId) -> Result<(), Error> {
        match self.ask(Call::Redrive(id)).await? {
            Answer::Redriven(answer) => answer,
            _ => Err(misfit()),
        }
    }

    async fn see(&self, ids: Vec<TaskId>) -> Result<Vec<Seen>, Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let n_parts = u32::try_from(ids.len()).unwrap_or(u32::MAX);
        let answers = self.call(Call::See(ids), n_parts).await?;
        let seen = answers.into_iter().map(|answer| match answer {
            Answer::Seen(seen) => Ok(seen),
            _ => Err(misfit()),
        });
        seen.collect()
    }

    async fn count(&self, shards: Vec<ShardId>, listed: Option<InMemory>) -> Result<Counts, Error> {
        match self.ask(Call::Count(shards, listed)).await? {
            Answer::Counted(counts) => Ok(counts),
            _ => Err(misfit()),
        }
    }

    async fn await_end(&self, id: TaskId, wait: Duration) -> Result<(), Error> {
        let until = self.clock.now() + wait;
        // Watch first: a task that ends between the two is seen by the look.
        let ended = self.watch(id)?;
        match self.see(vec![id]).await?.pop().unwrap_or(Seen::Nowhere) {
            Seen::Nowhere => return Err(Error::moved()),
            Seen::Left if !self.is_parked(id).await? => return Ok(()),
            Seen::Here { .. } | Seen::Backlog(_) | Seen::Left => {}
        }
        tokio::select! {
            // An error means that the driver stops; then a look says so.
            _ = ended => {}
            () = self.clock.sleep_until(until) => {}
        }
        Ok(())
    }
}

impl Handle {
    /// Whether a task that is not in memory waits in the store; otherwise it has ended.
    async fn is_parked(&self, id: TaskId) -> Result<bool, Error> {
        let lookup = [Lookup::Task(id.shard, id.offset)];
        let found = self.store.get(&lookup).await;
        let found = found.map_err(|err| unreachable_port("the store", &err))?;
        let task = match found.into_iter().next().flatten() {
            Some(Found::Task(task)) => task,
            _ => return Ok(false),
        };
        Ok(!task.state.name().is_terminal())
    }
}
