//! Runs one command: starts it, passes its output on, waits for its end, and cleans up after it.

use std::{
    collections::BTreeMap,
    io,
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures::future::{BoxFuture, Shared};
use rustix::process::Pid;
use scheduler_grpc::pb::{
    CommandOutput, ExecuteResponse, command_ended::How, command_output::Stream,
    execute_response::Event,
};
use tokio::{
    io::AsyncReadExt as _,
    process::{Child, ChildStderr, ChildStdout, Command},
    sync::mpsc,
    time::{sleep, timeout},
};
use tonic::Status;

use super::{
    mark::MARK,
    tree::{Nursery, Tree},
};

/// The most bytes that are passed on at once.
const CHUNK_MAX: usize = 64 * 1024;
/// How long output is still read after a command's end, while something it left behind could write.
const LINGER: Duration = Duration::from_millis(100);
/// How long output is read after everything was killed: the pipes are closed then, unless a process
/// hangs in the kernel.
const LINGER_KILLED: Duration = Duration::from_millis(200);

/// What all commands of an execution share.
#[derive(Debug)]
pub(super) struct Setting {
    pub(super) nursery: Arc<Nursery>,
    pub(super) environment: BTreeMap<String, String>,
    pub(super) working_directory: String,
    /// Marks all their processes.
    pub(super) mark: String,
}

/// Why an execution is stopped from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// The client says so, or is gone, or the executor ends.
    Cancelled,
    /// The time is up.
    TimedOut,
}

/// Where a command's output goes. Waits while the client is slow.
#[derive(Debug, Clone)]
pub(super) struct Output {
    pub(super) responses: Responses,
    /// Which of the execution's commands it is.
    pub(super) command: u32,
}

/// Turns out once when the execution must stop; every clone says so, however often it is asked.
pub(super) type Stopped = Shared<BoxFuture<'static, Stop>>;

/// What is sent to the client.
pub(super) type Responses = mpsc::Sender<Result<ExecuteResponse, Status>>;

impl Output {
    fn response(&self, stream: Stream, chunk: Bytes) -> ExecuteResponse {
        ExecuteResponse {
            command: self.command,
            event: Some(Event::Output(CommandOutput {
                stream: stream.into(),
                chunk,
            })),
        }
    }
}

/// Runs a command to its end, or until `stop` says so. When it answers, no process of it is left.
pub(super) async fn run(
    arguments: &[String],
    setting: &Setting,
    output: &Output,
    stop: &Stopped,
) -> How {
    let mut child = match start(arguments, setting) {
        Ok(child) => child,
        Err(how) => return how,
    };
    let mut pipes = Pipes {
        stdout: child.stdout.take(),
        stderr: child.stderr.take(),
    };
    let pid = child
        .id()
        .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let Some(pid) = pid else {
        return How::NotStarted("the process has no id".to_owned());
    };
    let mut tree = Tree::new(Arc::clone(&setting.nursery), pid, &setting.mark);
    let how = {
        let passed_on = pipes.pass_on(output, None);
        let mut passed_on = std::pin::pin!(passed_on);
        let mut all_passed_on = false;
        loop {
            tokio::select! {
                biased;
                stop = stop.clone() => break match stop {
                    Stop::Cancelled => How::Cancelled(true),
                    Stop::TimedOut => How::TimedOut(true),
                },
                status = child.wait() => break ended(status),
                () = &mut passed_on, if !all_passed_on => all_passed_on = true,
            }
        }
    };
    let is_stopped = matches!(how, How::Cancelled(_) | How::TimedOut(_));
    if !is_stopped {
        // What it left behind may just be at its own end.
        drop(timeout(LINGER, pipes.pass_on(output, None)).await);
    }
    tree.kill().await;
    // What is in the pipes must reach the client, however slow that is, unless it wants no more.
    let rest = pipes.pass_on(output, Some(LINGER_KILLED));
    if is_stopped {
        drop(timeout(LINGER_KILLED, rest).await);
    } else {
        tokio::select! { () = rest => {} _ = stop.clone() => {} }
    }
    // Reaps it; an error means that it is reaped.
    drop(timeout(LINGER_KILLED, child.wait()).await);
    how
}

fn start(arguments: &[String], setting: &Setting) -> Result<Child, How> {
    let Some((program, rest)) = arguments.split_first() else {
        return Err(How::NotStarted("there is no program".to_owned()));
    };
    let mut command = Command::new(program);
    command
        .args(rest)
        .envs(&setting.environment)
        .env(MARK, &setting.mark)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    if !setting.working_directory.is_empty() {
        // A missing directory and a missing program are the same error otherwise.
        if !Path::new(&setting.working_directory).is_dir() {
            let text = format!("there is no directory {}", setting.working_directory);
            return Err(How::NotStarted(text));
        }
        command.current_dir(&setting.working_directory);
    }
    command.spawn().map_err(|err| match err.kind() {
        io::ErrorKind::NotFound => How::ProgramNotFound(format!("there is no program {program}")),
        _ => How::NotStarted(format!("cannot start {program}: {err}")),
    })
}

fn ended(status: io::Result<ExitStatus>) -> How {
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => How::ExitCode(code),
            (None, Some(signal)) => How::Signal(signal),
            (None, None) => How::NotStarted("the process ended in no known way".to_owned()),
        },
        Err(err) => How::NotStarted(format!("cannot wait for the process: {err}")),
    }
}

struct Pipes {
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
}

impl Pipes {
    /// Passes output on until both pipes are closed, or nothing comes for `idle`.
    ///
    /// # Cancel safety
    /// Nothing is lost: a chunk is read only when there is a place for it.
    async fn pass_on(&mut self, output: &Output, idle: Option<Duration>) {
        while self.stdout.is_some() || self.stderr.is_some() {
            let Ok(place) = output.responses.reserve().await else {
                return;
            };
            let mut stdout = BytesMut::new();
            let mut stderr = BytesMut::new();
            let (stream, chunk) = tokio::select! {
                () = read(&mut self.stdout, &mut stdout) => (Stream::Stdout, stdout),
                () = read(&mut self.stderr, &mut stderr) => (Stream::Stderr, stderr),
                () = sleep(idle.unwrap_or_default()), if idle.is_some() => return,
            };
            if !chunk.is_empty() {
                place.send(Ok(output.response(stream, chunk.freeze())));
            }
        }
    }
}

/// Reads a chunk; closes the pipe at its end. Never ends for a closed one.
async fn read<R: tokio::io::AsyncRead + Unpin>(pipe: &mut Option<R>, chunk: &mut BytesMut) {
    let Some(open) = pipe else {
        return std::future::pending().await;
    };
    chunk.reserve(CHUNK_MAX);
    let mut bounded = open.take(CHUNK_MAX as u64);
    if !matches!(bounded.read_buf(chunk).await, Ok(1..)) {
        *pipe = None;
    }
}
