//! A scheduler that knows one pipeline, hands out what it is given, and keeps what it hears.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use scheduler_core::{Offset, Partition, PipelineNumber, ShardId, TaskId};
use scheduler_grpc::pb::{
    self,
    lost_lease::Reason,
    pipeline_service_server::{PipelineService, PipelineServiceServer},
    worker_service_server::{WorkerService, WorkerServiceServer},
};
use tokio::{net::TcpListener, sync::watch};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming, transport::Server};

#[derive(Default)]
struct State {
    pipeline: pb::Pipeline,
    tasks: Vec<pb::LeasedTask>,
    lost: Vec<pb::LostLease>,
    reports: Vec<pb::TaskReport>,
    progress: Vec<serde_json::Value>,
}

/// Clones are the same one.
#[derive(Clone)]
pub(crate) struct FakeScheduler {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<()>,
    pub(crate) endpoint: String,
}

impl FakeScheduler {
    /// One whose pipeline has these steps: executor and command lines.
    pub(crate) async fn start(steps: &[(&str, &[&str])]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let steps = steps.iter().map(|(executor, commands)| pb::Step {
            executor: (*executor).to_owned(),
            commands: commands.iter().map(|line| (*line).to_owned()).collect(),
        });
        let pipeline = pb::Pipeline {
            application: "shop".into(),
            pipeline: "test".into(),
            number: 1,
            revision: 1,
            spec: Some(pb::PipelineSpec {
                steps: steps.collect(),
                ..Default::default()
            }),
            created_at: Some(prost_types::Timestamp::default()),
            ..Default::default()
        };
        let state = State {
            pipeline,
            ..State::default()
        };
        let scheduler = Self {
            state: Arc::new(Mutex::new(state)),
            changed: watch::Sender::new(()),
            endpoint: format!("http://{}", listener.local_addr().unwrap()),
        };
        let server = Server::builder()
            .add_service(WorkerServiceServer::new(scheduler.clone()))
            .add_service(PipelineServiceServer::new(scheduler.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        scheduler
    }

    /// Submits a task; `timeout` is its attempt's.
    pub(crate) fn submit(&self, n: u64, data: serde_json::Value, timeout: Option<Duration>) {
        let task = pb::LeasedTask {
            id: id(n),
            lease_token: n,
            attempt: 1,
            max_attempts: 3,
            data: data.to_string().into(),
            traceparent: "00-trace-01".into(),
            lease: Some(prost_types::Duration {
                seconds: 30,
                nanos: 0,
            }),
            timeout: timeout.map(scheduler_grpc::convert::duration),
            revision: 1,
            ..Default::default()
        };
        self.change(|state| state.tasks.push(task));
    }

    /// Takes a lease away.
    pub(crate) fn lose(&self, n: u64, reason: Reason) {
        let lost = pb::LostLease {
            id: id(n),
            lease_token: n,
            reason: reason.into(),
        };
        self.change(|state| state.lost.push(lost));
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
        self.changed.send_replace(());
    }

    /// Waits until something that is looked for is there.
    pub(crate) async fn sees<T>(&self, look: impl Fn(&Seen<'_>) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        let seen = async {
            loop {
                {
                    let state = self.state.lock().unwrap();
                    let seen = Seen {
                        reports: &state.reports,
                        progress: &state.progress,
                    };
                    if let Some(found) = look(&seen) {
                        return found;
                    }
                }
                changed.changed().await.unwrap();
            }
        };
        let found = tokio::time::timeout(Duration::from_secs(20), seen).await;
        found.expect("it comes in time")
    }

    /// Waits for a task's outcome.
    pub(crate) async fn outcome(&self, n: u64) -> pb::task_report::Outcome {
        let report = |seen: &Seen<'_>| {
            let report = seen.reports.iter().find(|report| report.id == id(n))?;
            report.outcome.clone()
        };
        self.sees(report).await
    }

    pub(crate) fn n_reports(&self) -> usize {
        self.state.lock().unwrap().reports.len()
    }
}

/// What the scheduler has heard.
pub(crate) struct Seen<'a> {
    pub(crate) reports: &'a [pb::TaskReport],
    pub(crate) progress: &'a [serde_json::Value],
}

fn id(n: u64) -> String {
    let shard = ShardId {
        pipeline: PipelineNumber(1),
        partition: Partition(0),
    };
    let offset = Offset(n);
    TaskId { shard, offset }.to_string()
}

#[tonic::async_trait]
impl WorkerService for FakeScheduler {
    async fn discover(
        &self,
        _: Request<pb::DiscoverRequest>,
    ) -> Result<Response<pb::DiscoverResponse>, Status> {
        Err(Status::unimplemented("nobody asks this one"))
    }

