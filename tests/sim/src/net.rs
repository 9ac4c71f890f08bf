//! The network: letters between members, workers and clients, and what happens to them on the way.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use scheduler_core::{
    CancelRequest, Error, Held, IdempotencyKey, Outcome, Poll, ShardId, TaskId, Timestamp,
    action::Answer,
    member::{Call, Fleet},
    port::log::NewTask,
};

use crate::world::{What, World};

/// Who is connected with whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    Member(usize),
    Worker(usize),
    Clients,
    Log,
    Store,
    Group,
}

/// What is asked of a member.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    Poll(Fleet, Poll),
    Report(Vec<(Held, Outcome)>),
    Renew(Vec<(Held, bool)>),
    Cancel(TaskId),
    CancelMany(ShardId, CancelRequest),
    Submit(ShardId, IdempotencyKey, NewTask),
    See(Vec<TaskId>),
    Count(Vec<ShardId>),
}

impl Request {
    pub(crate) fn n_parts(&self) -> usize {
        match self {
            Self::Report(reports) => reports.len(),
            Self::Renew(held) => held.len(),
            Self::See(ids) => ids.len(),
            Self::Poll(..)
            | Self::Cancel(_)
            | Self::CancelMany(..)
            | Self::Submit(..)
            | Self::Count(_) => 1,
        }
    }

    pub(crate) fn into_call(self) -> Call {
        match self {
            Self::Poll(fleet, poll) => Call::Poll(fleet, poll),
            Self::Report(reports) => Call::Report(reports),
            Self::Renew(held) => {
                let progress = || Some(Bytes::from_static(b"1"));
                let beat = |(held, from_handler)| (held, from_handler, progress());
                Call::Renew(held.into_iter().map(beat).collect())
            }
            Self::Cancel(id) => Call::Cancel(id),
            Self::CancelMany(shard, request) => Call::CancelMany(shard, request),
            Self::Submit(shard, key, task) => Call::SubmitKeyed(shard, key, task),
            Self::See(ids) => Call::See(ids),
            Self::Count(shards) => Call::Count(shards, None),
        }
    }
}

/// What a letter says.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    Request(Request),
    /// Whoever sent the request does not wait for its answer any more.
    Gone,
    Answer(Result<Vec<Answer>, Error>),
}

/// A request, its answer, or what ends it.
#[derive(Debug, Clone)]
pub(crate) struct Letter {
    pub(crate) from: End,
    pub(crate) to: End,
    /// Names the request among all that were ever sent.
    pub(crate) id: u64,
    pub(crate) body: Body,
}

/// What is cut off from what, and until when.
#[derive(Debug, Default)]
pub(crate) struct Net {
    cuts: BTreeMap<(End, End), Timestamp>,
    n_ids: u64,
}

impl Net {
    pub(crate) fn cut(&mut self, one: End, other: End, until: Timestamp) {
        self.cuts.insert((one.min(other), one.max(other)), until);
    }

    pub(crate) fn heal(&mut self) {
        self.cuts.clear();
    }

    pub(crate) fn next_id(&mut self) -> u64 {
        self.n_ids += 1;
        self.n_ids
    }
}

impl World {
    pub(crate) fn is_cut(&self, one: End, other: End) -> bool {
        let cut = self.net.cuts.get(&(one.min(other), one.max(other)));
        cut.is_some_and(|until| *until > self.now)
    }

    /// Whether something happens that happens so many times in a thousand; never once faults are over.
    pub(crate) fn strikes(&mut self, n: u64) -> bool {
        !self.is_healed && n > 0 && self.rng.u64(0..1000) < n
    }

    pub(crate) fn delay(&mut self) -> Duration {
        let millis = if self.strikes(self.plan.faults.n_slow) {
            self.rng.u64(50..4_000)
        } else {
            self.rng.u64(1..6)
        };
        Duration::from_millis(millis)
    }

    /// Sends a request and gives its id.
    pub(crate) fn request(&mut self, from: End, to: End, request: Request) -> u64 {
        let id = self.net.next_id();
        let body = Body::Request(request);
        self.send(Letter { from, to, id, body });
        id
    }

    pub(crate) fn send(&mut self, letter: Letter) {
        if self.is_cut(letter.from, letter.to) || self.strikes(self.plan.faults.n_lost) {
            // A broken connection is noticed by whoever waits, or it is not.
            if matches!(letter.body, Body::Request(_)) && self.rng.bool() {
                self.refuse(&letter);
            }
            return;
        }
        // Streams of grants are not repeated by any transport; single requests are, by proxies and retries.
        let is_poll = matches!(letter.body, Body::Request(Request::Poll(..)));
        if !is_poll && self.strikes(self.plan.faults.n_doubled) {
            let at = self.now + self.delay();
            self.queue.push(at, What::Letter(letter.clone()));
        }
        let at = self.now + self.delay();
        self.queue.push(at, What::Letter(letter));
    }

    /// Tells a sender that its request did not get through.
    pub(crate) fn refuse(&mut self, letter: &Letter) {
        let refused = Letter {
            from: letter.to,
            to: letter.from,
            id: letter.id,
            body: Body::Answer(Err(Error::moved())),
        };
        let at = self.now + self.delay();
        self.queue.push(at, What::Letter(refused));
    }

    pub(crate) fn deliver(&mut self, letter: Letter) {
        match letter.to {
            End::Member(member) => self.take_letter(member, letter),
            End::Worker(worker) => self.worker_answered(worker, letter),
            End::Clients => self.client_answered(letter),
            End::Log | End::Store | End::Group => {}
        }
    }
}
