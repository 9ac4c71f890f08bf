//! `cargo xtask demo`: pictures go in over HTTP, their texts come out; on `workload dev`, or on a cluster
//! with Kafka and TiDB.

mod cluster;

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use crate::checks::{cargo, root};

/// How long `workload dev` may take to start, and one picture to be read.
const START_WAIT: Duration = Duration::from_secs(30);
const TASK_WAIT: &str = "120s";

/// Builds what the demo needs and runs it.
pub(crate) fn build_and_run(on: On) -> anyhow::Result<()> {
    crate::programs::ensure(&["tesseract", "wget"])?;
    if on == On::Cluster {
        // Before our build, since each of them wants all cores.
        test_servers::fetch_kafka()?;
        test_servers::fetch_tidb()?;
    }
    println!("building (a first build takes some minutes)");
    cargo(&["build", "--workspace", "--bins"], &[])?;
    run(on)
}

/// What the demo runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum On {
    /// One process and one directory.
    Dev,
    /// Kafka, TiDB and each service as a process of its own.
    Cluster,
}

/// Where cargo puts a program of ours.
pub(crate) fn built(name: &str) -> anyhow::Result<PathBuf> {
    // This very program lies where cargo puts programs.
    let own = std::env::current_exe().context("cannot find this program")?;
    let binary = own.with_file_name(name);
    if !binary.is_file() {
        bail!(
            "{} is missing; build it by: cargo build --workspace --bins",
            binary.display()
        );
    }
    Ok(binary)
}

/// Runs the demo with what was built, and fails unless all texts are right.
pub(crate) fn run(on: On) -> anyhow::Result<()> {
    let data = tempfile::tempdir()?;
    let chart = root().join("examples/ocr/chart");
    match on {
        On::Dev => {
            let dev = Dev::start(&built("workload")?, data.path())?;
            println!("workload dev is up at {}", dev.http);
            read_pictures(&dev.http, &json!({"name": "ocr", "chart": chart}))?;
            dev.stop()
        }
        On::Cluster => {
            let steps = cluster::steps(&chart)?;
            let mut cluster = cluster::Cluster::start(data.path())?;
            println!("the API is up at {}", cluster.http());
            let pipeline = json!({"name": "ocr", "pipeline": steps});
            read_pictures(cluster.http(), &pipeline)?;
            cluster.show()?;
            cluster.stop()
        }
    }
}

/// Creates the pipeline, gives it all pictures, and fails unless all texts are right.
fn read_pictures(http: &str, pipeline: &Value) -> anyhow::Result<()> {
    let pictures = root().join("examples/ocr/pictures");
    let server = PictureServer::start(&pictures)?;
    let pipelines = format!("{http}/api/applications/myname/pipelines");
    let created = post(&pipelines, pipeline)?;
    println!("POST {pipelines}  → pipeline {}", created["name"]);
    let submit = format!("{pipelines}/ocr");
    let mut tasks = Vec::new();
    for picture in names(&pictures)? {
        let url = format!("{}/{picture}.png", server.address);
        let task = post(&submit, &json!({ "url": url }))?;
        println!("POST {submit}  {picture}.png → task {}", task["id"]);
        tasks.push((picture, task["id"].as_str().unwrap_or_default().to_owned()));
    }
    let n = tasks.len();
    let mut n_right = 0;
    for (i, (picture, id)) in tasks.into_iter().enumerate() {
        let task = get(&format!(
            "{http}/api/applications/myname/tasks/{id}?wait={TASK_WAIT}"
        ))?;
        let expected = std::fs::read_to_string(pictures.join(format!("{picture}.txt")))?;
        let text = text_of(&task);
        let right = text.as_deref().map(str::trim) == Some(expected.trim());
        n_right += usize::from(right);
        let verdict = if right { "right" } else { "WRONG" };
        println!(
            "\n[{}/{n}] {picture}.png, {}, {verdict}:",
            i + 1,
            task["state"]
        );
        match text {
            Some(text) => text.trim().lines().for_each(|line| println!("    {line}")),
            None => println!("{task:#}"),
        }
    }
    println!("\n{n_right} of {n} texts are right");
    if n_right < n {
        bail!("{} texts are wrong", n - n_right);
    }
    Ok(())
}

