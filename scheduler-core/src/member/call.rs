//! Calls, and which shard takes them: one that is being claimed takes them when it is here.

use super::{Call, Deferred, Member};
use crate::{
    Error, ShardId, TaskId, Timestamp,
    action::{Action, Answer, CallId},
};

impl Member {
    pub(super) fn call(&mut self, id: CallId, call: Call, now: Timestamp, out: &mut Vec<Action>) {
        match call {
            Call::Poll(fleet, poll) => self.poll(id, fleet, poll, now, out),
            Call::Seek(sought, wait) => self.seek(id, sought, wait, now, out),
            Call::Report(reports) => {
                for (part, (held, outcome)) in (0..).zip(reports) {
                    let to = (id, part);
                    if self.shards.contains_key(&held.id.shard) {
                        self.with_shard(held.id.shard, now, |shard| {
                            shard.report(to, held, outcome, now, out);
                        });
                    } else {
                        let answer = Answer::Reported(Err(Error::moved()));
                        out.push(Action::Answer(id, part, answer));
                    }
                }
            }
            Call::Renew(heartbeats) => {
                for (part, (held, from_handler, progress)) in (0..).zip(heartbeats) {
                    let to = (id, part);
                    if self.shards.contains_key(&held.id.shard) {
                        self.with_shard(held.id.shard, now, |shard| {
                            shard.renew(to, held, from_handler, progress, now, out);
                        });
                    } else {
                        let answer = Answer::Renewed(Err(Error::moved()));
                        out.push(Action::Answer(id, part, answer));
                    }
                }
            }
            Call::Cancel(task) if self.shards.contains_key(&task.shard) => {
                self.with_shard(task.shard, now, |shard| {
                    shard.cancel(id, task.offset, now, out)
                });
            }
            Call::CancelMany(shard, request) if self.shards.contains_key(&shard) => {
                self.with_shard(shard, now, |shard| {
                    shard.cancel_many(id, request, now, out);
                });
            }
            Call::SubmitKeyed(shard, key, task) if self.shards.contains_key(&shard) => {
                self.with_shard(shard, now, |shard| shard.submit_keyed(id, key, task, out));
            }
            Call::Redrive(task) if self.shards.contains_key(&task.shard) => {
                self.with_shard(task.shard, now, |shard| {
                    shard.redrive(id, task.offset, now, out)
                });
            }
            Call::Cancel(TaskId { shard, .. })
            | Call::Redrive(TaskId { shard, .. })
            | Call::CancelMany(shard, _)
            | Call::SubmitKeyed(shard, ..) => {
                if self.ownership.is_coming(shard) && !self.stopping {
                    self.defer(shard, id, Deferred::Call(call));
                } else {
                    self.refuse_absent(id, &call, out);
                }
            }
            Call::See(tasks) => {
                for (part, task) in (0..).zip(tasks) {
                    if self.ownership.is_coming(task.shard) && !self.stopping {
                        self.defer(task.shard, id, Deferred::Look(part, task));
                    } else {
                        self.look((id, part), task, now, out);
                    }
                }
            }
            Call::Count(shards, listed) => {
                let counts = self.count(&shards, listed.as_ref(), now);
                out.push(Action::Answer(id, 0, Answer::Counted(counts)));
            }
            Call::Survey(ask) => {
                let survey = self.survey(&ask, now);
                out.push(Action::Answer(id, 0, Answer::Surveyed(survey)));
            }
        }
    }

    fn defer(&mut self, id: ShardId, call: CallId, deferred: Deferred) {
        self.deferred.entry(id).or_default().push((call, deferred));
    }

    /// Answers a call for one task of a shard that is not here.
    pub(super) fn refuse_absent(&self, id: CallId, call: &Call, out: &mut Vec<Action>) {
        let moved = Err(Error::moved());
        let answer = match call {
            Call::Cancel(_) => Answer::Cancelled(moved),
            Call::Redrive(_) => Answer::Redriven(moved),
            Call::CancelMany(..) => Answer::CancelledMany(Err(Error::moved())),
            _ => Answer::Submitted(Err(Error::moved())),
        };
        out.push(Action::Answer(id, 0, answer));
    }
}
