//! The partitions that are read, with what was read of each and not yet taken. Pure: it decides what the
//! consumer must do, and the thread does it.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use scheduler_core::{
    Offset, Partition, PipelineNumber, ShardId,
    port::log::{Fetch, Fetched, Fetches, Record},
};

use crate::{
    codec::{data_len, memory_of},
    topic::Known,
};

/// A partition that nobody wanted for this long is not read any more.
const UNWANTED: Duration = Duration::from_secs(10);

/// A partition of a topic.
pub(super) type Place = (Arc<str>, u16);

/// What the consumer must do, in this order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) leave: Vec<Place>,
    pub(super) join: Vec<(Place, Offset)>,
    pub(super) pause: Vec<Place>,
    pub(super) resume: Vec<Place>,
}

/// How a partition is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// The consumer does not have it yet.
    New,
    Reading,
    /// Enough of it is buffered.
    Paused,
    /// It cannot be read on.
    Lost,
}

#[derive(Debug)]
struct Reading {
    place: Place,
    /// The topic's id when it was first wanted.
    id: Arc<str>,
    flow: Flow,
    /// Everything from here to `next` is in `records` or absent from the log.
    start: Offset,
    next: Offset,
    records: VecDeque<(Record, usize)>,
    n_bytes: usize,
    wanted_at: Instant,
    /// The number of the last fetch that wanted it.
    wanted_by: u64,
    why_lost: String,
}

/// All partitions that are read.
#[derive(Debug)]
pub(super) struct Table {
    bytes_max: usize,
    n_bytes: usize,
    n_fetches: u64,
    reading: HashMap<ShardId, Reading>,
    numbers: HashMap<Arc<str>, PipelineNumber>,
    /// What the consumer still has and must not have.
    leave: Vec<Place>,
    has_work: bool,
}

