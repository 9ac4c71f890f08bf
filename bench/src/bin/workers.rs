//! Workers of the SDK on a stream, beside the same workers with a call each time, all in one run.
//!
//! `cargo run --release -p bench --bin workers [N]` prints a table; `bench/README.md` explains it and keeps the figures.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints its figures, and fails by a panic"
)]
#![expect(clippy::cast_precision_loss, reason = "rates need no last digit")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use scheduler_core::{
    Config, PipelinePath, PipelineSpec, Retention, Scheduler, Submit, TaskOptions, memory,
};
use scheduler_grpc::server::{Access, Limits, Services};
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
    task::{AbortHandle, JoinSet},
};
use worker_sdk::{Failure, TaskContext, Worker};

/// Tasks of the busy rounds.
const N: usize = 100_000;
/// Rounds of each kind, one way after the other.
const N_ROUNDS: usize = 3;
/// Tasks that are submitted one after the other, each when the one before has begun.
const N_SINGLE: usize = 5_000;
/// Workers that have nothing to do, and for how long.
const N_IDLE: usize = 2_000;
const IDLE_FOR: Duration = Duration::from_secs(30);
/// The kernel's clock tick, in which it counts time of a core.
const TICK: Duration = Duration::from_millis(10);

fn payload() -> String {
    format!(r#"{{"url":"{}"}}"#, "x".repeat(190))
}

/// Time that this process has run: server and workers.
fn core_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // Behind the program's name: state is the first field, user and system time are the 12th and 13th.
    let fields = stat.rsplit(')').next().unwrap().split_whitespace();
    let ticks = fields.skip(11).take(2).map(|n| n.parse::<u32>().unwrap());
    TICK * ticks.sum::<u32>()
}

struct System {
    scheduler: Scheduler,
    path: PipelinePath,
    endpoint: String,
    serving: AbortHandle,
    n_begun: Arc<AtomicUsize>,
    /// A task has begun.
    begun: Arc<Notify>,
}

impl System {
    async fn start() -> Self {
        let scheduler = Scheduler::start(Config::default(), memory::ports()).await;
        let scheduler = scheduler.unwrap();
        let path = scheduler_core::path("default", "bench", "workers").unwrap();
        let spec = PipelineSpec {
            n_partitions: 4,
            defaults: TaskOptions {
                retention: Some(Retention::None),
                ..TaskOptions::default()
            },
            ..PipelineSpec::default()
        };
        // The log may not be there yet.
        while scheduler
            .create_pipeline(&path, spec.clone())
            .await
            .is_err()
            && scheduler.pipeline(&path).await.is_err()
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        let services = Services::new(scheduler.clone(), Access::Open, Limits::default()).unwrap();
        let serving = tokio::spawn(services.serve(listener, std::future::pending()));
        Self {
            serving: serving.abort_handle(),
            scheduler,
            path,
            endpoint,
            n_begun: Arc::default(),
            begun: Arc::default(),
        }
    }

    /// Starts workers; they end when the answer is dropped.
    fn work(
        &self,
        n: usize,
        concurrency: usize,
        is_unary: bool,
    ) -> (JoinSet<()>, watch::Sender<()>) {
        let (end, ending) = watch::channel(());
        let mut workers = JoinSet::new();
        for _ in 0..n {
            let (n_begun, begun) = (Arc::clone(&self.n_begun), Arc::clone(&self.begun));
            let handler = move |_: TaskContext| {
                n_begun.fetch_add(1, Ordering::Relaxed);
                begun.notify_one();
                async { Ok::<_, Failure>(1) }
            };
            let mut worker = Worker::builder("bench", "workers")
                .endpoint(&self.endpoint)
                .concurrency(concurrency);
            if is_unary {
                worker = worker.unary();
            }
            let worker = worker.build(handler).unwrap();
            let mut ending = ending.clone();
            workers.spawn(async move {
                let ended = async { while ending.changed().await.is_ok() {} };
                worker.run_until(ended).await.unwrap();
            });
        }
        (workers, end)
    }

    /// Ends the workers and the rest, so that the next round has the machine for itself.
    async fn stop(self, mut workers: JoinSet<()>) {
        while workers.join_next().await.is_some() {}
        self.serving.abort();
        self.scheduler.shutdown().await;
    }

