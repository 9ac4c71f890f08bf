//! A `WorkerService` that hands out what it was given and keeps what is reported.

use std::{
    collections::VecDeque,
    future::Future,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use scheduler_core::{Offset, Partition, PipelineNumber, ShardId, TaskId};
use scheduler_grpc::pb::{
    self,
    worker_service_server::{WorkerService, WorkerServiceServer},
};
use tokio::{
    net::{TcpListener, UnixListener},
    runtime::Runtime,
};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming, transport::Server};

#[derive(Default)]
struct State {
    tasks: VecDeque<pb::LeasedTask>,
    reports: Vec<pb::TaskReport>,
}

#[derive(Clone, Default)]
struct Desk(Arc<Mutex<State>>);

/// The scheduler and the server that answers for it, in a runtime of its own: when that ends, its
/// connections break as those of a process that dies.
pub(crate) struct FakeScheduler {
    desk: Desk,
    endpoint: String,
    runtime: Option<Runtime>,
}

impl FakeScheduler {
    pub(crate) fn on_tcp() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        Self::serve(endpoint, move |server, service| async move {
            let incoming = TcpListenerStream::new(TcpListener::from_std(listener).unwrap());
            server.serve_with_incoming(service, incoming).await
        })
    }

    pub(crate) fn on_unix(socket: &Path) -> Self {
        let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let endpoint = format!("unix:{}", socket.display());
        Self::serve(endpoint, move |server, service| async move {
            let incoming = UnixListenerStream::new(UnixListener::from_std(listener).unwrap());
            server.serve_with_incoming(service, incoming).await
        })
    }

    fn serve<F>(
        endpoint: String,
        serve: impl FnOnce(Server, WorkerServiceServer<Desk>) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = Result<(), tonic::transport::Error>> + Send + 'static,
    {
        let runtime = Runtime::new().unwrap();
        let desk = Desk::default();
        let service = WorkerServiceServer::new(desk.clone());
        runtime.spawn(async move { serve(Server::builder(), service).await.unwrap() });
        Self {
            desk,
            endpoint,
            runtime: Some(runtime),
        }
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub(crate) fn submit(&self, n: u64, data: &'static str) {
        let shard = ShardId {
            pipeline: PipelineNumber(1),
            partition: Partition(0),
        };
        let task = pb::LeasedTask {
            id: TaskId {
                shard,
                offset: Offset(n),
            }
            .to_string(),
            lease_token: n,
            attempt: 1,
            max_attempts: 1,
            data: data.into(),
            lease: Some(prost_types::Duration {
                seconds: 30,
                nanos: 0,
            }),
            ..Default::default()
        };
        self.desk.0.lock().unwrap().tasks.push_back(task);
    }

    /// Waits for so many reports.
    pub(crate) async fn reports(&self, n: usize) -> Vec<pb::TaskReport> {
        let reported = async {
            loop {
                let reports = self.desk.0.lock().unwrap().reports.clone();
                if reports.len() >= n {
                    return reports;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let reports = tokio::time::timeout(Duration::from_secs(30), reported).await;
        reports.expect("the reports come in time")
    }
}

impl Drop for FakeScheduler {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[tonic::async_trait]
impl WorkerService for Desk {
    async fn poll(
        &self,
        request: Request<pb::PollRequest>,
    ) -> Result<Response<pb::PollResponse>, Status> {
        if request.get_ref().credit > 0 {
            let task = self.0.lock().unwrap().tasks.pop_front();
            if let Some(task) = task {
                let tasks = vec![task];
                return Ok(Response::new(pb::PollResponse {
                    tasks,
                    ..Default::default()
                }));
            }
        }
        // Longer than the worker waits: it gives the call up when it wants something else.
        std::future::pending().await
    }

    async fn report(
        &self,
        request: Request<pb::ReportRequest>,
    ) -> Result<Response<pb::ReportResponse>, Status> {
        let reports = request.into_inner().reports;
        let results = vec![tonic_types::Status::default(); reports.len()];
        self.0.lock().unwrap().reports.extend(reports);
        Ok(Response::new(pb::ReportResponse { results }))
    }

    async fn heartbeat(
        &self,
        request: Request<pb::HeartbeatRequest>,
    ) -> Result<Response<pb::HeartbeatResponse>, Status> {
        use pb::heartbeat_result::Result as Wire;
        let lease = prost_types::Duration {
            seconds: 30,
            nanos: 0,
        };
        let granted = pb::HeartbeatResult {
            result: Some(Wire::Lease(lease)),
        };
        let results = vec![granted; request.get_ref().heartbeats.len()];
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