impl Table {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            n_bytes: 0,
            n_fetches: 0,
            reading: HashMap::new(),
            numbers: HashMap::new(),
            leave: Vec::new(),
            has_work: false,
        }
    }

    /// Gives what is there of the wanted partitions, and tells whether the consumer has work to do.
    pub(super) fn fetch(
        &mut self,
        wanted: &[Fetch],
        now: Instant,
        mut topic_of: impl FnMut(PipelineNumber) -> Option<Known>,
    ) -> (Fetches, bool) {
        self.n_fetches += 1;
        let was_full = self.is_full();
        let mut fetches = Fetches::default();
        let mut last: Option<(PipelineNumber, Option<Known>)> = None;
        for fetch in wanted {
            let number = fetch.shard.pipeline;
            if last.as_ref().is_none_or(|(last, _)| *last != number) {
                last = Some((number, topic_of(number)));
            }
            let known = last.as_ref().and_then(|(_, known)| known.as_ref());
            let partition = usize::from(fetch.shard.partition.0);
            match known.filter(|known| partition < known.n_partitions) {
                Some(known) => self.want(fetch, known, now, &mut fetches),
                None => self.drop_reading(fetch.shard),
            }
        }
        self.has_work |= was_full && !self.is_full();
        (fetches, self.has_work)
    }

    fn want(&mut self, fetch: &Fetch, known: &Known, now: Instant, fetches: &mut Fetches) {
        let shard = fetch.shard;
        if let Some(reading) = self.reading.get_mut(&shard) {
            if reading.place.0 != known.name || reading.flow == Flow::Lost {
                if reading.flow == Flow::Lost {
                    let why = std::mem::take(&mut reading.why_lost);
                    fetches.lost.push((shard, why));
                }
                return self.drop_reading(shard);
            }
            reading.wanted_at = now;
            reading.wanted_by = self.n_fetches;
            if (reading.start..=reading.next).contains(&fetch.from) {
                self.n_bytes -= reading.take_until(fetch.from);
                fetches.read.extend(reading.news(fetch));
                let drained = reading.n_bytes <= pause_at(self.bytes_max) / 2;
                self.has_work |= reading.flow == Flow::Paused && drained;
                return;
            }
        }
        self.begin(fetch, known, now);
    }

    /// Reads a partition from the wanted offset, whatever was read of it before.
    fn begin(&mut self, fetch: &Fetch, known: &Known, now: Instant) {
        let shard = fetch.shard;
        self.drop_reading(shard);
        if let Some(before) = self.numbers.get(&known.name).copied()
            && before != shard.pipeline
        {
            // The topic is another pipeline's now.
            self.drop_all_of(before);
        }
        self.numbers.insert(Arc::clone(&known.name), shard.pipeline);
        let reading = Reading {
            place: (Arc::clone(&known.name), shard.partition.0),
            id: Arc::clone(&known.id),
            flow: Flow::New,
            start: fetch.from,
            next: fetch.from,
            records: VecDeque::new(),
            n_bytes: 0,
            wanted_at: now,
            wanted_by: self.n_fetches,
            why_lost: String::new(),
        };
        self.reading.insert(shard, reading);
        self.has_work = true;
    }

    fn drop_all_of(&mut self, number: PipelineNumber) {
        let shards = self.reading.keys();
        let shards: Vec<_> = shards
            .filter(|shard| shard.pipeline == number)
            .copied()
            .collect();
        shards
            .into_iter()
            .for_each(|shard| self.drop_reading(shard));
    }

    fn drop_reading(&mut self, shard: ShardId) {
        if let Some(reading) = self.reading.remove(&shard) {
            self.n_bytes -= reading.n_bytes;
            if matches!(reading.flow, Flow::Reading | Flow::Paused) {
                self.leave.push(reading.place);
                self.has_work = true;
            }
        }
    }

    /// Whether there is a plan to carry out.
    pub(super) fn has_work(&self) -> bool {
        self.has_work
    }

    /// Reads all partitions anew from where they are, since it is not known which the consumer has.
    pub(super) fn restart(&mut self) {
        self.leave.clear();
        for reading in self.reading.values_mut() {
            if reading.flow != Flow::Lost {
                reading.flow = Flow::New;
            }
        }
        self.has_work = true;
    }

    /// Whether no more records should be taken until some were consumed.
    pub(super) fn is_full(&self) -> bool {
        self.n_bytes >= self.bytes_max
    }

    /// What the consumer must do now.
    pub(super) fn plan(&mut self, now: Instant) -> Plan {
        self.drop_unwanted(now);
        let pause_at = pause_at(self.bytes_max);
        let mut plan = Plan {
            leave: std::mem::take(&mut self.leave),
            ..Plan::default()
        };
        for reading in self.reading.values_mut() {
            match reading.flow {
                Flow::New => {
                    plan.join.push((reading.place.clone(), reading.next));
                    reading.flow = Flow::Reading;
                }
                Flow::Reading if reading.n_bytes >= pause_at => {
                    plan.pause.push(reading.place.clone());
                    reading.flow = Flow::Paused;
                }
                Flow::Paused if reading.n_bytes <= pause_at / 2 => {
                    plan.resume.push(reading.place.clone());
                    reading.flow = Flow::Reading;
                }
                Flow::Reading | Flow::Paused | Flow::Lost => {}
            }
        }
        self.has_work = false;
        plan
    }

    fn drop_unwanted(&mut self, now: Instant) {
        let is_full = self.is_full();
        let n_fetches = self.n_fetches;
        let is_unwanted = |reading: &Reading| {
            let is_old = now.saturating_duration_since(reading.wanted_at) >= UNWANTED;
            // What nobody takes must not keep out what somebody waits for.
            is_old || is_full && reading.n_bytes > 0 && reading.wanted_by != n_fetches
        };
        let unwanted = self
            .reading
            .iter()
            .filter(|(_, reading)| is_unwanted(reading));
        let unwanted: Vec<_> = unwanted.map(|(shard, _)| *shard).collect();
        unwanted
            .into_iter()
            .for_each(|shard| self.drop_reading(shard));
    }

    /// What the consumer reads there. What it tells of a partition that it does not have yet is of an
    /// earlier assignment, and means nothing for this one.
    fn reading_at(&mut self, topic: &str, partition: i32) -> Option<&mut Reading> {
        let shard = ShardId {
            pipeline: *self.numbers.get(topic)?,
            partition: Partition(u16::try_from(partition).ok()?),
        };
        let reading = self.reading.get_mut(&shard);
        reading.filter(|reading| matches!(reading.flow, Flow::Reading | Flow::Paused))
    }

    /// Takes a record; tells whether that is news.
    pub(super) fn push(&mut self, topic: &str, partition: i32, record: Record) -> bool {
        let pause_at = pause_at(self.bytes_max);
        let Some(reading) = self.reading_at(topic, partition) else {
            return false;
        };
        // A partition that was paused is read again from where it was taken last.
        if record.offset < reading.next {
            return false;
        }
        let n_bytes = memory_of(&record);
        reading.next = record.offset.next();
        reading.records.push_back((record, n_bytes));
        let was_small = reading.n_bytes < pause_at;
        reading.n_bytes += n_bytes;
        let is_large = reading.n_bytes >= pause_at;
        self.has_work |= was_small && is_large;
        self.n_bytes += n_bytes;
        true
    }

    /// Notes that nothing is there up to an offset; tells whether that is news.
    pub(super) fn end(&mut self, topic: &str, partition: i32, end: i64) -> bool {
        let Some(reading) = self.reading_at(topic, partition) else {
            return false;
        };
        let Ok(end) = u64::try_from(end) else {
            return false;
        };
        let is_gap = Offset(end) > reading.next;
        if is_gap {
            reading.next = Offset(end);
        }
        is_gap
    }

    /// Notes that a partition cannot be read on; tells whether it was read.
    pub(super) fn lose(&mut self, topic: &str, partition: i32, why: &str) -> bool {
        let Some(reading) = self.reading_at(topic, partition) else {
            return false;
        };
        let n_bytes = reading.lose(why);
        let place = reading.place.clone();
        self.n_bytes -= n_bytes;
        // What was lost is left at once: its place may hold other records soon.
        self.leave.push(place);
        self.has_work = true;
        true
    }

    /// The topics that are read.
    pub(super) fn topics(&self) -> Vec<Arc<str>> {
        let mut names: Vec<_> = self
            .reading
            .values()
            .map(|r| Arc::clone(&r.place.0))
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Loses what is read of a topic under another id than this; tells whether there was something.
    pub(super) fn check_id(&mut self, topic: &str, id: Option<&str>) -> bool {
        let why = match id {
            Some(_) => "the topic was deleted and made again",
            None => "the topic was deleted",
        };
        let of_topic = |reading: &&Reading| {
            &*reading.place.0 == topic && Some(&*reading.id) != id && reading.flow != Flow::Lost
        };
        let stale: Vec<_> = self
            .reading
            .values()
            .filter(of_topic)
            .map(|r| r.place.1)
            .collect();
        let mut is_news = false;
        for partition in stale {
            is_news |= self.lose(topic, i32::from(partition), why);
        }
        is_news
    }

    /// Forgets what was deleted from the log.
    pub(super) fn trim(&mut self, shard: ShardId, below: Offset) {
        if let Some(reading) = self.reading.get_mut(&shard)
            && reading.start < below
        {
            self.n_bytes -= reading.take_until(below.min(reading.next));
        }
    }
}

