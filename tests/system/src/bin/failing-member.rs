//! A member that dies at a named point, as suddenly as by `kill -9`: `FAILPOINT=POINT:N failing-member --set …`.
//!
//! It is the member that `workload-scheduler` runs, on ports that count how often a point is passed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, bail};
use async_trait::async_trait;
use clap::Parser;
use scheduler_core::{
    Epoch, Offset, Pipeline, PipelineNumber, Ports, ShardId, TaskId,
    port::{
        PortError, TaskLog, TaskStore,
        log::{Appended, Bounds, Fetch, Fetches, NewRecord, Record},
        store::{
            Claim, Claimed, DuePage, DueTasks, Flushed, Found, KeyedPage, KeyedTasks, ListPage,
            Lookup, ShardFlush, StoredTask,
        },
    },
};
use workload_kit::Settings;

/// Where to die, and how often the point is passed before.
const VARIABLE: &str = "FAILPOINT";

#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    settings: workload_kit::Arguments,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Point {
    /// Tasks were read from the log, and nothing was done with them.
    AfterFetch,
    /// A shard was claimed, and nothing was done with it.
    AfterClaim,
    /// Tasks are to be saved.
    BeforeFlush,
    /// Tasks were saved, and nobody was told.
    AfterFlush,
    /// Watermarks are saved, and the log was not told.
    BeforeWatermark,
    BeforeTrim,
    AfterTrim,
}

impl Point {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "after_fetch" => Self::AfterFetch,
            "after_claim" => Self::AfterClaim,
            "before_flush" => Self::BeforeFlush,
            "after_flush" => Self::AfterFlush,
            "before_watermark" => Self::BeforeWatermark,
            "before_trim" => Self::BeforeTrim,
            "after_trim" => Self::AfterTrim,
            _ => return None,
        })
    }
}

#[derive(Debug)]
struct Failpoint {
    point: Point,
    n_left: AtomicU32,
}

impl Failpoint {
    fn from_environment() -> anyhow::Result<Self> {
        let text = std::env::var(VARIABLE).context("FAILPOINT=POINT:N is needed")?;
        let (point, n) = text.split_once(':').context("FAILPOINT must be POINT:N")?;
        let Some(point) = Point::named(point) else {
            bail!("there is no point {point}");
        };
        Ok(Self {
            point,
            n_left: AtomicU32::new(n.parse()?),
        })
    }

    fn pass(&self, point: Point) {
        if point == self.point && self.n_left.fetch_sub(1, Ordering::Relaxed) == 0 {
            // No destructor, no farewell to anybody.
            std::process::abort();
        }
    }
}

#[derive(Debug)]
struct FailingLog {
    log: Arc<dyn TaskLog>,
    failpoint: Arc<Failpoint>,
}

#[async_trait]
impl TaskLog for FailingLog {
    async fn ensure(&self, pipelines: &[Arc<Pipeline>]) -> Vec<Result<(), PortError>> {
        self.log.ensure(pipelines).await
    }

    async fn close(&self, pipeline: &Pipeline) -> Result<Option<Vec<Bounds>>, PortError> {
        self.log.close(pipeline).await
    }

    async fn remove(&self, pipeline: &Pipeline) -> Result<(), PortError> {
        self.log.remove(pipeline).await
    }

    async fn append(&self, records: Vec<NewRecord>) -> Vec<Result<Appended, PortError>> {
        self.log.append(records).await
    }

    async fn fetch(&self, wanted: &[Fetch], wait: Duration) -> Result<Fetches, PortError> {
        let fetches = self.log.fetch(wanted, wait).await?;
        if fetches.read.iter().any(|read| !read.records.is_empty()) {
            self.failpoint.pass(Point::AfterFetch);
        }
        Ok(fetches)
    }

    async fn read_at(&self, wanted: &[TaskId]) -> Vec<Result<Option<Record>, PortError>> {
        self.log.read_at(wanted).await
    }

    async fn bounds(&self, shards: &[ShardId]) -> Vec<Result<Bounds, PortError>> {
        self.log.bounds(shards).await
    }

    async fn trim(&self, below: &[(ShardId, Offset)]) -> Result<(), PortError> {
        self.failpoint.pass(Point::BeforeTrim);
        self.log.trim(below).await?;
        self.failpoint.pass(Point::AfterTrim);
        Ok(())
    }

    async fn publish_watermarks(&self, watermarks: &[(ShardId, Offset)]) -> Result<(), PortError> {
        self.failpoint.pass(Point::BeforeWatermark);
        self.log.publish_watermarks(watermarks).await
    }
}

#[derive(Debug)]
struct FailingStore {
    store: Arc<dyn TaskStore>,
    failpoint: Arc<Failpoint>,
}

#[async_trait]
impl TaskStore for FailingStore {
    async fn claim(&self, claims: &[Claim]) -> Result<Vec<Claimed>, PortError> {
        let claimed = self.store.claim(claims).await?;
        self.failpoint.pass(Point::AfterClaim);
        Ok(claimed)
    }

    async fn flush(&self, parts: &[ShardFlush]) -> Result<Vec<Flushed>, PortError> {
        self.failpoint.pass(Point::BeforeFlush);
        let flushed = self.store.flush(parts).await?;
        self.failpoint.pass(Point::AfterFlush);
        Ok(flushed)
    }

    async fn release(&self, shards: &[(ShardId, Epoch)]) -> Result<(), PortError> {
        self.store.release(shards).await
    }

    async fn due(&self, pages: &[DuePage]) -> Result<Vec<DueTasks>, PortError> {
        self.store.due(pages).await
    }

    async fn keyed(&self, pages: &[KeyedPage]) -> Result<Vec<KeyedTasks>, PortError> {
        self.store.keyed(pages).await
    }

    async fn get(&self, lookups: &[Lookup]) -> Result<Vec<Option<Found>>, PortError> {
        self.store.get(lookups).await
    }

    async fn list(&self, pages: &[ListPage]) -> Result<Vec<Vec<StoredTask>>, PortError> {
        self.store.list(pages).await
    }

    async fn owners(&self, shards: &[ShardId]) -> Result<Vec<Option<Arc<str>>>, PortError> {
        self.store.owners(shards).await
    }

    async fn forget(&self, pipeline: PipelineNumber) -> Result<(), PortError> {
        self.store.forget(pipeline).await
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let settings = Settings::load(workload_scheduler::keys(), &arguments.settings)?;
    let failpoint = Arc::new(Failpoint::from_environment()?);
    let wrap = |ports: Ports| Ports {
        log: Arc::new(FailingLog {
            log: ports.log,
            failpoint: Arc::clone(&failpoint),
        }),
        store: Arc::new(FailingStore {
            store: ports.store,
            failpoint: Arc::clone(&failpoint),
        }),
        ..ports
    };
    workload_scheduler::run(&settings, wrap).await
}
