//! Lending the credit of workers to the shards of their pipeline.

use std::collections::{BTreeSet, VecDeque};

use rustc_hash::{FxHashMap, FxHashSet};

use super::Member;
use crate::{
    Error, LeaseLost, PipelineNumber, ShardId, Timestamp, WorkerId,
    action::{Action, Answer, CallId},
    call::{Held, Leased, Poll},
    shard::Credit,
};

/// A poll that waits.
#[derive(Debug)]
struct Waiting {
    pipeline: PipelineNumber,
    poll: Poll,
    until: Timestamp,
}

/// The polls of one pipeline, and where the next grant looks first.
#[derive(Debug, Default)]
struct Queue {
    /// In the order in which they came; those that are gone are skipped.
    polls: VecDeque<CallId>,
    n_waiting: usize,
    /// With those that only listen.
    n_all: usize,
    /// Shards that may have something ready, each at most once.
    ready: VecDeque<ShardId>,
    in_ready: FxHashSet<ShardId>,
}

/// Polls that wait, and who is told of lost leases.
#[derive(Debug, Default)]
pub(super) struct Dispatcher {
    waiting: FxHashMap<CallId, Waiting>,
    queues: FxHashMap<PipelineNumber, Queue>,
    deadlines: BTreeSet<(Timestamp, CallId)>,
    /// Which poll named a lease as held.
    listeners: FxHashMap<Held, CallId>,
}

impl Dispatcher {
    pub(super) fn wake_at(&self) -> Option<Timestamp> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Takes a poll out, whoever answers it.
    fn take(&mut self, call: CallId) -> Option<Waiting> {
        let waiting = self.waiting.remove(&call)?;
        self.deadlines.remove(&(waiting.until, call));
        for held in &waiting.poll.held {
            if self.listeners.get(held) == Some(&call) {
                self.listeners.remove(held);
            }
        }
        if let Some(queue) = self.queues.get_mut(&waiting.pipeline) {
            queue.n_all -= 1;
            queue.n_waiting -= usize::from(waiting.poll.credit > 0);
            if queue.polls.len() > 2 * queue.n_waiting + 64 {
                let waiting = &self.waiting;
                queue.polls.retain(|call| waiting.contains_key(call));
            }
        }
        Some(waiting)
    }

    pub(super) fn gone(&mut self, call: CallId) {
        self.take(call);
    }

    fn add(&mut self, call: CallId, waiting: Waiting) {
        self.deadlines.insert((waiting.until, call));
        for held in &waiting.poll.held {
            self.listeners.insert(*held, call);
        }
        let queue = self.queues.entry(waiting.pipeline).or_default();
        queue.n_all += 1;
        if waiting.poll.credit > 0 {
            queue.polls.push_back(call);
            queue.n_waiting += 1;
        }
        self.waiting.insert(call, waiting);
    }

    fn note_ready(&mut self, id: ShardId) {
        let queue = self.queues.entry(id.pipeline).or_default();
        if queue.in_ready.insert(id) {
            queue.ready.push_back(id);
        }
    }

    fn next_ready(&mut self, pipeline: PipelineNumber) -> Option<ShardId> {
        let queue = self.queues.get_mut(&pipeline)?;
        let id = queue.ready.pop_front()?;
        queue.in_ready.remove(&id);
        Some(id)
    }

    /// The leases of a shard that waiting polls named, and who holds them.
    pub(super) fn held_in(&self, id: ShardId) -> Vec<(Held, WorkerId)> {
        let mut held: Vec<_> = self
            .listeners
            .iter()
            .filter(|(held, _)| held.id.shard == id)
            .filter_map(|(held, call)| {
                let waiting = self.waiting.get(call)?;
                Some((*held, waiting.poll.worker.clone()))
            })
            .collect();
        held.sort_unstable_by_key(|(held, _)| (held.id, held.token));
        held
    }

    pub(super) fn drop_pipeline(&mut self, pipeline: PipelineNumber) -> Vec<CallId> {
        self.queues.remove(&pipeline);
        let calls: Vec<_> = self
            .waiting
            .iter()
            .filter(|(_, waiting)| waiting.pipeline == pipeline)
            .map(|(call, _)| *call)
            .collect();
        for call in &calls {
            self.take(*call);
        }
        calls
    }
}