/// The most of one partition.
fn pause_at(bytes_max: usize) -> usize {
    bytes_max / 4
}

impl Reading {
    /// Drops what lies below; gives the bytes it took.
    fn take_until(&mut self, from: Offset) -> usize {
        let before = self.n_bytes;
        self.start = self.start.max(from);
        while let Some((record, n_bytes)) = self.records.front()
            && record.offset < from
        {
            self.n_bytes -= n_bytes;
            self.records.pop_front();
        }
        before - self.n_bytes
    }

    /// A copy of what there is, within the limits; it is kept until more is asked for.
    fn news(&self, fetch: &Fetch) -> Option<Fetched> {
        let (mut records, mut n_bytes) = (Vec::new(), 0);
        let mut next = self.next;
        for (record, _) in &self.records {
            n_bytes += data_len(record);
            let fits = records.len() < fetch.n_max && n_bytes <= fetch.bytes_max;
            if !fits && !records.is_empty() {
                next = record.offset;
                break;
            }
            records.push(record.clone());
        }
        (next > fetch.from).then_some(Fetched {
            shard: fetch.shard,
            records,
            next,
        })
    }

    fn lose(&mut self, why: &str) -> usize {
        self.flow = Flow::Lost;
        why.clone_into(&mut self.why_lost);
        self.records.clear();
        std::mem::take(&mut self.n_bytes)
    }
}

#[cfg(test)]
mod tests;
