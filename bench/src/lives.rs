//! Lives through the member machine: read from the log, leased by a poll, reported, flushed, forgotten.

use std::{hint::black_box, sync::Arc, time::Duration};

use bytes::Bytes;
use scheduler_core::{
    Config, Epoch, Held, Offset, Outcome, Partition, Pipeline, PipelineNumber, PipelineSpec, Poll,
    Retention, Revision, ShardId, Slot, TaskOptions, Timestamp, WorkerId,
    action::{Action, Answer, CallId},
    member::{Call, Event, Fleet, Member},
    port::{
        log::{Bounds, Fetched, NewTask, Record, RecordBody},
        store::{Claimed, Flushed, KeyedTasks},
    },
};

use crate::allocation::resident_bytes;

pub(crate) const BATCH: usize = 256;
const PAYLOAD_LEN: usize = 200;
pub(crate) const SHARD: ShardId = ShardId {
    pipeline: PipelineNumber(1),
    partition: Partition(0),
};

/// A member of one shard, and a log and a store that are infinitely fast.
pub(crate) struct Bench {
    pub(crate) member: Member,
    pub(crate) now: Timestamp,
    pub(crate) out: Vec<Action>,
    /// Keys of which the store was asked for waiting tasks.
    pub(crate) n_key_reads: u64,
    next: u64,
    call: u64,
    worker: WorkerId,
}

impl Bench {
    fn new(retention: Retention, window_tasks_max: usize) -> Self {
        let spec = PipelineSpec {
            defaults: TaskOptions {
                retention: Some(retention),
                ..TaskOptions::default()
            },
            ..PipelineSpec::default()
        };
        Self::on(spec, window_tasks_max)
    }

    /// With a window for so many tasks, whatever bytes they take.
    pub(crate) fn on(spec: PipelineSpec, window_tasks_max: usize) -> Self {
        let config = config(window_tasks_max);
        let mut bench = Self {
            member: Member::new(Arc::new(config)),
            now: Timestamp::from_millis(1_000_000),
            out: Vec::new(),
            n_key_reads: 0,
            next: 0,
            call: 0,
            worker: WorkerId::nobody(),
        };
        let pipeline = pipeline(spec);
        bench.handle(Event::Proven(bench.now));
        bench.handle(Event::Pipelines(vec![Arc::new(pipeline)]));
        bench.handle(Event::Assigned((0..=255).map(Slot).collect()));
        bench.handle(Event::Claimed(
            Claimed {
                shard: SHARD,
                epoch: Epoch(1),
                incarnation: "a".into(),
                watermark: Offset::ZERO,
                done: Vec::new(),
                seen_end: Offset::ZERO,
                running: Vec::new(),
                next_due_at: None,
                has_keyed: false,
                cancels: Vec::new(),
                released: true,
            },
            Bounds {
                start: Offset::ZERO,
                end: Offset::ZERO,
                incarnation: "a".into(),
            },
        ));
        bench.settle();
        bench
    }

    pub(crate) fn handle(&mut self, event: Event) {
        self.member.handle(event, self.now, &mut self.out);
    }

    pub(crate) fn settle(&mut self) {
        self.member.settle(self.now, &mut self.out);
    }

    /// As the log gives them: each payload is its own allocation.
    pub(crate) fn records(
        &self,
        n: usize,
        options: impl Fn(u64) -> Option<Arc<TaskOptions>>,
    ) -> Vec<Record> {
        let record = |offset| Record {
            offset: Offset(offset),
            accepted_at: self.now,
            body: RecordBody::Task(NewTask {
                data: Bytes::copy_from_slice(&[b'x'; PAYLOAD_LEN]),
                options: options(offset),
                traceparent: None,
            }),
        };
        (self.next..).take(n).map(record).collect()
    }

    pub(crate) fn fetch(&mut self, records: Vec<Record>) {
        let from = Offset(self.next);
        self.next += records.len() as u64;
        let fetched = Fetched {
            shard: SHARD,
            records,
            next: Offset(self.next),
        };
        self.handle(Event::Fetched(vec![(from, fetched)]));
        self.settle();
    }

    fn call(&mut self, call: Call) {
        self.call += 1;
        self.handle(Event::Call(CallId(self.call), call));
        self.settle();
    }

    fn live(&mut self) {
        let records = self.records(BATCH, |_| None);
        self.fetch(records);
        self.serve(Duration::from_micros(256));
    }

