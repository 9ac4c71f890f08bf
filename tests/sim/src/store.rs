//! The store: what a true one does, fenced by epochs, and what the checkers may look up in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use scheduler_core::{
    CancelRule, Epoch, IdempotencyKey, Offset, ShardId, TaskId, Timestamp,
    port::store::{
        Claim, Claimed, DuePage, DueTasks, Flushed, Found, KeyRow, KeyedPage, KeyedTasks, Lookup,
        ShardFlush, StoredState, StoredTask,
    },
    watermark::{CHUNK_BITS, DoneChunk},
};

/// All shards.
#[derive(Debug, Default)]
pub(crate) struct Store {
    shards: BTreeMap<ShardId, ShardRows>,
}

/// What is stored of one shard.
#[derive(Debug)]
struct ShardRows {
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
    keys: BTreeMap<IdempotencyKey, KeyRow>,
    cancels: Vec<CancelRule>,
}

/// What a part of a flush did.
#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) answer: Flushed,
    /// It was written now, and not by an earlier call or never.
    pub(crate) is_new: bool,
    /// Offsets that count as done from now on.
    pub(crate) newly_done: Vec<Offset>,
    /// What was stored before of the tasks that it saves or forgets.
    pub(crate) before: Vec<StoredTask>,
}

impl Store {
    pub(crate) fn claim(&mut self, claim: &Claim) -> Claimed {
        let rows = self.shards.entry(claim.shard).or_insert_with(|| ShardRows {
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
            keys: BTreeMap::new(),
            cancels: Vec::new(),
        });
        rows.epoch = rows.epoch.next().unwrap_or(Epoch::MAX);
        rows.number = 0;
        rows.address = Arc::clone(&claim.address);
        let is_running = |task: &&StoredTask| matches!(task.state, StoredState::Running { .. });
        Claimed {
            shard: claim.shard,
            epoch: rows.epoch,
            incarnation: Arc::clone(&rows.incarnation),
            watermark: rows.watermark,
            done: rows.done.values().copied().collect(),
            seen_end: rows.seen_end,
            running: rows.tasks.values().filter(is_running).cloned().collect(),
            next_due_at: rows.parked.first().map(|(due_at, _)| *due_at),
            has_keyed: rows
                .tasks
                .values()
                .any(|task| task.ordering_key().is_some()),
            cancels: rows.cancels.clone(),
            released: std::mem::take(&mut rows.released),
        }
    }

    pub(crate) fn flush(&mut self, part: &ShardFlush, now: Timestamp) -> Applied {
        let mut applied = Applied {
            answer: Flushed::Fenced,
            is_new: false,
            newly_done: Vec::new(),
            before: Vec::new(),
        };
        let rows = self.shards.get_mut(&part.shard);
        let Some(rows) = rows.filter(|rows| rows.epoch == part.epoch) else {
            return applied;
        };
        applied.answer = Flushed::Saved;
        if part.number > rows.number {
            applied.is_new = true;
            let touched = part.tasks.iter().map(|task| &task.offset);
            let touched = touched.chain(&part.forgotten);
            applied.before = touched
                .filter_map(|offset| rows.tasks.get(offset).cloned())
                .collect();
            applied.newly_done = rows.newly_done(part);
            rows.save(part, now);
        }
        applied
    }

    pub(crate) fn release(&mut self, shard: ShardId, epoch: Epoch) {
        if let Some(rows) = self.shards.get_mut(&shard)
            && rows.epoch == epoch
        {
            rows.released = true;
        }
    }

    pub(crate) fn due(&self, page: &DuePage) -> DueTasks {
        let rows = self.shards.get(&page.shard);
        rows.map_or_else(
            || DueTasks {
                tasks: Vec::new(),
                next_due_at: None,
            },
            |rows| rows.due(page),
        )
    }

    pub(crate) fn keyed(&self, page: &KeyedPage) -> KeyedTasks {
        let rows = self.shards.get(&page.shard);
        let tasks = rows.map(|rows| rows.tasks.range(page.from..).map(|(_, task)| task));
        let keyed = tasks.into_iter().flatten();
        let mut keyed = keyed.filter(|task| task.ordering_key() == Some(&page.key));
        let tasks: Vec<_> = keyed.by_ref().take(page.n_max).cloned().collect();
        let next = keyed.next().map(|task| task.offset);
        KeyedTasks { tasks, next }
    }

    pub(crate) fn get(&self, lookup: &Lookup, now: Timestamp) -> Option<Found> {
        match lookup {
            Lookup::Task(shard, offset) => {
                let task = self.shards.get(shard)?.tasks.get(offset)?;
                let is_over = matches!(task.state, StoredState::Ended { keep_until, .. } if keep_until <= now);
                (!is_over).then(|| Found::Task(Box::new(task.clone())))
            }
            Lookup::Key(shard, key) => {
                let row = self.shards.get(shard)?.keys.get(key)?;
                (row.keep_until > now).then(|| Found::Key(row.clone()))
            }
        }
    }

