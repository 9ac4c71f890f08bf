//! A broker that clients reach by TLS only, and by SASL/SCRAM over it.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};

use super::{CLUSTER_ID, command, run_java};
use crate::{
    fetch_kafka,
    process::{Server, directory, free_ports},
};

/// Name and password of the one user that a secured broker knows.
pub const SECURED_USER: (&str, &str) = ("alice", "only-for-tests");
/// Protects a key that nobody else has.
const STORE_PASSWORD: &str = "changeit";

/// A Kafka broker that is reached in no other way.
#[derive(Debug)]
pub struct Secured {
    tls: String,
    scram: String,
    ca_file: PathBuf,
    _server: Server,
}

impl Secured {
    /// Starts one with a certificate of its own.
    ///
    /// # Errors
    /// It cannot be fetched or does not start; says why.
    pub fn start() -> anyhow::Result<Self> {
        let jars = fetch_kafka()?;
        let dir = directory("kafka-secured")?;
        let ca_file = make_certificate(&dir)?;
        let [tls, scram, brokers, controller] = free_ports()?;
        let file = dir.join("server.properties");
        std::fs::write(&file, properties(&dir, tls, scram, brokers, controller))?;
        let file = file.display().to_string();
        let (name, password) = SECURED_USER;
        let users = ["SCRAM-SHA-256", "SCRAM-SHA-512"]
            .map(|mechanism| format!("{mechanism}=[name={name},password={password}]"));
        let mut storage = vec!["format", "-t", CLUSTER_ID, "-c", &file];
        storage.extend(users.iter().flat_map(|user| ["--add-scram", user.as_str()]));
        run_java(&jars, "kafka.tools.StorageTool", &storage)?;
        let server = Server::start(dir, command(&jars, file), scram)?;
        Ok(Self {
            tls: format!("127.0.0.1:{tls}"),
            scram: format!("127.0.0.1:{scram}"),
            ca_file,
            _server: server,
        })
    }

    /// Where anyone who trusts its certificate is served.
    #[must_use]
    pub fn tls(&self) -> &str {
        &self.tls
    }

    /// Where only [`SECURED_USER`] is served.
    #[must_use]
    pub fn scram(&self) -> &str {
        &self.scram
    }

    /// Its certificate, as PEM.
    #[must_use]
    pub fn ca_file(&self) -> &Path {
        &self.ca_file
    }
}

/// Makes a key and a certificate for 127.0.0.1, and gives the file of the latter.
fn make_certificate(dir: &Path) -> anyhow::Result<PathBuf> {
    let store = dir.join("keys.p12").display().to_string();
    let file = dir.join("certificate.pem");
    let of_store = [
        "-alias",
        "broker",
        "-keystore",
        &store,
        "-storepass",
        STORE_PASSWORD,
    ];
    let make = [
        "-genkeypair",
        "-storetype",
        "PKCS12",
        "-keyalg",
        "RSA",
        "-validity",
        "2",
        "-dname",
        "CN=broker",
        "-ext",
        "SAN=ip:127.0.0.1",
    ];
    keytool(&[&make[..], &of_store].concat())?;
    let file_name = file.display().to_string();
    let export = ["-exportcert", "-rfc", "-file", &file_name];
    keytool(&[&export[..], &of_store].concat())?;
    Ok(file)
}

fn keytool(arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("keytool").args(arguments).output();
    let output = output.context("cannot run keytool, which is part of the JDK")?;
    if !output.status.success() {
        // It complains on its standard output.
        let complaints = String::from_utf8_lossy(&output.stdout);
        bail!("keytool {arguments:?} failed: {complaints}");
    }
    Ok(())
}

fn properties(dir: &Path, tls: u16, scram: u16, brokers: u16, controller: u16) -> String {
    let login = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
    format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners=TLS://127.0.0.1:{tls},SCRAM://127.0.0.1:{scram},BROKERS://127.0.0.1:{brokers},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=TLS://127.0.0.1:{tls},SCRAM://127.0.0.1:{scram},BROKERS://127.0.0.1:{brokers}
listener.security.protocol.map=TLS:SSL,SCRAM:SASL_SSL,BROKERS:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=BROKERS
ssl.keystore.type=PKCS12
ssl.keystore.location={keys}
ssl.keystore.password={STORE_PASSWORD}
ssl.key.password={STORE_PASSWORD}
sasl.enabled.mechanisms=SCRAM-SHA-256,SCRAM-SHA-512
listener.name.scram.scram-sha-256.sasl.jaas.config={login}
listener.name.scram.scram-sha-512.sasl.jaas.config={login}
log.dirs={logs}
auto.create.topics.enable=false
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
",
        keys = dir.join("keys.p12").display(),
        logs = dir.join("logs").display(),
    )
}
