//! Where servers are kept between runs: outside of the clone, by version, made once however many ask.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};

const KAFKA_VERSION: &str = "4.3.1";
const TIDB_VERSION: &str = "8.4-ec8b81b98edc";

/// `${XDG_CACHE_HOME:-~/.cache}/workload-scheduler`.
fn root() -> anyhow::Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let caches = set("XDG_CACHE_HOME").map(PathBuf::from);
    let caches = caches.or_else(|| Some(PathBuf::from(set("HOME")?).join(".cache")));
    let caches = caches.context("neither XDG_CACHE_HOME nor HOME is set")?;
    Ok(caches.join("workload-scheduler"))
}

/// Gives `name` in the cache; `make` fills a directory beside it first if it is missing.
fn cached(name: &str, make: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<PathBuf> {
    let place = root()?.join(name);
    if place.is_dir() {
        return Ok(place);
    }
    let parent = place.parent().context("a place in the cache")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    let lock = File::create(place.with_extension("lock"))?;
    lock.lock()?;
    if place.is_dir() {
        return Ok(place);
    }
    // Filled beside its place and then moved, so that what is there is whole.
    let filling = tempfile::tempdir_in(parent)?;
    make(filling.path())?;
    fs::rename(filling.keep(), &place)?;
    Ok(place)
}

/// The directory of Kafka's jars, fetched by Maven if it is missing.
///
/// # Errors
/// Says what could not be fetched, and how it would be.
pub fn fetch_kafka() -> anyhow::Result<PathBuf> {
    cached(&format!("kafka/{KAFKA_VERSION}"), |dir| {
        println!("fetching Kafka {KAFKA_VERSION} (54 MB, once)");
        // A copy, since Maven writes beside its project.
        let project = tempfile::tempdir()?;
        let pom = project.path().join("pom.xml");
        fs::copy(own("kafka/pom.xml"), &pom)?;
        let mut maven = Command::new("mvn");
        maven.args(["--quiet", "--batch-mode", "dependency:copy-dependencies"]);
        maven.arg("--file").arg(&pom);
        maven.arg(format!("-DoutputDirectory={}", dir.display()));
        run(maven, "Maven (package `maven`) and JDK 17")
    })
}

/// The program `tidb-server`, built by Go if it is missing.
///
/// # Errors
/// Says what could not be built, and how it would be.
pub fn fetch_tidb() -> anyhow::Result<PathBuf> {
    let place = cached(&format!("tidb/{TIDB_VERSION}"), |dir| {
        println!("building TiDB {TIDB_VERSION} (about 9 minutes of two cores, once)");
        let mut go = Command::new("go");
        go.current_dir(own("tidb"))
            .args(["build", "-mod=readonly", "-o"]);
        go.arg(dir.join("tidb-server"));
        go.arg("github.com/pingcap/tidb/cmd/tidb-server");
        run(go, "Go 1.24 or later")
    })?;
    Ok(place.join("tidb-server"))
}

/// A file of this crate.
fn own(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn run(mut command: Command, needs: &str) -> anyhow::Result<()> {
    let status = command.status();
    let status = status.with_context(|| format!("cannot run {command:?}; it needs {needs}"))?;
    if !status.success() {
        bail!("{command:?} failed with {status}; it needs {needs}");
    }
    Ok(())
}
