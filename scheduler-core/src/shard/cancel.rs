//! Bulk cancels: the rules of a shard, and how they reach its tasks.
//!
//! A task is judged before it can start: in memory when a rule is made, and whenever it comes into memory later. One
//! that a rule takes is *held*, and cancelled soon. Parked tasks are swept, in turn with those that are due.

use std::collections::VecDeque;

use rustc_hash::FxHashSet;

use super::{
    Shard,
    window::{Entry, Hold, SlotRef},
};
use crate::{
    Error, Offset, StateName, Timestamp,
    action::{Action, Answer, CallId},
    cancel::{CancelProgress, CancelRequest, CancelRule},
    port::store::{DuePage, DueTasks, StoredState, StoredTask},
    task::event::Event,
};

/// The most rules that are not over, and of all.
const LIVE_MAX: usize = 16;
const RULES_MAX: usize = 64;
/// How long a rule is known after it is over.
const KEPT: std::time::Duration = std::time::Duration::from_secs(3600);
/// The most tasks and bytes of one page of a sweep.
const PAGE_TASKS_MAX: usize = 1_024;
const PAGE_BYTES_MAX: usize = 4 << 20;
/// How long to wait after a page could not be read.
const PAGE_RETRY: std::time::Duration = std::time::Duration::from_secs(1);
/// When a caller should ask again that met too many rules.
const RETRY_AFTER: std::time::Duration = std::time::Duration::from_secs(10);

/// A rule, and what is known of it only here.
#[derive(Debug)]
struct Known {
    /// Counts the rules from 1 in the order in which this owner met them.
    number: u32,
    rule: CancelRule,
    /// As far as it is durable.
    saved: Option<CancelProgress>,
    /// Calls that wait until it is.
    waiting: Vec<CallId>,
    /// Tasks that it has taken and that are not saved yet.
    n_taken: usize,
    /// No parked task is left that it could take.
    is_swept: bool,
}

/// A look through all parked tasks.
#[derive(Debug)]
struct Sweep {
    from: (Timestamp, Offset),
    reading: Option<Reading>,
    /// When it goes on after a page that could not be read.
    retry_at: Option<Timestamp>,
}

/// A page that is being read, and what happens meanwhile.
#[derive(Debug, Default)]
struct Reading {
    /// The rules up to this one are served by it.
    number: u32,
    /// At most so many tasks and bytes come.
    coming: (usize, usize),
    /// Tasks that left memory meanwhile: the page may show them as they were before.
    left: FxHashSet<Offset>,
}

/// The rules of a shard.
#[derive(Debug)]
pub(super) struct Cancels {
    rules: Vec<Known>,
    /// The number of the newest rule.
    last: u32,
    /// Tasks that are held for the rule of this number.
    taken: VecDeque<(SlotRef, u32)>,
    sweep: Sweep,
    is_changed: bool,
}

impl Cancels {
    pub(super) fn new(rules: Vec<CancelRule>) -> Self {
        let mut cancels = Self {
            rules: Vec::new(),
            last: 0,
            taken: VecDeque::new(),
            sweep: Sweep {
                from: (Timestamp::EPOCH, Offset::ZERO),
                reading: None,
                retry_at: None,
            },
            is_changed: false,
        };
        for rule in rules {
            let progress = rule.progress();
            cancels.add(rule).saved = Some(progress);
        }
        cancels
    }

    fn add(&mut self, rule: CancelRule) -> &mut Known {
        self.last += 1;
        let at = self.rules.len();
        self.rules.push(Known {
            number: self.last,
            saved: None,
            waiting: Vec::new(),
            n_taken: 0,
            is_swept: false,
            rule,
        });
        &mut self.rules[at]
    }

    fn live(&self) -> impl Iterator<Item = &Known> {
        self.rules
            .iter()
            .filter(|known| known.rule.over_at.is_none())
    }

    fn is_idle(&self) -> bool {
        self.live().next().is_none()
    }

