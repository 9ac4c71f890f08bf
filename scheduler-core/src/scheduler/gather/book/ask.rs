//! Asking other members, and what follows from their answers.

use std::collections::BTreeSet;

use super::{
    super::{
        line::Address,
        peer::{Anyway, Item, Stand, Trial, cut},
    },
    Act, Book, Wake,
};
use crate::{
    Error, Partition, Timestamp,
    member::{AllNews, News, Sought},
};

impl Book {
    pub(super) fn ask(&mut self, now: Timestamp) {
        let due = self.peers.iter();
        let due = due.filter(|(_, peer)| peer.due_at().is_some_and(|at| at <= now));
        let addresses: Vec<_> = due.map(|(address, _)| address.clone()).collect();
        for address in addresses {
            self.ask_at(&address, now);
        }
        self.peers.retain(|_, peer| !peer.is_idle(now));
    }

    fn ask_at(&mut self, address: &Address, now: Timestamp) {
        let due = self.peers.get(address).map(|peer| peer.all_due(now));
        let mut entries = Vec::new();
        for (item, anyway) in due.unwrap_or_default() {
            match self.sought(item, anyway, address) {
                Some(sought) => entries.push((item, sought)),
                None => self.drop_item(item, address),
            }
        }
        let Some(peer) = self.peers.get_mut(address) else {
            return;
        };
        if entries.is_empty() {
            return;
        }
        let (calls, items) = peer.swallow(entries.len());
        self.acts.extend(calls.into_iter().map(Act::Drop));
        for item in items {
            // A question that was open is asked as it was.
            match self.sought(item, Anyway::Yes, address) {
                Some(sought) => entries.push((item, sought)),
                None => self.drop_item(item, address),
            }
        }
        for entries in cut(entries, |(_, sought)| sought.held.len()) {
            self.last += 1;
            let (items, sought) = entries.into_iter().unzip();
            if let Some(peer) = self.peers.get_mut(address) {
                peer.begin(self.last, items);
            }
            self.acts.push(Act::Ask(address.clone(), self.last, sought));
        }
    }

    /// What to ask a member for an item; `None` if there is nothing to be asked.
    fn sought(&self, item: Item, anyway: Anyway, address: &Address) -> Option<Sought> {
        match item {
            Item::Crowd(crowd) => {
                let crowd = self.crowds.get(&crowd)?;
                let (pipeline, labels, credit) = crowd.profile.clone();
                let partitions = self.lines.get(&pipeline)?.partitions_at(address);
                let is_wanted = !crowd.idle.is_empty() || anyway == Anyway::Yes;
                (is_wanted && !partitions.is_empty()).then(|| Sought {
                    pipeline,
                    worker: crowd.worker.clone(),
                    labels,
                    credit,
                    partitions,
                    held: Vec::new(),
                })
            }
            Item::Holder(id) => {
                let waiter = self.waiters.get(&id)?;
                let held = self.held_at(id, address);
                let mut partitions: Vec<_> =
                    held.iter().map(|held| held.id.shard.partition).collect();
                partitions.sort_unstable();
                partitions.dedup();
                (!held.is_empty()).then(|| Sought {
                    pipeline: waiter.pipeline,
                    worker: waiter.worker.clone(),
                    labels: BTreeSet::new(),
                    credit: 0,
                    partitions,
                    held,
                })
            }
        }
    }

    fn drop_item(&mut self, item: Item, address: &Address) {
        if let Some(peer) = self.peers.get_mut(address)
            && peer.remove(item).is_some()
            && let Item::Crowd(id) = item
            && let Some(crowd) = self.crowds.get_mut(&id)
        {
            crowd.n_items -= 1;
            self.forget_if_unused(id);
        }
    }

