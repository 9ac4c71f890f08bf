//! The wire of the scheduler, `workload.v1` over gRPC.
//!
//! - [`pb`] holds what `cargo xtask codegen` generates from `proto/`.
//! - [`convert`] leads between its types and the core's.
//! - [`status`] is the one table from errors to gRPC codes, and back.
//! - `server` (a feature) answers the protocol over a [`Scheduler`](scheduler_core::Scheduler).
//! - `client` (a feature) calls it, with the core's types.
//!
//! ```
//! use scheduler_core::Error;
//! use scheduler_grpc::status::{from_status, to_status};
//!
//! let error = Error::not_found("pipeline", "shop/mail");
//! let status = to_status(&error);
//! assert_eq!(status.code(), tonic::Code::NotFound);
//! assert_eq!(from_status(&status), error);
//! ```

#[cfg(feature = "client")]
pub mod client;
pub mod convert;
#[cfg(feature = "server")]
pub mod server;
pub mod status;

/// The generated code.
// `allow`, since it depends on the features which of these lints the code breaks.
#[allow(
    missing_docs,
    clippy::all,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    unused_qualifications,
    reason = "generated"
)]
pub mod pb {
    include!("generated/workload.v1.rs");
}

/// The encoded `FileDescriptorSet` of the protocol, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!("generated/workload.v1.bin");

/// How many bytes one side sends of a message before the other has taken them: the largest payload, so that most
/// messages are sent without waiting.
#[cfg(any(feature = "client", feature = "server"))]
const STREAM_WINDOW: u32 = 1 << 20;
/// The same for all messages of a connection.
#[cfg(any(feature = "client", feature = "server"))]
const CONNECTION_WINDOW: u32 = 4 << 20;

/// The request header that names the tenant.
pub const TENANT_HEADER: &str = "workload-tenant";

/// The tenant of a call without that header, where the server is open.
pub const TENANT_DEFAULT: &str = "default";