    fn get_mut(&mut self, number: u32) -> Option<&mut Known> {
        self.rules.iter_mut().find(|known| known.number == number)
    }

    /// Forgets what has been over for long, and more of it where there are too many.
    fn forget(&mut self, now: Timestamp) {
        let n = self.rules.len();
        let n_spare = n.saturating_sub(RULES_MAX - 1);
        let mut n_gone = 0;
        self.rules.retain(|known| {
            let is_old = |at: Timestamp| at + KEPT <= now || n_gone < n_spare;
            let goes = known.waiting.is_empty() && known.rule.over_at.is_some_and(is_old);
            n_gone += usize::from(goes);
            !goes
        });
        self.is_changed |= n_gone > 0;
    }

    /// A task that a rule has ended is part of the flush to come.
    pub(super) fn note_written(&mut self, number: u32) {
        if let Some(known) = self.get_mut(number) {
            known.n_taken -= 1;
            known.rule.n_cancelled += 1;
            self.is_changed = true;
        }
    }

    /// What the next flush says of them, if it says anything.
    pub(super) fn collect(&mut self) -> Option<Vec<CancelRule>> {
        let is_changed = std::mem::take(&mut self.is_changed);
        is_changed.then(|| self.rules.iter().map(|known| known.rule.clone()).collect())
    }

    pub(super) fn is_changed(&self) -> bool {
        self.is_changed
    }

    /// Whether someone waits for a flush.
    pub(super) fn is_awaited(&self) -> bool {
        self.is_changed && self.rules.iter().any(|known| !known.waiting.is_empty())
    }

    /// These are durable: tells who waited.
    pub(super) fn saved(&mut self, rules: &[CancelRule], out: &mut Vec<Action>) {
        for rule in rules {
            let known = self.rules.iter_mut().find(|known| known.rule.id == rule.id);
            if let Some(known) = known {
                let progress = rule.progress();
                known.saved = Some(progress);
                for call in known.waiting.drain(..) {
                    let answer = Answer::CancelledMany(Ok(progress));
                    out.push(Action::Answer(call, 0, answer));
                }
            }
        }
    }

    /// Another owner has the shard.
    pub(super) fn abandon(&mut self, out: &mut Vec<Action>) {
        for call in self
            .rules
            .iter_mut()
            .flat_map(|known| known.waiting.drain(..))
        {
            let answer = Answer::CancelledMany(Err(Error::moved()));
            out.push(Action::Answer(call, 0, answer));
        }
    }

    /// Notes that a task left memory, so that a page that is being read may show it as it was before.
    pub(super) fn left_memory(&mut self, offset: Offset) {
        if let Some(reading) = &mut self.sweep.reading {
            reading.left.insert(offset);
        }
    }

    /// How many tasks and bytes may come with the page that is being read.
    pub(super) fn coming(&self) -> (usize, usize) {
        let reading = self.sweep.reading.as_ref();
        reading.map_or((0, 0), |reading| reading.coming)
    }

    /// Whether a page of parked tasks is being read.
    pub(super) fn is_reading(&self) -> bool {
        self.sweep.reading.is_some()
    }

    /// When a sweep that failed goes on.
    pub(super) fn wake_at(&self) -> Option<Timestamp> {
        self.sweep.retry_at
    }

    /// The first live rule later than `judged` that takes a task.
    fn first(&self, judged: u32, entry: &Entry) -> Option<u32> {
        let task = &entry.task;
        let options = task.options().map(|options| &**options);
        let fits = |known: &&Known| {
            let rule = &known.rule;
            known.number > judged
                && rule.covers(task.offset, task.accepted_at, options)
                && rule.takes(task.state.name(), task.token, options)
                // Whether it runs somewhere shows only when adoption is over.
                && (entry.hold != Hold::Adoption || rule.filter.states.is_empty())
        };
        self.live().find(fits).map(|known| known.number)
    }

