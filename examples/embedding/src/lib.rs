//! A mail service that links the scheduler, as `docs/embedding.md` explains it.

pub mod foreign;
pub mod mail;
pub mod store;

pub use self::{foreign::Foreign, mail::Mailer, store::Counted};
