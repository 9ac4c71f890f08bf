//! A member with a log and a store in plain collections: every action is done at once, unless a test
//! holds flushes back.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

use crate::{
    Config, Epoch, IdempotencyKey, Label, LeaseToken, Offset, Outcome, Partition, Pipeline,
    PipelineNumber, PipelineSpec, Revision, ShardId, Slot, TaskId, TaskOptions, Timestamp,
    action::{Action, Answer, CallId, Seen},
    call::{Held, LeasedTask, Poll},
    member::{Call, Event, Fleet, Member},
    port::{
        FailureKind,
        log::{Appended, Bounds, Fetched, NewTask, Record, RecordBody},
        store::{
            Claimed, DueTasks, Flushed, KeyRow, KeyedPage, KeyedTasks, ShardFlush, StoredState,
            StoredTask,
        },
    },
    shard::Loaded,
    watermark::{CHUNK_BITS, DoneChunk},
};

pub(super) const SHARD: ShardId = ShardId {
    pipeline: PipelineNumber(1),
    partition: Partition(0),
};

/// What outlives a member.
#[derive(Debug, Default, Clone)]
pub(super) struct Durable {
    pub(super) records: Vec<Option<Record>>,
    pub(super) rows: BTreeMap<Offset, StoredTask>,
    pub(super) keys: BTreeMap<IdempotencyKey, KeyRow>,
    pub(super) cancels: Vec<crate::CancelRule>,
    done: BTreeMap<u64, DoneChunk>,
    pub(super) watermark: u64,
    seen_end: u64,
    pub(super) epoch: u32,
    number: u64,
    released: bool,
    pub(super) n_flushes: usize,
    pub(super) n_rows_written: usize,
    pub(super) trimmed: u64,
}

pub(super) struct Rig {
    pub(super) member: Member,
    pub(super) durable: Durable,
    pub(super) now: Timestamp,
    pub(super) answers: BTreeMap<(CallId, u32), Answer>,
    pub(super) holds_flushes: bool,
    pub(super) held: Vec<(u16, Arc<[ShardFlush]>)>,
    pub(super) holds_appends: bool,
    /// Claims fail.
    pub(super) fails_claims: bool,
    /// Reads of tasks, pages and keys fail.
    pub(super) fails_reads: bool,
    /// Reads are done, but their answers are kept in `reads`.
    pub(super) holds_reads: bool,
    pub(super) reads: Vec<Event>,
    pub(super) n_reads: usize,
    pub(super) given_up: Vec<Slot>,
    pub(super) appends: Vec<(IdempotencyKey, NewTask)>,
    pub(super) refusals: Vec<String>,
    /// Tasks that were said to have changed.
    pub(super) changed: Vec<TaskId>,
    pub(super) has_stopped: bool,
    last_call: u64,
    pipeline: Pipeline,
    config: Config,
    pub(super) defaults: TaskOptions,
}

pub(super) fn config() -> Config {
    Config {
        adoption_window: Duration::from_secs(12),
        n_lanes: 1,
        ..Config::default()
    }
}

impl Rig {
    pub(super) fn new(config: Config, defaults: TaskOptions) -> Self {
        Self::on(
            Durable::default(),
            Timestamp::from_millis(1_000_000),
            config,
            defaults,
        )
    }

    /// A new member over what another one left.
    pub(super) fn on(
        durable: Durable,
        now: Timestamp,
        config: Config,
        defaults: TaskOptions,
    ) -> Self {
        let pipeline = Pipeline {
            number: SHARD.pipeline,
            path: crate::path("default", "app", "pipe").unwrap(),
            revision: Revision(1),
            spec: PipelineSpec {
                steps: [].into(),
                defaults: defaults.clone(),
                n_partitions: 1,
                ..PipelineSpec::default()
            },
            mode: crate::Mode::Active,
            created_at: now,
        };
        let mut rig = Self {
            member: Member::new(Arc::new(config.clone())),
            durable,
            now,
            answers: BTreeMap::new(),
            holds_flushes: false,
            held: Vec::new(),
            holds_appends: false,
            fails_claims: false,
            fails_reads: false,
            holds_reads: false,
            reads: Vec::new(),
            n_reads: 0,
            given_up: Vec::new(),
            appends: Vec::new(),
            refusals: Vec::new(),
            changed: Vec::new(),
            has_stopped: false,
            last_call: 0,
            config,
            pipeline: pipeline.clone(),
            defaults,
        };
        rig.event(Event::Proven(now));
        rig.event(Event::Pipelines(vec![Arc::new(pipeline)]));
        rig.event(Event::Assigned((0..=255).map(Slot).collect()));
        rig
    }

