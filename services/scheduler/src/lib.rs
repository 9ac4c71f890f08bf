//! A member of the cluster as a library: what the program `workload-scheduler` runs, on ports that may be wrapped.

use std::{pin::pin, sync::Arc};

use anyhow::Context as _;
use scheduler_core::{Ports, Scheduler, driver::SystemClock};
use scheduler_grpc::{
    client::MemberClients,
    server::{Access, Limits, Services},
};
use tokio::{net::TcpListener, sync::watch};
use tracing::info;
use workload_kit::{Engines, Key, Metrics, Settings, metered_log, metered_store};

const KEYS: [Key; 3] = [
    Key {
        name: "grpc.listen",
        default: "127.0.0.1:7070",
        meaning: "where workers, clients and other processes are answered; there is no authentication yet, so only a closed network may reach it",
    },
    Key {
        name: "grpc.advertise",
        default: "",
        meaning: "HOST:PORT where other processes reach grpc.listen, written beside this member's claims; empty for grpc.listen itself",
    },
    Key {
        name: "http.listen",
        default: "127.0.0.1:7071",
        meaning: "where /healthz, /readyz and /metrics are answered",
    },
];

/// All settings of a member.
#[must_use]
pub fn keys() -> Vec<Key> {
    let own = KEYS.into_iter().chain(workload_kit::TELEMETRY_KEYS);
    own.chain(workload_kit::engine_keys())
        .chain(workload_kit::scheduler_keys())
        .collect()
}

/// Runs a member until SIGTERM or SIGINT, then hands over. `wrap` may put something between it and its engines.
///
/// # Errors
/// A setting is wrong, an engine cannot be reached, or an address cannot be had.
pub async fn run(settings: &Settings, wrap: impl FnOnce(Ports) -> Ports) -> anyhow::Result<()> {
    let mut reader = settings.reader();
    let grpc = workload_kit::bind(&mut reader, "grpc.listen").await?;
    let http = workload_kit::bind(&mut reader, "http.listen").await?;
    let address = match reader.optional("grpc.advertise") {
        Some(address) => address,
        None => grpc.local_addr()?.to_string(),
    };
    workload_kit::start_telemetry(&mut reader);
    let config = workload_kit::scheduler_config(&mut reader, address.clone(), fastrand::u64(..));
    let engines = Engines::configure(&mut reader);
    reader.finish()?;
    let metrics = Metrics::start()?;
    let engines = engines.open().await?;
    let ports = Ports {
        log: metered_log(engines.log()),
        store: metered_store(engines.store()),
        catalog: engines.catalog(),
        placement: engines.placement(),
        clock: Arc::new(SystemClock::new()),
    };
    let peers = Arc::new(MemberClients::new());
    let scheduler = Scheduler::join(config, wrap(ports), peers).await?;
    info!(address, "member started");
    serve(scheduler, metrics, grpc, http).await?;
    info!("member stopped");
    Ok(())
}

/// Answers until SIGTERM or SIGINT, then empties long polls, hands over and saves everything.
///
/// While the member has left the others nobody is answered: workers that are connected go to one that has shards.
async fn serve(
    scheduler: Scheduler,
    metrics: Metrics,
    grpc: TcpListener,
    http: TcpListener,
) -> anyhow::Result<()> {
    let (end_probes, probes_ending) = watch::channel(false);
    let probing = tokio::spawn(workload_kit::serve_probes(
        http,
        scheduler.clone(),
        metrics,
        ended(probes_ending),
    ));
    let answered = answer(&scheduler, grpc).await;
    info!("stopping");
    // On every way out, so that its shards are handed over.
    scheduler.shutdown().await;
    // Last, so that probes say until the end that the member is alive and not ready.
    end_probes.send_replace(true);
    let probed = probing.await.context("probes")?.context("probes");
    answered.and(probed)
}

async fn ended(mut ending: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is an end.
    ending.wait_for(|ending| *ending).await.ok();
}

/// Answers gRPC until SIGTERM or SIGINT.
async fn answer(scheduler: &Scheduler, grpc: TcpListener) -> anyhow::Result<()> {
    let address = grpc.local_addr()?;
    let mut signalled = pin!(worker_sdk::signalled());
    let mut listener = Some(grpc);
    loop {
        let listener = match listener.take() {
            Some(listener) => listener,
            None => TcpListener::bind(address).await?,
        };
        let (end, ending) = watch::channel(false);
        let services = Services::new(scheduler.clone(), Access::Open, Limits::default())?;
        let serving = tokio::spawn(services.for_peers().serve(listener, ended(ending)));
        let is_over = tokio::select! {
            () = &mut signalled => true,
            () = scheduler.left() => false,
        };
        end.send_replace(true);
        serving.await.context("gRPC")?.context("gRPC")?;
        if is_over {
            return Ok(());
        }
        info!("answers nobody until it is a member again");
        tokio::select! {
            () = &mut signalled => return Ok(()),
            () = scheduler.rejoined() => {}
        }
    }
}
