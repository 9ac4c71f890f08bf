//! An agent for each pipeline that has steps, for as long as the pipeline is there.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use scheduler_core::{Pipeline, PipelineNumber, Scheduler, port::catalog::CatalogVersion};
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
};
use tracing::warn;
use workload_agent::{Agent, Directory, Executors};

/// How long to wait before an agent that broke is started again.
const RETRY: Duration = Duration::from_secs(1);

/// What every agent is told.
#[derive(Debug, Clone)]
pub(super) struct Agents {
    pub(super) scheduler: Scheduler,
    pub(super) endpoint: String,
    pub(super) executors: Executors,
    /// Tasks have their private directories here.
    pub(super) tasks: PathBuf,
    pub(super) concurrency: usize,
}

/// An agent that runs; it ends when this is dropped.
struct Running {
    end: watch::Sender<bool>,
    ended: JoinHandle<()>,
}

impl Agents {
    /// Starts and ends agents as pipelines come and go, until `shutdown` is done; then lets all end.
    pub(super) async fn run(self, shutdown: impl Future<Output = ()>) {
        let mut running: BTreeMap<PipelineNumber, Running> = BTreeMap::new();
        let mut seen = CatalogVersion::default();
        let mut leaving = JoinSet::new();
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let (version, pipelines) = tokio::select! {
                changed = self.scheduler.pipelines_changed(seen) => changed,
                () = &mut shutdown => break,
            };
            seen = version;
            let there = |number: &PipelineNumber| {
                pipelines.iter().any(|pipeline| pipeline.number == *number)
            };
            for (_, gone) in running.extract_if(.., |number, _| !there(number)) {
                leaving.spawn(gone.end());
            }
            for pipeline in &pipelines {
                if !pipeline.spec.steps.is_empty() && !running.contains_key(&pipeline.number) {
                    running.insert(pipeline.number, self.start(pipeline));
                }
            }
        }
        for (_, running) in running {
            leaving.spawn(running.end());
        }
        leaving.join_all().await;
    }

    fn start(&self, pipeline: &Pipeline) -> Running {
        let (end, ending) = watch::channel(false);
        let (agents, path) = (self.clone(), pipeline.path.clone());
        let number = pipeline.number;
        let ended = tokio::spawn(async move {
            while !*ending.borrow() {
                let agent = Agent::builder(path.clone())
                    .scheduler(&agents.endpoint)
                    .executors(agents.executors.clone())
                    .directory(Directory::PrivateUnder(
                        agents.tasks.join(number.0.to_string()),
                    ))
                    .concurrency(agents.concurrency)
                    .grace(Duration::from_secs(5))
                    .build();
                let mut end = ending.clone();
                let ended = async move {
                    // An error means that the sender is gone, which is an end.
                    end.wait_for(|end| *end).await.ok();
                };
                let result = match agent {
                    Ok(agent) => agent.run(ended).await,
                    Err(err) => Err(err),
                };
                if let Err(err) = result {
                    warn!(%err, pipeline = %path, "agent broke");
                    tokio::time::sleep(RETRY).await;
                }
            }
        });
        Running { end, ended }
    }
}

impl Running {
    async fn end(self) {
        self.end.send_replace(true);
        if let Err(err) = self.ended.await {
            warn!(%err, "agent broke");
        }
    }
}
