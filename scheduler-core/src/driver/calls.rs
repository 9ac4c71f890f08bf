//! Calls that wait for their answers.

use rustc_hash::FxHashMap;
use tokio::sync::oneshot;

use crate::{
    Error, TaskId,
    action::{Answer, CallId},
    call::LeasedTask,
    member::Event,
};

/// Where the answer goes.
pub(crate) type Reply = oneshot::Sender<Result<Vec<Answer>, Error>>;

#[derive(Debug)]
struct Pending {
    parts: Vec<Option<Answer>>,
    n_missing: u32,
    can_go: bool,
    reply: Reply,
}

/// Calls by id.
#[derive(Debug, Default)]
pub(super) struct Calls {
    pending: FxHashMap<CallId, Pending>,
    last: u64,
}

impl Calls {
    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn add(&mut self, n_parts: u32, can_go: bool, reply: Reply) -> CallId {
        self.last += 1;
        let id = CallId(self.last);
        let pending = Pending {
            parts: (0..n_parts).map(|_| None).collect(),
            n_missing: n_parts,
            can_go,
            reply,
        };
        self.pending.insert(id, pending);
        id
    }

    /// Takes one part of an answer; sends the answer off once it is whole. Gives back the tasks of a
    /// poll whose caller has gone.
    pub(super) fn answer(&mut self, id: CallId, part: u32, answer: Answer) -> Option<Event> {
        let pending = self.pending.get_mut(&id)?;
        let slot = pending.parts.get_mut(part as usize)?;
        if slot.replace(answer).is_none() {
            pending.n_missing -= 1;
        }
        if pending.n_missing > 0 {
            return None;
        }
        let pending = self.pending.remove(&id)?;
        let answers: Vec<Answer> = pending.parts.into_iter().flatten().collect();
        match pending.reply.send(Ok(answers)) {
            Ok(()) => None,
            Err(unsent) => ungranted(unsent.into_iter().flatten()),
        }
    }

    /// Polls and questions whose callers have gone.
    pub(super) fn gone(&mut self) -> Vec<CallId> {
        let gone: Vec<_> = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.can_go && pending.reply.is_closed())
            .map(|(id, _)| *id)
            .collect();
        for id in &gone {
            self.pending.remove(id);
        }
        gone
    }
}

/// Gives back the tasks of a poll's answer that nobody took.
pub(super) fn ungranted(answers: impl Iterator<Item = Answer>) -> Option<Event> {
    let tasks: Vec<LeasedTask> = answers
        .filter_map(|answer| match answer {
            Answer::Leased(Ok(leased)) => Some(leased.tasks),
            _ => None,
        })
        .flatten()
        .collect();
    (!tasks.is_empty()).then_some(Event::Ungranted(tasks))
}

/// Who waits for tasks to end, or to change.
#[derive(Debug, Default)]
pub(super) struct Watched {
    by_task: FxHashMap<TaskId, Vec<oneshot::Sender<()>>>,
    n: usize,
    /// How many there were after those that had gone were last swept out.
    n_swept: usize,
}

impl Watched {
    /// Beyond `n_max` nobody is taken: dropping `wake` tells so.
    pub(super) fn add(&mut self, id: TaskId, wake: oneshot::Sender<()>, n_max: usize) {
        if self.n >= n_max.min(2 * self.n_swept + 64) {
            self.n = 0;
            self.by_task.retain(|_, wakes| {
                wakes.retain(|wake| !wake.is_closed());
                self.n += wakes.len();
                !wakes.is_empty()
            });
            self.n_swept = self.n;
        }
        if self.n < n_max {
            self.n += 1;
            self.by_task.entry(id).or_default().push(wake);
        }
    }

    pub(super) fn wake(&mut self, ids: &[TaskId]) {
        if self.by_task.is_empty() {
            return;
        }
        for wakes in ids.iter().filter_map(|id| self.by_task.remove(id)) {
            self.n -= wakes.len();
            for wake in wakes {
                // Whoever no longer waits need not be woken.
                wake.send(()).ok();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Offset, Partition, PipelineNumber, ShardId};

    #[test]
    fn those_who_no_longer_wait_for_one_task_are_forgotten() {
        let shard = ShardId {
            pipeline: PipelineNumber(1),
            partition: Partition(0),
        };
        let id = TaskId {
            shard,
            offset: Offset(0),
        };
        let mut watched = Watched::default();
        let (wake, mut waits) = oneshot::channel();
        watched.add(id, wake, 1_000);
        for _ in 0..10_000 {
            watched.add(id, oneshot::channel().0, 1_000);
        }
        assert!(watched.by_task[&id].len() <= 128);
        watched.wake(&[id]);
        assert_eq!(waits.try_recv(), Ok(()));
        assert_eq!(watched.n, 0);
    }
}
