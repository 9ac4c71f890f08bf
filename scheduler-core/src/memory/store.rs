//! A store in memory.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex},
};

use async_trait::async_trait;

use super::lock;
use crate::{
    CancelRule, Epoch, IdempotencyKey, Offset, OrderingKey, PipelineNumber, ShardId, Timestamp,
    port::{
        Clock, FailureKind, PortError, TaskStore,
        store::{
            Claim, Claimed, DuePage, DueTasks, Flushed, Found, KeyRow, KeyedPage, KeyedTasks,
            ListPage, Lookup, ShardFlush, StoredState, StoredTask, cut_page,
        },
    },
    watermark::{CHUNK_BITS, DoneChunk},
};

/// A store in memory. Clones are the same store, so two members can compete for a shard in it.
#[derive(Debug, Clone)]
pub struct Store {
    clock: Arc<dyn Clock>,
    shards: Arc<Mutex<HashMap<ShardId, Shard>>>,
}

#[derive(Debug)]
struct Shard {
    epoch: Epoch,
    number: u64,
    address: Arc<str>,
    incarnation: Arc<str>,
    watermark: Offset,
    seen_end: Offset,
    released: bool,
    done: BTreeMap<u64, DoneChunk>,
    tasks: BTreeMap<Offset, StoredTask>,
    parked: BTreeSet<(Timestamp, Offset)>,
    ended: BTreeSet<(Timestamp, Offset)>,
    /// Unfinished tasks that have an ordering key.
    keyed: BTreeSet<(OrderingKey, Offset)>,
    keys: HashMap<IdempotencyKey, KeyRow>,
    key_times: BTreeSet<(Timestamp, IdempotencyKey)>,
    cancels: Vec<CancelRule>,
}

impl Store {
    /// An empty store that forgets by `clock`.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            shards: Arc::default(),
        }
    }
}

impl Shard {
    fn new(claim: &Claim) -> Self {
        Self {
            epoch: Epoch::NEVER,
            number: 0,
            address: Arc::clone(&claim.address),
            incarnation: Arc::clone(&claim.incarnation),
            watermark: Offset::ZERO,
            seen_end: Offset::ZERO,
            released: false,
            done: BTreeMap::new(),
            tasks: BTreeMap::new(),
            parked: BTreeSet::new(),
            ended: BTreeSet::new(),
            keyed: BTreeSet::new(),
            keys: HashMap::new(),
            key_times: BTreeSet::new(),
            cancels: Vec::new(),
        }
    }

    fn claim(&mut self, claim: &Claim) -> Result<Claimed, PortError> {
        let shard = claim.shard;
        let next = self.epoch.next().ok_or_else(|| {
            PortError::new("claim a shard", FailureKind::Damaged)
                .caused_by(format!("shard {shard} has had its last epoch"))
        })?;
        self.epoch = next;
        self.number = 0;
        self.address = Arc::clone(&claim.address);
        Ok(Claimed {
            shard,
            epoch: next,
            incarnation: self.incarnation.clone(),
            watermark: self.watermark,
            done: self.done.values().copied().collect(),
            seen_end: self.seen_end,
            running: self
                .tasks
                .values()
                .filter(|task| matches!(task.state, StoredState::Running { .. }))
                .cloned()
                .collect(),
            next_due_at: self.parked.first().map(|(due_at, _)| *due_at),
            has_keyed: !self.keyed.is_empty(),
            cancels: self.cancels.clone(),
            released: std::mem::replace(&mut self.released, false),
        })
    }

    fn flush(&mut self, part: &ShardFlush, now: Timestamp) -> Flushed {
        if part.epoch != self.epoch {
            return Flushed::Fenced;
        }
        if part.number <= self.number {
            return Flushed::Saved;
        }
        self.number = part.number;
        self.watermark = part.watermark;
        self.seen_end = part.seen_end;
        self.done
            .extend(part.done.iter().map(|chunk| (chunk.index, *chunk)));
        let floor = part.watermark.0;
        self.done
            .retain(|index, _| (index + 1).saturating_mul(CHUNK_BITS) > floor);
        for task in &part.tasks {
            self.save(task);
        }
        for offset in &part.forgotten {
            self.remove(*offset);
        }
        for row in &part.keys {
            self.key_times.insert((row.keep_until, row.key.clone()));
            self.keys.insert(row.key.clone(), row.clone());
        }
        if let Some(cancels) = &part.cancels {
            self.cancels.clone_from(cancels);
        }
        self.expire(now);
        Flushed::Saved
    }

