//! Records that were sent together, and the answers that come back one by one.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use scheduler_core::port::{PortError, log::Appended};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit},
    time::Instant,
};

use super::OPERATION;
use crate::error::{unavailable, unknown};

type Answer = Result<Appended, PortError>;
/// Room in the queue; given back when dropped.
pub(super) type Room = (OwnedSemaphorePermit, OwnedSemaphorePermit);

/// Some records, until the last of them is answered.
#[derive(Debug)]
pub(super) struct Batch {
    state: Mutex<State>,
    n_missing: AtomicUsize,
    done: Notify,
}

#[derive(Debug)]
struct State {
    answers: Vec<Option<Answer>>,
    room: Option<Room>,
}

impl Batch {
    pub(super) fn new(n: usize) -> Self {
        let answers = (0..n).map(|_| None).collect();
        Self {
            state: Mutex::new(State {
                answers,
                room: None,
            }),
            n_missing: AtomicUsize::new(n),
            done: Notify::new(),
        }
    }

    /// Keeps the room until all are answered, also if nobody waits for that any more.
    pub(super) fn occupy(&self, room: Room) {
        self.lock().room = Some(room);
    }

    pub(super) fn refuse_all(&self, why: &str) {
        let mut state = self.lock();
        for answer in &mut state.answers {
            *answer = Some(Err(unavailable(OPERATION, why.to_owned())));
        }
        state.room = None;
        drop(state);
        self.n_missing.store(0, Ordering::Release);
        self.done.notify_waiters();
    }

    fn answer(&self, index: usize, answer: Answer) {
        if let Some(place) = self.lock().answers.get_mut(index) {
            *place = Some(answer);
        }
        if self.n_missing.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.lock().room = None;
            self.done.notify_waiters();
        }
    }

    /// Waits for the answers. What is not answered by the deadline is unknown.
    pub(super) async fn answers(&self, deadline: Instant) -> Vec<Answer> {
        loop {
            let mut done = std::pin::pin!(self.done.notified());
            done.as_mut().enable();
            if self.n_missing.load(Ordering::Acquire) == 0 {
                break;
            }
            if tokio::time::timeout_at(deadline, done).await.is_err() {
                break;
            }
        }
        let answers = self
            .lock()
            .answers
            .iter_mut()
            .map(Option::take)
            .collect::<Vec<_>>();
        let late = || Err(unknown(OPERATION, "Kafka did not answer in time"));
        answers
            .into_iter()
            .map(|answer| answer.unwrap_or_else(late))
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One record on its way. If it is lost on it, it counts as unknown.
#[derive(Debug)]
pub(super) struct Pending {
    batch: Arc<Batch>,
    index: usize,
    is_answered: bool,
}

impl Pending {
    pub(super) fn new(batch: &Arc<Batch>, index: usize) -> Self {
        Self {
            batch: Arc::clone(batch),
            index,
            is_answered: false,
        }
    }

    pub(super) fn answer(mut self, answer: Answer) {
        self.is_answered = true;
        self.batch.answer(self.index, answer);
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.is_answered {
            let lost = unknown(OPERATION, "the record was given up on its way");
            self.batch.answer(self.index, Err(lost));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use scheduler_core::{Offset, Timestamp, port::FailureKind};
    use tokio::sync::Semaphore;

    use super::*;

    fn appended(offset: u64) -> Answer {
        Ok(Appended {
            offset: Offset(offset),
            accepted_at: Timestamp::EPOCH,
        })
    }

    #[tokio::test]
    async fn answers_keep_their_order_and_give_the_room_back() {
        let room = Arc::new(Semaphore::new(8));
        let batch = Arc::new(Batch::new(3));
        let permits = || Arc::clone(&room).try_acquire_many_owned(2).unwrap();
        batch.occupy((permits(), permits()));
        let pending = [0, 1, 2].map(|index| Box::new(Pending::new(&batch, index)));
        let [first, second, third] = pending;
        third.answer(appended(3));
        first.answer(appended(1));
        assert_eq!(room.available_permits(), 4);
        drop(second);
        assert_eq!(room.available_permits(), 8);
        let answers = batch.answers(Instant::now()).await;
        let kinds: Vec<_> = answers
            .into_iter()
            .map(|answer| {
                answer
                    .map(|appended| appended.offset.0)
                    .map_err(|err| err.kind())
            })
            .collect();
        assert_eq!(kinds, [Ok(1), Err(FailureKind::Unknown), Ok(3)]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_answered_in_time_is_unknown() {
        let batch = Arc::new(Batch::new(1));
        let late = Box::new(Pending::new(&batch, 0));
        let answers = batch.answers(Instant::now() + Duration::from_secs(1)).await;
        assert!(matches!(&answers[..], [Err(err)] if err.kind() == FailureKind::Unknown));
        late.answer(appended(1));
    }
}
