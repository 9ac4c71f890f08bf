//! One call of an executor: a step's commands, their events, and the certainty that none is left.

use std::{pin::pin, time::Duration};

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

use crate::run::GivenUp;

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
    /// Starts the commands. Waits a while for an executor that cannot be reached. `None` if the job is
    /// given up meanwhile; then none of their processes is left.
    pub(crate) async fn start(
        channel: Channel,
        start: ExecuteStart,
        given_up: &GivenUp,
    ) -> Result<Option<Self>, Status> {
        let began = Instant::now();
        loop {
            let mut starting = pin!(Self::try_start(channel.clone(), start.clone()));
            let started = tokio::select! {
                started = &mut starting => started,
                () = given_up.wait() => {
                    // It may have started already, so that there is something to kill.
                    if let Ok(Ok(execution)) = timeout(KILL_MAX, starting).await {
                        execution.kill().await;
                    }
                    return Ok(None);
                }
            };
            match started {
                // Not connected: no command was started.
                Err(status) if status.code() == Code::Unavailable && began.elapsed() < PATIENCE => {
                    tokio::select! {
                        () = sleep(TRY_EVERY) => {}
                        () = given_up.wait() => return Ok(None),
                    }
                }
                started => return started.map(Some),
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
