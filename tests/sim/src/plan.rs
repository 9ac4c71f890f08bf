//! What one seed stands for: how large the cluster is, how it is configured, and what goes wrong in it.

use std::{sync::Arc, time::Duration};

use scheduler_core::{
    Config, Mode, Partition, Pipeline, PipelineNumber, PipelineSpec, PoolName, Revision, ShardId,
    TaskOptions, Timestamp,
    member::Fleet,
    pipeline::limits::{Limit, Limits, Rate},
    task::retry::{Jitter, RetryPolicy},
};

/// When every life begins.
pub(crate) const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// What happens in a life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// Anything.
    Storm,
    /// Nothing goes wrong, but shards move to other members all the time. All tasks work.
    Moves,
    /// Members crash, and nothing else goes wrong. All tasks work.
    Crashes,
}

/// So many credits are never used up.
pub(crate) const CREDITS_ENOUGH: u32 = 1_000_000;

/// How likely each fault is. Each is absent in many seeds, so that others show in pure form.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Faults {
    /// Of a thousand messages.
    pub(crate) n_lost: u64,
    pub(crate) n_doubled: u64,
    pub(crate) n_slow: u64,
    /// Of a thousand calls to a port.
    pub(crate) n_failed: u64,
    pub(crate) n_unknown: u64,
    pub(crate) n_late: u64,
    pub(crate) n_slow_calls: u64,
    /// Of a thousand records.
    pub(crate) n_gaps: u64,
    /// Of a thousand seconds, anywhere in the cluster.
    pub(crate) n_crashes: u64,
    pub(crate) n_restarts: u64,
    pub(crate) n_freezes: u64,
    pub(crate) n_moves: u64,
    pub(crate) n_cuts: u64,
    pub(crate) n_slews: u64,
    pub(crate) n_worker_crashes: u64,
    pub(crate) n_worker_freezes: u64,
}

/// The whole plan.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) n_members: usize,
    pub(crate) n_workers: usize,
    pub(crate) n_tasks: u64,
    /// How long tasks are submitted and things go wrong.
    pub(crate) storm: Duration,
    pub(crate) faults: Faults,
    pub(crate) config: Config,
    /// Whether workers poll for offers.
    pub(crate) offers: bool,
    /// From when to when whatever runs fails.
    pub(crate) outage: Option<(Timestamp, Timestamp)>,
    /// Whether all tasks work at the first attempt.
    pub(crate) is_easy: bool,
    /// Whether the pipelines have limits.
    pub(crate) is_limited: bool,
    /// The pool in which tenants compete, each with one pipeline.
    pub(crate) pool: Option<PoolName>,
    pub(crate) pipelines: Vec<Arc<Pipeline>>,
    pub(crate) shards: Vec<ShardId>,
}

impl Plan {
    /// The plan of a seed.
    pub(crate) fn of(rng: &mut fastrand::Rng, n_tasks: u64, scenario: Scenario) -> Self {
        let mut plan = Self::of_storm(rng, n_tasks);
        let faults = match scenario {
            Scenario::Storm => return plan,
            Scenario::Moves => Faults {
                n_moves: 1_000,
                ..Faults::default()
            },
            Scenario::Crashes => Faults {
                n_crashes: 40,
                ..Faults::default()
            },
        };
        plan.faults = faults;
        plan.n_members = rng.usize(3..6);
        plan.outage = None;
        // Some workers never touch an offer, so that it is made again.
        plan.offers = false;
        plan.is_easy = true;
        plan
    }

    fn of_storm(rng: &mut fastrand::Rng, n_tasks: u64) -> Self {
        let pool = (rng.u32(0..4) == 0).then(pool_name);
        let is_limited = pool.is_none() && rng.u32(0..4) == 0;
        let limits = if is_limited {
            limits(rng)
        } else {
            Limits::default()
        };
        let n_pipelines = match &pool {
            Some(_) => rng.u32(2..5),
            None => rng.u32(1..3),
        };
        let pipelines: Vec<_> = (1..=n_pipelines)
            .map(|number| pipeline(number, rng.u16(1..4), pool.clone(), limits))
            .collect();
        let shards = pipelines
            .iter()
            .flat_map(|pipeline| {
                let number = pipeline.number;
                (0..pipeline.spec.n_partitions).map(move |partition| ShardId {
                    pipeline: number,
                    partition: Partition(partition),
                })
            })
            .collect();
        let storm = Duration::from_secs(rng.u64(120..400));
        let mut config = config(rng);
        let outage = (rng.u32(0..3) == 0).then(|| {
            let from = START + Duration::from_secs(rng.u64(10..60));
            let length = Duration::from_secs(rng.u64(20..100));
            (from, from + length)
        });
        if outage.is_some() {
            config.discard_credits = rng.u32(1..12);
        }
        if pool.is_some() {
            // A tenant with fewer tasks in memory than its share of all slots could not use that.
            config.window_tasks_max = config.window_tasks_max.max(120);
        }
        for pipeline in pipelines.iter().filter(|_| pool.is_some()) {
            let tenant = pipeline.path.tenant.clone();
            config.tenant_weights.insert(tenant, rng.u32(1..5));
        }
        Self {
            // Shares are those of one member's dispatcher, so tenants compete best where there is one.
            n_members: match &pool {
                Some(_) if rng.bool() => 1,
                _ => rng.usize(1..5),
            },
            n_workers: rng.usize(2..6),
            n_tasks,
            storm,
            faults: Faults::of(rng),
            config,
            offers: rng.bool(),
            outage,
            is_easy: false,
            is_limited,
            pool,
            pipelines,
            shards,
        }
    }

