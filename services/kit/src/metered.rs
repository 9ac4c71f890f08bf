//! Ports that count and measure what goes through them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use metrics::{counter, histogram};
use scheduler_core::{
    Epoch, Offset, Pipeline, PipelineNumber, ShardId, TaskId,
    port::{
        PortError, TaskLog, TaskStore,
        log::{Appended, Bounds, Fetch, Fetches, NewRecord, Record},
        store::{
            Claim, Claimed, DuePage, DueTasks, Flushed, Found, KeyedPage, KeyedTasks, ListPage,
            Lookup, ShardFlush, StoredTask,
        },
    },
};

/// The log, measured.
#[must_use]
pub fn metered_log(log: Arc<dyn TaskLog>) -> Arc<dyn TaskLog> {
    Arc::new(MeteredLog(log))
}

/// The store, measured.
#[must_use]
pub fn metered_store(store: Arc<dyn TaskStore>) -> Arc<dyn TaskStore> {
    Arc::new(MeteredStore(store))
}

/// One call of a port.
struct Measured {
    port: &'static str,
    call: &'static str,
    start: Instant,
}

impl Measured {
    fn start(port: &'static str, call: &'static str) -> Self {
        Self {
            port,
            call,
            start: Instant::now(),
        }
    }

    fn end(self) {
        let seconds = self.start.elapsed();
        histogram!("workload_port_seconds", "port" => self.port, "call" => self.call)
            .record(seconds);
    }

    fn failed(&self, err: &PortError) {
        let kind = err.kind().to_string();
        counter!("workload_port_failures_total", "port" => self.port, "call" => self.call, "kind" => kind)
            .increment(1);
    }

    fn end_with<T>(self, answer: Result<T, PortError>) -> Result<T, PortError> {
        if let Err(err) = &answer {
            self.failed(err);
        }
        self.end();
        answer
    }

    fn end_with_all<T>(self, answers: Vec<Result<T, PortError>>) -> Vec<Result<T, PortError>> {
        for err in answers.iter().filter_map(|answer| answer.as_ref().err()) {
            self.failed(err);
        }
        self.end();
        answers
    }
}

fn count(name: &'static str, n: usize) {
    if n > 0 {
        counter!(name).increment(n as u64);
    }
}

#[derive(Debug)]
struct MeteredLog(Arc<dyn TaskLog>);

#[async_trait]
impl TaskLog for MeteredLog {
    async fn ensure(&self, pipelines: &[Arc<Pipeline>]) -> Vec<Result<(), PortError>> {
        let measured = Measured::start("log", "ensure");
        measured.end_with_all(self.0.ensure(pipelines).await)
    }

    async fn close(&self, pipeline: &Pipeline) -> Result<Option<Vec<Bounds>>, PortError> {
        let measured = Measured::start("log", "close");
        measured.end_with(self.0.close(pipeline).await)
    }

    async fn remove(&self, pipeline: &Pipeline) -> Result<(), PortError> {
        let measured = Measured::start("log", "remove");
        measured.end_with(self.0.remove(pipeline).await)
    }

    async fn append(&self, records: Vec<NewRecord>) -> Vec<Result<Appended, PortError>> {
        let measured = Measured::start("log", "append");
        let answers = measured.end_with_all(self.0.append(records).await);
        let n_taken = answers.iter().filter(|answer| answer.is_ok()).count();
        count("workload_tasks_appended_total", n_taken);
        answers
    }

    async fn fetch(&self, wanted: &[Fetch], wait: Duration) -> Result<Fetches, PortError> {
        // It waits for news, so its time says nothing.
        let fetched = self.0.fetch(wanted, wait).await;
        match &fetched {
            Ok(fetches) => {
                let n_read = fetches.read.iter().map(|read| read.records.len()).sum();
                count("workload_tasks_fetched_total", n_read);
                count("workload_places_lost_total", fetches.lost.len());
            }
            Err(err) => Measured::start("log", "fetch").failed(err),
        }
        fetched
    }

    async fn read_at(&self, wanted: &[TaskId]) -> Vec<Result<Option<Record>, PortError>> {
        let measured = Measured::start("log", "read_at");
        measured.end_with_all(self.0.read_at(wanted).await)
    }

    async fn bounds(&self, shards: &[ShardId]) -> Vec<Result<Bounds, PortError>> {
        let measured = Measured::start("log", "bounds");
        measured.end_with_all(self.0.bounds(shards).await)
    }

    async fn trim(&self, below: &[(ShardId, Offset)]) -> Result<(), PortError> {
        let measured = Measured::start("log", "trim");
        measured.end_with(self.0.trim(below).await)
    }

    async fn publish_watermarks(&self, watermarks: &[(ShardId, Offset)]) -> Result<(), PortError> {
        let measured = Measured::start("log", "publish_watermarks");
        measured.end_with(self.0.publish_watermarks(watermarks).await)
    }
}

#[derive(Debug)]
struct MeteredStore(Arc<dyn TaskStore>);

#[async_trait]
impl TaskStore for MeteredStore {
    async fn claim(&self, claims: &[Claim]) -> Result<Vec<Claimed>, PortError> {
        let measured = Measured::start("store", "claim");
        measured.end_with(self.0.claim(claims).await)
    }

    async fn flush(&self, parts: &[ShardFlush]) -> Result<Vec<Flushed>, PortError> {
        let measured = Measured::start("store", "flush");
        let flushed = measured.end_with(self.0.flush(parts).await)?;
        let saved = parts.iter().zip(&flushed);
        let n_tasks = saved
            .filter(|(_, answer)| **answer == Flushed::Saved)
            .map(|(part, _)| part.tasks.len())
            .sum();
        count("workload_tasks_flushed_total", n_tasks);
        let fenced = flushed.iter().filter(|answer| **answer == Flushed::Fenced);
        count("workload_shards_fenced_total", fenced.count());
        Ok(flushed)
    }

    async fn release(&self, shards: &[(ShardId, Epoch)]) -> Result<(), PortError> {
        let measured = Measured::start("store", "release");
        measured.end_with(self.0.release(shards).await)
    }

    async fn due(&self, pages: &[DuePage]) -> Result<Vec<DueTasks>, PortError> {
        let measured = Measured::start("store", "due");
        measured.end_with(self.0.due(pages).await)
    }

    async fn keyed(&self, pages: &[KeyedPage]) -> Result<Vec<KeyedTasks>, PortError> {
        let measured = Measured::start("store", "keyed");
        measured.end_with(self.0.keyed(pages).await)
    }

    async fn get(&self, lookups: &[Lookup]) -> Result<Vec<Option<Found>>, PortError> {
        let measured = Measured::start("store", "get");
        measured.end_with(self.0.get(lookups).await)
    }

    async fn list(&self, pages: &[ListPage]) -> Result<Vec<Vec<StoredTask>>, PortError> {
        let measured = Measured::start("store", "list");
        measured.end_with(self.0.list(pages).await)
    }

    async fn owners(&self, shards: &[ShardId]) -> Result<Vec<Option<Arc<str>>>, PortError> {
        let measured = Measured::start("store", "owners");
        measured.end_with(self.0.owners(shards).await)
    }

    async fn forget(&self, pipeline: PipelineNumber) -> Result<(), PortError> {
        let measured = Measured::start("store", "forget");
        measured.end_with(self.0.forget(pipeline).await)
    }
}