    /// The member dies; a new one takes over what is durable.
    pub(super) fn crash(self) -> Self {
        Self::on(self.durable, self.now, self.config, self.defaults)
    }

    /// Someone changes the pipeline.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Pipeline)) {
        change(&mut self.pipeline);
        let pipeline = Arc::new(self.pipeline.clone());
        self.event(Event::Pipelines(vec![pipeline]));
    }

    pub(super) fn event(&mut self, event: Event) {
        let mut out = Vec::new();
        self.member.handle(event, self.now, &mut out);
        self.settle(out);
    }

    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let wake = self.member.wake_at(self.now).filter(|at| *at <= end);
            self.now = wake.unwrap_or(end).max(self.now);
            self.event(Event::Proven(self.now));
            if wake.is_none() {
                return;
            }
        }
    }

    pub(super) fn call(&mut self, call: Call) -> CallId {
        self.last_call += 1;
        let id = CallId(self.last_call);
        self.event(Event::Call(id, call));
        id
    }

    pub(super) fn answer(&self, call: CallId) -> Option<&Answer> {
        self.answers.get(&(call, 0))
    }

    pub(super) fn submit(&mut self, options: TaskOptions) -> TaskId {
        let task = NewTask {
            data: Bytes::from_static(b"{}"),
            options: (!options.is_empty()).then(|| Arc::new(options)),
            traceparent: None,
        };
        self.submit_task(task)
    }

    /// Appends without letting the member know, so that many are read at once.
    pub(super) fn append_with(&mut self, options: TaskOptions) -> TaskId {
        let appended = self.append(NewTask {
            data: Bytes::from_static(b"{}"),
            options: Some(Arc::new(options)),
            traceparent: None,
        });
        TaskId {
            shard: SHARD,
            offset: appended.offset,
        }
    }

    pub(super) fn submit_task(&mut self, task: NewTask) -> TaskId {
        let offset = self.append(task).offset;
        self.event(Event::Tick);
        TaskId {
            shard: SHARD,
            offset,
        }
    }

    pub(super) fn append(&mut self, task: NewTask) -> Appended {
        let offset = Offset(self.durable.records.len() as u64);
        self.durable.records.push(Some(Record {
            offset,
            accepted_at: self.now,
            body: RecordBody::Task(task),
        }));
        Appended {
            offset,
            accepted_at: self.now,
        }
    }

    pub(super) fn poll(&mut self, worker: &str, credit: usize) -> CallId {
        self.poll_holding(worker, credit, Vec::new())
    }

    pub(super) fn poll_holding(&mut self, worker: &str, credit: usize, held: Vec<Held>) -> CallId {
        let mut poll = Poll::new(worker.try_into().unwrap(), credit);
        poll.held = held;
        self.call(Call::Poll(Fleet::Pipeline(SHARD.pipeline), poll))
    }

    /// Polls and gives what came at once.
    pub(super) fn lease(&mut self, worker: &str, credit: usize) -> Vec<LeasedTask> {
        self.lease_with(worker, credit, BTreeSet::new())
    }

    /// The same for a worker with labels.
    pub(super) fn lease_with(
        &mut self,
        worker: &str,
        credit: usize,
        labels: BTreeSet<Label>,
    ) -> Vec<LeasedTask> {
        let mut poll = Poll::new(worker.try_into().unwrap(), credit);
        poll.labels = labels;
        self.lease_by(poll)
    }

    fn lease_by(&mut self, poll: Poll) -> Vec<LeasedTask> {
        let call = self.call(Call::Poll(Fleet::Pipeline(SHARD.pipeline), poll));
        match self.answer(call) {
            Some(Answer::Leased(Ok(leased))) => leased.tasks.clone(),
            _ => {
                self.event(Event::PollGone(call));
                Vec::new()
            }
        }
    }

    /// Polls for an offer of one task and gives what came at once.
    pub(super) fn offer(&mut self, worker: &str) -> Vec<LeasedTask> {
        let mut poll = Poll::new(worker.try_into().unwrap(), 1);
        poll.offers = true;
        self.lease_by(poll)
    }

    pub(super) fn lease_one(&mut self, worker: &str) -> Held {
        let tasks = self.lease(worker, 1);
        assert_eq!(tasks.len(), 1, "one task is ready");
        Held {
            id: tasks[0].id,
            token: tasks[0].token,
        }
    }

    pub(super) fn report(&mut self, held: Held, outcome: Outcome) -> CallId {
        self.call(Call::Report(vec![(held, outcome)]))
    }

    pub(super) fn see(&mut self, id: TaskId) -> Seen {
        let call = self.call(Call::See(vec![id]));
        match self.answer(call) {
            Some(Answer::Seen(seen)) => seen.clone(),
            other => panic!("a look is answered at once, not by {other:?}"),
        }
    }

    /// The state that users would see.
    pub(super) fn state(&mut self, id: TaskId) -> String {
        match self.see(id) {
            Seen::Here { task, .. } => task.state.name().as_str().to_owned(),
            Seen::Left => match self.durable.rows.get(&id.offset) {
                Some(row) => row.state.name().as_str().to_owned(),
                None => "gone".to_owned(),
            },
            Seen::Backlog(_) => "backlog".to_owned(),
            Seen::Nowhere => "nowhere".to_owned(),
        }
    }

    /// Lets the flushes that are held back succeed.
    pub(super) fn release_flushes(&mut self) {
        self.holds_flushes = false;
        for (lane, parts) in std::mem::take(&mut self.held) {
            let answers = self.durable.flush(&parts);
            self.event(Event::Flushed(lane, Ok(answers)));
        }
    }

    /// Lets the reads that are held back arrive.
    pub(super) fn release_reads(&mut self) {
        self.holds_reads = false;
        for read in std::mem::take(&mut self.reads) {
            self.event(read);
        }
    }

    pub(super) fn submit_malformed(&mut self) -> TaskId {
        let offset = Offset(self.durable.records.len() as u64);
        self.durable.records.push(Some(Record {
            offset,
            accepted_at: self.now,
            body: RecordBody::Malformed {
                reason: "it is no object".to_owned(),
                head: Bytes::from_static(b"?"),
            },
        }));
        self.event(Event::Tick);
        TaskId {
            shard: SHARD,
            offset,
        }
    }

    fn settle(&mut self, mut out: Vec<Action>) {
        loop {
            self.member.settle(self.now, &mut out);
            let mut events = self.fetch();
            for action in std::mem::take(&mut out) {
                self.perform(action, &mut events);
            }
            if events.is_empty() {
                return;
            }
            for event in events {
                self.member.handle(event, self.now, &mut out);
            }
        }
    }

    fn fetch(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        for wanted in self.member.wanted() {
            let from = usize::try_from(wanted.from.0).unwrap();
            let end = self.durable.records.len().min(from + wanted.n_max);
            if from < end {
                let records = self.durable.records[from..end].iter().flatten();
                let fetched = Fetched {
                    shard: wanted.shard,
                    records: records.cloned().collect(),
                    next: Offset(end as u64),
                };
                events.push(Event::Fetched(vec![(wanted.from, fetched)]));
            }
        }
        events
    }

    fn perform(&mut self, action: Action, events: &mut Vec<Event>) {
        match action {
            Action::Answer(call, part, answer) => {
                let twice = self.answers.insert((call, part), answer);
                assert!(twice.is_none(), "a call is answered once");
            }
            Action::Flush(lane, parts) if self.holds_flushes => self.held.push((lane, parts)),
            Action::Flush(lane, parts) => {
                let answers = self.durable.flush(&parts);
                events.push(Event::Flushed(lane, Ok(answers)));
            }
            Action::Claim(_) if self.fails_claims => {
                events.push(Event::ClaimFailed(SHARD, FailureKind::Unavailable));
            }
            Action::Claim(ids) => {
                assert_eq!(ids, [SHARD]);
                let claimed = self.durable.claim();
                events.push(Event::Claimed(claimed, self.durable.bounds()));
            }
            Action::Release(shards) => {
                for (_, epoch) in &shards {
                    self.durable.released |= epoch.0 == self.durable.epoch;
                }
                let ids = shards.into_iter().map(|(id, _)| id).collect();
                events.push(Event::Released(ids));
            }
            action @ (Action::Load(..)
            | Action::ReadDue(..)
            | Action::ReadKeyed(..)
            | Action::FindKey(..)) => {
                self.n_reads += 1;
                let read = self.read(action);
                if self.holds_reads {
                    self.reads.extend(read);
                } else {
                    events.extend(read);
                }
            }
            Action::AppendKeyed(_, _, key, task) if self.holds_appends => {
                self.appends.push((key, task))
            }
            Action::AppendKeyed(id, epoch, key, task) => {
                let appended = self.append(task);
                events.push(Event::KeyedAppended(id, epoch, key, Ok(appended)));
            }
            Action::Watermark(_, watermark) => {
                assert!(
                    watermark.0 <= self.durable.watermark,
                    "only what is durable is shown"
                );
            }
            Action::LogLost(_, why) => self.refusals.push(why),
            Action::Trim(_, below) => {
                assert!(
                    below.0 <= self.durable.watermark,
                    "only what is durable is trimmed"
                );
                self.durable.trimmed = below.0;
            }
            Action::Refused(_, why) => self.refusals.push(why),
            Action::Stopped => self.has_stopped = true,
            Action::GiveUp(slots) => self.given_up.extend(slots),
            Action::Changed(ids) => self.changed.extend(ids),
            Action::Ended(_) => {}
            Action::LeaseEnded(..) => panic!("the member keeps this to itself"),
        }
    }
}

