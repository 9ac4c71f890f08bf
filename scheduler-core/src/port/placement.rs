//! The port of placement: which slots of shards this member owns, and the proof that it still does.

use std::{fmt::Debug, sync::Mutex};

use async_trait::async_trait;

use crate::{N_SLOTS, Slot, port::PortError};

/// What changed in the ownership of slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlacementEvent {
    /// These are this member's from now on.
    Assigned(Vec<Slot>),
    /// These go to another member once [`Placement::released`] was called for them.
    Revoking(Vec<Slot>),
    /// These are gone already; another member may work on them.
    Lost(Vec<Slot>),
}

/// Hands out ownership of slots among members.
///
/// # Contract
/// - A slot MUST NOT be assigned to two members at once while both can prove their membership.
/// - After `Revoking`, the slot MUST NOT be assigned elsewhere before `released` or the loss of the member.
#[cfg_attr(feature = "mocks", mockall::automock)]
#[async_trait]
pub trait Placement: Debug + Send + Sync {
    /// Waits for the next change.
    ///
    /// # Cancel safety
    /// Dropping it loses no event.
    async fn next(&self) -> Result<PlacementEvent, PortError>;

    /// Gives up slots that are being revoked.
    async fn released(&self, slots: &[Slot]) -> Result<(), PortError>;

    /// Shows that this member is one now: an error means that it may have been replaced.
    async fn prove(&self) -> Result<(), PortError>;

    /// Leaves the members: all slots are gone at once, also those that are being revoked, and none comes before
    /// [`rejoin`](Self::rejoin). The caller MUST have stopped to work on them before. `next` says `Lost` for what it had.
    async fn leave(&self) -> Result<(), PortError>;

    /// Becomes a member again after [`leave`](Self::leave).
    async fn rejoin(&self) -> Result<(), PortError>;
}

/// The placement of a member that is alone: it owns every slot for as long as it lives.
///
/// What makes it alone (a lock on the data directory, one process) is the business of who uses it.
#[derive(Debug, Default)]
pub struct SoleMember {
    told: Mutex<bool>,
}

impl SoleMember {
    /// The only member.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait]
impl Placement for SoleMember {
    async fn next(&self) -> Result<PlacementEvent, PortError> {
        let told = {
            let mut told = self
                .told
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            std::mem::replace(&mut *told, true)
        };
        if told {
            std::future::pending().await
        } else {
            let slots = (0..N_SLOTS).filter_map(|slot| u8::try_from(slot).ok());
            Ok(PlacementEvent::Assigned(slots.map(Slot).collect()))
        }
    }

    async fn released(&self, _slots: &[Slot]) -> Result<(), PortError> {
        Ok(())
    }

    async fn prove(&self) -> Result<(), PortError> {
        Ok(())
    }

    /// There is nobody to leave the slots to, so it keeps them.
    async fn leave(&self) -> Result<(), PortError> {
        Ok(())
    }

    async fn rejoin(&self) -> Result<(), PortError> {
        Ok(())
    }
}
