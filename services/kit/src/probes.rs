//! `/healthz`, `/readyz` and `/metrics` of a service.

use std::{
    fmt::{self, Debug},
    future::Future,
    sync::Arc,
};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use scheduler_core::Scheduler;
use tokio::net::TcpListener;

/// What of a process is counted and measured, in Prometheus' text format.
#[derive(Clone)]
pub struct Metrics {
    recorded: PrometheusHandle,
}

impl Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// The bounds of all histograms, in seconds.
const SECONDS: [f64; 14] = [
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0,
];

impl Metrics {
    /// Records from now on all that this process measures. Once a process.
    ///
    /// # Errors
    /// Something records already.
    pub fn start() -> anyhow::Result<Self> {
        let builder = PrometheusBuilder::new().set_buckets(&SECONDS)?;
        Ok(Self {
            recorded: builder.install_recorder()?,
        })
    }

    /// All metrics, with how a scheduler stands now.
    #[must_use]
    pub fn render(&self, scheduler: &Scheduler) -> String {
        let is_ready = f64::from(u8::from(scheduler.ready().is_ok()));
        metrics::gauge!("workload_ready").set(is_ready);
        #[expect(clippy::cast_precision_loss, reason = "a gauge needs no last digit")]
        metrics::gauge!("workload_watches_open").set(scheduler.n_watches() as f64);
        if let Some(load) = scheduler.load() {
            let gauges = [
                ("workload_shards_owned", load.n_shards),
                ("workload_shards_coming", load.n_coming),
                ("workload_shards_refused", load.n_refused),
                ("workload_window_tasks", load.n_tasks),
                ("workload_window_bytes", load.n_bytes),
                ("workload_calls_waiting", load.n_calls),
            ];
            for (name, value) in gauges {
                #[expect(clippy::cast_precision_loss, reason = "a gauge needs no last digit")]
                metrics::gauge!(name).set(value as f64);
            }
        }
        if let Some(tally) = scheduler.tally() {
            for (reason, n) in tally.waiting() {
                #[expect(clippy::cast_precision_loss, reason = "a gauge needs no last digit")]
                metrics::gauge!("workload_tasks_waiting", "reason" => reason).set(n as f64);
            }
            let busy = [
                ("workload_tasks_running", tally.n_running),
                ("workload_tasks_saving", tally.n_saving + tally.n_ended),
            ];
            for (name, n) in busy {
                #[expect(clippy::cast_precision_loss, reason = "a gauge needs no last digit")]
                metrics::gauge!(name).set(n as f64);
            }
        }
        self.recorded.run_upkeep();
        self.recorded.render()
    }
}

type Shared = Arc<(Scheduler, Metrics)>;

/// Serves probes and metrics until `shutdown` is done. Alive asks nobody; ready is what the scheduler says.
///
/// # Errors
/// Connections cannot be accepted any more.
pub async fn serve_probes(
    listener: TcpListener,
    scheduler: Scheduler,
    metrics: Metrics,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let shared: Shared = Arc::new((scheduler, metrics));
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(render))
        .with_state(shared);
    axum::serve(listener, router)
        .with_graceful_shutdown(shutdown)
        .await
}

async fn readyz(State(shared): State<Shared>) -> (StatusCode, String) {
    match shared.0.ready() {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(err) => (StatusCode::SERVICE_UNAVAILABLE, format!("{err}\n")),
    }
}

async fn render(State(shared): State<Shared>) -> String {
    shared.1.render(&shared.0)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use scheduler_core::{Config, PipelineSpec, Submit, memory};

    use super::*;

    #[tokio::test]
    async fn metrics_say_what_tasks_wait_for() {
        let metrics = Metrics::start().unwrap();
        let ports = memory::ports();
        let scheduler = Scheduler::start(Config::default(), ports).await.unwrap();
        let path = scheduler_core::path("default", "app", "pipe").unwrap();
        let spec = PipelineSpec::default();
        scheduler.create_pipeline(&path, spec).await.unwrap();
        for _ in 0..3 {
            let submit = Submit::new("{}".to_owned());
            scheduler.submit(&path, submit).await.unwrap();
        }
        let deadline = Instant::now() + Duration::from_secs(30);
        let line = "workload_tasks_waiting{reason=\"worker\"} 3";
        while !metrics.render(&scheduler).lines().any(|has| has == line) {
            assert!(
                Instant::now() < deadline,
                "{line} is not in\n{}",
                metrics.render(&scheduler)
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let text = metrics.render(&scheduler);
        assert!(text.contains("workload_tasks_waiting{reason=\"paused\"} 0"));
        scheduler.shutdown().await;
    }
}
