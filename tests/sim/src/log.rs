//! The log: partitions with gaps, and what was ever put into them.

use std::collections::BTreeMap;

use scheduler_core::{
    CancelRequest, Offset, ShardId, TaskId, Timestamp,
    port::log::{Appended, Bounds, Fetch, Fetched, Fetches, Record, RecordBody},
};

/// What an offset was given to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Born {
    /// Nothing that can be read: an aborted transaction, a control record.
    Gap,
    /// A record.
    Record(RecordBody),
}

/// One partition.
#[derive(Debug, Default)]
struct PartitionLog {
    start: u64,
    /// Everything since offset 0; the checkers know what the log has forgotten.
    born: Vec<(Timestamp, Born)>,
}

/// All partitions.
#[derive(Debug, Default)]
pub(crate) struct Log {
    partitions: BTreeMap<ShardId, PartitionLog>,
}

impl Log {
    pub(crate) fn new(shards: &[ShardId]) -> Self {
        let partitions = shards.iter().map(|id| (*id, PartitionLog::default()));
        Self {
            partitions: partitions.collect(),
        }
    }

    /// Appends after so many offsets that hold nothing.
    pub(crate) fn append(
        &mut self,
        shard: ShardId,
        body: RecordBody,
        n_gaps: u64,
        now: Timestamp,
    ) -> Appended {
        let partition = self.partitions.entry(shard).or_default();
        for _ in 0..n_gaps {
            partition.born.push((now, Born::Gap));
        }
        let offset = partition.end();
        partition.born.push((now, Born::Record(body)));
        Appended {
            offset,
            accepted_at: now,
        }
    }

    pub(crate) fn fetch(&self, wanted: &[Fetch]) -> Fetches {
        let mut fetches = Fetches::default();
        for fetch in wanted {
            match self.partitions.get(&fetch.shard) {
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

    pub(crate) fn read_at(&self, id: TaskId) -> Option<Record> {
        let partition = self.partitions.get(&id.shard)?;
        (id.offset.0 >= partition.start)
            .then(|| partition.record(id.offset))
            .flatten()
    }

    pub(crate) fn bounds(&self, shard: ShardId) -> Bounds {
        let partition = self.partitions.get(&shard);
        Bounds {
            start: Offset(partition.map_or(0, |partition| partition.start)),
            end: self.end(shard),
            incarnation: "first".into(),
        }
    }

    pub(crate) fn trim(&mut self, shard: ShardId, below: Offset) {
        if let Some(partition) = self.partitions.get_mut(&shard) {
            partition.start = partition.start.max(below.0.min(partition.end().0));
        }
    }

    pub(crate) fn end(&self, shard: ShardId) -> Offset {
        let partition = self.partitions.get(&shard);
        partition.map_or(Offset::ZERO, PartitionLog::end)
    }

    /// What an offset was given to, though it may be trimmed by now.
    pub(crate) fn born(&self, id: TaskId) -> Option<&Born> {
        self.partitions.get(&id.shard)?.at(id.offset)
    }

    /// Tasks that a bulk cancel is about.
    pub(crate) fn covered(&self, shard: ShardId, request: &CancelRequest) -> Vec<TaskId> {
        let is_about = |(id, body): &(TaskId, &RecordBody)| {
            let options = match body {
                RecordBody::Task(task) => task.options.as_deref(),
                RecordBody::Malformed { .. } => return false,
            };
            let key = options.and_then(|options| options.key.as_ref());
            id.shard == shard && id.offset < request.below && key == request.filter.key.as_ref()
        };
        self.records().filter(is_about).map(|(id, _)| id).collect()
    }

    /// Every record that was ever appended.
    pub(crate) fn records(&self) -> impl Iterator<Item = (TaskId, &RecordBody)> {
        self.partitions.iter().flat_map(|(shard, partition)| {
            let offsets = (0..).map(Offset).zip(&partition.born);
            offsets.filter_map(|(offset, (_, born))| match born {
                Born::Record(body) => {
                    let shard = *shard;
                    Some((TaskId { shard, offset }, body))
                }
                Born::Gap => None,
            })
        })
    }
}

impl PartitionLog {
    fn end(&self) -> Offset {
        Offset(self.born.len() as u64)
    }

    fn at(&self, offset: Offset) -> Option<&Born> {
        let at = usize::try_from(offset.0).ok()?;
        self.born.get(at).map(|(_, born)| born)
    }

    fn record(&self, offset: Offset) -> Option<Record> {
        let at = usize::try_from(offset.0).ok()?;
        let (accepted_at, born) = self.born.get(at)?;
        match born {
            Born::Record(body) => Some(Record {
                offset,
                accepted_at: *accepted_at,
                body: body.clone(),
            }),
            Born::Gap => None,
        }
    }

    fn fetch(&self, fetch: &Fetch) -> Option<Fetched> {
        let mut next = fetch.from;
        let mut records = Vec::new();
        let mut n_bytes = 0;
        while next < self.end() && records.len() < fetch.n_max {
            if let Some(record) = self.record(next) {
                let size = match &record.body {
                    RecordBody::Task(task) => task.data.len(),
                    RecordBody::Malformed { head, .. } => head.len(),
                };
                if n_bytes + size > fetch.bytes_max && !records.is_empty() {
                    break;
                }
                n_bytes += size;
                records.push(record);
            }
            next = next.next();
        }
        (next > fetch.from).then_some(Fetched {
            shard: fetch.shard,
            records,
            next,
        })
    }
}