impl Rig {
    fn read(&self, action: Action) -> Option<Event> {
        let works = !self.fails_reads;
        Some(match action {
            Action::Load(id, epoch, offset) => {
                let found = self.durable.load(offset);
                Event::Loaded(
                    id,
                    epoch,
                    offset,
                    if works { found } else { Loaded::Failed },
                )
            }
            Action::ReadDue(epoch, page) => {
                let due = self.durable.due(page.from, page.until, page.n_max);
                Event::DueRead(page.shard, epoch, works.then_some(due))
            }
            Action::ReadKeyed(epoch, page) => {
                let found = self.durable.keyed(&page);
                Event::KeyedRead(page.shard, epoch, page.key, works.then_some(found))
            }
            Action::FindKey(id, epoch, key) => {
                let row = self.durable.keys.get(&key).cloned();
                let found = works.then_some(row).ok_or(FailureKind::Unavailable);
                Event::KeyFound(id, epoch, key, found)
            }
            _ => return None,
        })
    }
}

impl Durable {
    pub(super) fn flush(&mut self, parts: &[ShardFlush]) -> Vec<Flushed> {
        parts.iter().map(|part| self.flush_part(part)).collect()
    }

    fn flush_part(&mut self, part: &ShardFlush) -> Flushed {
        if part.epoch.0 != self.epoch {
            return Flushed::Fenced;
        }
        if part.number <= self.number {
            return Flushed::Saved;
        }
        self.number = part.number;
        assert!(
            part.watermark.0 >= self.watermark,
            "the watermark never goes back"
        );
        self.watermark = part.watermark.0;
        self.seen_end = part.seen_end.0;
        self.n_flushes += 1;
        self.n_rows_written += part.tasks.len() + part.forgotten.len();
        for chunk in &part.done {
            self.done.insert(chunk.index, *chunk);
        }
        self.done
            .retain(|index, _| (index + 1) * CHUNK_BITS > part.watermark.0);
        for task in &part.tasks {
            self.rows.insert(task.offset, task.clone());
        }
        for offset in &part.forgotten {
            self.rows.remove(offset);
        }
        for row in &part.keys {
            self.keys.insert(row.key.clone(), row.clone());
        }
        if let Some(cancels) = &part.cancels {
            self.cancels.clone_from(cancels);
        }
        Flushed::Saved
    }