    /// Whether a live rule is about a task that would be available.
    fn covers(&self, entry: &Entry) -> bool {
        let task = &entry.task;
        let options = task.options().map(|options| &**options);
        self.live().any(|known| {
            known.rule.covers(task.offset, task.accepted_at, options)
                && known.rule.filter.takes(StateName::Available)
        })
    }
}

impl Shard {
    /// Cancels many tasks; answered when that is durable. A rule that is known by its id is not made again.
    pub fn cancel_many(
        &mut self,
        to: CallId,
        request: CancelRequest,
        now: Timestamp,
        out: &mut Vec<Action>,
    ) {
        let mut rules = self.cancels.rules.iter_mut();
        if let Some(known) = rules.find(|known| known.rule.id == request.id) {
            let refused = known.rule.filter != request.filter;
            let answer = match known.saved {
                _ if refused => Err(Error::WrongState(format!(
                    "bulk cancel {} has another filter; use a new id for another one",
                    request.id
                ))),
                Some(progress) => Ok(progress),
                None => return known.waiting.push(to),
            };
            out.push(Action::Answer(to, 0, Answer::CancelledMany(answer)));
            return;
        }
        self.cancels.forget(now);
        if self.cancels.live().count() >= LIVE_MAX {
            let refused = Error::Overloaded {
                what: "the list of bulk cancels of a partition".into(),
                retry_after: RETRY_AFTER,
            };
            out.push(Action::Answer(to, 0, Answer::CancelledMany(Err(refused))));
            return;
        }
        let known = self.cancels.add(CancelRule {
            id: request.id,
            filter: request.filter,
            default_group: self.rules.defaults.group.clone(),
            below: request.below,
            made_at: now,
            n_cancelled: 0,
            over_at: None,
        });
        known.waiting.push(to);
        self.cancels.is_changed = true;
        // From its begin, for this one too. What is being read is read again.
        self.cancels.sweep.from = (Timestamp::EPOCH, Offset::ZERO);
        let mut all: Vec<_> = self.window.refs().collect();
        all.sort_unstable_by_key(|(offset, _)| *offset);
        for (_, at) in all {
            self.take_for_cancel(at);
        }
    }

    /// Whether a task is held since a bulk cancel takes it: then it starts no more.
    pub(super) fn take_for_cancel(&mut self, at: SlotRef) -> bool {
        if self.cancels.is_idle() {
            return false;
        }
        let Some(entry) = self.window.get_mut(at) else {
            return false;
        };
        // Whether that is a task is not known yet.
        if entry.hold == Hold::Key || entry.judged >= self.cancels.last {
            return entry.hold == Hold::Cancel;
        }
        let first = self.cancels.first(entry.judged, entry);
        if entry.hold != Hold::Adoption || first.is_some() {
            entry.judged = self.cancels.last;
        }
        let Some(number) = first else {
            return false;
        };
        if let Hold::Aside(_) = entry.hold {
            self.n_aside -= 1;
        }
        self.window.set_hold(at, Hold::Cancel);
        self.cancels.taken.push_back((at, number));
        if let Some(known) = self.cancels.get_mut(number) {
            known.n_taken += 1;
        }
        true
    }

    /// Cancels what is held, as much as one flush takes, and sweeps on.
    pub(super) fn run_cancels(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        if self.cancels.is_idle() {
            return;
        }
        while self.n_urgent() < self.config.flush_tasks_max
            && let Some((at, number)) = self.cancels.taken.pop_front()
        {
            let is_cancelled = self.cancel_taken(at, number, now, out);
            if !is_cancelled && let Some(known) = self.cancels.get_mut(number) {
                known.n_taken -= 1;
            }
        }
        self.read_due(now, out);
        self.sweep(now, out);
        self.end_cancels(now);
    }

    /// False if it has ended by itself meanwhile.
    fn cancel_taken(
        &mut self,
        at: SlotRef,
        number: u32,
        now: Timestamp,
        out: &mut Vec<Action>,
    ) -> bool {
        let Some(entry) = self.window.get_mut(at) else {
            return false;
        };
        if entry.task.state.name().is_terminal() {
            return false;
        }
        entry.cancelled_by = Some(number);
        self.window.set_hold(at, Hold::None);
        // No state but an ended one refuses a cancel.
        self.transition(at, Event::CancelRequested, None, now, out)
            .is_ok()
    }

