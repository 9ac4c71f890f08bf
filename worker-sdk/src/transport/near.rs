//! Which member a worker is connected to, where it may choose: one that owns shards of its pipeline.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use scheduler_core::{PipelinePath, ShardOwners};
use scheduler_grpc::client::{Client, ConnectError, connect};
use tokio::time::Instant;

/// How often it is asked who owns what.
const ASK_EVERY: Duration = Duration::from_secs(60);
/// How long a member is not chosen again that could not be worked at: addresses that are of no use from here stay so.
const AVOID_FOR: Duration = Duration::from_secs(600);

/// Chooses among members.
#[derive(Debug)]
pub(crate) struct Near {
    /// Where it can always be asked.
    endpoint: Client,
    path: PipelinePath,
    worker: String,
    /// A member that could not be worked at, and until when it is not chosen again.
    avoided: Mutex<Option<(String, Instant)>>,
}

/// Where a worker is connected: a member, or where it began.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// `None`: where it began.
    address: Option<String>,
    pub(super) client: Client,
    /// When to choose anew.
    until: Instant,
}

impl Place {
    fn at(address: Option<String>, client: Client) -> Self {
        Self {
            address,
            client,
            until: Instant::now() + ASK_EVERY,
        }
    }

    pub(super) fn began(client: Client) -> Self {
        Self::at(None, client)
    }

    /// The same connection for longer.
    fn kept(&self) -> Self {
        Self::at(self.address.clone(), self.client.clone())
    }

    pub(super) fn is_due(&self) -> bool {
        Instant::now() >= self.until
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.address == other.address
    }
}

impl Near {
    pub(crate) fn new(endpoint: Client, path: PipelinePath, worker: String) -> Self {
        Self {
            endpoint,
            path,
            worker,
            avoided: Mutex::default(),
        }
    }

    /// A member could not be worked at: it is not chosen again for a while, and the worker goes back to where it began.
    /// `None`, if it is there.
    pub(super) fn avoid(&self, place: &Place) -> Option<Place> {
        let address = place.address.clone()?;
        let mut avoided = self.avoided.lock().unwrap_or_else(PoisonError::into_inner);
        *avoided = Some((address, Instant::now() + AVOID_FOR));
        Some(Place::began(self.endpoint.clone()))
    }

    fn is_avoided(&self, address: &str) -> bool {
        let avoided = self.avoided.lock().unwrap_or_else(PoisonError::into_inner);
        let avoided = avoided.as_ref();
        avoided.is_some_and(|(avoided, until)| avoided == address && Instant::now() < *until)
    }

    /// Chooses anew. A connection to the one that was chosen before is kept.
    pub(super) async fn choose(&self, before: &Place) -> Place {
        let owners = match self.endpoint.discover(&self.path).await {
            Ok(owners) => owners,
            Err(error) => {
                tracing::debug!(%error, "it cannot be learned who owns the pipeline's shards");
                return before.kept();
            }
        };
        let picked = pick(&owners, &self.worker).filter(|address| !self.is_avoided(address));
        if before.address.as_deref() == picked {
            return before.kept();
        }
        let connected = picked.and_then(|address| self.connect(address).ok());
        connected.unwrap_or_else(|| Place::began(self.endpoint.clone()))
    }

    fn connect(&self, address: &str) -> Result<Place, ConnectError> {
        let channel = connect(address)?;
        tracing::info!(
            address,
            "working at a member that owns shards of the pipeline"
        );
        let client = Client::new(channel, self.path.tenant.clone());
        Ok(Place::at(Some(address.to_owned()), client))
    }
}

/// Spreads workers over members by the shards that each owns, so that few of them move when shards do: weighted rendezvous
/// hashing (Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998; the weights as by
/// Schindelhauer and Schomaker, 2005).
fn pick<'a>(owners: &'a ShardOwners, worker: &str) -> Option<&'a str> {
    let score = |address: &str, n_shards: u32| {
        // Within (0, 1), and never an end of it.
        #[expect(
            clippy::cast_precision_loss,
            reason = "53 bits are enough to tell members apart"
        )]
        let place = ((hash(worker, address) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        -f64::from(n_shards) / place.ln()
    };
    let scored = owners.n_shards.iter();
    let scored = scored.map(|(address, n)| (&**address, score(address, *n)));
    let best = scored.max_by(|(_, one), (_, other)| one.total_cmp(other));
    best.map(|(address, _)| address)
}

/// FNV-1a, whose bits are mixed once more as by splitmix64: names that differ in their last letter are far apart.
fn hash(worker: &str, address: &str) -> u64 {
    let bytes = worker.bytes().chain([0]).chain(address.bytes());
    let fnv = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mixed = (fnv ^ (fnv >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn owners(n_shards: &[(&str, u32)]) -> ShardOwners {
        ShardOwners {
            n_shards: n_shards
                .iter()
                .map(|(address, n)| ((*address).into(), *n))
                .collect(),
            n_unowned: 0,
        }
    }

    fn picks(owners: &ShardOwners) -> Vec<&str> {
        let pick = |n| pick(owners, &format!("worker-{n}")).unwrap();
        (0..6_000).map(pick).collect()
    }

    #[test]
    fn workers_are_spread_by_shards_and_few_move_with_them() {
        let before = owners(&[("a:1", 10), ("b:1", 20), ("c:1", 30)]);
        let picked = picks(&before);
        let mut n_each: BTreeMap<&str, u32> = BTreeMap::new();
        for address in &picked {
            *n_each.entry(address).or_default() += 1;
        }
        for (address, expected) in [("a:1", 1_000), ("b:1", 2_000), ("c:1", 3_000)] {
            let n = n_each[address];
            assert!(n.abs_diff(expected) < 200, "{n} at {address}");
        }
        // A member joins, and each of the others gives it a quarter of its shards.
        let after = owners(&[("a:1", 8), ("b:1", 15), ("c:1", 22), ("d:1", 15)]);
        let moved = picks(&after);
        let n_moved = picked
            .iter()
            .zip(&moved)
            .filter(|(one, other)| one != other);
        let n_moved = n_moved.count();
        assert!(n_moved < 1_900, "{n_moved} moved, of about 1,500 that must");
        assert_eq!(pick(&owners(&[]), "w"), None);
    }

    #[tokio::test]
    async fn a_member_is_avoided_also_after_the_place_where_the_worker_began_has_failed() {
        let path = scheduler_core::path("default", "shop", "mail").unwrap();
        let client = Client::new(connect("http://127.0.0.1:1").unwrap(), path.tenant.clone());
        let began = Place::began(client.clone());
        let near = Near::new(client, path, "worker-1".to_owned());
        let member = near.connect("127.0.0.1:2").unwrap();
        let back = near.avoid(&member).unwrap();
        assert!(back.is_same(&began));
        assert!(
            near.avoid(&began).is_none(),
            "there is nowhere to go back to"
        );
        assert!(near.is_avoided("127.0.0.1:2"));
        assert!(!near.is_avoided("127.0.0.1:3"));
    }
}