/// What `cat` printed: the second command of the second step.
fn text_of(task: &Value) -> Option<String> {
    let output = &task["result"]["steps"][1]["commands"][1]["stdout"];
    output.as_str().map(ToOwned::to_owned)
}

fn names(pictures: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(pictures)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ext| ext == "png") {
            names.extend(
                path.file_stem()
                    .map(|stem| stem.to_string_lossy().into_owned()),
            );
        }
    }
    names.sort();
    Ok(names)
}

fn post(url: &str, body: &Value) -> anyhow::Result<Value> {
    let body = body.to_string();
    read(
        ureq::post(url)
            .config()
            .http_status_as_error(false)
            .build()
            .send(body),
    )
    .with_context(|| format!("POST {url}"))
}

fn get(url: &str) -> anyhow::Result<Value> {
    read(
        ureq::get(url)
            .config()
            .http_status_as_error(false)
            .build()
            .call(),
    )
    .with_context(|| format!("GET {url}"))
}

fn read(response: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> anyhow::Result<Value> {
    let mut response = response?;
    let text = response.body_mut().read_to_string()?;
    if !response.status().is_success() {
        bail!("refused with {}: {text}", response.status());
    }
    serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))
}

/// A running `workload dev`; killed when dropped.
struct Dev {
    process: Child,
    http: String,
}

impl Dev {
    fn start(binary: &Path, data: &Path) -> anyhow::Result<Self> {
        let mut process = Command::new(binary)
            .args([
                "dev",
                "--http",
                "127.0.0.1:0",
                "--grpc",
                "127.0.0.1:0",
                "--data",
            ])
            .arg(data)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let stdout = process.stdout.take().context("no output")?;
        let (found, http) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            // Read to the end, so that the process never waits for a reader.
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some((_, address)) = line.split_once("HTTP API") {
                    // The demo may have given up already.
                    found.send(address.trim().to_owned()).ok();
                }
            }
        });
        let http = http.recv_timeout(START_WAIT);
        let mut dev = Self {
            process,
            http: String::new(),
        };
        dev.http = http.context("`workload dev` did not say its address in time")?;
        Ok(dev)
    }

    /// Ends it as a user would, and fails unless it ends well.
    fn stop(mut self) -> anyhow::Result<()> {
        let pid = self.process.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status()?;
        let start = Instant::now();
        while start.elapsed() < START_WAIT {
            if let Some(status) = self.process.try_wait()? {
                if !status.success() {
                    bail!("`workload dev` ended with {status}");
                }
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("`workload dev` did not end after SIGTERM")
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // After a good end both fail, which is fine.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Serves the files of one directory until dropped.
struct PictureServer {
    address: String,
    server: Arc<tiny_http::Server>,
}

impl PictureServer {
    fn start(dir: &Path) -> anyhow::Result<Self> {
        let server = tiny_http::Server::http("127.0.0.1:0");
        let server =
            Arc::new(server.map_err(|err| anyhow::anyhow!("cannot serve the pictures: {err}"))?);
        let address = format!("http://{}", server.server_addr());
        let (serving, dir) = (Arc::clone(&server), dir.to_owned());
        std::thread::spawn(move || {
            for request in serving.incoming_requests() {
                let name = request.url().trim_start_matches('/').to_owned();
                let file = (!name.contains('/')).then(|| std::fs::File::open(dir.join(&name)));
                // A client that has gone needs no answer.
                match file {
                    Some(Ok(file)) => request.respond(tiny_http::Response::from_file(file)).ok(),
                    _ => request.respond(tiny_http::Response::empty(404)).ok(),
                };
            }
        });
        Ok(Self { address, server })
    }
}

impl Drop for PictureServer {
    fn drop(&mut self) {
        self.server.unblock();
    }
}