    async fn poll(
        &self,
        request: Request<pb::PollRequest>,
    ) -> Result<Response<pb::PollResponse>, Status> {
        let poll = request.into_inner();
        let mut changed = self.changed.subscribe();
        loop {
            {
                let mut state = self.state.lock().unwrap();
                let credit = usize::try_from(poll.credit).unwrap().min(state.tasks.len());
                let tasks: Vec<_> = state.tasks.drain(..credit).collect();
                let held = |lost: &pb::LostLease| poll.held.iter().any(|held| held.id == lost.id);
                let lost: Vec<_> = state
                    .lost
                    .iter()
                    .filter(|lost| held(lost))
                    .cloned()
                    .collect();
                if !tasks.is_empty() || !lost.is_empty() {
                    return Ok(Response::new(pb::PollResponse { tasks, lost }));
                }
            }
            changed.changed().await.unwrap();
        }
    }

    async fn report(
        &self,
        request: Request<pb::ReportRequest>,
    ) -> Result<Response<pb::ReportResponse>, Status> {
        let reports = request.into_inner().reports;
        let results = vec![tonic_types::Status::default(); reports.len()];
        self.change(|state| state.reports.extend(reports));
        Ok(Response::new(pb::ReportResponse { results }))
    }

    async fn heartbeat(
        &self,
        request: Request<pb::HeartbeatRequest>,
    ) -> Result<Response<pb::HeartbeatResponse>, Status> {
        use pb::heartbeat_result::Result as Wire;
        let heartbeats = request.into_inner().heartbeats;
        let lease = prost_types::Duration {
            seconds: 30,
            nanos: 0,
        };
        let granted = pb::HeartbeatResult {
            result: Some(Wire::Lease(lease)),
        };
        let results = vec![granted; heartbeats.len()];
        let progress = heartbeats
            .into_iter()
            .filter_map(|heartbeat| heartbeat.progress);
        let progress = progress.map(|json| serde_json::from_slice(&json).unwrap());
        self.change(|state| state.progress.extend(progress));
        Ok(Response::new(pb::HeartbeatResponse { results }))
    }

    type WorkStream = tokio_stream::Empty<Result<pb::WorkResponse, Status>>;

    async fn work(
        &self,
        _: Request<Streaming<pb::WorkRequest>>,
    ) -> Result<Response<Self::WorkStream>, Status> {
        Err(Status::unimplemented("as of a server that is older"))
    }
}

fn unasked<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("an agent does not ask for this"))
}

#[tonic::async_trait]
impl PipelineService for FakeScheduler {
    async fn stats(
        &self,
        _: Request<pb::PipelineStatsRequest>,
    ) -> Result<Response<pb::PipelineStats>, Status> {
        unasked()
    }

    async fn shards(
        &self,
        _: Request<pb::ListShardsRequest>,
    ) -> Result<Response<pb::ListShardsResponse>, Status> {
        unasked()
    }

    async fn workers(
        &self,
        _: Request<pb::ListWorkersRequest>,
    ) -> Result<Response<pb::ListWorkersResponse>, Status> {
        unasked()
    }

    type WatchStream = tokio_stream::Empty<Result<pb::PipelineEvent, Status>>;

    async fn watch(
        &self,
        _: Request<pb::WatchPipelineRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        unasked()
    }

    async fn create(
        &self,
        _: Request<pb::CreatePipelineRequest>,
    ) -> Result<Response<pb::Pipeline>, Status> {
        unasked()
    }

    async fn get(
        &self,
        _: Request<pb::GetPipelineRequest>,
    ) -> Result<Response<pb::Pipeline>, Status> {
        Ok(Response::new(self.state.lock().unwrap().pipeline.clone()))
    }

    async fn list(
        &self,
        _: Request<pb::ListPipelinesRequest>,
    ) -> Result<Response<pb::ListPipelinesResponse>, Status> {
        unasked()
    }

    async fn update(
        &self,
        _: Request<pb::UpdatePipelineRequest>,
    ) -> Result<Response<pb::Pipeline>, Status> {
        unasked()
    }

    async fn delete(
        &self,
        _: Request<pb::DeletePipelineRequest>,
    ) -> Result<Response<pb::DeletePipelineResponse>, Status> {
        unasked()
    }

    type RedriveStream = tokio_stream::Empty<Result<pb::RedriveProgress, Status>>;

    async fn redrive(
        &self,
        _: Request<pb::RedrivePipelineRequest>,
    ) -> Result<Response<Self::RedriveStream>, Status> {
        Err(Status::unimplemented("redrive"))
    }

    async fn pause(
        &self,
        _: Request<pb::PausePipelineRequest>,
    ) -> Result<Response<pb::Pipeline>, Status> {
        Err(Status::unimplemented("pause"))
    }

    async fn resume(
        &self,
        _: Request<pb::ResumePipelineRequest>,
    ) -> Result<Response<pb::Pipeline>, Status> {
        Err(Status::unimplemented("resume"))
    }

    async fn drain(
        &self,
        _: Request<pb::DrainPipelineRequest>,
    ) -> Result<Response<pb::Pipeline>, Status> {
        Err(Status::unimplemented("drain"))
    }
}
