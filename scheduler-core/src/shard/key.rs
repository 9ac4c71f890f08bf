//! Idempotency keys: repeated submits with one key are one task, whoever appended how many records.
//!
//! A key stands for one offset as soon as that is saved under the shard's epoch, and only then is
//! anyone told. Another record with the same key, from a lost answer, an earlier owner or a plain
//! producer, never runs.

use std::time::Duration;

use super::{
    Shard,
    ack::Ack,
    window::{Hold, SlotRef},
};
use crate::{
    Error, IdempotencyKey, Offset, TaskId, Timestamp,
    action::{Action, Answer, CallId},
    port::{
        FailureKind,
        log::{Appended, NewTask},
        store::KeyRow,
    },
    task::{fnv1a, state::State},
};

/// How long to wait after a key could not be looked up.
const FIND_RETRY: Duration = Duration::from_secs(1);

/// Where the answer to "what does this key stand for" is.
#[derive(Debug)]
pub(super) enum KeyState {
    /// The store is asked.
    Finding(Waiting),
    /// It stands for nothing; a first task with it is being appended.
    Appending(Waiting),
    /// It stands for this task, which is being saved.
    Held {
        row: KeyRow,
        /// The task's record, if it was read: it goes on once the row is durable.
        first: Option<Record>,
    },
}

/// A record with a key: where it is in memory and in the log, and its fingerprint.
type Record = (SlotRef, Offset, u64);

/// Who waits to know.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    submits: Vec<KeyedSubmit>,
    /// Records with this key that were read: offset order.
    records: Vec<Record>,
}

#[derive(Debug)]
struct KeyedSubmit {
    to: CallId,
    fingerprint: u64,
    task: NewTask,
}

/// Tells whether two submits ask for the same: FNV-1a (64 bit) of the data. Stored, so it never changes.
#[must_use]
pub(super) fn fingerprint(data: &[u8]) -> u64 {
    fnv1a(data.iter().copied())
}

impl Shard {
    /// Takes a submit with an idempotency key; answered when what the key stands for is durable.
    pub fn submit_keyed(
        &mut self,
        to: CallId,
        key: IdempotencyKey,
        task: NewTask,
        out: &mut Vec<Action>,
    ) {
        let submit = KeyedSubmit {
            to,
            fingerprint: fingerprint(&task.data),
            task,
        };
        match self.keys.get_mut(&key) {
            Some(KeyState::Finding(waiting) | KeyState::Appending(waiting)) => {
                waiting.submits.push(submit);
            }
            Some(KeyState::Held { row, .. }) => {
                let row = row.clone();
                self.answer_submit(&submit, &row, true, false, out);
            }
            None => {
                let waiting = Waiting {
                    submits: vec![submit],
                    records: Vec::new(),
                };
                out.push(Action::FindKey(self.id, self.epoch, key.clone()));
                self.keys.insert(key, KeyState::Finding(waiting));
            }
        }
    }

    /// Finds out whether a record with a key, which is held back, is the first.
    pub(super) fn check_key(
        &mut self,
        at: SlotRef,
        offset: Offset,
        key: IdempotencyKey,
        now: Timestamp,
        out: &mut Vec<Action>,
    ) {
        let Some(entry) = self.window.get(at) else {
            return;
        };
        let fingerprint = fingerprint(&entry.task.submitted.data);
        let record = (at, offset, fingerprint);
        match self.keys.get_mut(&key) {
            Some(KeyState::Finding(waiting) | KeyState::Appending(waiting)) => {
                waiting.records.push(record);
            }
            Some(KeyState::Held { row, first }) if row.offset == offset => *first = Some(record),
            Some(KeyState::Held { .. }) => self.drop_record(record, now),
            None => {
                let waiting = Waiting {
                    submits: Vec::new(),
                    records: vec![record],
                };
                out.push(Action::FindKey(self.id, self.epoch, key.clone()));
                self.keys.insert(key, KeyState::Finding(waiting));
            }
        }
    }

