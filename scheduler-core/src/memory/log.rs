//! A log in memory.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::Notify;

use super::lock;
use crate::{
    Mode, Offset, Pipeline, PipelineNumber, ShardId, TaskId,
    port::{
        Clock, FailureKind, PortError, TaskLog,
        log::{Appended, Bounds, Fetch, Fetched, Fetches, NewRecord, Record, RecordBody},
    },
};

/// A log in memory. Clones are the same log, and it lives as long as one of them.
#[derive(Debug, Clone)]
pub struct Log {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    appended: Notify,
}

#[derive(Debug, Default)]
struct State {
    n_made: u64,
    logs: HashMap<PipelineNumber, PipelineLog>,
}

#[derive(Debug)]
struct PipelineLog {
    incarnation: Arc<str>,
    is_closed: bool,
    partitions: Vec<PartitionLog>,
}

#[derive(Debug, Default)]
struct PartitionLog {
    start: u64,
    records: VecDeque<Record>,
}

impl Log {
    /// An empty log that stamps its records by `clock`.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            shared: Arc::new(Shared {
                clock,
                state: Mutex::new(State::default()),
                appended: Notify::new(),
            }),
        }
    }

    fn append_one(&self, state: &mut State, record: NewRecord) -> Result<Appended, PortError> {
        const OPERATION: &str = "append a record";
        let log = state.logs.get(&record.shard.pipeline);
        if log.is_some_and(|log| log.is_closed) {
            return Err(PortError::new(OPERATION, FailureKind::Closed));
        }
        let partition = state.partition_mut(OPERATION, record.shard)?;
        let appended = Appended {
            offset: partition.end(),
            accepted_at: self.shared.clock.now(),
        };
        partition.records.push_back(Record {
            offset: appended.offset,
            accepted_at: appended.accepted_at,
            body: RecordBody::Task(record.task),
        });
        Ok(appended)
    }

    fn fetch_now(&self, wanted: &[Fetch]) -> Fetches {
        let state = lock(&self.shared.state);
        let mut fetches = Fetches::default();
        for fetch in wanted {
            match state.partition(fetch.shard) {
                Some(partition) if fetch.from.0 < partition.start => {
                    let why = format!("the log starts at {}", partition.start);
                    fetches.lost.push((fetch.shard, why));
                }
                Some(partition) => fetches.read.extend(partition.fetch(fetch)),
                None => {}
            }
        }
        fetches
    }
}

impl State {
    fn partition(&self, shard: ShardId) -> Option<&PartitionLog> {
        let log = self.logs.get(&shard.pipeline)?;
        log.partitions.get(usize::from(shard.partition.0))
    }

    fn partition_mut(
        &mut self,
        operation: &'static str,
        shard: ShardId,
    ) -> Result<&mut PartitionLog, PortError> {
        self.logs
            .get_mut(&shard.pipeline)
            .and_then(|log| log.partitions.get_mut(usize::from(shard.partition.0)))
            .ok_or_else(|| unknown(operation, shard))
    }
}

fn unknown(operation: &'static str, shard: ShardId) -> PortError {
    PortError::new(operation, FailureKind::Unavailable)
        .caused_by(format!("there is no log of shard {shard}"))
}

impl PipelineLog {
    fn bounds(&self, partition: &PartitionLog) -> Bounds {
        Bounds {
            start: Offset(partition.start),
            end: partition.end(),
            incarnation: Arc::clone(&self.incarnation),
        }
    }
}

impl PartitionLog {
    fn end(&self) -> Offset {
        Offset(self.start + self.records.len() as u64)
    }

    fn at(&self, offset: Offset) -> Option<&Record> {
        let index = offset.0.checked_sub(self.start)?;
        self.records.get(usize::try_from(index).ok()?)
    }

    fn fetch(&self, fetch: &Fetch) -> Option<Fetched> {
        let mut next = fetch.from;
        let mut n_bytes = 0;
        let mut records = Vec::new();
        while let Some(record) = self.at(next) {
            let size = data_len(record);
            let fits = records.len() < fetch.n_max && n_bytes + size <= fetch.bytes_max;
            if !fits && !records.is_empty() {
                break;
            }
            n_bytes += size;
            records.push(record.clone());
            next = next.next();
        }
        (next > fetch.from).then_some(Fetched {
            shard: fetch.shard,
            records,
            next,
        })
    }

