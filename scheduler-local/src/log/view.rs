//! What the log holds, in memory: the bounds of every partition and the newest records of each.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use scheduler_core::{
    Offset, PipelineNumber, ShardId,
    port::log::{Bounds, Fetch, Fetched, Record, RecordBody},
};
use tokio::sync::{Notify, futures::Notified};

use crate::writer::LogState;

/// A record counts as so many bytes beside its data.
const RECORD_BYTES: usize = 160;
/// So many batches that were trimmed stay in the order of eviction before it is tidied.
const ORDER_STALE_MAX: usize = 1_024;

/// A durable change of the log that readers must learn of.
#[derive(Debug)]
pub(crate) enum LogEvent {
    Made(PipelineNumber, LogState),
    Removed(PipelineNumber),
    Appended(ShardId, TailBatch),
    Trimmed(ShardId, u64),
}

/// Records that follow one another.
#[derive(Debug)]
pub(crate) struct TailBatch {
    records: Vec<Record>,
    n_bytes: usize,
}

impl TailBatch {
    pub(crate) fn new(records: Vec<Record>, n_bytes: usize) -> Self {
        let n_bytes = n_bytes + records.len() * RECORD_BYTES;
        Self { records, n_bytes }
    }

    fn base(&self) -> Option<u64> {
        self.records.first().map(|record| record.offset.0)
    }

    fn end(&self) -> u64 {
        self.records.last().map_or(0, |record| record.offset.0 + 1)
    }
}

/// How a fetch is answered.
#[derive(Debug)]
pub(super) enum Plan {
    /// There is no news.
    Nothing,
    /// What is wanted was trimmed; the log starts here.
    Lost(u64),
    /// From memory.
    Known(Fetched),
    /// By a read of the database, up to this offset.
    Read { end: Offset },
}

/// What is durable and marked, for readers.
#[derive(Debug)]
pub(crate) struct LogView {
    state: Mutex<State>,
    changed: Notify,
    tail_bytes_max: usize,
}

#[derive(Debug, Default)]
struct State {
    logs: HashMap<PipelineNumber, Log>,
    /// The batches in memory, oldest first, by shard and base; some may be trimmed already.
    order: VecDeque<(ShardId, u64)>,
    n_batches: usize,
    n_bytes: usize,
}

#[derive(Debug)]
struct Log {
    incarnation: Arc<str>,
    partitions: Vec<Partition>,
}

#[derive(Debug)]
struct Partition {
    start: u64,
    end: u64,
    /// Without gaps up to `end`, or empty.
    tail: VecDeque<TailBatch>,
}

impl LogView {
    pub(crate) fn new(logs: &HashMap<PipelineNumber, LogState>, tail_bytes_max: usize) -> Self {
        let kept = logs.iter().filter(|(_, log)| !log.removed);
        let logs = kept.map(|(number, log)| (*number, Log::new(log)));
        Self {
            state: Mutex::new(State {
                logs: logs.collect(),
                ..State::default()
            }),
            changed: Notify::new(),
            tail_bytes_max,
        }
    }

