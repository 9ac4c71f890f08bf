//! Answers `workload.v1` over a [`Scheduler`]: thin services, health, reflection and limits. Other processes are
//! answered only where there is a member.

mod application;
mod cluster;
mod deadline;
mod follow;
mod member;
mod pipeline;
mod submit;
mod task;
mod tenant;

mod work;
mod worker;

use std::{future::Future, sync::Arc, time::Duration};

use scheduler_core::{Error, Invalid, Scheduler};
use tokio::{net::TcpListener, sync::watch};
use tonic::{
    Status,
    service::Routes,
    transport::{Server, server::TcpIncoming},
};

pub use self::tenant::Access;
use crate::{
    CONNECTION_WINDOW, DESCRIPTORS, STREAM_WINDOW,
    pb::{
        application_service_server::ApplicationServiceServer,
        cluster_service_server::ClusterServiceServer, member_service_server::MemberServiceServer,
        pipeline_service_server::PipelineServiceServer, task_service_server::TaskServiceServer,
        worker_service_server::WorkerServiceServer,
    },
    status::to_status,
};

/// The most entries of a batch.
pub const BATCH_MAX: usize = 1_000;
/// The most held leases that a poll may name.
pub const HELD_MAX: usize = 4_096;

/// Limits of a server: plain data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The largest message that is read.
    pub request_bytes_max: usize,
    /// The largest message that is written.
    pub response_bytes_max: usize,
    /// The most calls at once on one connection; a long poll is one of them.
    pub streams_max: u32,
    /// The most bytes of a call's headers.
    pub header_bytes_max: u32,
    /// How often an idle connection is asked whether it lives.
    pub keepalive_interval: Duration,
    /// How long it may take to say so.
    pub keepalive_timeout: Duration,
    /// A connection is closed after this long, and a worker on a stream told to open another, so that they spread over
    /// members.
    pub connection_age_max: Option<Duration>,
    /// A worker on a stream hears something at least this often.
    pub silence_max: Duration,
    /// How long calls may go on after the shutdown began.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_bytes_max: 16 << 20,
            response_bytes_max: 32 << 20,
            streams_max: 1_024,
            header_bytes_max: 16 << 10,
            keepalive_interval: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(10),
            connection_age_max: None,
            silence_max: Duration::from_secs(60),
            grace: Duration::from_secs(10),
        }
    }
}

