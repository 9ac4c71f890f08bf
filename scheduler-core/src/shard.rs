//! The machine of one shard: the scheduler of one partition of one pipeline, pure.
//!
//! It decides what is handed out, saved, shown and forgotten. It does no I/O: what must be read or
//! written goes out as [`Action`]s. Ownership, lanes and polls are the member's.

mod ack;
mod cancel;
mod explain;
mod journal;
mod key;
mod lease;
pub(crate) mod limit;
mod load;
mod order;
mod outage;
mod park;
mod ready;
mod save;
mod service;
mod settled;
mod tally;
mod timer;
mod transition;
mod trim;
mod view;
mod window;

use std::collections::{BTreeMap, VecDeque};

use self::{
    cancel::Cancels,
    journal::Journal,
    key::KeyState,
    limit::{Closed, Gauge},
    load::Loading,
    order::Order,
    outage::Outage,
    park::Due,
    ready::Ready,
    save::Saves,
    window::{Entry, Hold, SlotRef, Window},
};
pub use self::{
    lease::{Credit, Taker},
    load::Loaded,
    save::Urgency,
    service::Service,
    timer::Wheel,
};
use crate::{
    Config, Epoch, IdempotencyKey, LeaseToken, Mode, Offset, ShardId, Timestamp,
    action::Action,
    pipeline::limits::Limits,
    port::{
        log::{Fetch, Fetched, RecordBody},
        store::Claimed,
    },
    task::{
        event::{Event, Refusal},
        state::{Rules, State, Task},
    },
    watermark::Watermark,
};

/// The most records and bytes of one fetch of one shard.
const FETCH_RECORDS_MAX: usize = 4_096;
const FETCH_BYTES_MAX: usize = 4 << 20;

/// The scheduler of one partition.
#[derive(Debug)]
pub struct Shard {
    id: ShardId,
    epoch: Epoch,
    config: std::sync::Arc<Config>,
    rules: Rules,
    revision: crate::Revision,
    mode: Mode,
    limits: Limits,
    rng: fastrand::Rng,

    /// Ended or stored, in memory's view: what the next flush will say.
    watermark: Watermark,
    next_fetch: Offset,
    /// Tasks below it were in the log when the shard was claimed.
    claimed_end: Offset,
    /// Until then, such tasks wait for the worker that may hold them.
    adopt_until: Timestamp,
    adopting: VecDeque<SlotRef>,

    window: Window,
    is_full: bool,
    ready: Ready,
    order: Order,
    /// What the limits for the whole shard have counted.
    gauge: Gauge,
    outage: Outage,
    /// Tasks that are being set aside.
    n_aside: usize,
    timers: Wheel,
    last_token: LeaseToken,
    /// Leases that are not stored yet, oldest first.
    fresh: VecDeque<(SlotRef, LeaseToken)>,
    n_running: usize,
    service: Service,
    journal: Journal,

    saves: Saves,
    keys: BTreeMap<IdempotencyKey, KeyState>,
    /// Keys of records that could not be looked up; asked for again at `find_at`.
    unfound: Vec<IdempotencyKey>,
    find_at: Timestamp,
    loading: BTreeMap<Offset, Loading>,
    due: Due,
    cancels: Cancels,
    settled: settled::Settled,
    trim: trim::Trim,
}