    async fn begun(&self, n: usize) {
        while self.n_begun.load(Ordering::Relaxed) < n {
            self.begun.notified().await;
        }
    }

    async fn submit(&self, n: usize) {
        let data = payload();
        for _ in 0..n.div_ceil(500) {
            let batch = vec![Submit::new(data.clone()); 500];
            let submitted = self.scheduler.submit_batch(&self.path, batch).await;
            assert!(submitted.unwrap().iter().all(Result::is_ok));
        }
    }
}

/// Microseconds of a core for each task that waits already, and tasks a second.
async fn busy(n: usize, concurrency: usize, is_unary: bool) -> (f64, f64) {
    let system = System::start().await;
    system.submit(n).await;
    let (began, before) = (Instant::now(), core_time());
    let (mut workers, end) = system.work(4, concurrency, is_unary);
    system.begun(n).await;
    // With their reports.
    drop(end);
    while workers.join_next().await.is_some() {}
    let (took, worked) = (began.elapsed(), core_time() - before);
    system.stop(workers).await;
    (
        worked.as_secs_f64() * 1e6 / n as f64,
        n as f64 / took.as_secs_f64(),
    )
}

/// Microseconds of a core for each task that comes alone, and microseconds until it has begun.
async fn single(is_unary: bool) -> (f64, f64) {
    let system = System::start().await;
    let (workers, end) = system.work(4, 4, is_unary);
    let data = payload();
    // Until all are connected.
    for n in 1..=100 {
        let submitted = system
            .scheduler
            .submit(&system.path, Submit::new(data.clone()));
        submitted.await.unwrap();
        system.begun(n).await;
    }
    let (began, before) = (Instant::now(), core_time());
    for n in 101..=100 + N_SINGLE {
        let submitted = system
            .scheduler
            .submit(&system.path, Submit::new(data.clone()));
        submitted.await.unwrap();
        system.begun(n).await;
    }
    let (took, worked) = (began.elapsed(), core_time() - before);
    drop(end);
    system.stop(workers).await;
    let each = |time: Duration| time.as_secs_f64() * 1e6 / N_SINGLE as f64;
    (each(worked), each(took))
}

/// Thousandths of a core that workers without tasks take, a thousand of them.
async fn idle(is_unary: bool) -> f64 {
    let system = System::start().await;
    let (workers, end) = system.work(N_IDLE, 1, is_unary);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = core_time();
    tokio::time::sleep(IDLE_FOR).await;
    let worked = core_time() - before;
    drop(end);
    system.stop(workers).await;
    worked.as_secs_f64() / IDLE_FOR.as_secs_f64() * 1e3 / (N_IDLE as f64 / 1e3)
}

fn median(mut rounds: Vec<(f64, f64)>) -> (f64, f64) {
    rounds.sort_by(|one, other| one.0.total_cmp(&other.0));
    rounds[rounds.len() / 2]
}

#[tokio::main]
async fn main() {
    let n = std::env::args().nth(1).map_or(N, |n| n.parse().unwrap());
    println!("| | call by call | stream | ratio |\n|---|---|---|---|");
    let row = |what: &str, unary: f64, stream: f64| {
        println!(
            "| {what} | {unary:.1} | {stream:.1} | {:.2} |",
            stream / unary
        );
    };
    for concurrency in [1, 8, 64] {
        let n = if concurrency == 1 { n / 5 } else { n };
        let (mut unary, mut stream) = (Vec::new(), Vec::new());
        for _ in 0..N_ROUNDS {
            unary.push(busy(n, concurrency, true).await);
            stream.push(busy(n, concurrency, false).await);
        }
        let (unary, stream) = (median(unary), median(stream));
        let what = format!("4 workers, {concurrency} slots each");
        row(&format!("{what}: µs of a core a task"), unary.0, stream.0);
        row(&format!("{what}: tasks a second"), unary.1, stream.1);
    }
    let (mut unary, mut stream) = (Vec::new(), Vec::new());
    for _ in 0..N_ROUNDS {
        unary.push(single(true).await);
        stream.push(single(false).await);
    }
    let (unary, stream) = (median(unary), median(stream));
    row("tasks that come alone: µs of a core", unary.0, stream.0);
    row("tasks that come alone: µs until begun", unary.1, stream.1);
    let (unary, stream) = (idle(true).await, idle(false).await);
    row("1,000 idle workers: thousandths of a core", unary, stream);
}