/// Why a server stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The connections could not be served.
    #[error("cannot serve gRPC")]
    Transport(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The descriptors for reflection are damaged.
    #[error("cannot offer reflection")]
    Reflection(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Refuses a batch that is too long.
fn check_batch(field: &'static str, len: usize, max: usize) -> Result<(), Status> {
    if len <= max {
        return Ok(());
    }
    let rule = format!("must have at most {max} entries");
    Err(to_status(&Invalid::new(field, rule).into()))
}

/// The answer for an entry of a batch that the scheduler left out, which it must not.
fn unanswered<T>() -> Result<T, Error> {
    Err(Error::UnknownOutcome {
        what: "the call".into(),
    })
}

/// What every service of this server has: the handle, who may call, and whether it is closing.
#[derive(Debug, Clone)]
struct Shared {
    scheduler: Scheduler,
    access: Access,
    limits: Limits,
    /// Turns true when long waits must end.
    closing: watch::Receiver<bool>,
}

impl Shared {
    /// Waits until the server closes; forever if it is dropped first.
    async fn closed(&self) {
        closed(&self.closing).await;
    }
}

/// Waits until the server closes; forever if it is dropped first.
async fn closed(closing: &watch::Receiver<bool>) {
    let mut closing = closing.clone();
    if closing.wait_for(|closing| *closing).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The services of `workload.v1`, ready to be served.
///
/// ```no_run
/// # async fn serve(scheduler: scheduler_core::Scheduler) -> Result<(), Box<dyn std::error::Error>> {
/// use scheduler_grpc::server::{Access, Limits, Services};
///
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:7070").await?;
/// let services = Services::new(scheduler, Access::Open, Limits::default())?;
/// services.serve(listener, std::future::pending()).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Services {
    routes: Routes,
    shared: Arc<Shared>,
    health: tonic_health::server::HealthReporter,
    closing: watch::Sender<bool>,
    limits: Limits,
}

impl Services {
    /// Puts the services over a scheduler.
    ///
    /// # Errors
    /// [`ServeError::Reflection`], if the descriptors in this crate are damaged.
    pub fn new(scheduler: Scheduler, access: Access, limits: Limits) -> Result<Self, ServeError> {
        let (closing, is_closing) = watch::channel(false);
        let shared = Arc::new(Shared {
            scheduler,
            access,
            limits: limits.clone(),
            closing: is_closing,
        });
        let (health, health_service) = tonic_health::server::health_reporter();
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .map_err(|err| ServeError::Reflection(err.into()))?;
        let (request, response) = (limits.request_bytes_max, limits.response_bytes_max);
        macro_rules! limited {
            ($service:ident, $skin:expr) => {
                $service::new($skin)
                    .max_decoding_message_size(request)
                    .max_encoding_message_size(response)
            };
        }
        let shared_by = || Arc::clone(&shared);
        let routes = Routes::new(health_service)
            .add_service(reflection)
            .add_service(limited!(TaskServiceServer, task::TaskServer(shared_by())))
            .add_service(limited!(
                ApplicationServiceServer,
                application::ApplicationServer(shared_by())
            ))
            .add_service(limited!(
                PipelineServiceServer,
                pipeline::PipelineServer(shared_by())
            ))
            .add_service(limited!(
                ClusterServiceServer,
                cluster::ClusterServer(shared_by())
            ))
            .add_service(limited!(
                WorkerServiceServer,
                worker::WorkerServer(shared_by())
            ));
        Ok(Self {
            routes,
            shared,
            health,
            closing,
            limits,
        })
    }

    /// Answers other processes of the installation too, if there is a member here. They see the tasks of all
    /// tenants, so this belongs on a port that clients cannot reach, or where there is one tenant.
    #[must_use]
    pub fn for_peers(mut self) -> Self {
        if let Some(member) = self.shared.scheduler.member() {
            let closing = self.shared.closing.clone();
            let server = MemberServiceServer::new(member::MemberServer { member, closing })
                .max_decoding_message_size(self.limits.request_bytes_max)
                .max_encoding_message_size(self.limits.response_bytes_max);
            self.routes = self.routes.add_service(server);
        }
        self
    }

    /// The routes, to be served beside others on one port. Long waits then end by their own time
    /// only, unless [`close`](Self::closer) is called.
    #[must_use]
    pub fn routes(&self) -> Routes {
        self.routes.clone()
    }

    /// A handle that ends long waits and turns health to not serving.
    #[must_use]
    pub fn closer(&self) -> Closer {
        Closer {
            health: self.health.clone(),
            closing: self.closing.clone(),
        }
    }

    /// Serves until `shutdown` is done: then says that it does not serve, empties long polls, lets
    /// calls end within the grace and returns.
    ///
    /// # Errors
    /// [`ServeError::Transport`], if connections cannot be accepted any more.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        let closer = self.closer();
        closer.open().await;
        let closing = self.closing.clone();
        let mut server = Server::builder()
            .max_concurrent_streams(self.limits.streams_max)
            .http2_max_header_list_size(self.limits.header_bytes_max)
            .http2_max_pending_accept_reset_streams(Some(64))
            .http2_keepalive_interval(Some(self.limits.keepalive_interval))
            .http2_keepalive_timeout(Some(self.limits.keepalive_timeout))
            .initial_stream_window_size(Some(STREAM_WINDOW))
            .initial_connection_window_size(Some(CONNECTION_WINDOW));
        if let Some(age) = self.limits.connection_age_max {
            server = server.max_connection_age(age);
        }
        let mut is_closing = closing.subscribe();
        let closed = async move {
            // An error means that nobody can close any more, which is a close.
            drop(is_closing.wait_for(|closing| *closing).await);
        };
        // The server's own setting is for sockets that it binds itself.
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let serving = server
            .add_routes(self.routes)
            .serve_with_incoming_shutdown(incoming, closed);
        let grace = self.limits.grace;
        let closed_late = async {
            shutdown.await;
            closer.close().await;
            tokio::time::sleep(grace).await;
        };
        tokio::select! {
            served = serving => served.map_err(|err| ServeError::Transport(err.into())),
            () = closed_late => Ok(()),
        }
    }
}

/// Opens and closes the services of one [`Services`].
#[derive(Debug, Clone)]
pub struct Closer {
    health: tonic_health::server::HealthReporter,
    closing: watch::Sender<bool>,
}

impl Closer {
    /// Says by `grpc.health.v1` that the services work.
    pub async fn open(&self) {
        self.say(tonic_health::ServingStatus::Serving).await;
    }

    /// Says that they do not, and ends long waits with what there is.
    pub async fn close(&self) {
        self.say(tonic_health::ServingStatus::NotServing).await;
        self.closing.send_replace(true);
    }

    async fn say(&self, status: tonic_health::ServingStatus) {
        for service in [
            "",
            "workload.v1.TaskService",
            "workload.v1.ApplicationService",
            "workload.v1.PipelineService",
            "workload.v1.ClusterService",
            "workload.v1.WorkerService",
        ] {
            self.health.set_service_status(service, status).await;
        }
    }
}