    pub(crate) fn owner(&self, shard: ShardId) -> Option<Arc<str>> {
        Some(Arc::clone(&self.shards.get(&shard)?.address))
    }

    pub(crate) fn row(&self, id: TaskId) -> Option<&StoredTask> {
        self.shards.get(&id.shard)?.tasks.get(&id.offset)
    }

    pub(crate) fn key(&self, shard: ShardId, key: &IdempotencyKey) -> Option<&KeyRow> {
        self.shards.get(&shard)?.keys.get(key)
    }

    pub(crate) fn watermark(&self, shard: ShardId) -> Offset {
        let rows = self.shards.get(&shard);
        rows.map_or(Offset::ZERO, |rows| rows.watermark)
    }

    pub(crate) fn epoch(&self, shard: ShardId) -> Epoch {
        let rows = self.shards.get(&shard);
        rows.map_or(Epoch::NEVER, |rows| rows.epoch)
    }

    pub(crate) fn is_done(&self, id: TaskId) -> bool {
        let rows = self.shards.get(&id.shard);
        rows.is_some_and(|rows| rows.is_done(id.offset))
    }

    /// How many offsets above the watermark count as done.
    pub(crate) fn n_done_above(&self, shard: ShardId) -> u64 {
        let Some(rows) = self.shards.get(&shard) else {
            return 0;
        };
        let offsets = rows.done.values().flat_map(|chunk| {
            let first = chunk.index * CHUNK_BITS;
            (first..first + CHUNK_BITS).filter(|offset| has_bit(chunk, *offset))
        });
        offsets.filter(|offset| *offset >= rows.watermark.0).count() as u64
    }

    /// Rows of tasks that have not ended.
    pub(crate) fn live_rows(&self) -> impl Iterator<Item = (TaskId, &StoredTask)> {
        self.shards.iter().flat_map(|(shard, rows)| {
            let live = rows.tasks.values();
            let live = live.filter(|task| !task.state.name().is_terminal());
            live.map(|task| {
                let (shard, offset) = (*shard, task.offset);
                (TaskId { shard, offset }, task)
            })
        })
    }
}

impl ShardRows {
    fn is_done(&self, offset: Offset) -> bool {
        let chunk = self.done.get(&(offset.0 / CHUNK_BITS));
        offset < self.watermark || chunk.is_some_and(|chunk| has_bit(chunk, offset.0))
    }

    fn newly_done(&self, part: &ShardFlush) -> Vec<Offset> {
        let passed = self.watermark.0..part.watermark.0;
        let above = part.done.iter().flat_map(|chunk| {
            let first = chunk.index * CHUNK_BITS;
            (first..first + CHUNK_BITS).filter(|offset| has_bit(chunk, *offset))
        });
        let all: BTreeSet<u64> = passed.chain(above).collect();
        let new = all.into_iter().map(Offset);
        new.filter(|offset| !self.is_done(*offset)).collect()
    }

    fn save(&mut self, part: &ShardFlush, now: Timestamp) {
        self.number = part.number;
        self.watermark = part.watermark;
        self.seen_end = part.seen_end;
        let chunks = part.done.iter().map(|chunk| (chunk.index, *chunk));
        self.done.extend(chunks);
        let floor = part.watermark.0;
        self.done
            .retain(|index, _| (index + 1) * CHUNK_BITS > floor);
        for task in &part.tasks {
            self.remove(task.offset);
            if let StoredState::Parked { due_at, .. } = task.state {
                self.parked.insert((due_at, task.offset));
            }
            self.tasks.insert(task.offset, task.clone());
        }
        for offset in &part.forgotten {
            self.remove(*offset);
        }
        self.keys.retain(|_, row| row.keep_until > now);
        let keys = part.keys.iter().map(|row| (row.key.clone(), row.clone()));
        self.keys.extend(keys);
        if let Some(cancels) = &part.cancels {
            self.cancels.clone_from(cancels);
        }
    }

    fn remove(&mut self, offset: Offset) {
        if let Some(task) = self.tasks.remove(&offset)
            && let StoredState::Parked { due_at, .. } = task.state
        {
            self.parked.remove(&(due_at, offset));
        }
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
            if *due_at > page.until || (!fits && !tasks.is_empty()) {
                let next_due_at = Some(*due_at);
                return DueTasks { tasks, next_due_at };
            }
            n_bytes += size;
            tasks.push(task.clone());
        }
        DueTasks {
            tasks,
            next_due_at: None,
        }
    }
}

fn has_bit(chunk: &DoneChunk, offset: u64) -> bool {
    let bit = offset % CHUNK_BITS;
    let word = usize::try_from(bit / 64).map_or(0, |word| chunk.words[word]);
    offset / CHUNK_BITS == chunk.index && word & (1 << (bit % 64)) != 0
}