    /// A worker takes a batch, runs it in no time and reports, and the flush is durable. Then time passes.
    pub(crate) fn serve(&mut self, pause: Duration) {
        self.call(Call::Poll(
            Fleet::Pipeline(SHARD.pipeline),
            Poll::new(self.worker.clone(), BATCH),
        ));
        let mut reports = Vec::with_capacity(BATCH);
        let is_lease =
            |action: &mut Action| matches!(action, Action::Answer(_, _, Answer::Leased(Ok(_))));
        for action in self.out.extract_if(.., is_lease) {
            if let Action::Answer(_, _, Answer::Leased(Ok(leased))) = action {
                reports.extend(leased.tasks.into_iter().map(|task| {
                    let held = Held {
                        id: task.id,
                        token: task.token,
                    };
                    black_box(task.data);
                    let result = Bytes::from_static(b"true");
                    (held, Outcome::Completed { result })
                }));
            }
        }
        assert_eq!(reports.len(), BATCH, "every task is leased");
        self.call(Call::Report(reports));
        self.perform();
        let reported =
            |action: &Action| matches!(action, Action::Answer(_, _, Answer::Reported(Ok(()))));
        let n = self.out.iter().filter(|action| reported(action)).count();
        assert_eq!(n, BATCH, "every report is acknowledged");
        self.out.clear();
        self.pass(pause);
    }

    /// The offset that the next record gets.
    pub(crate) fn next_offset(&self) -> u64 {
        self.next
    }

    /// Time passes; the member stays one.
    pub(crate) fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.handle(Event::Proven(self.now));
    }

    /// Does what there is to save and to read, as a store that is infinitely fast. All that is not in memory has ended.
    pub(crate) fn perform(&mut self) {
        let is_ours =
            |action: &mut Action| matches!(action, Action::Flush(..) | Action::ReadKeyed(..));
        loop {
            let ours: Vec<_> = self.out.extract_if(.., is_ours).collect();
            if ours.is_empty() {
                break;
            }
            for action in ours {
                match action {
                    Action::Flush(lane, parts) => {
                        let answers = vec![Flushed::Saved; black_box(parts).len()];
                        self.handle(Event::Flushed(lane, Ok(answers)));
                    }
                    Action::ReadKeyed(epoch, page) => {
                        self.n_key_reads += 1;
                        let nothing = Some(KeyedTasks::default());
                        self.handle(Event::KeyedRead(page.shard, epoch, page.key, nothing));
                    }
                    _ => {}
                }
            }
            self.settle();
        }
        let reads = |action: &Action| matches!(action, Action::ReadDue(..));
        assert!(!self.out.iter().any(reads), "nothing is parked");
    }
}

pub(crate) fn config(window_tasks_max: usize) -> Config {
    Config {
        window_tasks_max,
        window_bytes_max: 64 << 30,
        member_bytes_max: 64 << 30,
        n_lanes: 1,
        ..Config::default()
    }
}

pub(crate) fn pipeline(spec: PipelineSpec) -> Pipeline {
    Pipeline {
        number: SHARD.pipeline,
        path: scheduler_core::path("default", "bench", "core").expect("names are good"),
        revision: Revision(1),
        spec,
        mode: scheduler_core::Mode::Active,
        created_at: Timestamp::from_millis(1_000_000),
    }
}

/// Runs `n` lives.
pub(crate) fn run(n: u64, kept: bool) {
    let retention = if kept {
        Retention::default()
    } else {
        Retention::None
    };
    let mut bench = Bench::new(retention, 100_000);
    while bench.next < n {
        bench.live();
    }
}

/// Memory that each of `n` waiting tasks takes beyond its payload.
#[expect(clippy::cast_precision_loss, reason = "sizes are far below 2⁵³")]
pub(crate) fn bytes_per_waiting_task(n: u64) -> f64 {
    let room = usize::try_from(2 * n).expect("so many fit into memory");
    let mut bench = Bench::new(Retention::default(), room);
    let before = resident_bytes();
    for _ in 0..n / 1_000 {
        let records = bench.records(1_000, |_| None);
        bench.fetch(records);
        bench.out.clear();
    }
    let held = resident_bytes().saturating_sub(before) as f64 / n as f64;
    black_box(&bench.member);
    held - PAYLOAD_LEN as f64
}