    /// What the worker with this number works for.
    pub(crate) fn fleet(&self, worker: usize) -> Fleet {
        match &self.pool {
            Some(pool) => Fleet::Pool(pool.clone()),
            None => Fleet::Pipeline(self.pipelines[worker % self.pipelines.len()].number),
        }
    }

    /// Whether whatever runs fails now.
    pub(crate) fn is_outage(&self, now: Timestamp) -> bool {
        let outage = self.outage;
        outage.is_some_and(|(from, until)| (from..until).contains(&now))
    }
}

impl Faults {
    fn of(rng: &mut fastrand::Rng) -> Self {
        if rng.u32(0..10) == 0 {
            return Self::default();
        }
        let mut some = |max: u64| if rng.bool() { rng.u64(1..=max) } else { 0 };
        Self {
            n_lost: some(80),
            n_doubled: some(50),
            n_slow: some(80),
            n_failed: some(80),
            n_unknown: some(100),
            n_late: some(60),
            n_slow_calls: some(120),
            n_gaps: some(150),
            n_crashes: some(30),
            n_restarts: some(30),
            n_freezes: some(30),
            n_moves: some(60),
            n_cuts: some(40),
            n_slews: some(50),
            n_worker_crashes: some(20),
            n_worker_freezes: some(20),
        }
    }
}

/// Small limits, so that they are reached.
fn config(rng: &mut fastrand::Rng) -> Config {
    let seconds = Duration::from_secs;
    Config {
        seed: rng.u64(..),
        lease: seconds(rng.u64(8..31)),
        offer: Duration::from_millis(rng.u64(500..5_000)),
        poll_wait_max: seconds(20),
        flush_linger: Duration::from_millis(rng.u64(0..10)),
        n_lanes: rng.u16(1..4),
        flush_tasks_max: rng.usize(4..64),
        straggler_after: rng.u64(8..80),
        window_tasks_max: rng.usize(16..160),
        adoption_window: seconds(12),
        leave_after: seconds(rng.u64(2..60)),
        trim_after: seconds(rng.u64(5..200)),
        settled_max: rng.usize(0..64),
        // Some tasks fail by intention, and have to end.
        discard_credits: CREDITS_ENOUGH,
        ..Config::default()
    }
}

fn pool_name() -> PoolName {
    let name = PoolName::try_from("fleet");
    name.unwrap_or_else(|err| unreachable!("a name of our own: {err}"))
}

/// Enough for everything to end in time, and little enough to be reached.
fn limits(rng: &mut fastrand::Rng) -> Limits {
    let mut limit = |least: u32| Limit {
        concurrency: rng.bool().then(|| rng.u32(least..least + 4)),
        rate: rng.bool().then(|| Rate {
            n: rng.u32(least * 2..least * 6),
            per: Duration::from_secs(1),
        }),
    };
    Limits {
        all: limit(2),
        group: limit(1),
    }
}

fn pipeline(
    number: u32,
    n_partitions: u16,
    pool: Option<PoolName>,
    limits: Limits,
) -> Arc<Pipeline> {
    let name = format!("p{number}");
    let tenant = match &pool {
        Some(_) => format!("tenant-{number}"),
        None => "tenant".to_owned(),
    };
    let path = scheduler_core::path(&tenant, "app", &name);
    Arc::new(Pipeline {
        number: PipelineNumber(number),
        path: path.unwrap_or_else(|err| unreachable!("{name} is a name: {err}")),
        revision: Revision(1),
        spec: PipelineSpec {
            steps: [].into(),
            defaults: TaskOptions {
                retry: Some(RetryPolicy {
                    max_attempts: 30,
                    initial: Duration::from_secs(1),
                    factor: 1.5,
                    max: Duration::from_secs(10),
                    jitter: Jitter::Full,
                }),
                ..TaskOptions::default()
            },
            n_partitions,
            pool,
            limits,
        },
        mode: Mode::Active,
        created_at: START,
    })
}
