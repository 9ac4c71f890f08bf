//! `ExecutorService`: one stream for one step's commands.

use std::{sync::Arc, time::Duration};

use futures::FutureExt as _;
use scheduler_grpc::{
    convert,
    pb::{
        CommandEnded, CommandStarted, ExecuteRequest, ExecuteResponse, ExecuteStart,
        command_ended::How, execute_request::Request as Wanted, execute_response::Event,
        executor_service_server::ExecutorService,
    },
    status::to_status,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::sleep,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    command::{self, Output, Responses, Setting, Stop, Stopped},
    mark::new_mark,
    tree::Nursery,
};

/// The most executions at once.
pub(super) const EXECUTIONS_MAX_U32: u32 = 256;
const EXECUTIONS_MAX: usize = EXECUTIONS_MAX_U32 as usize;
/// The most commands of one execution.
const COMMANDS_MAX: usize = 64;
/// Messages that wait for a slow client; then the command's pipe fills up and the command waits.
const WAITING_MAX: usize = 8;

#[derive(Debug)]
pub(super) struct Service {
    nursery: Arc<Nursery>,
    closing: watch::Receiver<bool>,
    executions: Arc<Semaphore>,
}

impl Service {
    pub(super) fn new(nursery: Arc<Nursery>, closing: watch::Receiver<bool>) -> Self {
        Self {
            nursery,
            closing,
            executions: Arc::new(Semaphore::new(EXECUTIONS_MAX)),
        }
    }
}

#[tonic::async_trait]
impl ExecutorService for Service {
    type ExecuteStream = ReceiverStream<Result<ExecuteResponse, Status>>;

    async fn execute(
        &self,
        request: Request<Streaming<ExecuteRequest>>,
    ) -> Result<Response<Self::ExecuteStream>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.and_then(|first| first.request);
        let Some(Wanted::Start(start)) = first else {
            return Err(Status::invalid_argument(
                "the first message must be `start`",
            ));
        };
        let n_commands = start.commands.len();
        if !(1..=COMMANDS_MAX).contains(&n_commands) {
            return Err(Status::invalid_argument("there must be 1 to 64 commands"));
        }
        let timeout = start
            .timeout
            .map(|wire| convert::duration_of("timeout", wire));
        let timeout = timeout
            .transpose()
            .map_err(|fault| to_status(&fault.into()))?;
        let permit = Arc::clone(&self.executions)
            .try_acquire_owned()
            .map_err(|_| Status::resource_exhausted("too many executions at once"))?;
        let (responses, stream) = mpsc::channel(WAITING_MAX);
        let stopped = stopped(requests, responses.clone(), self.closing.clone(), timeout);
        let stopped = stopped.boxed().shared();
        let nursery = Arc::clone(&self.nursery);
        // Apart from the call, so that a client that is gone does not end the killing half way.
        tokio::spawn(execute(start, nursery, responses, stopped, permit));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// Waits until the execution must stop.
async fn stopped(
    mut requests: Streaming<ExecuteRequest>,
    responses: Responses,
    mut closing: watch::Receiver<bool>,
    timeout: Option<Duration>,
) -> Stop {
    let cancelled = async {
        loop {
            match requests.message().await {
                Ok(Some(message)) if matches!(message.request, Some(Wanted::Cancel(_))) => return,
                Ok(Some(_)) => {}
                // The client has nothing more to say, and listens.
                Ok(None) => std::future::pending().await,
                Err(_) => return,
            }
        }
    };
    let timed_out = async {
        match timeout {
            Some(timeout) => sleep(timeout).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = cancelled => Stop::Cancelled,
        () = responses.closed() => Stop::Cancelled,
        _ = closing.wait_for(|closing| *closing) => Stop::Cancelled,
        () = timed_out => Stop::TimedOut,
    }
}

async fn execute(
    start: ExecuteStart,
    nursery: Arc<Nursery>,
    responses: Responses,
    stopped: Stopped,
    _permit: OwnedSemaphorePermit,
) {
    let setting = Setting {
        nursery,
        environment: start.environment,
        working_directory: start.working_directory,
        mark: new_mark(),
    };
    for (command, n) in start.commands.iter().zip(0..) {
        let say = |event| say(&responses, n, event);
        say(Event::Started(CommandStarted { at: Some(now()) })).await;
        let output = Output {
            responses: responses.clone(),
            command: n,
        };
        let how = command::run(&command.arguments, &setting, &output, &stopped).await;
        let goes_on = how == How::ExitCode(0);
        say(Event::Ended(CommandEnded {
            how: Some(how),
            at: Some(now()),
        }))
        .await;
        if !goes_on {
            return;
        }
    }
}

async fn say(responses: &Responses, command: u32, event: Event) {
    let response = ExecuteResponse {
        command,
        event: Some(event),
    };
    // A client that is gone needs no answer; that it is gone is noticed elsewhere. One that does not
    // read must not keep the killing from its end.
    let sent = responses.send_timeout(Ok(response), Duration::from_secs(60));
    drop(sent.await);
}

fn now() -> prost_types::Timestamp {
    std::time::SystemTime::now().into()
}
