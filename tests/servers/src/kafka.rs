//! One Kafka broker that is its own controller (KRaft).

mod secured;

use std::{path::Path, process::Command};

use anyhow::{Context as _, bail};

pub use self::secured::{SECURED_USER, Secured};
use crate::{
    Proxy, fetch_kafka,
    process::{Server, directory, free_ports},
};

/// Any id will do; each broker has a directory of its own.
const CLUSTER_ID: &str = "MkU3OEVBNTcwNTJENDM2Qg";

/// A Kafka broker.
#[derive(Debug)]
pub struct Kafka {
    bootstrap_servers: String,
    own: Option<(Server, Proxy)>,
}

impl Kafka {
    /// The one that `KAFKA_BOOTSTRAP_SERVERS` names, if it is set.
    #[must_use]
    pub fn from_environment() -> Option<Self> {
        let bootstrap_servers = std::env::var("KAFKA_BOOTSTRAP_SERVERS").ok()?;
        Some(Self {
            bootstrap_servers,
            own: None,
        })
    }

    /// Starts one of its own. It has two listeners: one as it is, and one that advertises the proxy.
    ///
    /// # Errors
    /// It cannot be fetched or does not start; says why.
    pub fn start() -> anyhow::Result<Self> {
        let jars = fetch_kafka()?;
        let dir = directory("kafka")?;
        let [port, behind_proxy, controller] = free_ports()?;
        let proxy = Proxy::to(([127, 0, 0, 1], behind_proxy).into())?;
        let properties = properties(&dir, port, behind_proxy, proxy.address().port(), controller);
        let file = dir.join("server.properties");
        std::fs::write(&file, properties)?;
        let file = file.display().to_string();
        let storage = ["format", "-t", CLUSTER_ID, "-c", &file];
        run_java(&jars, "kafka.tools.StorageTool", &storage)?;
        let server = Server::start(dir, command(&jars, file), port)?;
        Ok(Self {
            bootstrap_servers: format!("127.0.0.1:{port}"),
            own: Some((server, proxy)),
        })
    }

    /// Where it is reached.
    #[must_use]
    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap_servers
    }

    /// Where it is reached so that all traffic goes through its proxy.
    ///
    /// # Panics
    /// If it is not of its own.
    #[must_use]
    pub fn proxied_bootstrap_servers(&self) -> String {
        self.proxy().address().to_string()
    }

    /// The proxy before its second listener.
    ///
    /// # Panics
    /// If it is not of its own.
    #[must_use]
    pub fn proxy(&self) -> &Proxy {
        &self.own().1
    }

    fn own(&self) -> &(Server, Proxy) {
        let own = self.own.as_ref();
        own.expect("only a server that was started here can be broken")
    }

    fn own_mut(&mut self) -> &mut Server {
        let own = self.own.as_mut();
        &mut own
            .expect("only a server that was started here can be broken")
            .0
    }

    /// Runs one of Kafka's own tools by its class (`org.apache.kafka.tools.TopicCommand`) and gives what it printed.
    ///
    /// # Errors
    /// It failed; says what it printed.
    pub fn tool(&self, class: &str, arguments: &[&str]) -> anyhow::Result<String> {
        run_java(&fetch_kafka()?, class, arguments)
    }

    /// Its directory.
    ///
    /// # Panics
    /// If it is not of its own.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.own().0.dir()
    }

    /// Its process.
    ///
    /// # Panics
    /// If it is not of its own.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.own().0.pid()
    }

    /// Sends a signal: `STOP`, `CONT`.
    ///
    /// # Errors
    /// The process is gone.
    pub fn signal(&self, name: &str) -> anyhow::Result<()> {
        self.own().0.signal(name)
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// It could not be waited for.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.own_mut().kill()
    }

    /// Starts it again where it was, after `kill -9` if it runs.
    ///
    /// # Errors
    /// It does not start.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.own_mut().restart()
    }
}

fn properties(dir: &Path, port: u16, behind_proxy: u16, proxy: u16, controller: u16) -> String {
    let logs = dir.join("logs");
    format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners=DIRECT://127.0.0.1:{port},PROXIED://127.0.0.1:{behind_proxy},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=DIRECT://127.0.0.1:{port},PROXIED://127.0.0.1:{proxy}
listener.security.protocol.map=DIRECT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=DIRECT
log.dirs={}
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
num.network.threads=2
num.io.threads=4
",
        logs.display()
    )
}

/// Runs a broker with these properties.
fn command(jars: &Path, properties: String) -> Vec<String> {
    let mut command = vec!["java".to_owned()];
    command.extend(["-Xms256m", "-Xmx1g", "-XX:+UseSerialGC", "-cp"].map(ToOwned::to_owned));
    command.extend([class_path(jars), "kafka.Kafka".to_owned(), properties]);
    command
}

fn class_path(jars: &Path) -> String {
    format!("{}/*", jars.display())
}

fn run_java(jars: &Path, class: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let mut java = Command::new("java");
    java.args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"]);
    java.arg(class_path(jars)).arg(class).args(arguments);
    let output = java.output();
    let output = output.context("cannot run java; it needs JDK 17 or later")?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let complaints = String::from_utf8_lossy(&output.stderr);
        bail!("{class} {arguments:?} failed:\n{printed}{complaints}");
    }
    Ok(printed)
}