impl Member {
    /// Takes a poll; it is answered in this turn's dispatch, or later.
    pub(super) fn poll(
        &mut self,
        call: CallId,
        pipeline: PipelineNumber,
        poll: Poll,
        now: Timestamp,
        out: &mut Vec<Action>,
    ) {
        let refuse = |error: Error| Answer::Leased(Err(error));
        if !self.pipelines.contains_key(&pipeline) {
            let error = Error::not_found("pipeline", pipeline.0);
            out.push(Action::Answer(call, 0, refuse(error)));
            return;
        }
        let n_waiting = self
            .dispatcher
            .queues
            .get(&pipeline)
            .map_or(0, |queue| queue.n_all);
        if n_waiting >= self.config.pollers_max {
            let error = Error::Overloaded {
                what: "pollers_max".into(),
                retry_after: std::time::Duration::from_secs(1),
            };
            out.push(Action::Answer(call, 0, refuse(error)));
            return;
        }
        let until = now + poll.wait.min(self.config.poll_wait_max);
        let (held, worker) = (poll.held.clone(), poll.worker.clone());
        let waiting = Waiting {
            pipeline,
            poll,
            until,
        };
        self.dispatcher.add(call, waiting);
        for held in held {
            if self.shards.contains_key(&held.id.shard) {
                let worker = worker.clone();
                self.with_shard(held.id.shard, |shard| shard.declare(held, worker, now, out));
            }
        }
    }

    /// Lets polls meet tasks, and ends those whose time has come.
    pub(super) fn dispatch(&mut self, now: Timestamp, proven: bool, out: &mut Vec<Action>) {
        let touched = std::mem::take(&mut self.touched);
        for &id in &touched {
            if let Some(shard) = self.shards.get_mut(&id)
                && shard.has_ready()
            {
                self.dispatcher.note_ready(id);
            }
        }
        self.touched = touched;
        if proven && !self.stopping {
            let hot: Vec<_> = self
                .dispatcher
                .queues
                .iter()
                .filter(|(_, queue)| queue.n_waiting > 0 && !queue.ready.is_empty())
                .map(|(pipeline, _)| *pipeline)
                .collect();
            for pipeline in hot {
                self.serve(pipeline, now, out);
            }
        }
        self.end_polls(now, out);
    }

    fn serve(&mut self, pipeline: PipelineNumber, now: Timestamp, out: &mut Vec<Action>) {
        while let Some(queue) = self.dispatcher.queues.get_mut(&pipeline) {
            if queue.ready.is_empty() {
                return;
            }
            let Some(call) = queue.polls.pop_front() else {
                return;
            };
            let Some(waiting) = self.dispatcher.waiting.get(&call) else {
                continue;
            };
            let worker = waiting.poll.worker.clone();
            let mut credit = Credit {
                n: waiting.poll.credit,
                n_bytes: waiting.poll.bytes_max,
            };
            let mut granted = Vec::new();
            // Each shard gives what it can; the next poll starts with the next shard.
            while credit.n > 0
                && let Some(id) = self.dispatcher.next_ready(pipeline)
            {
                if self.ownership.is_releasing(id) {
                    continue;
                }
                let mut still_ready = false;
                self.with_shard(id, |shard| {
                    shard.grant(&worker, &mut credit, now, &mut granted, out);
                    still_ready = shard.has_ready();
                });
                if still_ready {
                    self.dispatcher.note_ready(id);
                    break;
                }
            }
            if granted.is_empty() {
                if let Some(queue) = self.dispatcher.queues.get_mut(&pipeline) {
                    queue.polls.push_front(call);
                }
                return;
            }
            self.dispatcher.take(call);
            let leased = Leased {
                tasks: granted,
                lost: Vec::new(),
            };
            out.push(Action::Answer(call, 0, Answer::Leased(Ok(leased))));
        }
    }

    fn end_polls(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        while let Some(&(until, call)) = self.dispatcher.deadlines.first() {
            if until > now && !self.stopping {
                return;
            }
            self.dispatcher.take(call);
            out.push(Action::Answer(
                call,
                0,
                Answer::Leased(Ok(Leased::default())),
            ));
        }
    }

    /// Answers the polls that named leases which were lost in this turn.
    pub(super) fn tell_lost_leases(&mut self, out: &mut Vec<Action>) {
        let mut lost: FxHashMap<CallId, Vec<(Held, LeaseLost)>> = FxHashMap::default();
        out.retain(|action| match action {
            Action::LeaseEnded(held, why) => {
                if let Some(call) = self.dispatcher.listeners.get(held) {
                    lost.entry(*call).or_default().push((*held, *why));
                }
                false
            }
            _ => true,
        });
        let mut lost: Vec<_> = lost.into_iter().collect();
        lost.sort_unstable_by_key(|(call, _)| *call);
        for (call, lost) in lost {
            self.dispatcher.take(call);
            let leased = Leased {
                tasks: Vec::new(),
                lost,
            };
            out.push(Action::Answer(call, 0, Answer::Leased(Ok(leased))));
        }
    }
}