    /// Another owner completes a stored task.
    pub(super) fn end(&mut self, offset: Offset) {
        let row = self.rows.get_mut(&offset).unwrap();
        row.state = StoredState::Ended {
            ending: crate::port::store::Ending::Cancelled,
            ended_at: Timestamp::EPOCH,
            keep_until: Timestamp::NEVER,
        };
    }

    pub(super) fn claim(&mut self) -> Claimed {
        self.epoch += 1;
        self.number = 0;
        let running = self.rows.values();
        let running = running.filter(|row| matches!(row.state, StoredState::Running { .. }));
        Claimed {
            shard: SHARD,
            epoch: Epoch(self.epoch),
            incarnation: "a".into(),
            watermark: Offset(self.watermark),
            done: self.done.values().copied().collect(),
            seen_end: Offset(self.seen_end),
            running: running.cloned().collect(),
            next_due_at: self
                .due((Timestamp::EPOCH, Offset::ZERO), Timestamp::EPOCH, 0)
                .next_due_at,
            has_keyed: self.rows.values().any(|row| row.ordering_key().is_some()),
            cancels: self.cancels.clone(),
            released: std::mem::take(&mut self.released),
        }
    }

    pub(super) fn bounds(&self) -> Bounds {
        Bounds {
            start: Offset(self.trimmed),
            end: Offset(self.records.len() as u64),
            incarnation: "a".into(),
        }
    }