    fn trim(&mut self, below: Offset) {
        let start = below.min(self.end()).0.max(self.start);
        while self.start < start {
            self.records.pop_front();
            self.start += 1;
        }
    }
}

fn data_len(record: &Record) -> usize {
    match &record.body {
        RecordBody::Task(task) => task.data.len(),
        RecordBody::Malformed { head, .. } => head.len(),
    }
}

#[async_trait]
impl TaskLog for Log {
    async fn ensure(&self, pipelines: &[Arc<Pipeline>]) -> Vec<Result<(), PortError>> {
        let mut state = lock(&self.shared.state);
        for pipeline in pipelines {
            if state.logs.contains_key(&pipeline.number) || pipeline.mode == Mode::Deleting {
                continue;
            }
            state.n_made += 1;
            let n_partitions = usize::from(pipeline.spec.n_partitions);
            let log = PipelineLog {
                incarnation: format!("memory-{}", state.n_made).into(),
                is_closed: false,
                partitions: (0..n_partitions).map(|_| PartitionLog::default()).collect(),
            };
            state.logs.insert(pipeline.number, log);
        }
        pipelines.iter().map(|_| Ok(())).collect()
    }

    async fn close(&self, pipeline: &Pipeline) -> Result<Option<Vec<Bounds>>, PortError> {
        let mut state = lock(&self.shared.state);
        let Some(log) = state.logs.get_mut(&pipeline.number) else {
            return Ok(None);
        };
        log.is_closed = true;
        Ok(Some(
            log.partitions.iter().map(|one| log.bounds(one)).collect(),
        ))
    }

    async fn remove(&self, pipeline: &Pipeline) -> Result<(), PortError> {
        lock(&self.shared.state).logs.remove(&pipeline.number);
        Ok(())
    }

    async fn append(&self, records: Vec<NewRecord>) -> Vec<Result<Appended, PortError>> {
        let answers = {
            let mut state = lock(&self.shared.state);
            let append = |record| self.append_one(&mut state, record);
            records.into_iter().map(append).collect()
        };
        self.shared.appended.notify_waiters();
        answers
    }

    async fn fetch(&self, wanted: &[Fetch], wait: Duration) -> Result<Fetches, PortError> {
        let first_news = async {
            loop {
                // Registered before the look, so that an append in between is not missed.
                let appended = self.shared.appended.notified();
                let news = self.fetch_now(wanted);
                if news != Fetches::default() {
                    return news;
                }
                appended.await;
            }
        };
        Ok(tokio::time::timeout(wait, first_news)
            .await
            .unwrap_or_default())
    }

    async fn read_at(&self, wanted: &[TaskId]) -> Vec<Result<Option<Record>, PortError>> {
        let state = lock(&self.shared.state);
        let read = |id: &TaskId| {
            let partition = state.partition(id.shard);
            let partition = partition.ok_or_else(|| unknown("read a record", id.shard))?;
            Ok(partition.at(id.offset).cloned())
        };
        wanted.iter().map(read).collect()
    }

    async fn bounds(&self, shards: &[ShardId]) -> Vec<Result<Bounds, PortError>> {
        let state = lock(&self.shared.state);
        let bounds = |shard: &ShardId| {
            let log = state.logs.get(&shard.pipeline)?;
            let partition = log.partitions.get(usize::from(shard.partition.0))?;
            Some(log.bounds(partition))
        };
        let known = |shard| bounds(shard).ok_or_else(|| unknown("read bounds", *shard));
        shards.iter().map(known).collect()
    }

    async fn trim(&self, below: &[(ShardId, Offset)]) -> Result<(), PortError> {
        let mut state = lock(&self.shared.state);
        for (shard, offset) in below {
            state.partition_mut("trim", *shard)?.trim(*offset);
        }
        Ok(())
    }

    async fn publish_watermarks(&self, _watermarks: &[(ShardId, Offset)]) -> Result<(), PortError> {
        // No other tool can look into this process.
        Ok(())
    }
}
