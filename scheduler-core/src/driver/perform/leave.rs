//! A member that leaves the others until it can reach its store.

use std::sync::Arc;

use tracing::{error, info};

use super::{Performer, RETRY, warn_port};
use crate::{ShardId, driver::Health};

impl Performer {
    /// Stays away until the store can be read.
    pub(in crate::driver) fn leave(&self, shard: ShardId, health: Arc<Health>) {
        error!("the store cannot be reached: leaves its shards to other members until it can be");
        let (ports, events) = (self.ports.clone(), self.events.clone());
        let is_over = move || events.is_closed();
        self.spawn(async move {
            let rest = || ports.clock.sleep_until(ports.clock.now() + RETRY);
            while !is_over()
                && let Err(err) = ports.placement.leave().await
            {
                warn_port(&err, "leave the members");
                rest().await;
            }
            while !is_over() && ports.store.owners(&[shard]).await.is_err() {
                rest().await;
            }
            while !is_over()
                && let Err(err) = ports.placement.rejoin().await
            {
                warn_port(&err, "join the members again");
                rest().await;
            }
            if !is_over() {
                info!("the store answers: joined the members again");
            }
            health.is_away.send_replace(false);
            Vec::new()
        });
    }
}
