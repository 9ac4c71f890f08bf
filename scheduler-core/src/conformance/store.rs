//! Cases of the store's port.

mod claim;
mod flush;
mod read;

use super::Home;
use crate::port::TaskStore;

pub use self::{claim::*, flush::*, read::*};

/// What every case gets.
type At<'a> = &'a dyn Home<dyn TaskStore>;
