//! The group that hands out slots: sessions that end by silence, moves that wait for the one who leaves.

use std::{collections::BTreeMap, time::Duration};

use scheduler_core::{ShardId, Slot, Timestamp, port::placement::PlacementEvent};

/// A member that is silent for so long is expelled.
pub(crate) const SESSION: Duration = Duration::from_secs(6);

/// All sessions, and who has which slot.
#[derive(Debug)]
pub(crate) struct Group {
    sessions: BTreeMap<u64, Session>,
    slots: BTreeMap<Slot, Holding>,
    n_sessions: u64,
}

#[derive(Debug)]
struct Session {
    member: usize,
    beat_at: Timestamp,
    /// What its member has not confirmed to have heard.
    untold: Vec<(u64, PlacementEvent)>,
    n_told: u64,
}

/// Who has a slot.
#[derive(Debug, Clone, Copy, Default)]
struct Holding {
    session: Option<u64>,
    /// It is being given up, and goes there if that session still is.
    leaves_to: Option<u64>,
    /// The number of the message that said so.
    n_told: u64,
}

impl Group {
    pub(crate) fn new(shards: &[ShardId]) -> Self {
        let slots = shards.iter().map(|id| (id.slot(), Holding::default()));
        Self {
            sessions: BTreeMap::new(),
            slots: slots.collect(),
            n_sessions: 0,
        }
    }

    /// A sign of life; without a session the member joins. Gives its session and what it must still hear.
    pub(crate) fn beat(
        &mut self,
        member: usize,
        session: Option<u64>,
        heard: u64,
        now: Timestamp,
    ) -> Option<(u64, Vec<(u64, PlacementEvent)>)> {
        self.expire(now);
        let id = match session {
            Some(id) => id,
            None => {
                self.n_sessions += 1;
                let session = Session {
                    member,
                    beat_at: now,
                    untold: Vec::new(),
                    n_told: 0,
                };
                self.sessions.insert(self.n_sessions, session);
                self.balance();
                self.n_sessions
            }
        };
        let session = self.sessions.get_mut(&id)?;
        session.beat_at = session.beat_at.max(now);
        session.untold.retain(|(n, _)| *n > heard);
        Some((id, session.untold.clone()))
    }

    /// Whether a session is one now. The proof is a sign of life, too.
    pub(crate) fn prove(&mut self, session: u64, now: Timestamp) -> bool {
        self.expire(now);
        let session = self.sessions.get_mut(&session);
        session
            .map(|session| session.beat_at = session.beat_at.max(now))
            .is_some()
    }

    /// A member gives up slots that leave it, as far as it had heard then.
    pub(crate) fn give_up(&mut self, session: u64, heard: u64, slots: &[Slot]) {
        for slot in slots {
            if let Some(holding) = self.slots.get_mut(slot)
                && holding.session == Some(session)
                && holding.n_told <= heard
                && let Some(to) = holding.leaves_to.take()
            {
                holding.session = None;
                if self.sessions.contains_key(&to) {
                    self.assign(*slot, to);
                }
            }
        }
        self.balance();
    }

    pub(crate) fn leave(&mut self, session: u64) {
        self.sessions.remove(&session);
        self.free_slots();
        self.balance();
    }

    /// Expels who was silent for too long.
    pub(crate) fn expire(&mut self, now: Timestamp) {
        let before = self.sessions.len();
        self.sessions
            .retain(|_, session| now.since(session.beat_at) < SESSION);
        if self.sessions.len() < before {
            self.free_slots();
            self.balance();
        }
    }

    /// Moves a slot to another member in good order.
    pub(crate) fn move_one(&mut self, rng: &mut fastrand::Rng) {
        let settled = self.slots.iter();
        let settled = settled.filter(|(_, holding)| holding.leaves_to.is_none());
        let settled: Vec<_> = settled
            .filter_map(|(slot, holding)| Some((*slot, holding.session?)))
            .collect();
        let Some((slot, from)) = rng.choice(settled) else {
            return;
        };
        let others = self.sessions.keys().copied().filter(|to| *to != from);
        let others: Vec<_> = others.collect();
        if let Some(to) = rng.choice(others) {
            self.revoke(slot, from, to);
        }
    }

    /// Whether a member has any slot.
    pub(crate) fn has_slots(&self, member: usize) -> bool {
        let mut holders = self.slots.values().filter_map(|holding| holding.session);
        holders.any(|id| {
            self.sessions
                .get(&id)
                .is_some_and(|session| session.member == member)
        })
    }

    fn free_slots(&mut self) {
        for holding in self.slots.values_mut() {
            let is_gone = |id: &u64| !self.sessions.contains_key(id);
            if holding.session.as_ref().is_some_and(is_gone) {
                *holding = Holding::default();
            }
        }
    }

    /// Gives what nobody has to those who have least, and evens out.
    fn balance(&mut self) {
        if self.sessions.is_empty() {
            return;
        }
        let free: Vec<_> = self
            .slots
            .iter()
            .filter(|(_, holding)| holding.session.is_none())
            .map(|(slot, _)| *slot)
            .collect();
        for slot in free {
            if let Some(id) = self.by_load().first().copied() {
                self.assign(slot, id);
            }
        }
        let by_load = self.by_load();
        let (Some(least), Some(most)) = (by_load.first(), by_load.last()) else {
            return;
        };
        if self.n_slots(*most) > self.n_slots(*least) + 1 {
            let movable = self
                .slots
                .iter()
                .find(|(_, holding)| holding.session == Some(*most) && holding.leaves_to.is_none());
            if let Some((slot, _)) = movable {
                self.revoke(*slot, *most, *least);
            }
        }
    }

    fn by_load(&self) -> Vec<u64> {
        let mut ids: Vec<_> = self.sessions.keys().copied().collect();
        ids.sort_by_key(|id| (self.n_slots(*id), *id));
        ids
    }

    /// How many slots a session has or will have.
    fn n_slots(&self, id: u64) -> usize {
        let goes_to = |holding: &&Holding| holding.leaves_to.or(holding.session) == Some(id);
        self.slots.values().filter(goes_to).count()
    }

    fn assign(&mut self, slot: Slot, to: u64) {
        let holding = Holding {
            session: Some(to),
            ..Holding::default()
        };
        self.slots.insert(slot, holding);
        self.tell(to, PlacementEvent::Assigned(vec![slot]));
    }

    fn revoke(&mut self, slot: Slot, from: u64, to: u64) {
        let holding = Holding {
            session: Some(from),
            leaves_to: Some(to),
            n_told: self.tell(from, PlacementEvent::Revoking(vec![slot])),
        };
        self.slots.insert(slot, holding);
    }

    /// Gives the number of the message.
    fn tell(&mut self, id: u64, event: PlacementEvent) -> u64 {
        let Some(session) = self.sessions.get_mut(&id) else {
            return 0;
        };
        session.n_told += 1;
        session.untold.push((session.n_told, event));
        session.n_told
    }
}
