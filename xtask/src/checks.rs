//! `cargo xtask test`: everything that is checked, in one place, with the seconds of each stage.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use test_servers::{Kafka, Tidb};

use crate::{codegen, dashboard, demo, programs, tidy};

/// Whether the real Kafka and TiDB take part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Servers {
    /// They do.
    With,
    /// They do not, and that is said at the end.
    Without,
}

/// Runs every check, and stops at the first that fails.
pub(crate) fn run(servers: Servers) -> anyhow::Result<()> {
    let mut stages = Stages::default();
    stages.run("programs", || {
        programs::ensure(&["tesseract", "wget", "strace"])?;
        dashboard::ensure()?;
        match servers {
            Servers::With => programs::ensure(&["pkg-config", programs::OPENSSL, "faketime"]),
            Servers::Without => Ok(()),
        }
    })?;
    stages.run("format", || cargo(&["fmt", "--all", "--check"], &[]))?;
    stages.run("tidy", tidy::check)?;
    stages.run("generated code", codegen::check)?;
    if servers == Servers::With {
        // Before our build, since each of them wants all cores.
        stages.run("servers", || {
            test_servers::fetch_kafka()?;
            test_servers::fetch_tidb()?;
            Ok(())
        })?;
    }
    stages.run("build", || {
        cargo(&["build", "--workspace", "--all-targets"], &[])
    })?;
    match servers {
        Servers::With => tests(&mut stages)?,
        Servers::Without => tests_without_servers(&mut stages)?,
    }
    stages.run("demo", || demo::run(demo::On::Dev))?;
    if servers == Servers::With {
        stages.run("demo --cluster", || demo::run(demo::On::Cluster))?;
    }
    stages.run("dashboard", dashboard::run)?;
    stages.run("clippy", || {
        let lints = [
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ];
        cargo(&lints, &[])
    })?;
    for features in [
        "",
        "driver",
        "memory",
        "conformance",
        "testing",
        "mocks",
        "driver,memory,conformance,testing,mocks",
    ] {
        stages.run(&format!("core with [{features}]"), || {
            check_features("scheduler-core", features)
        })?;
    }
    stages.run("workload without Kafka and TiDB", || {
        check_features("workload", "")
    })?;
    stages.run("docs", || {
        let doc = ["doc", "--workspace", "--no-deps"];
        cargo(&doc, &[("RUSTDOCFLAGS", "-D warnings")])
    })?;
    stages.print();
    if servers == Servers::Without {
        println!("── NOT checked: everything on Kafka and TiDB (--no-servers)");
    }
    Ok(())
}

/// Checks one crate with these features alone.
fn check_features(package: &str, features: &str) -> anyhow::Result<()> {
    let check = [
        "check",
        "-p",
        package,
        "--no-default-features",
        "--features",
        features,
    ];
    cargo(&check, &[("RUSTFLAGS", "-D warnings")])
}

/// All tests, on one Kafka and one TiDB but for those that break theirs.
fn tests(stages: &mut Stages) -> anyhow::Result<()> {
    let shared = ["--workspace", "--exclude", "system-tests"];
    stages.run("tests", || {
        let (kafka, tidb) = (Kafka::start()?, Tidb::start()?);
        let servers = [
            ("KAFKA_BOOTSTRAP_SERVERS", kafka.bootstrap_servers()),
            ("TIDB_URL", tidb.url()),
        ];
        cargo(
            &[&["test", "--no-fail-fast"], &shared[..]].concat(),
            &servers,
        )
    })?;
    stages.run("system tests", || {
        let system = ["test", "-p", "system-tests", "--", "--skip", "engines::"];
        cargo(&system, &[])
    })?;
    stages.run("system tests on Kafka and TiDB", || {
        let engines = [
            "test",
            "-p",
            "system-tests",
            "--test",
            "system",
            "engines::",
            "--",
            "--nocapture",
            "--test-threads=1",
        ];
        cargo(&engines, &[])
    })?;
    stages.run("TLS and SCRAM to Kafka", || {
        let secured = [
            "test",
            "-p",
            "scheduler-kafka",
            "--features",
            "tls",
            "--test",
            "secured",
        ];
        cargo(&secured, &[])
    })
}

/// The tests that need neither Kafka nor TiDB.
fn tests_without_servers(stages: &mut Stages) -> anyhow::Result<()> {
    const NEED_SERVERS: [&str; 4] = [
        "scheduler-kafka",
        "scheduler-tidb",
        "test-servers",
        "system-tests",
    ];
    stages.run("tests", || {
        let mut all = vec!["test", "--workspace", "--no-fail-fast"];
        all.extend(NEED_SERVERS.iter().flat_map(|name| ["--exclude", name]));
        cargo(&all, &[])?;
        let mut units = vec!["test", "--lib"];
        units.extend(NEED_SERVERS[..3].iter().flat_map(|name| ["-p", name]));
        cargo(&units, &[])
    })?;
    stages.run("system tests", || {
        let system = ["test", "-p", "system-tests", "--", "--skip", "engines::"];
        cargo(&system, &[])
    })
}

#[derive(Debug, Default)]
struct Stages(Vec<(String, Duration)>);

impl Stages {
    fn run(
        &mut self,
        name: &str,
        stage: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        println!("── {name}");
        let start = Instant::now();
        let result = stage().with_context(|| format!("stage {name:?} failed"));
        self.0.push((name.to_owned(), start.elapsed()));
        if result.is_err() {
            self.print();
        }
        result
    }

    fn print(&self) {
        println!("── seconds of each stage");
        for (name, took) in &self.0 {
            println!("{:>7.1}  {name}", took.as_secs_f64());
        }
        let all: Duration = self.0.iter().map(|(_, took)| *took).sum();
        println!("{:>7.1}  all", all.as_secs_f64());
    }
}

/// Runs cargo at the root, and fails if it does.
pub(crate) fn cargo(arguments: &[&str], environment: &[(&str, &str)]) -> anyhow::Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(arguments).current_dir(root());
    command.envs(environment.iter().copied());
    let status = command.status().context("cannot run cargo")?;
    if !status.success() {
        bail!("cargo {} failed", arguments.join(" "));
    }
    Ok(())
}

/// The root of the repository.
pub(crate) fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}
