//! The demo's cluster: Kafka, TiDB, a member, an API, an agent and the executors of the pipeline.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, bail};
use serde_json::Value;
use test_servers::{Kafka, Tidb, free_ports};

use super::{START_WAIT, built};

/// The database that the demo makes.
const DATABASE: &str = "workload";

/// The steps in a chart's ConfigMap.
pub(super) fn steps(chart: &Path) -> anyhow::Result<Value> {
    let template = chart.join("templates/pipeline.yaml");
    let text = std::fs::read_to_string(&template)?;
    let (_, block) = text
        .split_once("pipeline.json: |")
        .with_context(|| format!("{} has no pipeline.json", template.display()))?;
    let file: Value = serde_json::from_str(block)?;
    Ok(file["pipeline"].clone())
}

/// All processes; killed when dropped.
pub(super) struct Cluster {
    kafka: Kafka,
    tidb: Tidb,
    /// In the order in which they end: who works first, who keeps last.
    services: Vec<Service>,
    http: String,
}

impl Cluster {
    pub(super) fn start(data: &Path) -> anyhow::Result<Self> {
        println!("starting Kafka and TiDB");
        let (kafka, tidb) = (Kafka::start()?, Tidb::start()?);
        let [http, api_grpc, member_http, member_grpc, agent_http] = free_ports()?;
        let local = |port: u16| format!("127.0.0.1:{port}");
        let engines = [
            format!("kafka.bootstrap_servers={}", kafka.bootstrap_servers()),
            "kafka.replication_factor=1".to_owned(),
            "kafka.min_insync_replicas=1".to_owned(),
            format!("tidb.url={}/{DATABASE}", tidb.url()),
        ];
        let with = |own: [String; 2]| -> Vec<String> {
            let all = own.into_iter().chain(engines.iter().cloned());
            all.flat_map(|setting| ["--set".to_owned(), setting])
                .collect()
        };
        let listen = |http, grpc| {
            [
                format!("http.listen={}", local(http)),
                format!("grpc.listen={}", local(grpc)),
            ]
        };
        let mut services = Vec::new();
        let start = |services: &mut Vec<Service>, name: &str, program, arguments: &[String]| {
            let log = data.join(format!("{name}.log"));
            let service = Service::start(program, arguments, log)?;
            services.insert(0, service);
            anyhow::Ok(())
        };
        let settings = with(listen(member_http, member_grpc));
        start(&mut services, "scheduler", "workload-scheduler", &settings)?;
        services[0].wait_for(&format!("http://{}/readyz", local(member_http)))?;
        start(
            &mut services,
            "api",
            "workload-api",
            &with(listen(http, api_grpc)),
        )?;
        let mut agent = vec![
            "--application=myname".to_owned(),
            "--pipeline=ocr".to_owned(),
            format!("--endpoint=http://{}", local(member_grpc)),
            format!("--http={}", local(agent_http)),
            format!("--directory={}", data.join("tasks").display()),
            "--private-directories".to_owned(),
            "--concurrency=2".to_owned(),
        ];
        for executor in ["wget", "tesseract"] {
            let socket = format!("unix:{}", data.join(format!("{executor}.sock")).display());
            let listen = [format!("--listen={socket}")];
            start(&mut services, executor, "workload-executor", &listen)?;
            agent.push(format!("--executor={executor}={socket}"));
        }
        start(&mut services, "agent", "workload-agent", &agent)?;
        let http = format!("http://{}", local(http));
        let api = services
            .iter_mut()
            .find(|service| service.program == "workload-api");
        api.context("no API")?.wait_for(&format!("{http}/readyz"))?;
        Ok(Self {
            kafka,
            tidb,
            services,
            http,
        })
    }

    pub(super) fn http(&self) -> &str {
        &self.http
    }

    /// Shows what Kafka's own tool says of the pipeline, and how to look into TiDB.
    pub(super) fn show(&self) -> anyhow::Result<()> {
        let groups = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
        let servers = self.kafka.bootstrap_servers();
        let describe = [
            "--bootstrap-server",
            servers,
            "--describe",
            "--group",
            "workload-progress",
        ];
        // The member tells Kafka how far it is every few seconds.
        let start = Instant::now();
        loop {
            if let Ok(lag) = self.kafka.tool(groups, &describe)
                && lag.contains("myname.ocr")
            {
                println!("\nkafka-consumer-groups --describe --group workload-progress:\n{lag}");
                break;
            }
            if start.elapsed() > START_WAIT {
                bail!("Kafka's tool shows no progress of the pipeline");
            }
        }
        println!("TiDB is at {}/{DATABASE}", self.tidb.url());
        Ok(())
    }

    /// Ends every service as Kubernetes would, and fails unless it ends well.
    pub(super) fn stop(&mut self) -> anyhow::Result<()> {
        self.services.drain(..).try_for_each(Service::stop)
    }
}

struct Service {
    program: &'static str,
    process: Child,
    log: PathBuf,
}

impl Service {
    fn start(program: &'static str, arguments: &[String], log: PathBuf) -> anyhow::Result<Self> {
        let process = Command::new(built(program)?)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        Ok(Self {
            program,
            process,
            log,
        })
    }

    fn wait_for(&mut self, url: &str) -> anyhow::Result<()> {
        let start = Instant::now();
        while let Err(err) = ureq::get(url).call() {
            let ended = self.process.try_wait()?;
            if ended.is_some() || start.elapsed() > START_WAIT {
                let log = std::fs::read_to_string(&self.log)?;
                bail!(
                    "{} does not become ready ({err}, {ended:?}):\n{log}",
                    self.program
                );
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        Ok(())
    }

    fn stop(mut self) -> anyhow::Result<()> {
        let pid = self.process.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status()?;
        let start = Instant::now();
        while start.elapsed() < START_WAIT {
            if let Some(status) = self.process.try_wait()? {
                if !status.success() {
                    let log = std::fs::read_to_string(&self.log)?;
                    bail!("{} ended with {status}:\n{log}", self.program);
                }
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        bail!("{} did not end after SIGTERM", self.program)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // After a good end both fail, which is fine.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
