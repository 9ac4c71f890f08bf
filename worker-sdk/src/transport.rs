//! How a worker talks to the scheduler: the trio of calls, over a stream, one by one, or (in tests) over nothing.

mod line;
mod near;
mod stream;

use std::{future::Future, time::Duration};

use scheduler_core::{Error, Heartbeat, Leased, PipelinePath, Poll, Report};
use scheduler_grpc::client::Client;

pub(crate) use self::{near::Near, stream::Streamed};

/// The worker's three calls. Dropping a future gives the call up.
pub(crate) trait Transport: Send + Sync + 'static {
    /// Leases tasks.
    fn poll(&self, poll: Poll) -> impl Future<Output = Result<Leased, Error>> + Send;

    /// Reports outcomes; one answer each, in order.
    fn report(
        &self,
        reports: Vec<Report>,
    ) -> impl Future<Output = Result<Vec<Result<(), Error>>, Error>> + Send;

    /// Renews leases; one answer each, in order.
    fn heartbeat(
        &self,
        heartbeats: Vec<Heartbeat>,
    ) -> impl Future<Output = Result<Vec<Result<Duration, Error>>, Error>> + Send;

    /// Whether a poll that is given up for another gives up nothing, so that credit can grow while one is open.
    fn keeps_polls(&self) -> bool {
        false
    }

    /// The worker has no more to say: what it was sent and has not taken goes back.
    fn close(&self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}

/// The calls over gRPC, one by one.
#[derive(Debug)]
pub(crate) struct Unary {
    pub(crate) client: Client,
    pub(crate) path: PipelinePath,
}

impl Transport for Unary {
    async fn poll(&self, poll: Poll) -> Result<Leased, Error> {
        self.client.lease(&self.path, poll).await
    }

    async fn report(&self, reports: Vec<Report>) -> Result<Vec<Result<(), Error>>, Error> {
        self.client.report_batch(reports).await
    }

    async fn heartbeat(
        &self,
        heartbeats: Vec<Heartbeat>,
    ) -> Result<Vec<Result<Duration, Error>>, Error> {
        self.client.heartbeat(heartbeats).await
    }
}