    fn save(&mut self, task: &StoredTask) {
        self.remove(task.offset);
        match task.state {
            StoredState::Parked { due_at, .. } => {
                self.parked.insert((due_at, task.offset));
            }
            StoredState::Ended { keep_until, .. } => {
                self.ended.insert((keep_until, task.offset));
            }
            StoredState::Running { .. } => {}
        }
        if let Some(key) = task.ordering_key() {
            self.keyed.insert((key.clone(), task.offset));
        }
        self.tasks.insert(task.offset, task.clone());
    }

    fn remove(&mut self, offset: Offset) {
        let Some(task) = self.tasks.remove(&offset) else {
            return;
        };
        if let Some(key) = task.ordering_key() {
            self.keyed.remove(&(key.clone(), offset));
        }
        match task.state {
            StoredState::Parked { due_at, .. } => {
                self.parked.remove(&(due_at, offset));
            }
            StoredState::Ended { keep_until, .. } => {
                self.ended.remove(&(keep_until, offset));
            }
            StoredState::Running { .. } => {}
        }
    }

    /// Forgets ended tasks and keys whose time is over.
    fn expire(&mut self, now: Timestamp) {
        while let Some((keep_until, offset)) = self.ended.first().copied()
            && keep_until <= now
        {
            self.remove(offset);
        }
        while let Some((keep_until, _)) = self.key_times.first()
            && *keep_until <= now
            && let Some((_, key)) = self.key_times.pop_first()
        {
            // A key that was saved again meanwhile has a later time.
            if self.keys.get(&key).is_some_and(|row| row.keep_until <= now) {
                self.keys.remove(&key);
            }
        }
    }

    fn keyed(&self, page: &KeyedPage) -> KeyedTasks {
        let mut n_bytes = 0;
        let mut found = KeyedTasks::default();
        for (key, offset) in self.keyed.range((page.key.clone(), page.from)..) {
            if *key != page.key {
                break;
            }
            let Some(task) = self.tasks.get(offset) else {
                continue;
            };
            let size = task.n_bytes();
            let fits = found.tasks.len() < page.n_max && n_bytes + size <= page.bytes_max;
            if !fits && !found.tasks.is_empty() {
                found.next = Some(*offset);
                break;
            }
            n_bytes += size;
            found.tasks.push(task.clone());
        }
        found
    }

    fn due(&self, page: &DuePage) -> DueTasks {
        let mut n_bytes = 0;
        let mut tasks: Vec<StoredTask> = Vec::new();
        for (due_at, offset) in self.parked.range(page.from..) {
            let Some(task) = self.tasks.get(offset) else {
                continue;
            };
            let size = task.task.data.len();
            let fits = tasks.len() < page.n_max && n_bytes + size <= page.bytes_max;
            if *due_at > page.until || !fits && !tasks.is_empty() {
                let next_due_at = Some(*due_at);
                return DueTasks { tasks, next_due_at };
            }
            n_bytes += size;
            tasks.push(task.clone());
        }
        let next_due_at = None;
        DueTasks { tasks, next_due_at }
    }

    fn list(&self, page: &ListPage, now: Timestamp) -> Vec<StoredTask> {
        let below = page.below.unwrap_or(Offset(u64::MAX));
        let wanted = |task: &&StoredTask| {
            (page.states.is_empty() || page.states.contains(&task.state.name()))
                && task.accepted_at >= page.since
                && is_kept(task, now)
        };
        let newest_first = self.tasks.range(..below).rev().map(|(_, task)| task);
        let newest = newest_first.filter(wanted).take(page.n_max);
        let mut tasks = newest.cloned().collect();
        cut_page(&mut tasks, page.n_max, page.bytes_max);
        tasks
    }
}

