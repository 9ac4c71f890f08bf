//! Programs that the demo and the tests need beside Rust: installed where that can be done, named otherwise.

use std::{path::Path, process::Command};

use anyhow::{Context as _, bail};

/// No program, but the header of a library that TLS to Kafka is built with.
pub(crate) const OPENSSL: &str = "openssl/ssl.h";

/// Makes sure that these programs are there.
pub(crate) fn ensure(programs: &[&str]) -> anyhow::Result<()> {
    let missing: Vec<_> = programs
        .iter()
        .filter(|program| !is_there(program))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<_> = missing.iter().map(|program| package_of(program)).collect();
    let line = format!(
        "apt-get update && apt-get install -y --no-install-recommends {}",
        packages.join(" ")
    );
    if !is_there("apt-get") || !is_root() {
        bail!(
            "these programs are missing: {missing:?}\ninstall them, on Debian or Ubuntu as root by:\n  {line}"
        );
    }
    println!("installing {}", packages.join(", "));
    let status = Command::new("sh")
        .args(["-c", &line])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .status()
        .context("cannot run apt-get")?;
    if !status.success() {
        bail!("this failed:\n  {line}");
    }
    match programs.iter().find(|program| !is_there(program)) {
        None => Ok(()),
        Some(program) => bail!("{program} is still not there after:\n  {line}"),
    }
}

fn package_of(program: &str) -> &str {
    match program {
        "tesseract" => "tesseract-ocr",
        "node" => "nodejs",
        OPENSSL => "libssl-dev",
        program => program,
    }
}

fn is_there(program: &str) -> bool {
    if program == OPENSSL {
        return Path::new("/usr/include").join(OPENSSL).is_file();
    }
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|dir| dir.join(program).is_file())
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|id| id.stdout == b"0\n")
}