    /// Takes what the store knows of a key; `Err` if it could not be asked.
    pub fn key_found(
        &mut self,
        key: &IdempotencyKey,
        found: Result<Option<KeyRow>, FailureKind>,
        now: Timestamp,
        out: &mut Vec<Action>,
    ) {
        let Some(KeyState::Finding(mut waiting)) = self.keys.remove(key) else {
            return;
        };
        match found {
            Ok(Some(row)) => self.known_key(&row, waiting, now, out),
            Ok(None) if !waiting.records.is_empty() => self.first_record(key, waiting, now, out),
            Ok(None) => {
                if let Some(first) = waiting.submits.first() {
                    out.push(Action::AppendKeyed(
                        self.id,
                        self.epoch,
                        key.clone(),
                        first.task.clone(),
                    ));
                    self.keys.insert(key.clone(), KeyState::Appending(waiting));
                }
            }
            Err(_) => {
                let what = "the store cannot be reached".to_owned();
                let retry_after = FIND_RETRY;
                answer_failed(&mut waiting, &Error::Unavailable { what, retry_after }, out);
                if !waiting.records.is_empty() {
                    // The records stay held back until the store answers.
                    self.keys.insert(key.clone(), KeyState::Finding(waiting));
                    self.unfound.push(key.clone());
                    self.find_at = now + FIND_RETRY;
                }
            }
        }
    }

    /// Asks again for keys that could not be found.
    pub(super) fn find_again(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        if now >= self.find_at {
            for key in std::mem::take(&mut self.unfound) {
                out.push(Action::FindKey(self.id, self.epoch, key));
            }
        }
    }

    /// Takes the answer of the log to the append of a keyed task.
    pub fn keyed_appended(
        &mut self,
        key: &IdempotencyKey,
        appended: Result<Appended, FailureKind>,
        now: Timestamp,
        out: &mut Vec<Action>,
    ) {
        let Some(KeyState::Appending(mut waiting)) = self.keys.remove(key) else {
            return;
        };
        match appended {
            Ok(appended) => {
                let earlier = waiting
                    .records
                    .iter()
                    .map(|record| (record.1, record.2))
                    .min();
                let own = waiting
                    .submits
                    .first()
                    .map(|submit| (appended.offset, submit.fingerprint));
                if let Some((offset, fingerprint)) = own.into_iter().chain(earlier).min() {
                    let row = self.key_row(key, offset, fingerprint, now);
                    let is_made = offset == appended.offset;
                    self.hold_key(row, is_made, waiting, now, out);
                }
            }
            Err(kind) => {
                answer_failed(&mut waiting, &Error::of_append(kind), out);
                if !waiting.records.is_empty() {
                    self.first_record(key, waiting, now, out);
                }
            }
        }
    }

    /// The first record that was read becomes what the key stands for.
    fn first_record(
        &mut self,
        key: &IdempotencyKey,
        waiting: Waiting,
        now: Timestamp,
        out: &mut Vec<Action>,
    ) {
        let first = waiting
            .records
            .iter()
            .map(|record| (record.1, record.2))
            .min();
        if let Some((offset, fingerprint)) = first {
            let row = self.key_row(key, offset, fingerprint, now);
            self.hold_key(row, false, waiting, now, out);
        }
    }

    fn key_row(
        &self,
        key: &IdempotencyKey,
        offset: Offset,
        fingerprint: u64,
        now: Timestamp,
    ) -> KeyRow {
        KeyRow {
            key: key.clone(),
            offset,
            fingerprint,
            keep_until: now + self.config.idempotency_window,
        }
    }

    /// The store knows the key already.
    fn known_key(&mut self, row: &KeyRow, waiting: Waiting, now: Timestamp, out: &mut Vec<Action>) {
        for record in waiting.records {
            if record.1 == row.offset {
                self.release_record(record, now);
            } else {
                self.drop_record(record, now);
            }
        }
        for submit in &waiting.submits {
            self.answer_submit(submit, row, true, true, out);
        }
    }