fn is_kept(task: &StoredTask, now: Timestamp) -> bool {
    match task.state {
        StoredState::Ended { keep_until, .. } => keep_until > now,
        StoredState::Parked { .. } | StoredState::Running { .. } => true,
    }
}

#[async_trait]
impl TaskStore for Store {
    async fn claim(&self, claims: &[Claim]) -> Result<Vec<Claimed>, PortError> {
        let mut shards = lock(&self.shards);
        let claim = |claim: &Claim| {
            let found = shards.entry(claim.shard);
            let shard = found.or_insert_with(|| Shard::new(claim));
            shard.claim(claim)
        };
        claims.iter().map(claim).collect()
    }

    async fn flush(&self, parts: &[ShardFlush]) -> Result<Vec<Flushed>, PortError> {
        let now = self.clock.now();
        let mut shards = lock(&self.shards);
        let flush = |part: &ShardFlush| match shards.get_mut(&part.shard) {
            Some(shard) => shard.flush(part, now),
            None => Flushed::Fenced,
        };
        Ok(parts.iter().map(flush).collect())
    }

    async fn release(&self, released: &[(ShardId, Epoch)]) -> Result<(), PortError> {
        let mut shards = lock(&self.shards);
        for (id, epoch) in released {
            if let Some(shard) = shards.get_mut(id)
                && shard.epoch == *epoch
            {
                shard.released = true;
            }
        }
        Ok(())
    }

    async fn due(&self, pages: &[DuePage]) -> Result<Vec<DueTasks>, PortError> {
        let shards = lock(&self.shards);
        let nothing = || DueTasks {
            tasks: Vec::new(),
            next_due_at: None,
        };
        let due = |page: &DuePage| shards.get(&page.shard).map(|shard| shard.due(page));
        Ok(pages
            .iter()
            .map(|page| due(page).unwrap_or_else(nothing))
            .collect())
    }

    async fn keyed(&self, pages: &[KeyedPage]) -> Result<Vec<KeyedTasks>, PortError> {
        let shards = lock(&self.shards);
        let keyed = |page: &KeyedPage| shards.get(&page.shard).map(|shard| shard.keyed(page));
        Ok(pages
            .iter()
            .map(|page| keyed(page).unwrap_or_default())
            .collect())
    }

    async fn get(&self, lookups: &[Lookup]) -> Result<Vec<Option<Found>>, PortError> {
        let now = self.clock.now();
        let shards = lock(&self.shards);
        let find = |lookup: &Lookup| match lookup {
            Lookup::Task(shard, offset) => {
                let task = shards.get(shard)?.tasks.get(offset)?;
                is_kept(task, now).then(|| Found::Task(Box::new(task.clone())))
            }
            Lookup::Key(shard, key) => {
                let row = shards.get(shard)?.keys.get(key)?;
                (row.keep_until > now).then(|| Found::Key(row.clone()))
            }
        };
        Ok(lookups.iter().map(find).collect())
    }

    async fn list(&self, pages: &[ListPage]) -> Result<Vec<Vec<StoredTask>>, PortError> {
        let now = self.clock.now();
        let shards = lock(&self.shards);
        let list = |page: &ListPage| shards.get(&page.shard).map(|shard| shard.list(page, now));
        Ok(pages
            .iter()
            .map(|page| list(page).unwrap_or_default())
            .collect())
    }

    async fn owners(&self, ids: &[ShardId]) -> Result<Vec<Option<Arc<str>>>, PortError> {
        let shards = lock(&self.shards);
        let owner = |id| Some(Arc::clone(&shards.get(id)?.address));
        Ok(ids.iter().map(owner).collect())
    }

    async fn forget(&self, pipeline: PipelineNumber) -> Result<(), PortError> {
        lock(&self.shards).retain(|shard, _| shard.pipeline != pipeline);
        Ok(())
    }
}