    /// Asks for parked tasks that a rule has not seen yet.
    fn sweep(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        let retry_at = &mut self.cancels.sweep.retry_at;
        if retry_at.is_some_and(|at| at > now) {
            return;
        }
        *retry_at = None;
        let cancels = &self.cancels;
        let is_swept = cancels.live().all(|known| known.is_swept);
        // Whether tasks run somewhere shows only when adoption is over.
        let must_wait = |known: &Known| !known.rule.filter.states.is_empty();
        let adopts = !self.adopting.is_empty() && cancels.live().any(must_wait);
        if is_swept
            || adopts
            || cancels.is_reading()
            || self.due.is_reading()
            || !cancels.taken.is_empty()
        {
            return;
        }
        let (n_free, bytes_free) = self.room();
        let page = DuePage {
            shard: self.id,
            from: cancels.sweep.from,
            until: Timestamp::NEVER,
            n_max: n_free.clamp(1, PAGE_TASKS_MAX),
            bytes_max: bytes_free.clamp(1, PAGE_BYTES_MAX),
        };
        self.cancels.sweep.reading = Some(Reading {
            number: self.cancels.last,
            coming: (page.n_max, page.bytes_max),
            left: FxHashSet::default(),
        });
        out.push(Action::ReadDue(self.epoch, page));
    }

    /// Takes a page of parked tasks, or notes that it could not be read.
    pub(super) fn swept(&mut self, page: Option<DueTasks>, now: Timestamp) {
        let Some(reading) = self.cancels.sweep.reading.take() else {
            return;
        };
        if reading.number != self.cancels.last {
            // A rule was made meanwhile, which begins at the begin.
            return;
        }
        let Some(page) = page else {
            self.cancels.sweep.retry_at = Some(now + PAGE_RETRY);
            return;
        };
        for stored in page.tasks {
            if let StoredState::Parked { due_at, .. } = stored.state {
                self.cancels.sweep.from = (due_at, stored.offset.next());
            }
            let is_new =
                !self.window.contains(stored.offset) && !reading.left.contains(&stored.offset);
            if is_new && self.is_covered(&stored) {
                let at = self.insert_stored(stored, now);
                self.place(at, now);
            }
        }
        if page.next_due_at.is_none() {
            for known in &mut self.cancels.rules {
                known.is_swept = true;
            }
        }
    }

    /// Whether a rule takes this task.
    fn is_covered(&self, stored: &StoredTask) -> bool {
        let options = stored.task.options.as_deref();
        self.cancels.live().any(|Known { rule, .. }| {
            rule.covers(stored.offset, stored.accepted_at, options)
                && rule.takes(stored.state.name(), stored.token, options)
        })
    }

    /// Notes which rules have no more to do.
    fn end_cancels(&mut self, now: Timestamp) {
        if !self.adopting.is_empty() {
            return;
        }
        let next_fetch = self.next_fetch;
        let is_done = |known: &Known| {
            known.rule.over_at.is_none()
                && known.is_swept
                && known.n_taken == 0
                && known.rule.below <= next_fetch
        };
        let done = self.cancels.rules.iter().filter(|known| is_done(known));
        let done = done.map(|known| (known.number, known.rule.below));
        for (number, below) in done.collect::<Vec<_>>() {
            if !self.has_unknown_below(below)
                && let Some(known) = self.cancels.get_mut(number)
            {
                known.rule.over_at = Some(now);
                self.cancels.is_changed = true;
            }
        }
    }

    /// Whether a bulk cancel that is not over would undo a redrive of this task.
    pub(super) fn is_being_cancelled(&self, at: SlotRef) -> bool {
        let entry = self.window.get(at);
        entry.is_some_and(|entry| self.cancels.covers(entry))
    }
}
