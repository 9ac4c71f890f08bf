//! Calls that wait for their answers, as the driver keeps them.

use std::collections::BTreeMap;

use scheduler_core::{
    Held, TaskId,
    action::{Answer, CallId},
};

use crate::net::{End, Request};

/// A call that waits.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) from: End,
    pub(super) id: u64,
    pub(super) request: Request,
    parts: Vec<Option<Answer>>,
    is_gone: bool,
}

/// A whole answer.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) call: Pending,
    pub(super) answers: Vec<Answer>,
}

impl Whole {
    /// Whether nobody takes it any more.
    pub(super) fn is_unsent(&self) -> bool {
        self.call.is_gone
    }
}

/// Calls by id.
#[derive(Debug, Default)]
pub(super) struct Calls {
    pending: BTreeMap<CallId, Pending>,
    /// Looks of the simulation's own: which lease each is about.
    looks: BTreeMap<CallId, Held>,
    last: u64,
}

impl Calls {
    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    pub(super) fn add(&mut self, from: End, id: u64, request: Request) -> CallId {
        let parts = (0..request.n_parts()).map(|_| None).collect();
        let pending = Pending {
            from,
            id,
            request,
            parts,
            is_gone: false,
        };
        let call = self.next();
        self.pending.insert(call, pending);
        call
    }

    /// A look at the task of a lease.
    pub(super) fn look(&mut self, held: Held) -> (CallId, TaskId) {
        let call = self.next();
        self.looks.insert(call, held);
        (call, held.id)
    }

    pub(super) fn looked(&mut self, call: CallId) -> Option<Held> {
        self.looks.remove(&call)
    }

    fn next(&mut self) -> CallId {
        self.last += 1;
        CallId(self.last)
    }

    /// The call whose part this is.
    pub(super) fn get(&self, call: CallId) -> Option<&Pending> {
        self.pending.get(&call)
    }

    /// Takes one part of an answer; gives the whole once it is complete.
    pub(super) fn answer(&mut self, call: CallId, part: u32, answer: Answer) -> Option<Whole> {
        let pending = self.pending.get_mut(&call)?;
        *pending.parts.get_mut(part as usize)? = Some(answer);
        if pending.parts.iter().any(Option::is_none) {
            return None;
        }
        let mut call = self.pending.remove(&call)?;
        let answers = std::mem::take(&mut call.parts);
        let answers = answers.into_iter().flatten().collect();
        Some(Whole { call, answers })
    }

    /// The caller of a request does not wait any more.
    pub(super) fn gone(&mut self, from: End, id: u64) {
        let same = |pending: &&mut Pending| pending.id == id && pending.from == from;
        for pending in self.pending.values_mut().filter(same) {
            pending.is_gone = true;
        }
    }

    /// Takes out the polls whose callers have gone.
    pub(super) fn gone_polls(&mut self) -> Vec<CallId> {
        let is_gone = |_: &CallId, pending: &mut Pending| {
            pending.is_gone && matches!(pending.request, Request::Poll(..))
        };
        let gone = self.pending.extract_if(.., is_gone);
        gone.map(|(call, _)| call).collect()
    }

    /// Everyone who waits.
    pub(super) fn callers(&self) -> Vec<(End, u64)> {
        let pending = self.pending.values();
        pending.map(|pending| (pending.from, pending.id)).collect()
    }
}
