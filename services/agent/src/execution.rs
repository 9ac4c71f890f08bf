//! One call of an executor: a step's commands, their events, and the certainty that none is left.

use std::time::Duration;

use scheduler_grpc::pb::{
    ExecuteCancel, ExecuteRequest, ExecuteResponse, ExecuteStart, execute_request::Request,
    executor_service_client::ExecutorServiceClient,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};

/// How long an executor may take to come up, beside an agent that is up already.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is tried.
const TRY_EVERY: Duration = Duration::from_millis(200);
/// How long an executor may take to say that everything is killed. It needs less than 2 s.
const KILL_MAX: Duration = Duration::from_secs(5);

/// A step that an executor runs. Dropping it has it killed, without waiting.
#[derive(Debug)]
pub(crate) struct Execution {
    requests: mpsc::Sender<ExecuteRequest>,
    responses: Streaming<ExecuteResponse>,
}

impl Execution {
    /// Starts the commands. Waits a while for an executor that cannot be reached.
    pub(crate) async fn start(channel: Channel, start: ExecuteStart) -> Result<Self, Status> {
        let began = Instant::now();
        loop {
            match Self::try_start(channel.clone(), start.clone()).await {
                // Not connected: no command was started.
                Err(status) if status.code() == Code::Unavailable && began.elapsed() < PATIENCE => {
                    sleep(TRY_EVERY).await;
                }
                result => return result,
            }
        }
    }

    async fn try_start(channel: Channel, start: ExecuteStart) -> Result<Self, Status> {
        let (requests, outgoing) = mpsc::channel(2);
        let request = Some(Request::Start(start));
        // There is room: nothing was sent.
        drop(requests.try_send(ExecuteRequest { request }));
        let mut client = ExecutorServiceClient::new(channel);
        let responses = client.execute(ReceiverStream::new(outgoing)).await?;
        Ok(Self {
            requests,
            responses: responses.into_inner(),
        })
    }

    /// The next event; `None` when all processes are gone.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn next(&mut self) -> Result<Option<ExecuteResponse>, Status> {
        self.responses.message().await
    }

    /// Has everything killed, and waits until it is.
    pub(crate) async fn kill(mut self) {
        let request = Some(Request::Cancel(ExecuteCancel {}));
        let killed = async {
            // An error means that the executor has ended the call.
            drop(self.requests.send(ExecuteRequest { request }).await);
            while let Ok(Some(_)) = self.responses.message().await {}
        };
        if timeout(KILL_MAX, killed).await.is_err() {
            tracing::error!("the executor does not say that the commands are killed");
        }
    }
}