    /// Ends at the next change after this call.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    pub(super) fn knows(&self, pipeline: PipelineNumber) -> bool {
        self.lock().logs.contains_key(&pipeline)
    }

    pub(super) fn bounds(&self, shard: ShardId) -> Option<Bounds> {
        let state = self.lock();
        let log = state.logs.get(&shard.pipeline)?;
        let partition = log.partitions.get(usize::from(shard.partition.0))?;
        Some(Bounds {
            start: Offset(partition.start),
            end: Offset(partition.end),
            incarnation: Arc::clone(&log.incarnation),
        })
    }

    /// Answers from memory what can be.
    pub(super) fn plan(&self, wanted: &[Fetch]) -> Vec<(Fetch, Plan)> {
        let state = self.lock();
        let plan = |fetch: &Fetch| match state.partition(fetch.shard) {
            Some(partition) => (*fetch, partition.plan(fetch)),
            None => (*fetch, Plan::Nothing),
        };
        let with_news = |(_, plan): &(Fetch, Plan)| !matches!(plan, Plan::Nothing);
        wanted.iter().map(plan).filter(with_news).collect()
    }

    /// Applies what became durable, in its order, and wakes who waits.
    pub(crate) fn apply(&self, events: Vec<LogEvent>) {
        if events.is_empty() {
            return;
        }
        {
            let mut state = self.lock();
            for event in events {
                state.apply(event);
            }
            state.evict(self.tail_bytes_max);
        }
        self.changed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is made of steps that cannot panic, so the state is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn partition(&self, shard: ShardId) -> Option<&Partition> {
        let log = self.logs.get(&shard.pipeline)?;
        log.partitions.get(usize::from(shard.partition.0))
    }

    fn partition_mut(&mut self, shard: ShardId) -> Option<&mut Partition> {
        let log = self.logs.get_mut(&shard.pipeline)?;
        log.partitions.get_mut(usize::from(shard.partition.0))
    }

    fn apply(&mut self, event: LogEvent) {
        match event {
            LogEvent::Made(number, log) => {
                self.logs.insert(number, Log::new(&log));
            }
            LogEvent::Removed(number) => {
                let removed = self.logs.remove(&number);
                let partitions = removed.into_iter().flat_map(|log| log.partitions);
                for batch in partitions.flat_map(|partition| partition.tail) {
                    self.left(&batch);
                }
            }
            LogEvent::Appended(shard, batch) => {
                let (Some(base), n_bytes) = (batch.base(), batch.n_bytes) else {
                    return;
                };
                if let Some(partition) = self.partition_mut(shard) {
                    partition.end = batch.end();
                    partition.tail.push_back(batch);
                    self.order.push_back((shard, base));
                    self.n_batches += 1;
                    self.n_bytes += n_bytes;
                }
            }
            LogEvent::Trimmed(shard, start) => {
                let Some(partition) = self.partition_mut(shard) else {
                    return;
                };
                partition.start = partition.start.max(start);
                let n = partition.tail.partition_point(|batch| batch.end() <= start);
                let trimmed: Vec<_> = partition.tail.drain(..n).collect();
                for batch in &trimmed {
                    self.left(batch);
                }
            }
        }
    }

    fn evict(&mut self, n_bytes_max: usize) {
        while self.n_bytes > n_bytes_max
            && let Some((shard, base)) = self.order.pop_front()
        {
            let partition = self.partition_mut(shard);
            let oldest = |batch: &mut TailBatch| batch.base() == Some(base);
            let evicted = partition.and_then(|found| found.tail.pop_front_if(oldest));
            if let Some(batch) = evicted {
                self.left(&batch);
            }
        }
        if self.order.len() > 2 * self.n_batches + ORDER_STALE_MAX {
            let logs = std::mem::take(&mut self.order);
            let is_live = |(shard, base): &(ShardId, u64)| {
                let tail = self.partition(*shard).map(|found| &found.tail);
                let oldest = tail.and_then(|tail| tail.front()?.base());
                oldest.is_some_and(|oldest| oldest <= *base)
            };
            self.order = logs.into_iter().filter(is_live).collect();
        }
    }

    fn left(&mut self, batch: &TailBatch) {
        self.n_batches -= 1;
        self.n_bytes -= batch.n_bytes;
    }
}

impl Log {
    fn new(state: &LogState) -> Self {
        let partitions = state.partitions.iter().map(|found| Partition {
            start: found.start,
            end: found.end,
            tail: VecDeque::new(),
        });
        Self {
            incarnation: Arc::clone(&state.incarnation),
            partitions: partitions.collect(),
        }
    }
}

impl Partition {
    fn plan(&self, fetch: &Fetch) -> Plan {
        let from = fetch.from.0;
        if from < self.start {
            return Plan::Lost(self.start);
        }
        if from >= self.end {
            return Plan::Nothing;
        }
        match self.tail.front().and_then(TailBatch::base) {
            Some(base) if base <= from => Plan::Known(self.known(fetch)),
            first_known => Plan::Read {
                end: Offset(first_known.unwrap_or(self.end)),
            },
        }
    }

    fn known(&self, fetch: &Fetch) -> Fetched {
        let from = fetch.from.0;
        let first = self.tail.partition_point(|batch| batch.end() <= from);
        let records = self.tail.range(first..).flat_map(|batch| &batch.records);
        let mut fetched = Fetched {
            shard: fetch.shard,
            records: Vec::new(),
            next: Offset(from),
        };
        let mut n_bytes = 0;
        for record in records.skip_while(|record| record.offset.0 < from) {
            n_bytes += data_len(record);
            let full = fetched.records.len() >= fetch.n_max || n_bytes > fetch.bytes_max;
            if full && !fetched.records.is_empty() {
                break;
            }
            fetched.next = record.offset.next();
            fetched.records.push(record.clone());
        }
        fetched
    }
}

pub(super) fn data_len(record: &Record) -> usize {
    match &record.body {
        RecordBody::Task(task) => task.data.len(),
        RecordBody::Malformed { head, .. } => head.len(),
    }
}