    /// The key stands for this task from now on; `is_made` if the first submit that waits made it.
    fn hold_key(
        &mut self,
        row: KeyRow,
        is_made: bool,
        waiting: Waiting,
        now: Timestamp,
        out: &mut Vec<Action>,
    ) {
        let mut first = None;
        for record in waiting.records {
            if record.1 == row.offset {
                first = Some(record);
            } else {
                self.drop_record(record, now);
            }
        }
        for (i, submit) in waiting.submits.iter().enumerate() {
            self.answer_submit(submit, &row, !is_made || i > 0, false, out);
        }
        self.saves.keys.push(row.clone());
        self.keys
            .insert(row.key.clone(), KeyState::Held { row, first });
    }

    /// The first record of a key goes on.
    fn release_record(&mut self, (at, offset, _): Record, now: Timestamp) {
        if self.window.get(at).is_some() {
            let adopts = offset < self.claimed_end && now < self.adopt_until;
            let hold = if adopts { Hold::Adoption } else { Hold::None };
            self.window.set_hold(at, hold);
            if adopts {
                self.adopting.push_back(at);
            }
        }
        self.place(at, now);
    }

    /// Any other record of a key never runs.
    fn drop_record(&mut self, (at, offset, _): Record, now: Timestamp) {
        if let Some(entry) = self.window.get(at)
            && !entry.is_unsaved()
        {
            let was_running = matches!(entry.task.state, State::Running(_));
            let key = self.key_of(at);
            if was_running {
                self.note_stopped(at, now);
            }
            if let Some(key) = &key {
                self.order.left(key, offset, true);
            }
            self.timers.disarm(at.slot);
            self.window.remove(at);
            self.watermark.mark(offset);
        }
    }

    fn answer_submit(
        &mut self,
        submit: &KeyedSubmit,
        row: &KeyRow,
        repeated: bool,
        saved: bool,
        out: &mut Vec<Action>,
    ) {
        let id = TaskId {
            shard: self.id,
            offset: row.offset,
        };
        if submit.fingerprint != row.fingerprint {
            let answer = Answer::Submitted(Err(Error::KeyReused(row.key.to_string())));
            out.push(Action::Answer(submit.to, 0, answer));
        } else if saved {
            out.push(Action::Answer(
                submit.to,
                0,
                Answer::Submitted(Ok((id, repeated))),
            ));
        } else {
            self.saves
                .key_acks
                .push(Ack::Submit(submit.to, id, repeated));
        }
    }

    /// Keys that are durable need no memory: the store knows them. Their tasks go on.
    pub(super) fn keys_saved(&mut self, rows: &[KeyRow], now: Timestamp) {
        for row in rows {
            if let Some(KeyState::Held { row: held, first }) = self.keys.get_mut(&row.key)
                && held.offset == row.offset
            {
                let first = first.take();
                self.keys.remove(&row.key);
                if let Some(record) = first {
                    self.release_record(record, now);
                }
            }
        }
    }

    /// Whether there is a record below `below` of which it is not known yet whether it is a task.
    pub(super) fn has_unknown_below(&self, below: Offset) -> bool {
        self.keys.values().any(|state| match state {
            KeyState::Finding(waiting) | KeyState::Appending(waiting) => {
                let mut records = waiting.records.iter();
                records.any(|(_, offset, _)| *offset < below)
            }
            KeyState::Held { first, .. } => first.is_some_and(|(_, offset, _)| offset < below),
        })
    }

    /// Gives up all submits that wait for a key.
    pub(super) fn abandon_keys(&mut self, out: &mut Vec<Action>) {
        for state in std::mem::take(&mut self.keys).into_values() {
            match state {
                KeyState::Finding(mut waiting) => {
                    answer_failed(&mut waiting, &Error::moved(), out);
                }
                KeyState::Appending(mut waiting) => {
                    answer_failed(&mut waiting, &Error::of_append(FailureKind::Unknown), out);
                }
                KeyState::Held { .. } => {}
            }
        }
    }
}

fn answer_failed(waiting: &mut Waiting, error: &Error, out: &mut Vec<Action>) {
    for submit in waiting.submits.drain(..) {
        let answer = Answer::Submitted(Err(error.clone()));
        out.push(Action::Answer(submit.to, 0, answer));
    }
}
