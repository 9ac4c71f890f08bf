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
    sync::mpsc,
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming, transport::Server};

#[derive(Default)]
struct State {
    tasks: VecDeque<pb::LeasedTask>,
    reports: Vec<pb::TaskReport>,
    hellos: Vec<pb::WorkHello>,
    /// Whether it knows no streams.
    is_older: bool,
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

    /// From now on it knows no streams.
    pub(crate) fn grow_older(&self) {
        self.desk.0.lock().unwrap().is_older = true;
    }

    /// The hellos of the streams that were opened.
    pub(crate) fn hellos(&self) -> Vec<pb::WorkHello> {
        self.desk.0.lock().unwrap().hellos.clone()
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

    type WorkStream = ReceiverStream<Result<pb::WorkResponse, Status>>;

    async fn work(
        &self,
        request: Request<Streaming<pb::WorkRequest>>,
    ) -> Result<Response<Self::WorkStream>, Status> {
        if self.0.lock().unwrap().is_older {
            return Err(Status::unimplemented("as of a server that is older"));
        }
        let (send, answers) = mpsc::channel(16);
        tokio::spawn(self.clone().answer(request.into_inner(), send));
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

impl Desk {
    /// Answers a stream: one task for each credit, and all that is said.
    async fn answer(
        self,
        mut said: Streaming<pb::WorkRequest>,
        answers: mpsc::Sender<Result<pb::WorkResponse, Status>>,
    ) {
        use pb::{work_request::Message as Said, work_response::Message as Answer};
        let mut batch = 0;
        while let Ok(Some(said)) = said.message().await {
            let (answer, credit) = match said.message {
                Some(Said::Hello(hello)) => {
                    let credit = hello.credit;
                    self.0.lock().unwrap().hellos.push(hello);
                    let silence = Some(prost_types::Duration {
                        seconds: 60,
                        nanos: 0,
                    });
                    (Some(Answer::Welcome(pb::WorkWelcome { silence })), credit)
                }
                Some(Said::Credit(credit)) => (None, Some(credit)),
                Some(Said::Report(request)) => {
                    let answer = self.report(Request::new(request)).await.unwrap();
                    (Some(Answer::Reported(answer.into_inner())), None)
                }
                Some(Said::Heartbeat(request)) => {
                    let answer = self.heartbeat(Request::new(request)).await.unwrap();
                    (Some(Answer::Renewed(answer.into_inner())), None)
                }
                None => panic!("nothing is said"),
            };
            let task = credit.filter(|credit| credit.tasks > 0 && credit.seen == batch);
            let task = task.and_then(|_| self.0.lock().unwrap().tasks.pop_front());
            let tasks = task.map(|task| {
                batch += 1;
                Answer::Tasks(pb::WorkTasks { tasks: vec![task] })
            });
            for (number, answer) in [(said.number, answer), (batch, tasks)] {
                if answer.is_some() {
                    let message = answer;
                    // The worker may have gone.
                    answers
                        .send(Ok(pb::WorkResponse { number, message }))
                        .await
                        .ok();
                }
            }
        }
    }
}
