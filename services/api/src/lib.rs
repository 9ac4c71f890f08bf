//! The public HTTP API: a skin over [`Scheduler`] that holds no rule of the domain.
//!
//! Every error is `application/problem+json` (RFC 9457) from the scheduler's one error enum. Bodies,
//! headers, nesting, connections and slow clients are limited; see [`Limits`].
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use scheduler_core::{Config, Scheduler, memory};
//! use workload_api::{Api, Limits};
//!
//! let scheduler = Scheduler::start(Config::default(), memory::ports()).await?;
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! println!("http://{}/api/applications", listener.local_addr()?);
//! let api = Api::new(scheduler, "default".try_into()?);
//! api.serve(listener, Limits::default(), async { /* until shutdown */ }).await;
//! # Ok(())
//! # }
//! ```

mod application;
mod batch;
mod cancel;
mod chart;
mod events;
mod guard;
mod input;
mod limits;
mod openapi;
mod options;
mod pipeline;
mod probe;
mod problem;
mod redrive;
mod server;
mod standing;
mod task;
mod time;
mod unread;
mod view;

use std::{fmt::Debug, sync::Arc};

use axum::{Router, middleware};
use scheduler_core::{Scheduler, TenantName};
use tokio::sync::{Semaphore, watch};
use utoipa_axum::router::OpenApiRouter;

pub use self::{
    chart::{ChartError, Charts, parse_pipeline_json},
    server::Limits,
};

/// The HTTP API of one scheduler.
#[derive(Debug, Clone)]
pub struct Api {
    shared: Arc<Shared>,
}

#[derive(Debug, Clone)]
struct Shared {
    scheduler: Scheduler,
    tenant: TenantName,
    charts: Option<Arc<dyn Charts>>,
    /// Names beside loopback under which it is reached.
    hosts: Vec<String>,
    metrics: Option<Arc<dyn Metrics>>,
    /// Turns true when what goes on for long must end.
    closing: watch::Sender<bool>,
    batches: Arc<Semaphore>,
}

/// Every route that is documented, and no other is served but the document itself.
fn documented() -> OpenApiRouter<Api> {
    let api = application::routes()
        .merge(pipeline::routes())
        .merge(standing::routes())
        .merge(events::routes())
        .merge(task::routes());
    probe::routes().nest("/api", api)
}

/// What `/metrics` answers.
pub trait Metrics: Debug + Send + Sync {
    /// All metrics in Prometheus' text format.
    fn render(&self, scheduler: &Scheduler) -> String;
}

impl Api {
    /// An open API: every caller is `tenant`. Serve it on loopback only.
    #[must_use]
    pub fn new(scheduler: Scheduler, tenant: TenantName) -> Self {
        Self {
            shared: Arc::new(Shared {
                scheduler,
                tenant,
                charts: None,
                hosts: Vec::new(),
                metrics: None,
                closing: watch::Sender::new(false),
                batches: Arc::new(Semaphore::new(batch::BATCHES_MAX)),
            }),
        }
    }

    /// The same API, which can also create pipelines from charts.
    #[must_use]
    pub fn with_charts(self, charts: Arc<dyn Charts>) -> Self {
        self.with(|shared| shared.charts = Some(charts))
    }

    /// The same API, which is also reached under these names: the host of a URL, without a port. Without
    /// authentication, everyone who reaches them is the tenant.
    #[must_use]
    pub fn with_hosts(self, hosts: Vec<String>) -> Self {
        self.with(|shared| shared.hosts = hosts)
    }

    /// The same API, with `/metrics`.
    #[must_use]
    pub fn with_metrics(self, metrics: Arc<dyn Metrics>) -> Self {
        self.with(|shared| shared.metrics = Some(metrics))
    }

    fn with(self, change: impl FnOnce(&mut Shared)) -> Self {
        let mut shared = Shared::clone(&self.shared);
        change(&mut shared);
        Self {
            shared: Arc::new(shared),
        }
    }

    /// All routes, guarded; [`serve`](Self::serve) adds the limits of connections.
    pub fn router(&self) -> Router {
        openapi::served(documented())
            .merge(workload_dashboard::routes())
            .fallback(problem::no_such_path)
            .method_not_allowed_fallback(problem::method_not_allowed)
            .layer(middleware::from_fn_with_state(
                self.clone(),
                guard::refuse_foreign,
            ))
            .layer(middleware::from_fn(unread::read_to_end))
            .with_state(self.clone())
    }

    /// What [`router`](Self::router) answers, as an OpenAPI 3.1 document: it is made from the handlers.
    #[must_use]
    pub fn openapi() -> serde_json::Value {
        openapi::document(documented().into_openapi())
    }

    fn scheduler(&self) -> &Scheduler {
        &self.shared.scheduler
    }

    fn tenant(&self) -> &TenantName {
        &self.shared.tenant
    }

    fn hosts(&self) -> &[String] {
        &self.shared.hosts
    }

    fn closing(&self) -> watch::Receiver<bool> {
        self.shared.closing.subscribe()
    }

    fn batches(&self) -> Arc<Semaphore> {
        Arc::clone(&self.shared.batches)
    }

    fn metrics(&self) -> Option<&Arc<dyn Metrics>> {
        self.shared.metrics.as_ref()
    }

    fn charts(&self) -> Option<&Arc<dyn Charts>> {
        self.shared.charts.as_ref()
    }
}
