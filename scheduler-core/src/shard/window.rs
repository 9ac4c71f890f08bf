//! The tasks of one shard that are in memory: a slab, found by offset.

use rustc_hash::FxHashMap;

use crate::{
    LeaseToken, Offset, StateName, Timestamp, WorkerId,
    survey::States,
    task::{
        AttemptError, GroupName,
        state::{State, Task},
    },
};

/// What stands between a task in memory and its turn, beside its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    /// Nothing.
    None,
    /// Whether its idempotency key makes it a repetition is not known yet.
    Key,
    /// A worker may hold it under a lease that an earlier owner granted.
    Adoption,
    /// Another task of its ordering key goes before it.
    Behind,
    /// It takes room that others could use: it goes to the store, and is looked at again then.
    Aside(Timestamp),
    /// A bulk cancel takes it: it is cancelled soon.
    Cancel,
}

/// As what a task in memory is counted, see [`Tally`](crate::explain::Tally).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Running,
    /// It has ended, and shows nothing else.
    Ended,
    Saving,
    Scheduled,
    Backoff,
    Repetition,
    Adoption,
    Aside,
    /// Another task of its ordering key goes first.
    Behind,
    /// Only limits, workers and others that go first are in its way.
    Free,
}

/// How many tasks stand how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Standings([usize; Standing::Free as usize + 1]);

impl Standings {
    pub(super) fn of(&self, standing: Standing) -> usize {
        self.0[standing as usize]
    }

    fn add(&mut self, standing: Standing) {
        self.0[standing as usize] += 1;
    }

    fn remove(&mut self, standing: Standing) {
        self.0[standing as usize] -= 1;
    }
}

/// What is shown of a task while its change is not durable: the state before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) name: StateName,
    pub(super) attempt: u32,
    pub(super) worker: Option<WorkerId>,
}

/// A task in memory and what the shard notes about it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) task: Task,
    pub(super) shown: Option<Shown>,
    pub(super) hold: Hold,
    /// The store has a row of it.
    pub(super) saved: bool,
    /// The row says that it can run.
    pub(super) saved_available: bool,
    /// It must be saved, and waits for the next flush.
    pub(super) dirty: bool,
    /// It is part of the flush in flight.
    pub(super) saving: bool,
    /// It is in the ready queue.
    pub(super) queued: bool,
    /// Since when it waits for its turn.
    pub(super) since: Timestamp,
    /// While it runs, the group whose limits count it.
    pub(super) counted_in: Option<GroupName>,
    /// While it runs, how many slots it takes, and whose.
    pub(super) cost: u16,
    pub(super) worker: Option<WorkerId>,
    /// When it last ran.
    pub(super) stopped_at: Timestamp,
    /// The bulk cancels up to this one have been asked whether they take it.
    pub(super) judged: u32,
    /// The bulk cancel that ended it, which counts it once that is saved.
    pub(super) cancelled_by: Option<u32>,
    /// The shard has counted its row among those with an ordering key.
    pub(super) key_stored: bool,
    /// The newest error that was noted.
    noted_error: (Timestamp, LeaseToken),
    /// As the window counted it.
    n_bytes: usize,
    counted_as: Standing,
    /// As it was shown when that was last looked at: its state and attempt.
    told: (StateName, u32),
}

/// What is shown of a task has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Changed {
    pub(super) offset: Offset,
    /// Its state and attempt; `None` if only its progress has.
    pub(super) to: Option<(StateName, u32)>,
}

impl Entry {
    pub(super) fn new(task: Task) -> Self {
        Self {
            since: task.accepted_at,
            counted_in: None,
            cost: 0,
            worker: None,
            stopped_at: Timestamp::EPOCH,
            noted_error: error_key(task.errors().last()),
            told: (task.state.name(), task.attempt),
            judged: 0,
            cancelled_by: None,
            key_stored: false,
            task,
            shown: None,
            hold: Hold::None,
            saved: false,
            saved_available: false,
            dirty: false,
            saving: false,
            queued: false,
            n_bytes: 0,
            counted_as: Standing::Free,
        }
    }

