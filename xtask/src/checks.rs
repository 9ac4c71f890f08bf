//! `cargo xtask test`: everything that is checked, in one place, with the seconds of each stage.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

use crate::{codegen, demo, programs, tidy};

/// Runs every check, and stops at the first that fails.
pub(crate) fn run() -> anyhow::Result<()> {
    let mut stages = Stages::default();
    stages.run("programs", || {
        programs::ensure(&["tesseract", "wget", "strace"])
    })?;
    stages.run("format", || cargo(&["fmt", "--all", "--check"], &[]))?;
    stages.run("tidy", tidy::check)?;
    stages.run("generated code", codegen::check)?;
    stages.run("build", || {
        cargo(&["build", "--workspace", "--all-targets"], &[])
    })?;
    stages.run("tests", || {
        cargo(&["test", "--workspace", "--no-fail-fast"], &[])
    })?;
    stages.run("demo", || demo::run(&demo::built_binary()?))?;
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
        "driver,memory,conformance",
    ] {
        stages.run(&format!("core with [{features}]"), || {
            let check = [
                "check",
                "-p",
                "scheduler-core",
                "--no-default-features",
                "--features",
                features,
            ];
            cargo(&check, &[("RUSTFLAGS", "-D warnings")])
        })?;
    }
    stages.run("docs", || {
        let doc = ["doc", "--workspace", "--no-deps"];
        cargo(&doc, &[("RUSTDOCFLAGS", "-D warnings")])
    })?;
    stages.print();
    Ok(())
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