    pub(super) fn forget_if_unused(&mut self, id: u64) {
        let crowd = self.crowds.get(&id);
        if crowd.is_some_and(|crowd| crowd.n_waiters == 0 && crowd.n_items == 0)
            && let Some(crowd) = self.crowds.remove(&id)
        {
            self.crowd_of.remove(&crowd.profile);
            if let Some(line) = self.lines.get_mut(&crowd.profile.0) {
                line.crowds.remove(&id);
            }
        }
    }

    /// Takes the answer to a question.
    pub(in crate::scheduler::gather) fn answered(
        &mut self,
        address: &Address,
        call: u64,
        answer: Result<AllNews, Error>,
        now: Timestamp,
    ) {
        let Some(peer) = self.peers.get_mut(address) else {
            return;
        };
        let items = peer.end(call);
        let news = match answer {
            Ok(news) => {
                peer.worked();
                news
            }
            Err(error) => {
                tracing::debug!(%error, %address, "cannot ask whether tasks are ready");
                self.failed(address, &error, now);
                Vec::new()
            }
        };
        for item in items.iter().flatten() {
            if let Some(peer) = self.peers.get_mut(address) {
                peer.set(*item, Stand::Due(now, Anyway::No));
            }
        }
        for (at, news) in news {
            let Some(item) = items.get(at).copied().flatten() else {
                continue;
            };
            match news {
                News::Moved(partitions) => self.moved(item, &partitions, address, now),
                News::Lost(lost) => {
                    if let Item::Holder(id) = item
                        && let Some(waiter) = self.waiters.get(&id)
                    {
                        // One that has not taken its wakes yet returns anyway.
                        waiter.wake.try_send(Wake::Lost(lost)).ok();
                    }
                }
                News::Ready => {
                    if let Item::Crowd(id) = item {
                        self.wake(id, address);
                    }
                }
            }
        }
    }

    /// A member cannot be reached, or does not answer as it should.
    pub(in crate::scheduler::gather) fn failed(
        &mut self,
        address: &Address,
        error: &Error,
        now: Timestamp,
    ) {
        let peer = self.peers.entry(address.clone()).or_default();
        peer.failed(now);
        self.is_stirred = true;
        if matches!(error, Error::Overloaded { .. }) {
            return;
        }
        let lines = self.lines.values_mut();
        let shards: Vec<_> = lines.flat_map(|line| line.lost(address, now)).collect();
        self.acts.push(Act::Forget(shards, address.clone()));
    }

    fn moved(&mut self, item: Item, partitions: &[Partition], address: &Address, now: Timestamp) {
        let pipeline = match item {
            Item::Crowd(id) => self.crowds.get(&id).map(|crowd| crowd.profile.0),
            Item::Holder(id) => self.waiters.get(&id).map(|waiter| waiter.pipeline),
        };
        if let Some(line) = pipeline.and_then(|pipeline| self.lines.get_mut(&pipeline)) {
            let mut shards = Vec::new();
            for partition in partitions {
                line.moved(*partition, address, now);
                shards.push(line.shard(partition.0.into()));
            }
            self.acts.push(Act::Forget(shards, address.clone()));
        }
    }

    /// Wakes some polls of a crowd, since a member has something for them.
    fn wake(&mut self, id: u64, address: &Address) {
        let item = Item::Crowd(id);
        let Some(crowd) = self.crowds.get_mut(&id) else {
            return;
        };
        let n = crowd.paces.entry(address.clone()).or_default().n;
        let mut trial = Trial::default();
        let first: Vec<_> = crowd.idle.iter().take(n).copied().collect();
        for id in first {
            if let Some(waiter) = self.waiters.get_mut(&id)
                && waiter.wake.try_send(Wake::Ready(address.clone())).is_ok()
            {
                waiter.trying = Some(address.clone());
                crowd.idle.remove(&id);
                trial.n_open += 1;
            }
        }
        if trial.n_open == 0 {
            // Whoever comes next looks there first.
            self.drop_item(item, address);
        } else if let Some(peer) = self.peers.get_mut(address) {
            peer.set(item, Stand::Trying(trial));
        }
    }
}
