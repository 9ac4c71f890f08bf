//! Between the wire's types and the core's: `From` to the wire, `TryFrom` from it.
//!
//! Where a wire type lacks what the core's needs (the tenant is in the request's headers), a
//! function stands in for `TryFrom` and takes it.

mod cancel;
mod member;
mod pipeline;
mod redrive;
mod seek;
mod standing;
mod survey;
mod task;
mod time;
mod worker;

use scheduler_core::{Error, Invalid};

pub use self::{
    cancel::owned_cancel,
    member::{count, logged_task, shard},
    pipeline::{application, pipeline},
    seek::{all_news, lease_owned},
    task::{submitted, task_page, task_view},
    time::{duration, duration_of, timestamp, timestamp_of},
    worker::{heartbeat_results, leased},
};

#[cfg(feature = "server")]
pub(crate) use self::cancel::filter;
#[cfg(feature = "client")]
pub(crate) use self::cancel::{bulk_cancel, cancel_preview, cancel_request};
#[cfg(feature = "client")]
pub(crate) use self::pipeline::deleted;
#[cfg(feature = "client")]
pub(crate) use self::redrive::{redrive_request, redriving};
#[cfg(feature = "server")]
pub(crate) use self::task::WAIT;

/// The text as something that is validated, or `None` if it is empty.
fn some<'a, T>(text: &'a str) -> Result<Option<T>, Invalid>
where
    T: TryFrom<&'a str, Error = Invalid>,
{
    (!text.is_empty()).then(|| text.try_into()).transpose()
}

/// What an answer must have and does not: the other side speaks another version.
pub(crate) fn missing(field: &'static str) -> Error {
    Error::Malformed(format!("the message lacks {field}"))
}

#[cfg(test)]
mod tests;