    /// Whether a change of it is not durable yet.
    pub(super) fn is_unsaved(&self) -> bool {
        self.dirty || self.saving
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(self.task.state, State::Available) && self.hold == Hold::None && !self.is_unsaved()
    }

    /// Its state and attempt as they are shown.
    pub(super) fn seen_as(&self) -> (StateName, u32) {
        let shown = self.shown.as_ref();
        shown.map_or((self.task.state.name(), self.task.attempt), |shown| {
            (shown.name, shown.attempt)
        })
    }

    /// Whether it is shown as running though it may not run any more.
    pub(super) fn was_running(&self) -> bool {
        let shown = self.shown.as_ref();
        shown.is_some_and(|shown| shown.name == StateName::Running)
    }

    /// Its newest error, if that was not taken before.
    pub(super) fn take_new_error(&mut self) -> Option<&AttemptError> {
        let newest = self.task.errors().last();
        let key = error_key(newest);
        let before = std::mem::replace(&mut self.noted_error, key);
        newest.filter(|_| key != before)
    }

    fn standing(&self) -> Standing {
        if self.shown.is_some() {
            return Standing::Saving;
        }
        match (&self.task.state, self.hold) {
            (State::Running(_), _) => Standing::Running,
            (State::Ended { .. }, _) => Standing::Ended,
            (State::Scheduled { .. }, _) => Standing::Scheduled,
            (State::Retryable { .. }, _) => Standing::Backoff,
            (State::Available, Hold::Cancel) => Standing::Saving,
            (State::Available, Hold::Key) => Standing::Repetition,
            (State::Available, Hold::Adoption) => Standing::Adoption,
            (State::Available, Hold::Aside(_)) => Standing::Aside,
            (State::Available, Hold::Behind) => Standing::Behind,
            (State::Available, Hold::None) => Standing::Free,
        }
    }
}

fn error_key(error: Option<&AttemptError>) -> (Timestamp, LeaseToken) {
    error.map_or((Timestamp::EPOCH, LeaseToken::NONE), |error| {
        (error.at, error.token)
    })
}

/// Where an entry is; outdated once the entry has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SlotRef {
    pub(super) slot: u32,
    generation: u32,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    entry: Option<Entry>,
}

/// The tasks of one shard in memory.
#[derive(Debug, Default)]
pub(super) struct Window {
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_offset: FxHashMap<Offset, u32>,
    n_bytes: usize,
    standings: Standings,
    /// How many are shown in each state.
    states: [u64; StateName::ALL.len()],
    /// Whether changes are noted.
    is_watched: bool,
    changed: Vec<Changed>,
}

impl Window {
    pub(super) fn len(&self) -> usize {
        self.by_offset.len()
    }

    /// Bytes of data, options, errors, progress and results.
    pub(super) fn n_bytes(&self) -> usize {
        self.n_bytes
    }

    /// How many tasks stand how.
    pub(super) fn standings(&self) -> &Standings {
        &self.standings
    }

    /// How many are shown in each state.
    pub(super) fn states(&self) -> States {
        let states = StateName::ALL.into_iter().zip(self.states);
        states.filter(|(_, n)| *n > 0).collect()
    }

    /// Notes changes, or no longer.
    pub(super) fn watch(&mut self, is_watched: bool) {
        self.is_watched = is_watched;
    }

    /// What has changed since this was last asked.
    pub(super) fn take_changed(&mut self) -> Vec<Changed> {
        std::mem::take(&mut self.changed)
    }

    /// Notes a task that is new, or what it said of its progress.
    pub(super) fn note_changed(&mut self, at: SlotRef, is_new: bool) {
        if self.is_watched
            && let Some(entry) = self.get(at)
        {
            let (offset, to) = (entry.task.offset, is_new.then_some(entry.told));
            self.changed.push(Changed { offset, to });
        }
    }

    pub(super) fn contains(&self, offset: Offset) -> bool {
        self.by_offset.contains_key(&offset)
    }

