//! Cases of the store's port.

mod claim;
mod flush;
mod keyed;
mod read;

use super::Home;
use crate::port::TaskStore;

pub use self::{claim::*, flush::*, keyed::*, read::*};

/// What every case gets.
type At<'a> = &'a dyn Home<dyn TaskStore>;
