//! Shares of a pool by weight, in virtual time.

use std::{
    collections::{BTreeMap, BinaryHeap},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

use crate::{
    Config, Epoch, Offset, Outcome, Partition, Pipeline, PipelineNumber, PipelineSpec, Revision,
    ShardId, Slot, TenantName, Timestamp,
    action::{Action, Answer, CallId},
    call::{Held, Poll},
    member::{Call, Event, Fleet, Member},
    pipeline::limits::{Limit, Rate},
    port::{
        log::{Bounds, Fetched, NewTask, Record, RecordBody},
        store::{Claimed, Flushed},
    },
};

const N_SLOTS: usize = 200;

fn tenant(n: u32) -> TenantName {
    format!("t{n:02}").as_str().try_into().unwrap()
}

fn shard(n: u32) -> ShardId {
    ShardId {
        pipeline: PipelineNumber(n),
        partition: Partition(0),
    }
}

/// A member whose pipelines are all in one pool, each of its own tenant, and workers with slots that never idle.
struct Pool {
    member: Member,
    pipelines: Vec<Arc<Pipeline>>,
    now: Timestamp,
    logs: BTreeMap<ShardId, Vec<Record>>,
    /// Tasks that run, and when they end.
    running: BinaryHeap<std::cmp::Reverse<(Timestamp, ShardId, Offset, crate::LeaseToken)>>,
    n_calls: u64,
    is_polling: bool,
    /// Slot time of each tenant's tasks, and how long each took from its submit to its end.
    used: BTreeMap<u32, Duration>,
    took: BTreeMap<u32, Vec<Duration>>,
    /// How long a task of a tenant runs.
    runs: fn(u32, Offset) -> Duration,
}

impl Pool {
    fn new(config: Config, n_tenants: u32, runs: fn(u32, Offset) -> Duration) -> Self {
        let now = Timestamp::from_millis(1_000_000);
        let mut pool = Self {
            member: Member::new(Arc::new(config)),
            pipelines: Vec::new(),
            now,
            logs: BTreeMap::new(),
            running: BinaryHeap::new(),
            n_calls: 0,
            is_polling: false,
            used: BTreeMap::new(),
            took: BTreeMap::new(),
            runs,
        };
        let pipelines = (1..=n_tenants).map(|n| {
            Arc::new(Pipeline {
                number: PipelineNumber(n),
                path: crate::path(tenant(n).as_str(), "app", "pipe").unwrap(),
                revision: Revision(1),
                spec: PipelineSpec {
                    pool: Some("shared".try_into().unwrap()),
                    ..PipelineSpec::default()
                },
                mode: crate::Mode::Active,
                created_at: now,
            })
        });
        pool.pipelines = pipelines.collect();
        pool.event(Event::Proven(now));
        pool.event(Event::Pipelines(pool.pipelines.clone()));
        pool.event(Event::Assigned((0..=255).map(Slot).collect()));
        pool
    }

    fn submit(&mut self, n: u32) {
        let log = self.logs.entry(shard(n)).or_default();
        log.push(Record {
            offset: Offset(log.len() as u64),
            accepted_at: self.now,
            body: RecordBody::Task(NewTask {
                data: Bytes::from_static(b"{}"),
                options: None,
                traceparent: None,
            }),
        });
    }

    fn event(&mut self, event: Event) {
        let mut out = Vec::new();
        self.member.handle(event, self.now, &mut out);
        loop {
            self.member.settle(self.now, &mut out);
            let mut events = Vec::new();
            for wanted in self.member.wanted() {
                let log = self.logs.entry(wanted.shard).or_default();
                let from = usize::try_from(wanted.from.0).unwrap();
                let end = log.len().min(from + wanted.n_max);
                if from < end {
                    let fetched = Fetched {
                        shard: wanted.shard,
                        records: log[from..end].to_vec(),
                        next: Offset(end as u64),
                    };
                    events.push(Event::Fetched(vec![(wanted.from, fetched)]));
                }
            }
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

    fn perform(&mut self, action: Action, events: &mut Vec<Event>) {
        match action {
            Action::Claim(ids) => {
                for shard in ids {
                    let claimed = Claimed {
                        shard,
                        epoch: Epoch(1),
                        incarnation: "a".into(),
                        watermark: Offset::ZERO,
                        done: Vec::new(),
                        seen_end: Offset::ZERO,
                        running: Vec::new(),
                        next_due_at: None,
                        has_keyed: false,
                        cancels: Vec::new(),
                        released: false,
                    };
                    let bounds = Bounds {
                        start: Offset::ZERO,
                        end: Offset::ZERO,
                        incarnation: "a".into(),
                    };
                    events.push(Event::Claimed(claimed, bounds));
                }
            }
            Action::Flush(lane, parts) => {
                let saved = vec![Flushed::Saved; parts.len()];
                events.push(Event::Flushed(lane, Ok(saved)));
            }
            Action::Answer(_, _, Answer::Leased(leased)) => {
                self.is_polling = false;
                for task in leased.unwrap().tasks {
                    let n = task.id.shard.pipeline.0;
                    let runs = (self.runs)(n, task.id.offset);
                    let at = usize::try_from(task.id.offset.0).unwrap();
                    let accepted_at = self.logs[&task.id.shard][at].accepted_at;
                    *self.used.entry(n).or_default() += runs;
                    let took = self.now.since(accepted_at) + runs;
                    self.took.entry(n).or_default().push(took);
                    let end = (self.now + runs, task.id.shard, task.id.offset, task.token);
                    self.running.push(std::cmp::Reverse(end));
                }
            }
            _ => {}
        }
    }

    /// Lets workers work until `end`, while `feed` submits.
    fn run(&mut self, end: Timestamp, mut feed: impl FnMut(&mut Self)) {
        while self.now < end {
            feed(self);
            self.event(Event::Proven(self.now));
            while let Some(std::cmp::Reverse((at, shard, offset, token))) =
                self.running.peek().copied()
                && at <= self.now
            {
                self.running.pop();
                let id = crate::TaskId { shard, offset };
                self.n_calls += 1;
                let result = Bytes::from_static(b"1");
                let report = (Held { id, token }, Outcome::Completed { result });
                let call = Call::Report(vec![report]);
                self.event(Event::Call(CallId(self.n_calls), call));
            }
            let free = N_SLOTS - self.running.len();
            if free > 0 && !self.is_polling {
                self.is_polling = true;
                self.poll_for(free.min(4), Duration::from_millis(5));
            } else {
                self.now = self.now + Duration::from_millis(1);
            }
        }
    }

    fn poll(&mut self, credit: usize) {
        self.poll_for(credit, Duration::from_secs(60));
    }

    fn poll_for(&mut self, credit: usize, wait: Duration) {
        self.n_calls += 1;
        let mut poll = Poll::new("w".try_into().unwrap(), credit);
        poll.wait = wait;
        let fleet = Fleet::Pool("shared".try_into().unwrap());
        let call = Call::Poll(fleet, poll);
        self.event(Event::Call(CallId(self.n_calls), call));
    }

    fn p99(&mut self, n: u32) -> Duration {
        let took = self.took.entry(n).or_default();
        took.sort_unstable();
        took[took.len() * 99 / 100]
    }
}

fn weights() -> Config {
    Config {
        tenant_weights: (1..=10).map(|n| (tenant(n), n)).collect(),
        ..Config::default()
    }
}

/// Jain's index: 1 if all are equal, 1/n if one has everything.
fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    sum * sum / (shares.len() as f64 * squares)
}

#[test]
fn tenants_that_compete_get_shares_by_weight_however_long_their_tasks_run() {
    let mut pool = Pool::new(weights(), 10, |n, _| {
        Duration::from_millis(u64::from(20 + n % 3 * 90))
    });
    // All want more than there is, and one wants a hundred times as much.
    for n in 1..=10 {
        for _ in 0..if n == 3 { 300_000 } else { 60_000 } {
            pool.submit(n);
        }
    }
    let end = pool.now + Duration::from_secs(20);
    pool.run(end, |_| {});
    let share = |n: u32| pool.used[&n].as_secs_f64() / f64::from(n);
    let shares: Vec<_> = (1..=10).map(share).collect();
    let index = jain(&shares);
    assert!(index >= 0.95, "Jain index {index}: {shares:?}");
}

#[test]
fn a_flood_by_one_tenant_does_not_slow_the_others() {
    let p99 = |flood: u32| {
        // 10 to 29 ms, so that slots are not all free at once.
        let runs =
            |n, offset: Offset| Duration::from_millis(10 + (u64::from(n) * 7 + offset.0 * 11) % 20);
        let mut pool = Pool::new(weights(), 10, runs);
        let end = pool.now + Duration::from_secs(20);
        let mut rng = fastrand::Rng::with_seed(7);
        // Each wants some 7 of 10 parts of its share: 200 slots of 20 ms are 10,000 tasks a second, shared by 55.
        let mut ms = 0_u64;
        pool.run(end, move |pool| {
            let passed = pool.now.as_millis() - 1_000_000;
            while ms < passed {
                ms += 1;
                for n in 1..=10_u32 {
                    let times = if n == 3 { flood } else { 1 };
                    let per_second = 10_000 * n * 7 / 10 / 55 * times;
                    for _ in
                        0..per_second / 1_000 + u32::from(rng.u32(0..1_000) < per_second % 1_000)
                    {
                        pool.submit(n);
                    }
                }
            }
        });
        let others = (1..=10).filter(|n| *n != 3);
        others.map(|n| (n, pool.p99(n))).collect::<BTreeMap<_, _>>()
    };
    let (quiet, flooded) = (p99(1), p99(100));
    for (n, wait) in &flooded {
        let allowed = quiet[n].mul_f64(1.1);
        assert!(
            *wait <= allowed,
            "tenant {n}: {wait:?} instead of {:?}",
            quiet[n]
        );
    }
}

#[test]
fn a_tenant_runs_no_more_than_it_may() {
    let mut config = weights();
    let limit = Limit {
        concurrency: Some(3),
        rate: None,
    };
    config.tenant_limits = [(tenant(1), limit)].into();
    let mut pool = Pool::new(config, 2, |_, _| Duration::from_millis(20));
    for _ in 0..500 {
        pool.submit(1);
        pool.submit(2);
    }
    let mut n_most = 0;
    let end = pool.now + Duration::from_secs(5);
    pool.run(end, |pool| {
        let own = pool.running.iter().filter(|end| end.0.1 == shard(1));
        n_most = n_most.max(own.count());
    });
    assert_eq!(n_most, 3);
    assert_eq!(pool.took[&1].len(), 500, "they all get their turn");
}

#[test]
fn each_tenants_rate_opens_in_its_own_time() {
    let rate = |seconds| Limit {
        concurrency: None,
        rate: Some(Rate {
            n: 1,
            per: Duration::from_secs(seconds),
        }),
    };
    let config = Config {
        tenant_limits: [(tenant(1), rate(10)), (tenant(2), rate(20))].into(),
        ..Config::default()
    };
    let mut pool = Pool::new(config, 2, |_, _| Duration::from_millis(20));
    // The first tenant has nothing when it could start again, and nothing else happens then.
    pool.submit(1);
    pool.submit(2);
    pool.submit(2);
    let start = pool.now;
    for credit in [4, 4] {
        pool.poll(credit);
    }
    assert_eq!(pool.running.len(), 2);
    pool.poll(4);
    while let Some(at) = pool
        .member
        .wake_at(pool.now)
        .filter(|_| pool.running.len() < 3)
    {
        pool.now = at;
        pool.event(Event::Proven(at));
    }
    assert_eq!(pool.running.len(), 3);
    assert!(pool.now.since(start) <= Duration::from_secs(21));
}

#[test]
fn a_pipeline_that_changes_its_pool_counts_what_it_runs_once() {
    let mut config = weights();
    let limit = Limit {
        concurrency: Some(3),
        rate: None,
    };
    config.tenant_limits = [(tenant(1), limit)].into();
    let mut pool = Pool::new(config, 1, |_, _| Duration::from_secs(3_600));
    for _ in 0..9 {
        pool.submit(1);
    }
    pool.poll(9);
    assert_eq!(pool.running.len(), 3);
    for name in ["other", "shared"] {
        let mut pipeline = (*pool.pipelines[0]).clone();
        pipeline.spec.pool = Some(name.try_into().unwrap());
        pool.event(Event::Pipelines(vec![Arc::new(pipeline)]));
    }
    pool.poll(9);
    assert_eq!(pool.running.len(), 3, "the limit still counts them");
}
