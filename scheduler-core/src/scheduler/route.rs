//! The way to the owner of a shard: the member in this process, or another one.

pub(super) mod look;
mod spread;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustc_hash::FxHashMap;
use tokio::task::JoinSet;

use self::spread::Spread;
use super::unreachable_port;
use crate::{
    CancelProgress, CancelRequest, Error, IdempotencyKey, Outcome, ShardId, TaskId,
    action::{Counts, Seen},
    call::{Beat, Held},
    driver::Handle,
    member::InMemory,
    owner::{Owner, Peers},
    port::{TaskStore, log::NewTask},
};

/// How often the parts of a call are asked for: where the owner was known to be, where the store says that it is, and
/// once more for a shard that was moving just then.
const ROUNDS_MAX: usize = 3;

/// Reaches the owners of shards.
#[derive(Debug)]
pub(super) struct Route {
    /// The member in this process, if there is one.
    here: Option<Handle>,
    /// The others, if there are any.
    there: Option<Arc<There>>,
}

/// Other members, by the shards they own.
#[derive(Debug)]
pub(super) struct There {
    peers: Arc<dyn Peers>,
    store: Arc<dyn TaskStore>,
    /// Where this process itself is reached: nothing is asked there twice.
    own_address: Option<Arc<str>>,
    /// Where the owner of each shard was, when it was last asked for.
    known: Mutex<FxHashMap<ShardId, Arc<str>>>,
}

/// An owner, where it is, and which of the things asked for are its.
struct Asked<T> {
    address: Arc<str>,
    owner: Arc<dyn Owner>,
    things: Vec<T>,
}

impl Route {
    /// To the member in this process only.
    pub(super) fn here(here: Handle) -> Self {
        Self {
            here: Some(here),
            there: None,
        }
    }

    /// To the member in this process, if there is one, and to others.
    pub(super) fn among(
        here: Option<Handle>,
        own_address: Option<Arc<str>>,
        store: Arc<dyn TaskStore>,
        peers: Arc<dyn Peers>,
    ) -> Self {
        let there = There {
            peers,
            store,
            own_address,
            known: Mutex::default(),
        };
        Self {
            here,
            there: Some(Arc::new(there)),
        }
    }

    /// Other members, if there can be any.
    pub(super) fn there(&self) -> Option<&Arc<There>> {
        self.there.as_ref()
    }

    pub(super) async fn submit(
        &self,
        shard: ShardId,
        key: IdempotencyKey,
        task: NewTask,
    ) -> Result<(TaskId, bool), Error> {
        self.ask_one(shard, |owner| {
            let (key, task) = (key.clone(), task.clone());
            async move { owner.submit(shard, key, task).await }
        })
        .await
    }

    pub(super) async fn cancel(&self, id: TaskId) -> Result<(), Error> {
        self.ask_one(id.shard, |owner| async move { owner.cancel(id).await })
            .await
    }

    pub(super) async fn cancel_many(
        &self,
        shard: ShardId,
        request: CancelRequest,
    ) -> Result<CancelProgress, Error> {
        self.ask_one(shard, |owner| {
            let request = request.clone();
            async move { owner.cancel_many(shard, request).await }
        })
        .await
    }

    pub(super) async fn redrive(&self, id: TaskId) -> Result<(), Error> {
        self.ask_one(id.shard, |owner| async move { owner.redrive(id).await })
            .await
    }

    pub(super) async fn await_end(&self, id: TaskId, wait: Duration) -> Result<(), Error> {
        self.ask_one(
            id.shard,
            |owner| async move { owner.await_end(id, wait).await },
        )
        .await
    }

    /// Reports, each to the owner of its task: one answer each, in their order.
    pub(super) async fn report(&self, reports: Vec<(Held, Outcome)>) -> Vec<Result<(), Error>> {
        let parts = reports.into_iter();
        let parts = parts.map(|part| (part.0.id.shard, part)).collect();
        self.ask_each(parts, |owner, reports| async move {
            owner.report(reports).await
        })
        .await
    }

    /// Renews leases, each at the owner of its task: one answer each, in their order.
    pub(super) async fn renew(&self, beats: Vec<Beat>) -> Vec<Result<Duration, Error>> {
        let parts = beats.into_iter();
        let parts = parts.map(|part| (part.0.id.shard, part)).collect();
        self.ask_each(
            parts,
            |owner, beats| async move { owner.renew(beats).await },
        )
        .await
    }

