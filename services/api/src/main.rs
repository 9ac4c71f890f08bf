//! The public HTTP and gRPC API: as many of it as are wanted, each without a state of its own.
#![expect(clippy::print_stdout, reason = "--settings prints")]

use std::sync::Arc;

use anyhow::Context as _;
use clap::Parser;
use scheduler_core::{FrontPorts, Scheduler, driver::SystemClock};
use scheduler_grpc::{
    client::MemberClients,
    server::{Access, Limits, Services},
};
use tokio::{net::TcpListener, sync::watch};
use tracing::info;
use workload_api::Api;
use workload_kit::{Engines, Key, Metrics, Settings, metered_log, metered_store};

/// The public HTTP and gRPC API: as many of it as are wanted, each without a state of its own.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    settings: workload_kit::Arguments,
}

/// What this process measured, as the API shows it.
#[derive(Debug)]
struct Recorded(Metrics);

impl workload_api::Metrics for Recorded {
    fn render(&self, scheduler: &Scheduler) -> String {
        self.0.render(scheduler)
    }
}

const KEYS: [Key; 4] = [
    Key {
        name: "http.listen",
        default: "127.0.0.1:8080",
        meaning: "where HTTP is answered; there is no authentication yet, so only a closed network may reach it",
    },
    Key {
        name: "http.hosts",
        default: "",
        meaning: "names beside localhost under which it is reached, with commas between; other Hosts are refused",
    },
    Key {
        name: "grpc.listen",
        default: "127.0.0.1:7072",
        meaning: "where gRPC is answered, but for workers, who call a member",
    },
    Key {
        name: "api.tenant",
        default: "default",
        meaning: "the tenant of everyone who calls over HTTP",
    },
];

fn keys() -> Vec<Key> {
    let own = KEYS.into_iter().chain(workload_kit::TELEMETRY_KEYS);
    own.chain(workload_kit::engine_keys())
        .chain(workload_kit::scheduler_keys())
        .collect()
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let settings = Settings::load(keys(), &arguments.settings)?;
    if arguments.settings.settings {
        print!("{}", settings.table());
        return Ok(());
    }
    run(&settings).await
}

async fn run(settings: &Settings) -> anyhow::Result<()> {
    let mut reader = settings.reader();
    let http = workload_kit::bind(&mut reader, "http.listen").await?;
    let grpc = workload_kit::bind(&mut reader, "grpc.listen").await?;
    let hosts = reader.text("http.hosts");
    let hosts = hosts.split(',').map(|host| host.trim().to_owned());
    let tenant = reader.text("api.tenant");
    let tenant = tenant.as_str().try_into();
    if let Err(err) = &tenant {
        reader.fault(format!("api.tenant: {err}"));
    }
    workload_kit::start_telemetry(&mut reader);
    let config = workload_kit::scheduler_config(&mut reader, String::new(), 0);
    let engines = Engines::configure(&mut reader);
    reader.finish()?;
    let metrics = Metrics::start()?;
    let engines = engines.open().await?;
    let ports = FrontPorts {
        log: metered_log(engines.log()),
        store: metered_store(engines.store()),
        catalog: engines.catalog(),
        clock: Arc::new(SystemClock::new()),
    };
    let scheduler = Scheduler::front(config, ports, Arc::new(MemberClients::new())).await?;
    let api = Api::new(scheduler.clone(), tenant?)
        .with_hosts(hosts.filter(|host| !host.is_empty()).collect())
        .with_metrics(Arc::new(Recorded(metrics)));
    info!(http = %http.local_addr()?, grpc = %grpc.local_addr()?, "API started");
    serve(api, scheduler, http, grpc).await?;
    info!("API stopped");
    Ok(())
}

/// Answers until SIGTERM or SIGINT, then lets open requests end.
async fn serve(
    api: Api,
    scheduler: Scheduler,
    http: TcpListener,
    grpc: TcpListener,
) -> anyhow::Result<()> {
    let (end, ending) = watch::channel(false);
    let ended = |mut ending: watch::Receiver<bool>| async move {
        // An error means that the sender is gone, which is an end.
        ending.wait_for(|ending| *ending).await.ok();
    };
    let services = Services::new(scheduler.clone(), Access::Open, Limits::default())?;
    let serving_grpc = tokio::spawn(services.serve(grpc, ended(ending.clone())));
    let ended = ended(ending);
    let serving_http = tokio::spawn(async move {
        api.serve(http, workload_api::Limits::default(), ended)
            .await;
    });
    worker_sdk::signalled().await;
    info!("stopping");
    end.send_replace(true);
    serving_grpc.await.context("gRPC")?.context("gRPC")?;
    serving_http.await.context("HTTP")?;
    scheduler.shutdown().await;
    Ok(())
}
