//! Looking at many members at once: each is given a moment, and what has not answered by then is left out.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::task::JoinSet;

use super::{Route, There};
use crate::{
    Error, ShardId, TaskId,
    owner::Owner,
    port::Clock,
    survey::{Ask, MemberState, Survey},
};

/// How long a member may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// What one member saw, and where it is reached.
pub(in crate::scheduler) type Looked<T> = (Arc<str>, Result<T, Error>);

impl Route {
    pub(in crate::scheduler) async fn await_change(
        &self,
        id: TaskId,
        known: u64,
        wait: Duration,
    ) -> Result<(), Error> {
        self.ask_one(id.shard, |owner| async move {
            owner.await_change(id, known, wait).await
        })
        .await
    }

    /// What the owners of shards see of them, and `others` of the workers of the pipeline.
    pub(in crate::scheduler) async fn survey(
        &self,
        ask: Ask,
        others: BTreeSet<Arc<str>>,
        clock: &Arc<dyn Clock>,
    ) -> Result<Vec<Looked<Survey>>, Error> {
        let mut seen = Vec::new();
        let mut absent = ask.shards.clone();
        if let Some(here) = &self.here {
            let survey = here.survey(ask.clone()).await?;
            absent.clone_from(&survey.absent);
            seen.push((here.address(), Ok(survey)));
        }
        let Some(there) = &self.there else {
            return Ok(seen);
        };
        let mut parts: BTreeMap<Arc<str>, Vec<ShardId>> =
            others.into_iter().map(|at| (at, Vec::new())).collect();
        if let Some(own) = &there.own_address {
            parts.remove(own);
        }
        for (shard, address) in there.owners(&absent).await? {
            parts.entry(address).or_default().push(shard);
        }
        let asks = parts.into_iter().map(|(address, shards)| {
            let changes = ask.changes.as_ref().map(|heard| {
                let own = heard.iter().filter(|(shard, _)| shards.contains(shard));
                own.map(|(shard, heard)| (*shard, *heard)).collect()
            });
            let ask = Ask {
                shards,
                workers: ask.workers,
                changes,
            };
            (address, ask)
        });
        let survey = |owner: Arc<dyn Owner>, ask: Ask| async move { owner.survey(ask).await };
        let answered = there.look(asks.collect(), survey, clock).await;
        for (address, (ask, survey)) in answered {
            let gone = survey.as_ref().map_or(&ask.shards, |survey| &survey.absent);
            there.forget(gone, &address);
            seen.push((address, survey));
        }
        Ok(seen)
    }

    /// What members say of themselves.
    pub(in crate::scheduler) async fn describe(
        &self,
        addresses: BTreeSet<Arc<str>>,
        clock: &Arc<dyn Clock>,
    ) -> Vec<Looked<MemberState>> {
        let mut told = Vec::new();
        if let Some(here) = &self.here {
            told.push((here.address(), here.describe().await));
        }
        if let Some(there) = &self.there {
            let others = addresses.into_iter();
            let others = others.filter(|address| there.own_address.as_ref() != Some(address));
            let asks = others.map(|address| (address, ())).collect();
            let describe = |owner: Arc<dyn Owner>, ()| async move { owner.describe().await };
            let answered = there.look(asks, describe, clock).await;
            told.extend(answered.into_iter().map(|(at, (_, state))| (at, state)));
        }
        told.sort_by(|one, other| one.0.cmp(&other.0));
        told
    }
}

impl There {
    /// Asks members side by side.
    async fn look<Q, T, F>(
        &self,
        asks: Vec<(Arc<str>, Q)>,
        ask: impl Fn(Arc<dyn Owner>, Q) -> F,
        clock: &Arc<dyn Clock>,
    ) -> BTreeMap<Arc<str>, (Q, Result<T, Error>)>
    where
        Q: Clone + Send + 'static,
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let mut answers = BTreeMap::new();
        let mut running = JoinSet::new();
        for (address, wanted) in asks {
            let asked = match self.peers.at(&address) {
                Ok(owner) => Ok(ask(owner, wanted.clone())),
                Err(err) => Err(err),
            };
            let too_late = clock.now() + PATIENCE;
            let clock = Arc::clone(clock);
            // Stands if the call is lost.
            answers.insert(Arc::clone(&address), (wanted, Err(silent())));
            running.spawn(async move {
                let answered = async { asked?.await };
                let answer = tokio::select! {
                    answer = answered => answer,
                    () = clock.sleep_until(too_late) => Err(silent()),
                };
                (address, answer)
            });
        }
        while let Some(done) = running.join_next().await {
            if let Ok((address, answer)) = done
                && let Some(known) = answers.get_mut(&address)
            {
                known.1 = answer;
            }
        }
        answers
    }
}

fn silent() -> Error {
    Error::Unavailable {
        what: "the member does not answer".to_owned(),
        retry_after: Duration::from_secs(1),
    }
}
