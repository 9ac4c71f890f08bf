//! `cargo xtask mutants`: breaks the core in known ways, and requires that the simulation notices.
//!
//! Each patch of `tests/mutants` is applied to a copy of the sources, so that nothing of it is ever part of the
//! core, not even behind a switch.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Instant,
};

use anyhow::{Context as _, bail};

use crate::checks::root;

/// A mutant that lives through so many seeds has survived.
const N_SEEDS: u64 = 5_000;
/// The unchanged core must live through so many.
const N_SEEDS_UNCHANGED: u64 = 400;
/// What is copied: all that the simulation needs.
const SOURCES: [&str; 2] = ["scheduler-core", "tests/sim"];

/// How a mutant ended.
#[derive(Debug)]
enum Fate {
    /// The simulation found which promise it breaks, within so many seeds.
    Caught(String, u64),
    /// The simulation noticed nothing.
    Survived,
    /// Its patch does not fit any more, or what it makes does not build.
    Unfit(String),
}

/// Runs all mutants, or those whose names contain `wanted`.
pub(crate) fn run(wanted: Option<&str>) -> anyhow::Result<()> {
    let dir = target_dir()?.join("mutants");
    let source = dir.join("source");
    copy_sources(&source)?;
    let patches = patches(wanted)?;
    // The unchanged core passes: otherwise nothing that follows says anything.
    match live(&source, &dir, N_SEEDS_UNCHANGED)? {
        Fate::Survived => {}
        fate => bail!("the simulation fails without any mutant: {fate:?}"),
    }
    let mut n_failed = 0;
    println!(
        "{:<44} {:<20} {:>5} {:>7}",
        "mutant", "caught as", "seeds", "seconds"
    );
    for patch in &patches {
        let start = Instant::now();
        let fate = mutate(patch, &source, &dir)?;
        let name = patch.file_stem().unwrap_or_default().to_string_lossy();
        let seconds = start.elapsed().as_secs_f64();
        let (promise, n_seeds) = match fate {
            Fate::Caught(promise, n_seeds) => (promise, n_seeds.to_string()),
            Fate::Survived => {
                n_failed += 1;
                ("SURVIVED".to_owned(), N_SEEDS.to_string())
            }
            Fate::Unfit(why) => {
                n_failed += 1;
                println!("{why}");
                ("DOES NOT FIT".to_owned(), "-".to_owned())
            }
        };
        println!("{name:<44} {promise:<20} {n_seeds:>5} {seconds:>7.1}");
    }
    if n_failed > 0 {
        bail!("{n_failed} of {} mutants were not caught", patches.len());
    }
    println!("all {} mutants were caught", patches.len());
    Ok(())
}

fn mutate(patch: &Path, source: &Path, dir: &Path) -> anyhow::Result<Fate> {
    let applied = apply(patch, source, &[])?;
    if !applied.status.success() {
        return Ok(Fate::Unfit(text(&applied.stderr)));
    }
    let fate = live(source, dir, N_SEEDS);
    let undone = apply(patch, source, &["--reverse"])?;
    if !undone.status.success() {
        bail!("cannot undo {}: {}", patch.display(), text(&undone.stderr));
    }
    fate
}

/// Builds the copy and lives its seeds until a promise is broken.
fn live(source: &Path, dir: &Path, n_seeds: u64) -> anyhow::Result<Fate> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let target = dir.join("target");
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--offline", "-p", "sim"])
        .current_dir(source)
        .env("CARGO_TARGET_DIR", &target)
        .output()
        .context("cannot run cargo")?;
    if !built.status.success() {
        return Ok(Fate::Unfit(text(&built.stderr)));
    }
    let n_seeds = n_seeds.to_string();
    let lived = Command::new(target.join("debug/sim"))
        .args(["--seeds", &n_seeds, "--lines", "0", "--first"])
        .output()
        .context("cannot run the simulation")?;
    if lived.status.success() {
        return Ok(Fate::Survived);
    }
    let said = text(&lived.stdout);
    match broken(&said) {
        Some((promise, n_seeds)) => Ok(Fate::Caught(promise, n_seeds)),
        // An invariant of the core's own.
        None if text(&lived.stderr).contains("panicked") => Ok(Fate::Caught("a panic".into(), 0)),
        None => bail!("the simulation said nothing that is known: {said}"),
    }
}

/// Which promise the simulation says is broken, and in which seed, counted from 1.
fn broken(said: &str) -> Option<(String, u64)> {
    let line = said.lines().find(|line| line.starts_with("seed "))?;
    let (seed, rest) = line.strip_prefix("seed ")?.split_once(": ")?;
    let (promise, _) = rest.split_once(" is broken")?;
    Some((promise.to_owned(), seed.parse::<u64>().ok()? + 1))
}

fn apply(patch: &Path, source: &Path, how: &[&str]) -> anyhow::Result<Output> {
    Command::new("git")
        .arg("apply")
        .args(how)
        .arg(patch)
        .current_dir(source)
        // The copy may lie within this repository, and git would take it as a part of it.
        .env("GIT_CEILING_DIRECTORIES", source.parent().unwrap_or(source))
        .output()
        .context("cannot run git")
}

fn patches(wanted: Option<&str>) -> anyhow::Result<Vec<PathBuf>> {
    let mut patches = Vec::new();
    for entry in fs::read_dir(root().join("tests/mutants"))? {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let is_patch = path.extension().is_some_and(|kind| kind == "patch");
        if is_patch && wanted.is_none_or(|wanted| name.contains(wanted)) {
            patches.push(path);
        }
    }
    patches.sort();
    if patches.is_empty() {
        bail!("there is no such mutant");
    }
    Ok(patches)
}

fn target_dir() -> anyhow::Result<PathBuf> {
    let dir = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let dir = dir.unwrap_or_else(|| root().join("target"));
    Ok(std::path::absolute(dir)?)
}

/// Makes a workspace of the simulation and the core alone.
fn copy_sources(to: &Path) -> anyhow::Result<()> {
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    fs::create_dir_all(to)?;
    for source in SOURCES {
        copy_all(&root().join(source), &to.join(source))?;
    }
    fs::copy(root().join("Cargo.lock"), to.join("Cargo.lock"))?;
    let manifest = fs::read_to_string(root().join("Cargo.toml"))?;
    let mut manifest: toml::Table = manifest.parse()?;
    let workspace = manifest.get_mut("workspace").context("no workspace")?;
    let workspace = workspace.as_table_mut().context("no workspace")?;
    let members: Vec<String> = SOURCES.iter().map(ToString::to_string).collect();
    workspace.insert("members".to_owned(), members.into());
    fs::write(to.join("Cargo.toml"), manifest.to_string())?;
    Ok(())
}

fn copy_all(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_all(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