impl Shard {
    /// Starts from what a claim found, with `end` as the log's end.
    ///
    /// Stored leases get a full lease from now, since only the owner judges expiry and this one has
    /// not seen when they were last renewed.
    #[must_use]
    pub fn new(
        claimed: Claimed,
        end: Offset,
        pipeline: &crate::Pipeline,
        config: std::sync::Arc<Config>,
        now: Timestamp,
    ) -> Self {
        let seed =
            config.seed ^ u64::from(claimed.epoch.0) ^ (u64::from(claimed.shard.pipeline.0) << 32);
        // Before the first epoch there was no owner who could have leased anything.
        let adopt_until = if claimed.released || claimed.epoch == Epoch(1) {
            now
        } else {
            now + config.adoption_window
        };
        let mut shard = Self {
            id: claimed.shard,
            epoch: claimed.epoch,
            rules: Rules {
                lease: config.lease,
                offer: config.offer.min(config.lease),
                defaults: pipeline.spec.defaults.clone(),
                may_discard: true,
            },
            revision: pipeline.revision,
            mode: pipeline.mode.clone(),
            limits: pipeline.spec.limits,
            rng: fastrand::Rng::with_seed(seed),
            watermark: Watermark::restore(claimed.watermark, &claimed.done),
            next_fetch: claimed.watermark,
            claimed_end: end,
            adopt_until,
            adopting: VecDeque::new(),
            window: Window::default(),
            is_full: false,
            ready: Ready::new(),
            order: Order::new(claimed.has_keyed, claimed.watermark, now),
            gauge: Gauge::default(),
            outage: Outage::new(credits_of(pipeline, &config)),
            n_aside: 0,
            timers: Wheel::new(now),
            last_token: LeaseToken::before_first(claimed.epoch),
            fresh: VecDeque::new(),
            n_running: 0,
            service: Service::default(),
            journal: Journal::new(claimed.watermark, now),
            saves: Saves::new(claimed.watermark, now),
            keys: BTreeMap::new(),
            unfound: Vec::new(),
            find_at: now,
            loading: BTreeMap::new(),
            due: Due::new(claimed.next_due_at),
            cancels: Cancels::new(claimed.cancels),
            settled: settled::Settled::new(config.settled_max),
            trim: trim::Trim::new(),
            config,
        };
        for stored in claimed.running {
            let at = shard.insert_stored(stored, now);
            shard.place(at, now);
        }
        shard.rules.may_discard = shard.outage.may_discard();
        shard
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// The epoch of its claim.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Tasks in memory.
    #[must_use]
    pub fn n_window(&self) -> usize {
        self.window.len()
    }

    /// Bytes of payload in memory.
    #[must_use]
    pub fn n_bytes(&self) -> usize {
        self.window.n_bytes()
    }

    /// What it has used of workers.
    #[must_use]
    pub fn service(&self) -> Service {
        self.service
    }

    /// The next offset to read from the log.
    #[must_use]
    pub fn next_fetch(&self) -> Offset {
        self.next_fetch
    }

    /// Whether workers may still hold leases of which nobody here knows.
    #[must_use]
    pub fn is_adopting(&self, now: Timestamp) -> bool {
        now < self.adopt_until
    }

    /// Takes over a changed pipeline.
    pub fn set_pipeline(&mut self, pipeline: &crate::Pipeline, now: Timestamp) {
        let defaults = &pipeline.spec.defaults;
        let is_other = self.rules.defaults != *defaults;
        self.rules.defaults = defaults.clone();
        self.revision = pipeline.revision;
        self.mode = pipeline.mode.clone();
        if self.limits != pipeline.spec.limits {
            self.limits = pipeline.spec.limits;
            self.ready.judge_groups(&self.limits.group, now);
        }
        if is_other {
            // Those that wait may need other workers now, or be of another group.
            for at in self.ready.take_all() {
                if let Some(entry) = self.window.get_mut(at) {
                    entry.queued = false;
                    self.place(at, now);
                }
            }
        }
    }

    /// Whether there is room to read more from the log. Once memory was full, an eighth of it must be
    /// free again, so that reads are worth their while.
    pub fn has_appetite(&mut self) -> bool {
        let (n, n_bytes) = (self.window.len(), self.window.n_bytes());
        let (n_max, bytes_max) = (self.config.window_tasks_max, self.config.window_bytes_max);
        if !self.has_room() {
            self.is_full = true;
        } else if n <= n_max - n_max / 8 && n_bytes <= bytes_max - bytes_max / 8 {
            self.is_full = false;
        }
        !self.is_full
    }

    fn has_room(&self) -> bool {
        self.window.len() < self.config.window_tasks_max
            && self.window.n_bytes() < self.config.window_bytes_max
    }

    /// Whether results, errors and progress have filled memory far beyond what is read into it, so
    /// that more must wait until some are saved.
    fn is_overfull(&self) -> bool {
        self.window.n_bytes() >= 2 * self.config.window_bytes_max
    }

    /// What to read next from the log: at most so many bytes.
    #[must_use]
    pub fn wanted(&self, bytes_max: usize) -> Fetch {
        let (n_free, bytes_free) = self.room();
        Fetch {
            shard: self.id,
            from: self.next_fetch,
            n_max: n_free.clamp(1, FETCH_RECORDS_MAX),
            bytes_max: bytes_free.min(bytes_max).clamp(1, FETCH_BYTES_MAX),
        }
    }

    /// How many more tasks and bytes memory may hold, beside what is being read from the store.
    fn room(&self) -> (usize, usize) {
        let (n_due, due_bytes) = self.due.coming();
        let (n_keyed, keyed_bytes) = self.order.coming();
        let (n_swept, swept_bytes) = self.cancels.coming();
        let n = self.window.len() + n_due + n_keyed + n_swept;
        let n_bytes = self.window.n_bytes() + due_bytes + keyed_bytes + swept_bytes;
        (
            self.config.window_tasks_max.saturating_sub(n),
            self.config.window_bytes_max.saturating_sub(n_bytes),
        )
    }

    /// Takes records that were read from `from`; a stale answer (another `from`) is ignored.
    pub fn fetched(
        &mut self,
        from: Offset,
        fetched: Fetched,
        now: Timestamp,
        out: &mut Vec<Action>,
    ) {
        if from != self.next_fetch || fetched.next < from {
            return;
        }
        let mut expected = from;
        for record in fetched.records {
            if record.offset < expected {
                continue;
            }
            self.pass_gap(expected, record.offset);
            expected = record.offset.next();
            self.order.read_past(expected);
            if let Some(at) = self.window.find(record.offset) {
                // A call has brought it in before its turn to be read.
                self.enter_line(at);
                continue;
            }
            if self.watermark.is_done(record.offset) {
                continue;
            }
            self.take_record(record, now, out);
        }
        self.pass_gap(expected, fetched.next);
        self.next_fetch = fetched.next.max(expected);
        self.order.read_past(self.next_fetch);
    }

    /// Offsets that the log does not have count as done.
    fn pass_gap(&mut self, from: Offset, to: Offset) {
        if from < to {
            self.watermark.mark_range(from, to);
        }
    }

    fn take_record(
        &mut self,
        record: crate::port::log::Record,
        now: Timestamp,
        out: &mut Vec<Action>,
    ) {
        let (offset, accepted_at) = (record.offset, record.accepted_at);
        self.journal.read_at = Some(accepted_at);
        match record.body {
            RecordBody::Task(submitted) => {
                let task = Task::accepted(offset, accepted_at, submitted, now);
                let key = task
                    .options()
                    .and_then(|options| options.idempotency_key.clone());
                let mut entry = Entry::new(task);
                if key.is_some() {
                    entry.hold = Hold::Key;
                }
                let at = self.insert(entry, now);
                self.window.note_changed(at, true);
                self.join_key(at);
                match key {
                    Some(key) => self.check_key(at, offset, key, now, out),
                    None => self.place(at, now),
                }
            }
            RecordBody::Malformed { reason, head } => {
                let submitted = crate::port::log::NewTask {
                    data: head,
                    options: None,
                    traceparent: None,
                };
                let task = Task::accepted(offset, accepted_at, submitted, now);
                let mut entry = Entry::new(task);
                entry.task.discard_malformed(&reason, now);
                let at = self.insert(entry, now);
                self.window.note_changed(at, true);
                self.save_later(at);
            }
        }
    }

    /// Puts a task into memory; one from before the claim waits for its worker while adoption lasts.
    fn insert(&mut self, mut entry: Entry, now: Timestamp) -> SlotRef {
        let waits = matches!(
            entry.task.state,
            State::Available | State::Scheduled { .. } | State::Retryable { .. }
        );
        let is_free = waits && entry.hold == Hold::None;
        let adopts = is_free && entry.task.offset < self.claimed_end && now < self.adopt_until;
        if adopts {
            entry.hold = Hold::Adoption;
        }
        let at = self.window.insert(entry);
        if adopts {
            self.adopting.push_back(at);
        }
        at
    }

    /// Does what time asks for. Without `proven` membership no lease is judged.
    pub fn tick(&mut self, now: Timestamp, proven: bool, out: &mut Vec<Action>) {
        if now >= self.adopt_until {
            self.end_adoption(now);
        }
        if proven {
            while let Some(slot) = self.timers.pop(now) {
                let at = self.window.at(slot);
                if let Err(_refused) = self.fire(at, now, out) {
                    // A renewed lease or a task that waits longer: its real deadline is armed instead.
                    self.place(at, now);
                }
            }
        }
        self.ready.refill(&self.limits.group, now);
        self.find_again(now, out);
        self.read_due(now, out);
        self.trim_log(now, out);
    }

    /// The time has come that a task waits for.
    fn fire(&mut self, at: SlotRef, now: Timestamp, out: &mut Vec<Action>) -> Result<(), Refusal> {
        let entry = self.window.get_mut(at);
        if let Some(entry) = entry
            && let State::Scheduled { due_at } | State::Retryable { due_at } = entry.task.state
        {
            entry.since = due_at.min(now);
        }
        self.transition(at, Event::TimerFired, None, now, out)
    }

    fn end_adoption(&mut self, now: Timestamp) {
        for at in std::mem::take(&mut self.adopting) {
            if let Some(entry) = self.window.get(at)
                && entry.hold == Hold::Adoption
            {
                self.window.set_hold(at, Hold::None);
                self.place(at, now);
            }
        }
    }

    /// When [`tick`](Self::tick) has something to do next, at the latest.
    #[must_use]
    pub fn wake_at(&self) -> Option<Timestamp> {
        let adoption = (!self.adopting.is_empty()).then_some(self.adopt_until);
        let due = self
            .due
            .wake_at(!self.is_full && !self.cancels.is_reading());
        let keys = (!self.unfound.is_empty()).then_some(self.find_at);
        let timers = self.timers.next_at();
        let starts = self.start_at();
        let (groups, order) = (self.ready.refill_at(), self.order.wake_at());
        let trim = self.trim.wake_at();
        let sweep = self.cancels.wake_at();
        let wakes = [
            timers, adoption, due, keys, starts, groups, order, trim, sweep,
        ];
        wakes.into_iter().flatten().min()
    }

    /// When tasks can start again that wait for time alone. Nothing once that time has been seen.
    fn start_at(&self) -> Option<Timestamp> {
        if self.ready.len() == 0 {
            return None;
        }
        let seen = self.timers.now();
        let probe = self.outage.wake_at();
        let opens_at = match self.gauge.closed(&self.limits.all, seen) {
            Some(Closed::Until(at)) => Some(probe.map_or(at, |probe| probe.max(at))),
            Some(Closed::Full(_)) => None,
            None => probe,
        };
        opens_at.filter(|at| *at > seen)
    }
}

/// The credits of one shard of a pipeline.
fn credits_of(pipeline: &crate::Pipeline, config: &Config) -> u32 {
    (config.discard_credits / u32::from(pipeline.spec.n_partitions)).max(1)
}
