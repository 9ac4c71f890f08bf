//! The driver as an owner: the calls of other processes, which it never forwards.

use std::{sync::PoisonError, time::Duration};

use async_trait::async_trait;

use super::Handle;
use crate::{
    CancelProgress, CancelRequest, Error, IdempotencyKey, Outcome, PipelineNumber, ShardId, TaskId,
    action::{Answer, Counts, Seen},
    call::{Beat, Held, Leased, Poll},
    member::{AllNews, Call, Fleet, InMemory, Sought},
    owner::{Owner, shape_of},
    port::{
        log::NewTask,
        store::{Found, Lookup},
    },
    scheduler::{misfit, unreachable_port},
    survey::{Ask, MemberState, Survey},
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

    async fn cancel_many(
        &self,
        shard: ShardId,
        request: CancelRequest,
    ) -> Result<CancelProgress, Error> {
        match self.ask(Call::CancelMany(shard, request)).await? {
            Answer::CancelledMany(answer) => answer,
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

    async fn lease(&self, pipeline: PipelineNumber, poll: Poll) -> Result<Leased, Error> {
        self.poll(Fleet::Pipeline(pipeline), poll).await
    }

    async fn report(&self, reports: Vec<(Held, Outcome)>) -> Vec<Result<(), Error>> {
        let n = reports.len();
        let read = |answer| match answer {
            Answer::Reported(answer) => answer,
            _ => Err(misfit()),
        };
        self.ask_parts(Call::Report(reports), n, read).await
    }

    async fn renew(&self, beats: Vec<Beat>) -> Vec<Result<Duration, Error>> {
        let n = beats.len();
        let read = |answer| match answer {
            Answer::Renewed(answer) => answer,
            _ => Err(misfit()),
        };
        self.ask_parts(Call::Renew(beats), n, read).await
    }

    async fn await_ready(&self, sought: Vec<Sought>, wait: Duration) -> Result<AllNews, Error> {
        match self.ask(Call::Seek(sought, wait)).await? {
            Answer::News(news) => news,
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

    async fn await_change(&self, id: TaskId, known: u64, wait: Duration) -> Result<(), Error> {
        let until = self.clock.now() + wait;
        // Watch first, as above.
        let changed = self.watch_change(id)?;
        match self.see(vec![id]).await?.pop().unwrap_or(Seen::Nowhere) {
            Seen::Nowhere => return Err(Error::moved()),
            Seen::Here { task, progress, .. } => {
                let state = task.state.name();
                if shape_of(state, task.attempt, progress.as_deref()) != known {
                    return Ok(());
                }
            }
            Seen::Left if !self.is_parked(id).await? => return Ok(()),
            Seen::Backlog(_) | Seen::Left => {}
        }
        tokio::select! {
            // An error means that the driver stops, or that too many watch; then a look says how it stands.
            _ = changed => {}
            () = self.clock.sleep_until(until) => {}
        }
        Ok(())
    }

    async fn survey(&self, ask: Ask) -> Result<Survey, Error> {
        let workers = ask.workers;
        let mut survey = match self.ask(Call::Survey(ask)).await? {
            Answer::Surveyed(survey) => survey,
            _ => return Err(misfit()),
        };
        if let Some(pipeline) = workers {
            let now = self.clock.now();
            let roster = self.roster.lock().unwrap_or_else(PoisonError::into_inner);
            survey.present = roster.read(pipeline, now);
        }
        Ok(survey)
    }

    async fn describe(&self) -> Result<MemberState, Error> {
        let load = self.load();
        let unready = self.ready().err().map(|_| match load.n_refused {
            0 => "not all shards are claimed yet".to_owned(),
            n => format!("{n} shards cannot be scheduled"),
        });
        Ok(MemberState {
            address: self.address.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: self.started_at,
            load,
            unready,
        })
    }
}

impl Handle {
    /// Leases tasks to a worker of a fleet.
    ///
    /// # Cancel safety
    /// A dropped poll gives back what it was granted.
    pub(crate) async fn poll(&self, fleet: Fleet, poll: Poll) -> Result<Leased, Error> {
        match self.ask(Call::Poll(fleet, poll)).await? {
            Answer::Leased(leased) => leased,
            _ => Err(misfit()),
        }
    }

    /// Asks for an answer of `n` parts; if there is none, each part is the error.
    async fn ask_parts<T>(
        &self,
        call: Call,
        n: usize,
        read: impl Fn(Answer) -> Result<T, Error>,
    ) -> Vec<Result<T, Error>> {
        if n == 0 {
            return Vec::new();
        }
        let n_parts = u32::try_from(n).unwrap_or(u32::MAX);
        match self.call(call, n_parts).await {
            Ok(answers) => answers.into_iter().map(read).collect(),
            Err(error) => (0..n).map(|_| Err(error.clone())).collect(),
        }
    }

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
