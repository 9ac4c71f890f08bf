//! A whole cluster from one seed in virtual time.
//!
//! Members run the machines of `scheduler-core` as they are; log, store, group, network, workers and
//! clients are made up here. A seed draws how large the cluster is and what goes wrong in it; then
//! everything heals, and every promise of `docs/guarantees.md` is looked at by a checker of its name.

mod check;
mod client;
mod fact;
mod group;
mod log;
mod net;
mod node;
mod plan;
mod port;
mod queue;
mod store;
mod task;
mod watch;
mod worker;
mod world;

use std::time::Duration;

pub use self::{check::Broken, plan::Scenario};
use self::{watch::Watch, world::World};

/// Tasks that clients submit in one life, unless something else is asked for.
pub const N_TASKS: u64 = 250;

/// How a life went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    /// The first promise that was not kept.
    pub broken: Option<Broken>,
    /// Of all that happened, in its order.
    pub hash: u64,
    /// Virtual time.
    pub took: Duration,
    /// Tasks that a worker began.
    pub n_begun: u64,
    /// How often a task was begun that had been begun before.
    pub n_again: u64,
    /// How often a shard was claimed.
    pub n_claims: u64,
}

/// Lives the life of a seed.
#[must_use]
pub fn live(seed: u64, n_tasks: u64) -> Life {
    live_as(seed, n_tasks, Scenario::Storm)
}

/// Lives the life of a seed in which only certain things happen.
#[must_use]
pub fn live_as(seed: u64, n_tasks: u64, scenario: Scenario) -> Life {
    World::new(seed, n_tasks, scenario, Watch::new(false, false)).live()
}

/// The same, with every action of every member in the hash.
#[must_use]
pub fn live_thoroughly(seed: u64, n_tasks: u64) -> Life {
    World::new(seed, n_tasks, Scenario::Storm, Watch::new(true, false)).live()
}

/// The same, and what happened to the task whose promise was broken, in at most so many lines.
#[must_use]
pub fn live_and_tell(
    seed: u64,
    n_tasks: u64,
    scenario: Scenario,
    n_lines: usize,
) -> (Life, String) {
    let mut world = World::new(seed, n_tasks, scenario, Watch::new(false, true));
    let life = world.live();
    let task = life.broken.as_ref().and_then(|broken| broken.task);
    (life, world.watch.history(task, n_lines))
}
