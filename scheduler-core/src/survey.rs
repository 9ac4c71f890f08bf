//! What members tell of themselves beside single tasks: how shards stand, who works, what changed lately.
//!
//! Everything here is bounded and counted as things happen, so that a look costs little however many tasks there are.

mod durations;
mod failures;

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

pub(crate) use self::{durations::Recent, failures::Failures};
pub use self::{
    durations::{Durations, RECENT},
    failures::{FAILURES_KEPT, FailureGroup},
};
use crate::{
    Epoch, Label, Offset, PipelineNumber, ShardId, StateName, TaskId, Timestamp, WorkerId,
};

/// How many tasks wait, by the stable [name](crate::explain::Blocker::name) of what they wait for.
pub type Waits = BTreeMap<Cow<'static, str>, u64>;

/// How many tasks are in each state.
pub type States = BTreeMap<StateName, u64>;

/// What to look at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ask {
    /// These shards.
    pub shards: Vec<ShardId>,
    /// The workers of this pipeline, too.
    pub workers: Option<PipelineNumber>,
    /// What changed in the shards, too: after the place that was told last of each, or from now on. They note changes
    /// only while someone asks for them.
    pub changes: Option<BTreeMap<ShardId, Heard>>,
}

/// Up to where the changes of a shard were heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// Of this owner.
    pub epoch: Epoch,
    /// So many of them.
    pub n: u64,
}

/// What one member sees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// Shards that are here.
    pub shards: Vec<ShardSurvey>,
    /// Shards that are not.
    pub absent: Vec<ShardId>,
    /// Workers of the pipeline that are connected to this process.
    pub present: Vec<Present>,
}

/// How one shard stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardSurvey {
    /// The shard.
    pub shard: ShardId,
    /// Of its present claim.
    pub epoch: Epoch,
    /// When it was claimed.
    pub claimed_at: Timestamp,
    /// Where its log ended then.
    pub claimed_end: Offset,
    /// From where it reads on.
    pub next_offset: Offset,
    /// Everything below is ended or stored, durably.
    pub watermark: Offset,
    /// When the last record that it read was accepted: what is in the backlog came later.
    pub read_at: Option<Timestamp>,
    /// Bytes of tasks in memory, about.
    pub n_bytes: u64,
    /// Tasks in memory, as they are shown.
    pub states: States,
    /// What those wait for that wait.
    pub waits: Waits,
    /// Whether tasks are parked in the store.
    pub has_parked: bool,
    /// What has become of tasks since the claim.
    pub totals: Totals,
    /// How long tasks that could run waited for a worker, lately.
    pub waited: Durations,
    /// How long workers had tasks before they reported, lately.
    pub ran: Durations,
    /// How tasks failed, lately.
    pub failures: Vec<FailureGroup>,
    /// Who holds leases, if that was asked.
    pub hands: Vec<Hand>,
    /// What changed, if that was asked.
    pub changes: Changes,
}

/// What has become of tasks, durably. Only grows while the shard stays where it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Ended with a result.
    pub n_completed: u64,
    /// Attempts that failed.
    pub n_failed: u64,
    /// Ended by request.
    pub n_cancelled: u64,
    /// Ended by their errors.
    pub n_discarded: u64,
}

impl std::ops::AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        let Self {
            n_completed,
            n_failed,
            n_cancelled,
            n_discarded,
        } = other;
        self.n_completed += n_completed;
        self.n_failed += n_failed;
        self.n_cancelled += n_cancelled;
        self.n_discarded += n_discarded;
    }
}

/// What one worker has of a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hand {
    /// The worker.
    pub worker: WorkerId,
    /// Leases that it holds.
    pub n_leases: u64,
    /// Slots that they take.
    pub n_slots: u64,
    /// Since when it has held some without a break.
    pub since: Timestamp,
    /// When it last gave a sign of life for one of them.
    pub seen_at: Timestamp,
}

/// A worker that asks no more is forgotten after this long.
pub const PRESENT_KEPT: Duration = Duration::from_secs(60);

/// A worker that is connected, or was a moment ago.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    /// The worker.
    pub worker: WorkerId,
    /// Labels it has.
    pub labels: BTreeSet<Label>,
    /// Free slots by its last poll.
    pub credit: usize,
    /// Whether it asks for tasks now.
    pub is_polling: bool,
    /// Since when it has been here.
    pub since: Timestamp,
    /// When it last asked, or was answered.
    pub seen_at: Timestamp,
}

/// What changed in a shard, oldest first: the newest ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// The changes.
    pub list: Vec<Change>,
    /// How many there were in this epoch, with these.
    pub n: u64,
}

/// A task stands otherwise than before, and that is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// The task.
    pub id: TaskId,
    /// Where it stands.
    pub state: StateName,
    /// Attempts begun so far.
    pub attempt: u32,
    /// When it was shown first.
    pub at: Timestamp,
}

/// A process that schedules, as it sees itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberState {
    /// Where others reach it.
    pub address: String,
    /// The version that it runs.
    pub version: String,
    /// When it started.
    pub started_at: Timestamp,
    /// How much it has to do.
    pub load: crate::member::Load,
    /// Why it does not work on all its shards, if so. Names no tenant's things.
    pub unready: Option<String>,
}
