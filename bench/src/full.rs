//! The machines with everything on: limits, ordering keys, groups and priorities, while many wait.

use std::{hint::black_box, sync::Arc, time::Duration};

use scheduler_core::{
    Offset, PipelineSpec, Priority, Retention, TaskId, TaskOptions,
    pipeline::limits::{Limit, Limits, Rate},
};

use crate::{
    allocation::{available_bytes, core_time, resident_bytes},
    lives::{BATCH, Bench, SHARD},
};

/// So many run of one group, which is as many as come of the busy one in a batch: it is closed once in each.
const GROUP_MAX: u32 = 16;
/// One of so many tasks is of the busy group.
const BUSY_PART: u64 = BATCH as u64 / GROUP_MAX as u64;
/// Other groups.
const N_GROUPS: u64 = 100;
/// The window is so many times as large, so that of the tasks with keys none has to wait in the store.
const ROOM: u64 = 8;
/// What a waiting task takes at most, options and payload included, to see whether so many fit.
const BYTES_EACH: u64 = 1_200;

fn spec() -> PipelineSpec {
    let limit = |concurrency| Limit {
        concurrency: Some(concurrency),
        rate: Some(Rate {
            n: 1_000_000,
            per: Duration::from_secs(1),
        }),
    };
    PipelineSpec {
        defaults: TaskOptions {
            retention: Some(Retention::None),
            ..TaskOptions::default()
        },
        limits: Limits {
            all: limit(1_024),
            group: limit(GROUP_MAX),
        },
        ..PipelineSpec::default()
    }
}

/// A number that looks like chance, the same for the same task.
fn mixed(offset: u64) -> u64 {
    (offset + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20
}

/// Half of the tasks have a key that they share with few, all have a group and one of ten priorities.
fn options(offset: u64, n_waiting: u64) -> Option<Arc<TaskOptions>> {
    let chance = mixed(offset);
    let group = if offset.is_multiple_of(BUSY_PART) {
        "busy".to_owned()
    } else {
        format!("g{}", chance % N_GROUPS)
    };
    let key = chance
        .is_multiple_of(2)
        .then(|| format!("key-{}", chance / 2 % (2 * n_waiting)));
    let priority = u32::try_from(chance / 7 % 10).unwrap_or(0);
    Some(Arc::new(TaskOptions {
        group: group.as_str().try_into().ok(),
        key: key.and_then(|key| key.as_str().try_into().ok()),
        priority: Priority::try_from(priority).ok(),
        ..TaskOptions::default()
    }))
}

/// A member with so many tasks that wait.
pub(crate) struct Crowd {
    bench: Bench,
    n_waiting: u64,
    /// So that a task waits about as long as the lowest priority must wait for the highest.
    pause: Duration,
    /// Memory that each waiting task takes, payload and options included.
    pub(crate) bytes_each: f64,
}

impl Crowd {
    /// `None` if so many do not fit into what the machine has left.
    pub(crate) fn new(n_waiting: u64) -> Option<Self> {
        if n_waiting * BYTES_EACH > available_bytes() / 4 * 3 {
            return None;
        }
        let before = resident_bytes();
        let mut bench = Bench::on(spec(), usize::try_from(ROOM * n_waiting).ok()?);
        let n_batches = n_waiting.div_ceil(BATCH as u64);
        let longest = scheduler_core::Config::default().priority_wait_max;
        let pause = longest / u32::try_from(n_batches).ok()?;
        for _ in 0..n_batches {
            let records = bench.records(BATCH, |offset| options(offset, n_waiting));
            bench.fetch(records);
            bench.perform();
            bench.out.clear();
            bench.pass(pause);
        }
        #[expect(clippy::cast_precision_loss, reason = "sizes are far below 2⁵³")]
        let bytes_each =
            resident_bytes().saturating_sub(before) as f64 / (n_batches * BATCH as u64) as f64;
        Some(Self {
            bench,
            n_waiting,
            pause,
            bytes_each,
        })
    }

    /// Lives from the log to their ends, as many as there were before waiting all the time; how many a second.
    pub(crate) fn lives(&mut self, n: u64) -> f64 {
        let n_waiting = self.n_waiting;
        let n_batches = n.div_ceil(BATCH as u64);
        let mut took = Duration::ZERO;
        for _ in 0..n_batches {
            // What the log gives is not made by the machines.
            let records = self
                .bench
                .records(BATCH, |offset| options(offset, n_waiting));
            let start = core_time();
            self.bench.fetch(records);
            self.bench.serve(self.pause);
            took += core_time() - start;
        }
        #[expect(clippy::cast_precision_loss, reason = "the number of lives is small")]
        let n = (n_batches * BATCH as u64) as f64;
        n / took.as_secs_f64()
    }

    /// Of how many keys the store was asked for each task so far.
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2⁵³")]
    pub(crate) fn key_reads_a_life(&self) -> f64 {
        self.bench.n_key_reads as f64 / self.bench.next_offset() as f64
    }

    /// How long it takes to say why a task waits: on average, in nanoseconds.
    pub(crate) fn explain(&self, n: u32) -> f64 {
        let newest = self.bench.next_offset();
        let ids = (0..n).map(|n| TaskId {
            shard: SHARD,
            offset: Offset(newest - 1 - mixed(u64::from(n)) % self.n_waiting.min(newest)),
        });
        let ids: Vec<_> = ids.collect();
        let start = core_time();
        let waits = |id: &TaskId| self.bench.member.explain(*id, self.bench.now);
        let n_told = ids.iter().filter_map(|id| black_box(waits(id))).count();
        let took = core_time() - start;
        assert!(n_told * 2 > ids.len(), "most of them wait");
        took.as_secs_f64() * 1e9 / f64::from(n)
    }
}

/// What the payload and options of a waiting task take alone.
#[expect(clippy::cast_precision_loss, reason = "sizes are far below 2⁵³")]
pub(crate) fn bytes_of_records(n: u64) -> f64 {
    let before = resident_bytes();
    let held: Vec<_> = (0..n)
        .map(|offset| {
            (
                bytes::Bytes::copy_from_slice(&[b'x'; 200]),
                options(offset, n),
            )
        })
        .collect();
    let taken = resident_bytes().saturating_sub(before) as f64;
    let own = size_of_val(&held[0]) as f64;
    black_box(&held);
    taken / n as f64 - own
}