    pub(super) fn find(&self, offset: Offset) -> Option<SlotRef> {
        let slot = *self.by_offset.get(&offset)?;
        Some(self.at(slot))
    }

    /// A reference to whatever is in a slot now.
    pub(super) fn at(&self, slot: u32) -> SlotRef {
        let generation = self.slots[slot as usize].generation;
        SlotRef { slot, generation }
    }

    pub(super) fn get(&self, at: SlotRef) -> Option<&Entry> {
        let slot = self.slots.get(at.slot as usize)?;
        (slot.generation == at.generation)
            .then_some(slot.entry.as_ref())
            .flatten()
    }

    pub(super) fn get_mut(&mut self, at: SlotRef) -> Option<&mut Entry> {
        let slot = self.slots.get_mut(at.slot as usize)?;
        (slot.generation == at.generation)
            .then_some(slot.entry.as_mut())
            .flatten()
    }

    pub(super) fn insert(&mut self, mut entry: Entry) -> SlotRef {
        let offset = entry.task.offset;
        entry.n_bytes = entry.task.n_bytes();
        self.n_bytes += entry.n_bytes;
        entry.counted_as = entry.standing();
        self.standings.add(entry.counted_as);
        entry.told = entry.seen_as();
        self.states[entry.told.0 as usize] += 1;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                generation: 0,
                entry: None,
            });
            #[expect(clippy::cast_possible_truncation, reason = "windows are limited")]
            let last = (self.slots.len() - 1) as u32;
            last
        });
        self.slots[slot as usize].entry = Some(entry);
        self.by_offset.insert(offset, slot);
        self.at(slot)
    }

    pub(super) fn remove(&mut self, at: SlotRef) -> Option<Entry> {
        let slot = self.slots.get_mut(at.slot as usize)?;
        if slot.generation != at.generation {
            return None;
        }
        let entry = slot.entry.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(at.slot);
        let offset = entry.task.offset;
        self.by_offset.remove(&offset);
        self.n_bytes -= entry.n_bytes;
        self.standings.remove(entry.counted_as);
        self.states[entry.told.0 as usize] -= 1;
        let seen_as = entry.seen_as();
        if self.is_watched && seen_as != entry.told {
            let to = Some(seen_as);
            self.changed.push(Changed { offset, to });
        }
        Some(entry)
    }

    /// Says what stands between a task and its turn.
    pub(super) fn set_hold(&mut self, at: SlotRef, hold: Hold) {
        if let Some(entry) = self.get_mut(at) {
            entry.hold = hold;
            self.stand(at);
        }
    }

    /// Counts a task as what it is, after its state, its hold or what is shown of it has changed.
    pub(super) fn stand(&mut self, at: SlotRef) {
        let is_watched = self.is_watched;
        if let Some(entry) = self.get_mut(at) {
            let standing = entry.standing();
            let before = std::mem::replace(&mut entry.counted_as, standing);
            let seen_as = entry.seen_as();
            let told = std::mem::replace(&mut entry.told, seen_as);
            let offset = entry.task.offset;
            self.standings.remove(before);
            self.standings.add(standing);
            self.states[told.0 as usize] -= 1;
            self.states[seen_as.0 as usize] += 1;
            if is_watched && seen_as != told {
                let to = Some(seen_as);
                self.changed.push(Changed { offset, to });
            }
        }
    }

    /// Counts a task that has changed, and its bytes.
    pub(super) fn recount(&mut self, at: SlotRef) {
        if let Some(entry) = self.get_mut(at) {
            let n_bytes = entry.task.n_bytes();
            let before = std::mem::replace(&mut entry.n_bytes, n_bytes);
            self.n_bytes = self.n_bytes - before + n_bytes;
        }
        self.stand(at);
    }

    /// Where all tasks are, in no order that means anything.
    pub(super) fn refs(&self) -> impl Iterator<Item = (Offset, SlotRef)> {
        let slots = self.by_offset.iter();
        slots.map(|(offset, slot)| (*offset, self.at(*slot)))
    }

    /// All entries, in no order that means anything.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.slots.iter().filter_map(|slot| slot.entry.as_ref())
    }
}
