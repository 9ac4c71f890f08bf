//! Which part of a call goes to which owner, and where those go next that were asked in vain.

use std::{collections::BTreeMap, sync::Arc};

use super::There;
use crate::{Error, ShardId, driver::Handle, owner::Owner};

/// Where a part was asked last.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Here,
    At(Arc<str>),
}

/// One part of a call.
#[derive(Debug)]
struct Part {
    shard: ShardId,
    is_left: bool,
    was_here: bool,
    last: Option<Place>,
}

/// The parts of a call, on their way.
#[derive(Debug)]
pub(super) struct Spread<'a> {
    here: Option<&'a Handle>,
    there: &'a There,
    parts: Vec<Part>,
}

impl<'a> Spread<'a> {
    pub(super) fn new(here: Option<&'a Handle>, there: &'a There, shards: Vec<ShardId>) -> Self {
        let part = |shard| Part {
            shard,
            is_left: true,
            was_here: false,
            last: None,
        };
        let parts = shards.into_iter().map(part).collect();
        Self { here, there, parts }
    }

    /// Which parts have no answer that counts.
    pub(super) fn left(&self) -> Vec<usize> {
        let all = 0..self.parts.len();
        all.filter(|at| self.parts[*at].is_left).collect()
    }

    /// Notes that a part was answered, and whether it is to be asked elsewhere.
    pub(super) fn answered(&mut self, at: usize, is_away: bool) {
        let part = &mut self.parts[at];
        part.is_left = is_away;
        if let (true, Some(Place::At(address))) = (is_away, &part.last) {
            self.there.forget(&[part.shard], address);
        }
    }

    /// Whom to ask now for which parts. What has nowhere left to go is asked of nobody.
    pub(super) async fn next(&mut self) -> Result<Vec<(Arc<dyn Owner>, Vec<usize>)>, Error> {
        let mut groups: BTreeMap<Place, Vec<usize>> = BTreeMap::new();
        let mut elsewhere = Vec::new();
        for at in self.left() {
            let part = &self.parts[at];
            let owns = |here: &&Handle| here.owns(part.shard.slot()) && !part.was_here;
            if self.here.filter(owns).is_some() {
                groups.entry(Place::Here).or_default().push(at);
            } else {
                elsewhere.push(at);
            }
        }
        if !elsewhere.is_empty() {
            self.find(elsewhere, &mut groups).await?;
        }
        let mut asks: Vec<(Arc<dyn Owner>, Vec<usize>)> = Vec::new();
        for (place, places) in groups {
            for at in &places {
                let part = &mut self.parts[*at];
                part.was_here |= place == Place::Here;
                part.last = Some(place.clone());
            }
            match (&place, self.here) {
                (Place::Here, Some(here)) => asks.push((Arc::new(here.clone()), places)),
                (Place::Here, None) => {}
                (Place::At(address), _) => match self.there.at(address) {
                    Ok(owner) => asks.push((owner, places)),
                    Err(err) => tracing::debug!(%err, %address, "cannot reach the owner"),
                },
            }
        }
        Ok(asks)
    }

    /// Finds the other members that own the shards of these parts. The error is the store's, if nothing else can be
    /// asked.
    async fn find(
        &self,
        elsewhere: Vec<usize>,
        groups: &mut BTreeMap<Place, Vec<usize>>,
    ) -> Result<(), Error> {
        let mut shards: Vec<_> = elsewhere.iter().map(|at| self.parts[*at].shard).collect();
        shards.sort_unstable();
        shards.dedup();
        let owners = match self.there.owners(&shards).await {
            Err(error) if groups.is_empty() && self.here.is_none() => return Err(error),
            owners => owners.unwrap_or_default(),
        };
        for at in elsewhere {
            let part = &self.parts[at];
            let found = owners.get(&part.shard).cloned().map(Place::At);
            match found.filter(|place| part.last.as_ref() != Some(place)) {
                Some(place) => groups.entry(place).or_default().push(at),
                // The slots may be known here a moment later than elsewhere.
                None if self.here.is_some() && !part.was_here => {
                    groups.entry(Place::Here).or_default().push(at);
                }
                None => {}
            }
        }
        Ok(())
    }
}