    /// Asks the owners of many shards, side by side; again where a shard turns out to be elsewhere.
    async fn ask_each<Q, A, F>(
        &self,
        parts: Vec<(ShardId, Q)>,
        ask: impl Fn(Arc<dyn Owner>, Vec<Q>) -> F,
    ) -> Vec<Result<A, Error>>
    where
        Q: Clone,
        A: Send + 'static,
        F: Future<Output = Vec<Result<A, Error>>> + Send + 'static,
    {
        let Some(there) = &self.there else {
            let all: Vec<_> = parts.into_iter().map(|(_, part)| part).collect();
            return match &self.here {
                Some(here) => ask(Arc::new(here.clone()), all).await,
                None => all.iter().map(|_| Err(Error::moved())).collect(),
            };
        };
        let mut answers: Vec<_> = parts.iter().map(|_| Err(Error::moved())).collect();
        let mut spread = Spread::new(
            self.here.as_ref(),
            there,
            parts.iter().map(|(shard, _)| *shard).collect(),
        );
        for _ in 0..ROUNDS_MAX {
            let asks = match spread.next().await {
                Ok(asks) if asks.is_empty() => break,
                Ok(asks) => asks,
                Err(error) => {
                    for at in spread.left() {
                        answers[at] = Err(error.clone());
                    }
                    break;
                }
            };
            let mut running = JoinSet::new();
            for (owner, places) in asks {
                let asked = places.iter().map(|at| parts[*at].1.clone()).collect();
                let answered = ask(owner, asked);
                running.spawn(async move { (places, answered.await) });
            }
            while let Some(done) = running.join_next().await {
                // A panic leaves its parts as they were.
                let Ok((places, answered)) = done else {
                    continue;
                };
                for (at, answer) in places.into_iter().zip(answered) {
                    spread.answered(at, matches!(answer, Err(Error::Unavailable { .. })));
                    answers[at] = answer;
                }
            }
        }
        answers
    }

    /// Asks the owner of one shard; again, and only then, if it turns out to be elsewhere.
    async fn ask_one<T, F>(
        &self,
        shard: ShardId,
        ask: impl Fn(Arc<dyn Owner>) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut answer = Err(Error::moved());
        if let Some(here) = &self.here {
            answer = ask(Arc::new(here.clone())).await;
        }
        let Some(there) = &self.there else {
            return answer;
        };
        let mut asked: Option<Arc<str>> = None;
        while matches!(answer, Err(Error::Unavailable { .. })) {
            let Some(address) = there.owners(&[shard]).await?.remove(&shard) else {
                break;
            };
            if asked.as_ref() == Some(&address) {
                break;
            }
            answer = match there.peers.at(&address) {
                Ok(owner) => ask(owner).await,
                Err(err) => Err(err),
            };
            // One that hangs may be one that was replaced.
            if matches!(
                answer,
                Err(Error::Unavailable { .. } | Error::UnknownOutcome { .. })
            ) {
                there.forget(&[shard], &address);
            }
            // Twice elsewhere is enough: a shard that moves so fast is asked for by the caller again.
            if asked.replace(address).is_some() {
                break;
            }
        }
        answer
    }

    /// Where tasks are, in the order asked. What cannot be asked is nowhere.
    pub(super) async fn see(&self, ids: &[TaskId]) -> Result<Vec<Seen>, Error> {
        let mut seen = vec![Seen::Nowhere; ids.len()];
        if let Some(here) = &self.here {
            seen = here.see(ids.to_vec()).await?;
        }
        let Some(there) = &self.there else {
            return Ok(seen);
        };
        let nowhere = (0..ids.len()).filter(|at| seen[*at] == Seen::Nowhere);
        let places: Vec<_> = nowhere.map(|at| (ids[at].shard, at)).collect();
        for asked in there.group(places).await? {
            let wanted: Vec<_> = asked.things.iter().map(|at| ids[*at]).collect();
            match asked.owner.see(wanted.clone()).await {
                Ok(answers) => {
                    for (at, answer) in asked.things.into_iter().zip(answers) {
                        if answer == Seen::Nowhere {
                            there.forget(&[ids[at].shard], &asked.address);
                        }
                        seen[at] = answer;
                    }
                }
                Err(err) => {
                    tracing::debug!(%err, address = %asked.address, "cannot ask the owner");
                    let shards: Vec<_> = wanted.iter().map(|id| id.shard).collect();
                    there.forget(&shards, &asked.address);
                }
            }
        }
        Ok(seen)
    }

