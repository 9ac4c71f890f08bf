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
        store::{Claimed, Flushed},
    },
};

use crate::allocation::resident_bytes;

const BATCH: usize = 256;
const PAYLOAD_LEN: usize = 200;
const SHARD: ShardId = ShardId {
    pipeline: PipelineNumber(1),
    partition: Partition(0),
};

struct Bench {
    member: Member,
    now: Timestamp,
    out: Vec<Action>,
    next: u64,
    call: u64,
    worker: WorkerId,
}

impl Bench {
    fn new(retention: Retention, window_tasks_max: usize) -> Self {
        let config = Config {
            window_tasks_max,
            window_bytes_max: 4 << 30,
            member_bytes_max: 4 << 30,
            n_lanes: 1,
            ..Config::default()
        };
        let mut bench = Self {
            member: Member::new(Arc::new(config)),
            now: Timestamp::from_millis(1_000_000),
            out: Vec::new(),
            next: 0,
            call: 0,
            worker: WorkerId::nobody(),
        };
        let pipeline = Pipeline {
            number: SHARD.pipeline,
            path: scheduler_core::path("default", "bench", "core").expect("names are good"),
            revision: Revision(1),
            spec: PipelineSpec {
                steps: [].into(),
                defaults: TaskOptions {
                    retention: Some(retention),
                    ..TaskOptions::default()
                },
                n_partitions: 1,
                ..PipelineSpec::default()
            },
            mode: scheduler_core::Mode::Active,
            created_at: bench.now,
        };
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

    fn handle(&mut self, event: Event) {
        self.member.handle(event, self.now, &mut self.out);
    }

    fn settle(&mut self) {
        self.member.settle(self.now, &mut self.out);
    }

    /// As the log gives them: each payload is its own allocation.
    fn fetch(&mut self, n: usize) {
        let from = Offset(self.next);
        let records = (0..n).map(|_| {
            let offset = Offset(self.next);
            self.next += 1;
            Record {
                offset,
                accepted_at: self.now,
                body: RecordBody::Task(NewTask {
                    data: Bytes::copy_from_slice(&[b'x'; PAYLOAD_LEN]),
                    options: None,
                    traceparent: None,
                }),
            }
        });
        let records = records.collect();
        let next = Offset(self.next);
        let fetched = Fetched {
            shard: SHARD,
            records,
            next,
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
        self.fetch(BATCH);
        self.call(Call::Poll(
            Fleet::Pipeline(SHARD.pipeline),
            Poll::new(self.worker.clone(), BATCH),
        ));
        let mut reports = Vec::with_capacity(BATCH);
        for action in self.out.drain(..) {
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
        self.flush();
        self.now = self.now + Duration::from_micros(256);
        self.handle(Event::Proven(self.now));
    }

    /// Saves what there is to save, as a store that is infinitely fast.
    fn flush(&mut self) {
        while let Some(at) = self
            .out
            .iter()
            .position(|action| matches!(action, Action::Flush(..)))
        {
            if let Action::Flush(lane, parts) = self.out.swap_remove(at) {
                let answers = vec![Flushed::Saved; black_box(parts).len()];
                self.handle(Event::Flushed(lane, Ok(answers)));
                self.settle();
            }
        }
        let reported =
            |action: &Action| matches!(action, Action::Answer(_, _, Answer::Reported(Ok(()))));
        let n = self.out.iter().filter(|action| reported(action)).count();
        assert_eq!(n, BATCH, "every report is acknowledged");
        self.out.clear();
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
pub(crate) fn bytes_per_waiting_task(n: usize) -> f64 {
    let mut bench = Bench::new(Retention::default(), 2 * n);
    let before = resident_bytes();
    for _ in 0..n / 1_000 {
        bench.fetch(1_000);
        bench.out.clear();
    }
    let held = resident_bytes().saturating_sub(before) as f64 / n as f64;
    black_box(&bench.member);
    held - PAYLOAD_LEN as f64
}
