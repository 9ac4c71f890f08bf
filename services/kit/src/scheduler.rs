//! The settings of a scheduler's handle.

use scheduler_core::Config;

use crate::{Key, Reader};

macro_rules! settings {
    ($($field:ident: $read:ident, $default:literal, $meaning:literal;)+) => {
        /// The settings under `scheduler`.
        #[must_use]
        pub fn keys() -> Vec<Key> {
            vec![$(Key {
                name: concat!("scheduler.", stringify!($field)),
                default: $default,
                meaning: $meaning,
            }),+]
        }

        /// Reads a member's limits and waits; `address` is where other processes reach it.
        #[must_use]
        pub fn config(reader: &mut Reader<'_>, address: String, seed: u64) -> Config {
            let config = Config {
                address,
                seed,
                $($field: reader.$read(concat!("scheduler.", stringify!($field))),)+
            };
            if let Err(err) = config.validate() {
                reader.fault(err);
            }
            config
        }
    };
}

settings! {
    lease: duration, "30s", "how long a lease lasts without a heartbeat";
    offer: duration, "5s", "how long a task is leased that is only offered, until its worker touches it";
    poll_wait_max: duration, "60s", "the longest a poll may wait";
    flush_interval: duration, "1s", "how often a shard that changed is flushed when no reply waits for it";
    flush_linger: duration, "5ms", "how long a flush that a reply waits for collects more before it starts";
    n_lanes: number, "4", "flushes in flight at once";
    flush_tasks_max: number, "4096", "the most tasks in one flush of one shard";
    park_over: duration, "2s", "a task that cannot run for longer than this leaves memory";
    straggler_after: number, "1000", "so many done offsets above the watermark make the task that holds it a straggler, which is stored";
    window_tasks_max: number, "100000", "the most tasks of one shard in memory";
    window_bytes_max: bytes, "64MiB", "the most bytes of one shard in memory";
    member_bytes_max: bytes, "1GiB", "the most bytes of all shards of the member in memory";
    priority_wait_max: duration, "5m", "how much longer a task of the lowest priority waits at most than one of the highest";
    discard_credits: number, "10", "how many tasks of a pipeline may be discarded for failing, beyond one for each success, before it holds still and probes";
    tenant_weights: weights, "", "shares of tenants in pools, of those that have not 1: acme=3, globex=2";
    tenant_limits: limits, "", "what tenants may run at once on this member, and start in a while: acme=50, acme=100/1s";
    adoption_window: duration, "12s", "after a crash, how long tasks that an unknown worker may hold wait for it to say so";
    proof_age_max: duration, "4s", "how old a proof of membership may be for leases to be granted or expired under it";
    trim_after: duration, "10m", "how far behind the durable watermark the log is trimmed, in time";
    idempotency_window: duration, "24h", "how long an idempotency key stands for its first task";
    payload_bytes_max: bytes, "1MiB", "the most bytes of a task's data";
    result_bytes_max: bytes, "1MiB", "the most bytes of a result";
    settled_max: number, "16384", "settled leases that one shard remembers, so that a repeated report gets the same answer";
    pollers_max: number, "20000", "polls that wait at once, per pipeline";
    calls_max: number, "100000", "calls that wait for an answer at once";
    watches_max: number, "1000", "tasks and pipelines that are followed at once, by all callers together";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Arguments, Settings};

    #[test]
    fn the_defaults_are_the_librarys_but_for_what_engines_over_a_network_need() {
        let arguments = Arguments {
            config: None,
            set: Vec::new(),
            settings: false,
        };
        let settings = Settings::load(keys(), &arguments).unwrap();
        let mut reader = settings.reader();
        let address = Config::default().address;
        let config = config(&mut reader, address, 0);
        reader.finish().unwrap();
        let expected = Config {
            // A commit takes milliseconds there: more replies share one, and more run side by side.
            flush_linger: std::time::Duration::from_millis(5),
            n_lanes: 4,
            ..Config::default()
        };
        assert_eq!(config, expected);
    }
}
