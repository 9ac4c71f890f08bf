//! How a scheduler behaves: plain data, validated once with every fault reported at once.

use std::{collections::BTreeMap, time::Duration};

use crate::{Error, TenantName, pipeline::limits::Limit};

/// All limits and waits of one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where other members reach this one; written beside its claims.
    pub address: String,
    /// The seed of all randomness (jitter of retries).
    pub seed: u64,
    /// How long a lease lasts without a heartbeat.
    pub lease: Duration,
    /// How long a task is offered to a worker that polls for offers: its lease lasts so long, but no longer than
    /// [`lease`](Self::lease), until the worker first touches it.
    pub offer: Duration,
    /// The longest a poll may wait.
    pub poll_wait_max: Duration,
    /// How often a shard that changed is flushed when no reply waits for it.
    pub flush_interval: Duration,
    /// How long a flush that a reply waits for collects more before it starts.
    pub flush_linger: Duration,
    /// Flushes in flight at once.
    pub n_lanes: u16,
    /// The most tasks in one flush of one shard.
    pub flush_tasks_max: usize,
    /// A task that cannot run for longer than this leaves memory.
    pub park_over: Duration,
    /// So many done offsets above the watermark make the task that holds it a straggler, which is stored.
    pub straggler_after: u64,
    /// The most tasks of one shard in memory.
    pub window_tasks_max: usize,
    /// The most bytes of one shard in memory.
    pub window_bytes_max: usize,
    /// The most bytes of all shards of the member in memory.
    pub member_bytes_max: usize,
    /// How much longer a task of the lowest priority waits at most than one of the highest.
    pub priority_wait_max: Duration,
    /// With so many credits a pipeline starts, and so many it may gather: each success earns one, and each task
    /// that is discarded because its attempts are used up costs one. Shared out to its partitions, at least one each.
    pub discard_credits: u32,
    /// The share of each tenant in the workers of a pool for which several tenants compete: 1 to 1,000. Without an
    /// entry, 1.
    pub tenant_weights: BTreeMap<TenantName, u32>,
    /// How many tasks of each tenant this member lets run at once, and start in a while. Without an entry, there is
    /// no limit.
    pub tenant_limits: BTreeMap<TenantName, Limit>,
    /// After a crash, how long tasks that an unknown worker may hold wait for it to say so.
    pub adoption_window: Duration,
    /// How old a proof of membership may be for leases to be granted or expired under it.
    pub proof_age_max: Duration,
    /// How far behind the durable watermark the log is trimmed, in time.
    pub trim_after: Duration,
    /// How long an idempotency key stands for its first task.
    pub idempotency_window: Duration,
    /// The most bytes of a task's data.
    pub payload_bytes_max: usize,
    /// The most bytes of a result.
    pub result_bytes_max: usize,
    /// Settled leases that one shard remembers, so that a repeated report gets the same answer.
    pub settled_max: usize,
    /// Polls that wait at once, per pipeline.
    pub pollers_max: usize,
    /// Calls that wait for an answer at once.
    pub calls_max: usize,
    /// Tasks and pipelines that are followed at once, by all callers of this process together.
    pub watches_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            address: "127.0.0.1:7070".to_owned(),
            seed: 0,
            lease: Duration::from_secs(30),
            offer: Duration::from_secs(5),
            poll_wait_max: Duration::from_secs(60),
            flush_interval: Duration::from_secs(1),
            flush_linger: Duration::ZERO,
            n_lanes: 2,
            flush_tasks_max: 4_096,
            park_over: Duration::from_secs(2),
            straggler_after: 1_000,
            window_tasks_max: 100_000,
            window_bytes_max: 64 << 20,
            member_bytes_max: 1 << 30,
            priority_wait_max: Duration::from_secs(300),
            discard_credits: 10,
            tenant_weights: BTreeMap::new(),
            tenant_limits: BTreeMap::new(),
            adoption_window: Duration::from_secs(12),
            proof_age_max: Duration::from_secs(4),
            trim_after: Duration::from_secs(600),
            idempotency_window: Duration::from_secs(24 * 3600),
            payload_bytes_max: 1 << 20,
            result_bytes_max: 1 << 20,
            settled_max: 16_384,
            pollers_max: 20_000,
            calls_max: 100_000,
            watches_max: 1_000,
        }
    }
}

impl Config {
    /// Checks every value.
    ///
    /// # Errors
    /// Names all values out of range at once.
    pub fn validate(&self) -> Result<(), Error> {
        let mut faults = Vec::new();
        let mut check = |holds: bool, fault: &str| {
            if !holds {
                faults.push(fault.to_owned());
            }
        };
        check(
            self.lease >= Duration::from_millis(100),
            "lease must be at least 100ms",
        );
        check(
            self.offer >= Duration::from_millis(100),
            "offer must be at least 100ms",
        );
        check(
            self.flush_interval >= Duration::from_millis(1),
            "flush_interval must be at least 1ms",
        );
        check((1..=64).contains(&self.n_lanes), "n_lanes must be 1 to 64");
        check(
            self.flush_tasks_max > 0,
            "flush_tasks_max must be at least 1",
        );
        check(
            self.straggler_after > 0,
            "straggler_after must be at least 1",
        );
        check(
            self.window_tasks_max >= 16,
            "window_tasks_max must be at least 16",
        );
        check(
            self.window_bytes_max >= self.payload_bytes_max,
            "window_bytes_max must be at least payload_bytes_max",
        );
        check(
            self.member_bytes_max >= self.window_bytes_max,
            "member_bytes_max must be at least window_bytes_max",
        );
        check(
            self.proof_age_max >= Duration::from_millis(100),
            "proof_age_max must be at least 100ms",
        );
        check(
            self.payload_bytes_max > 0,
            "payload_bytes_max must be at least 1",
        );
        check(
            self.result_bytes_max > 0,
            "result_bytes_max must be at least 1",
        );
        check(
            self.pollers_max > 0 && self.calls_max > 0,
            "pollers_max and calls_max must be at least 1",
        );
        check(
            (1..=1_000_000).contains(&self.watches_max),
            "watches_max must be 1 to 1000000",
        );
        let mut weights = self.tenant_weights.values();
        check(
            weights.all(|weight| (1..=1_000).contains(weight)),
            "tenant_weights must be 1 to 1000",
        );
        let mut limits = self.tenant_limits.values();
        if let Some(fault) = limits.find_map(|limit| limit.validate("tenant_limits").err()) {
            check(false, &fault.to_string());
        }
        if faults.is_empty() {
            Ok(())
        } else {
            Err(Error::Malformed(format!(
                "the configuration: {}",
                faults.join("; ")
            )))
        }
    }
}
