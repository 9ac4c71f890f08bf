//! Cases of the store's port.

mod cancels;
mod claim;
mod flush;
mod keyed;
mod read;

use super::Home;
use crate::port::TaskStore;

pub use self::{cancels::*, claim::*, flush::*, keyed::*, read::*};

/// What every case gets.
type At<'a> = &'a dyn Home<dyn TaskStore>;
