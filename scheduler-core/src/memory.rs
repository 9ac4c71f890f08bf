//! Full, honest ports that keep everything in memory: for tests, examples and the simulation.
//!
//! "Honest" means that they pass the suites of `conformance` like every durable port. A clone of a
//! port is the same port, so a test can let a member die and give its ports to another one.

mod catalog;
mod clock;
mod log;
mod store;

#[cfg(feature = "driver")]
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};

pub use self::{catalog::Catalog, clock::ManualClock, log::Log, store::Store};
#[cfg(feature = "driver")]
use crate::{
    Ports,
    port::{Clock, placement::SoleMember},
};

/// Empty ports of a member that is alone, with the real time.
#[cfg(feature = "driver")]
#[must_use]
pub fn ports() -> Ports {
    ports_on(Arc::new(crate::driver::SystemClock::new()))
}

/// Empty ports of a member that is alone, on this clock.
#[cfg(feature = "driver")]
#[must_use]
pub fn ports_on(clock: Arc<dyn Clock>) -> Ports {
    Ports {
        log: Arc::new(Log::new(Arc::clone(&clock))),
        store: Arc::new(Store::new(Arc::clone(&clock))),
        catalog: Arc::new(Catalog::new()),
        placement: Arc::new(SoleMember::new()),
        clock,
    }
}

/// Locks state that no panic can leave half changed: each change is made of infallible steps.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