    fn due(&self, from: (Timestamp, Offset), until: Timestamp, n_max: usize) -> DueTasks {
        let parked: BTreeSet<_> = self
            .rows
            .values()
            .filter_map(|row| match row.state {
                StoredState::Parked { due_at, .. } => Some((due_at, row.offset)),
                _ => None,
            })
            .filter(|place| *place >= from)
            .collect();
        let taken: Vec<_> = parked
            .iter()
            .filter(|(due_at, _)| *due_at <= until)
            .take(n_max)
            .collect();
        DueTasks {
            tasks: taken
                .iter()
                .map(|(_, offset)| self.rows[offset].clone())
                .collect(),
            next_due_at: parked.iter().nth(taken.len()).map(|(due_at, _)| *due_at),
        }
    }

    fn keyed(&self, page: &KeyedPage) -> KeyedTasks {
        let rows = self.rows.range(page.from..).map(|(_, row)| row);
        let mut tasks: Vec<_> = rows
            .filter(|row| row.ordering_key() == Some(&page.key))
            .take(page.n_max + 1)
            .cloned()
            .collect();
        let next = tasks.get(page.n_max).map(|next| next.offset);
        tasks.truncate(page.n_max);
        KeyedTasks { tasks, next }
    }

    fn load(&self, offset: Offset) -> Loaded {
        if let Some(row) = self.rows.get(&offset) {
            return Loaded::Stored(Box::new(row.clone()));
        }
        let at = usize::try_from(offset.0).unwrap();
        match self.records.get(at) {
            Some(Some(record)) => Loaded::Logged(Box::new(record.clone())),
            _ => Loaded::Missing,
        }
    }
}

pub(super) fn completed() -> Outcome {
    Outcome::Completed {
        result: Bytes::from_static(b"1"),
    }
}

pub(super) fn failed(code: &str) -> Outcome {
    Outcome::Failed(crate::Failure {
        code: code.try_into().unwrap(),
        message: "it broke".to_owned(),
        retryable: true,
        detail: Bytes::new(),
    })
}

pub(super) fn token(held: &LeasedTask) -> LeaseToken {
    held.token
}