    /// How many tasks of these shards are where. What cannot be asked is absent.
    pub(super) async fn count(
        &self,
        shards: Vec<ShardId>,
        listed: Option<InMemory>,
    ) -> Result<Counts, Error> {
        let mut counts = match &self.here {
            Some(here) => here.count(shards, listed.clone()).await?,
            None => Counts {
                absent: shards,
                ..Counts::default()
            },
        };
        let Some(there) = &self.there else {
            return Ok(counts);
        };
        let absent = std::mem::take(&mut counts.absent);
        let mut left: BTreeMap<_, _> = absent.iter().map(|shard| (*shard, ())).collect();
        let pairs = absent.iter().map(|shard| (*shard, *shard)).collect();
        for asked in there.group(pairs).await? {
            match asked
                .owner
                .count(asked.things.clone(), listed.clone())
                .await
            {
                Ok(counted) => {
                    for shard in &asked.things {
                        left.remove(shard);
                    }
                    there.forget(&counted.absent, &asked.address);
                    counts.add(counted);
                }
                Err(err) => {
                    tracing::debug!(%err, address = %asked.address, "cannot ask the owner");
                    there.forget(&asked.things, &asked.address);
                }
            }
        }
        counts.absent.extend(left.into_keys());
        Ok(counts)
    }
}

impl There {
    /// The member at an address.
    pub(super) fn at(&self, address: &str) -> Result<Arc<dyn Owner>, Error> {
        self.peers.at(address)
    }

    /// Where the owners of these shards are, as far as they ever had one that is not this process.
    pub(super) async fn owners(
        &self,
        shards: &[ShardId],
    ) -> Result<BTreeMap<ShardId, Arc<str>>, Error> {
        let mut found = BTreeMap::new();
        let mut unknown = Vec::new();
        {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            for shard in shards {
                match known.get(shard) {
                    Some(address) => drop(found.insert(*shard, Arc::clone(address))),
                    None => unknown.push(*shard),
                }
            }
        }
        if unknown.is_empty() {
            return Ok(found);
        }
        let owners = self.store.owners(&unknown).await;
        let owners = owners.map_err(|err| unreachable_port("the store", &err))?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for (shard, owner) in unknown.into_iter().zip(owners) {
            if let Some(address) =
                owner.filter(|address| self.own_address.as_ref() != Some(address))
            {
                known.insert(shard, Arc::clone(&address));
                found.insert(shard, address);
            }
        }
        Ok(found)
    }

    /// The shard may be elsewhere: the store is asked next time.
    pub(super) fn forget(&self, shards: &[ShardId], address: &Arc<str>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for shard in shards {
            if known.get(shard) == Some(address) {
                known.remove(shard);
            }
        }
    }

    /// Whom to ask for what.
    async fn group<T>(&self, things: Vec<(ShardId, T)>) -> Result<Vec<Asked<T>>, Error> {
        if things.is_empty() {
            return Ok(Vec::new());
        }
        let mut shards: Vec<_> = things.iter().map(|(shard, _)| *shard).collect();
        shards.sort_unstable();
        shards.dedup();
        let owners = self.owners(&shards).await?;
        let mut groups: BTreeMap<Arc<str>, Vec<T>> = BTreeMap::new();
        for (shard, thing) in things {
            if let Some(address) = owners.get(&shard) {
                groups.entry(Arc::clone(address)).or_default().push(thing);
            }
        }
        let asked = groups.into_iter().filter_map(|(address, things)| {
            let owner = self.peers.at(&address);
            let unreachable =
                |err: &Error| tracing::debug!(%err, %address, "cannot reach the owner");
            let owner = owner.inspect_err(unreachable).ok()?;
            Some(Asked {
                address,
                owner,
                things,
            })
        });
        Ok(asked.collect())
    }
}
