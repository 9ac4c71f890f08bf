//! The dashboard's tests: a real Chromium over a real `workload dev`.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, bail};

use crate::{
    checks::{cargo, root},
    demo::built,
    programs,
};

/// What the tests need beside Rust.
const PROGRAMS: [&str; 4] = ["chromium", "node", "npm", "curl"];
/// The oldest Node.js that Playwright runs on.
const NODE_MIN: u32 = 20;

/// Makes sure that what the tests need is there.
pub(crate) fn ensure() -> anyhow::Result<()> {
    programs::ensure(&PROGRAMS)?;
    let version = Command::new("node").arg("--version").output();
    let version = version.context("cannot run node")?.stdout;
    let version = String::from_utf8_lossy(&version);
    let major = version.trim().trim_start_matches('v').split('.').next();
    let major: Option<u32> = major.and_then(|major| major.parse().ok());
    if major.is_none_or(|major| major < NODE_MIN) {
        bail!(
            "node is {}, but the dashboard's tests need Node.js {NODE_MIN} or newer: install a newer one than your distribution has",
            version.trim()
        );
    }
    Ok(())
}

/// Builds what the tests need and runs them.
pub(crate) fn build_and_run() -> anyhow::Result<()> {
    ensure()?;
    cargo(&["build", "-p", "workload"], &[])?;
    run()
}

/// Runs the tests on what was built. They lie in a copy under `target`, since Node.js wants its packages beside them.
pub(crate) fn run() -> anyhow::Result<()> {
    let program = built("workload")?;
    let own = root().join("tests/dashboard");
    let copy = program.with_file_name("dashboard-tests");
    fs::create_dir_all(&copy)?;
    let is_installed = copy.join("node_modules/.package-lock.json").is_file()
        && same(
            &own.join("package-lock.json"),
            &copy.join("package-lock.json"),
        );
    clear(&copy)?;
    for entry in fs::read_dir(&own)? {
        let path = entry?.path();
        if let Some(name) = path.file_name().filter(|_| path.is_file()) {
            fs::copy(&path, copy.join(name))?;
        }
    }
    if !is_installed {
        finish(Command::new("npm").arg("ci").current_dir(&copy), "npm ci")?;
    }
    let mut tests = Command::new("npm");
    tests.args(["--silent", "test"]).current_dir(&copy);
    tests.env("WORKLOAD", &program);
    finish(&mut tests, "the dashboard's tests")
}

/// Removes what an earlier copy has, but for what was installed.
fn clear(copy: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(copy)? {
        let path = entry?.path();
        if path.is_file() {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn same(one: &Path, other: &Path) -> bool {
    match (fs::read(one), fs::read(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

fn finish(command: &mut Command, what: &str) -> anyhow::Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot run {what}"))?;
    if !status.success() {
        bail!("{what} failed");
    }
    Ok(())
}
