//! Reading what the store has of a key: the tasks that go next, and those that hold it, wherever they lie.

use super::{LINE_MAX, Line, Order};
use crate::{
    Offset, Timestamp,
    action::Action,
    port::store::{KeyedPage, KeyedTasks, Parked, StoredState, StoredTask},
    shard::Shard,
    task::OrderingKey,
};

/// Bytes of one page of a key's tasks.
const PAGE_BYTES_MAX: usize = 1 << 20;
/// How long to wait after a page could not be read.
const PAGE_RETRY: std::time::Duration = std::time::Duration::from_secs(1);

/// A page that is being read, and what happens meanwhile.
#[derive(Debug)]
pub(super) struct Reading {
    from: Offset,
    /// Only what holds the key is taken, since the tasks that go next are here.
    is_survey: bool,
    /// A task of the key ended or went on, so the page may show it as it was before.
    pub(super) is_stale: bool,
    /// The first task that was parked meanwhile.
    pub(super) parked: Option<Offset>,
}

/// What a line waits for that has no task to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// The tasks that go next, from this offset of the store on.
    Page(Offset),
    /// The tasks that hold the key, from this offset of the store on.
    Survey(Offset),
    /// That the log is read past this offset.
    Log(Offset),
    /// Its own tasks.
    Nothing,
}

impl Line {
    pub(super) fn need(&self, read_to: Offset) -> Need {
        if !self.is_free() {
            return Need::Nothing;
        }
        let first = self.waiting.first_key_value().map(|(first, _)| *first);
        let is_unknown = first.is_none_or(|first| !self.is_known(first));
        // The store is read where the line has moved up to it.
        match (self.rest, self.unsurveyed) {
            (Some(from), _) if is_unknown && from >= read_to => Need::Log(from),
            (Some(from), _) if is_unknown => Need::Page(from),
            (_, Some(from)) => Need::Survey(from),
            _ => Need::Nothing,
        }
    }
}

impl Order {
    /// How many tasks and bytes may come with the pages that are being read.
    pub(in crate::shard) fn coming(&self) -> (usize, usize) {
        (self.n_pages * LINE_MAX, self.n_pages * PAGE_BYTES_MAX)
    }
}

impl Shard {
    /// Reads a page of a line, unless that is done already or must wait: pages take room, and only one may take what is
    /// not there.
    pub(super) fn read_line(
        &mut self,
        key: &OrderingKey,
        from: Offset,
        is_survey: bool,
        out: &mut Vec<Action>,
    ) {
        let (n_free, bytes_free) = self.room();
        let fits = LINE_MAX <= n_free && PAGE_BYTES_MAX <= bytes_free;
        let has_room = self.order.n_pages == 0 || fits;
        let Some(line) = self.order.lines.get_mut(key) else {
            return;
        };
        if line.reading.is_some() || self.order.unread.contains(key) {
            return;
        }
        if !has_room {
            self.order.delayed.insert(key.clone());
            return;
        }
        line.reading = Some(Reading {
            from,
            is_survey,
            is_stale: false,
            parked: None,
        });
        self.order.n_pages += 1;
        let page = KeyedPage {
            shard: self.id,
            key: key.clone(),
            from,
            n_max: LINE_MAX,
            bytes_max: PAGE_BYTES_MAX,
        };
        out.push(Action::ReadKeyed(self.epoch, page));
    }

    /// Takes the tasks of a key that wait in the store; `None` if they could not be read.
    pub fn keyed_read(&mut self, key: &OrderingKey, page: Option<KeyedTasks>, now: Timestamp) {
        let Some(line) = self.order.lines.get_mut(key) else {
            return;
        };
        let Some(reading) = line.reading.take() else {
            return;
        };
        self.order.n_pages -= 1;
        self.order.stirred.append(&mut self.order.delayed);
        let Some(page) = page else {
            self.order.unread.insert(key.clone());
            self.order.read_at = now + PAGE_RETRY;
            return;
        };
        self.order.stirred.insert(key.clone());
        if reading.is_stale {
            return;
        }
        if !reading.is_survey {
            line.rest = page.next.into_iter().chain(reading.parked).min();
        }
        if line.unsurveyed == Some(reading.from) {
            line.unsurveyed = page.next;
        }
        for stored in page.tasks {
            if !reading.is_survey || stored.started_at.is_some() {
                self.take_keyed(key, stored, now);
            }
        }
    }

    fn take_keyed(&mut self, key: &OrderingKey, stored: StoredTask, now: Timestamp) {
        let (offset, started) = (stored.offset, stored.started_at.is_some());
        if self.window.contains(offset) {
            return;
        }
        let comes_back = matches!(
            stored.state,
            StoredState::Parked {
                kind: Parked::Retryable | Parked::Scheduled,
                ..
            }
        );
        if comes_back && started {
            // It holds the key from where it is, and comes back when it is due.
            self.order.line(key).holding.insert(offset);
        } else if matches!(stored.state, StoredState::Parked { .. }) {
            let at = self.insert_stored(stored, now);
            self.place(at, now);
        }
    }
}
