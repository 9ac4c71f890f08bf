//! Real programs, run over a real socket, and killed.

use std::{collections::BTreeMap, time::Duration};

use scheduler_grpc::{
    client::connect,
    pb::{
        Command, ExecuteCancel, ExecuteRequest, ExecuteResponse, ExecuteStart, command_ended::How,
        command_output::Stream, execute_request::Request as Wanted, execute_response::Event,
        executor_service_client::ExecutorServiceClient,
    },
};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{proc::has_in_environment, *};

/// A served executor in a folder of its own.
struct Served {
    folder: tempfile::TempDir,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    serving: tokio::task::JoinHandle<Result<(), ExecutorError>>,
}

/// One execution, seen by its client.
struct Execution {
    requests: mpsc::Sender<ExecuteRequest>,
    responses: Streaming<ExecuteResponse>,
    mark: String,
}

#[derive(Debug, Default)]
struct Seen {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    hows: Vec<How>,
}

impl Served {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listen = Listen::Unix(folder.path().join("executor.sock"));
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let serving = tokio::spawn(async move {
            Executor::new()
                .serve(&listen, async { drop(stopped.await) })
                .await
        });
        Self {
            folder,
            stop: Some(stop),
            serving,
        }
    }

    async fn execute(&self, commands: &[&[&str]], timeout: Option<Duration>) -> Execution {
        let socket = self.folder.path().join("executor.sock");
        eventually(Duration::from_secs(5), || socket.exists()).await;
        let channel = connect(&format!("unix:{}", socket.display())).unwrap();
        // A mark of the test's own, by which it finds the processes whatever the executor thinks.
        let mark = format!("TEST_MARK={:032x}", fastrand::u128(..));
        let (name, value) = mark.split_once('=').unwrap();
        let command = |arguments: &&[&str]| Command {
            arguments: arguments.iter().map(|text| (*text).to_owned()).collect(),
        };
        let start = ExecuteStart {
            commands: commands.iter().map(command).collect(),
            environment: BTreeMap::from([(name.to_owned(), value.to_owned())]),
            working_directory: self.folder.path().display().to_string(),
            timeout: timeout.map(scheduler_grpc::convert::duration),
        };
        let (requests, outgoing) = mpsc::channel(4);
        let request = Some(Wanted::Start(start));
        requests.send(ExecuteRequest { request }).await.unwrap();
        let mut client = ExecutorServiceClient::new(channel);
        let responses = client.execute(ReceiverStream::new(outgoing)).await;
        Execution {
            requests,
            responses: responses.unwrap().into_inner(),
            mark,
        }
    }
}

impl Execution {
    /// Reads to the end.
    async fn seen(&mut self) -> Seen {
        let mut seen = Seen::default();
        while let Some(response) = self.responses.message().await.unwrap() {
            match response.event.unwrap() {
                Event::Started(_) => {}
                Event::Output(output) if output.stream() == Stream::Stdout => {
                    seen.stdout.extend(output.chunk);
                }
                Event::Output(output) => seen.stderr.extend(output.chunk),
                Event::Ended(ended) => seen.hows.push(ended.how.unwrap()),
            }
        }
        seen
    }

    /// Reads until the commands have said so much.
    async fn said(&mut self, text: &str) {
        let mut stdout = Vec::new();
        while !String::from_utf8_lossy(&stdout).contains(text) {
            let response = self
                .responses
                .message()
                .await
                .unwrap()
                .expect("more output");
            if let Some(Event::Output(output)) = response.event {
                stdout.extend(output.chunk);
            }
        }
    }

    async fn cancel(&self) {
        let request = Some(Wanted::Cancel(ExecuteCancel {}));
        self.requests
            .send(ExecuteRequest { request })
            .await
            .unwrap();
    }

    fn n_processes(&self) -> usize {
        n_processes(&self.mark)
    }
}

fn n_processes(mark: &str) -> usize {
    proc::processes()
        .into_iter()
        .filter(|process| !process.is_zombie && has_in_environment(process.pid, mark))
        .count()
}

async fn eventually(within: Duration, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < within, "not within {within:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A shell that starts five sleepers: plain, in a session of its own, orphaned, deaf to SIGTERM, and
/// deaf in a session of its own with its parent gone; then waits.
const BROOD: &[&str] = &[
    "sh",
    "-c",
    "sleep 300 & setsid sleep 301 & (sleep 302 &) ; sh -c 'trap \"\" TERM; sleep 303; sleep 304' & \
     setsid sh -c 'trap \"\" TERM; (sleep 305 & echo ready; wait)' & wait",
];

/// The longest that a process of a killed tree may live.
const KILLED_WITHIN: Duration = Duration::from_secs(2);

#[tokio::test]
async fn commands_run_in_order_until_one_fails() {
    let served = Served::start();
    let commands: &[&[&str]] = &[
        &["echo", "one"],
        &["sh", "-c", "echo two; echo wrong >&2; exit 7"],
        &["echo", "three"],
    ];
    let seen = served.execute(commands, None).await.seen().await;
    assert_eq!(seen.stdout, b"one\ntwo\n");
    assert_eq!(seen.stderr, b"wrong\n");
    assert_eq!(seen.hows, [How::ExitCode(0), How::ExitCode(7)]);
}

#[tokio::test]
async fn arguments_arrive_as_they_are() {
    let served = Served::start();
    let nasty = ["a b", "'\"", "$(id) `id`", "; rm x", "two\nlines", "-n", ""];
    let mut command = vec!["printf", "%s\\0"];
    command.extend(nasty);
    let seen = served.execute(&[&command], None).await.seen().await;
    let mut expected = nasty.join("\0").into_bytes();
    expected.push(0);
    assert_eq!(seen.stdout, expected);
}

#[tokio::test]
async fn large_output_arrives_whole_at_a_slow_client() {
    let served = Served::start();
    let command: &[&str] = &["head", "-c", "3000000", "/dev/zero"];
    let mut execution = served.execute(&[command], None).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(execution.seen().await.stdout.len(), 3_000_000);
}

#[tokio::test]
async fn a_missing_program_and_one_that_cannot_start_are_told_apart() {
    let served = Served::start();
    let seen = served
        .execute(&[&["no-such-program-here"]], None)
        .await
        .seen()
        .await;
    assert!(matches!(&seen.hows[..], [How::ProgramNotFound(_)]));
    let seen = served.execute(&[&["/"]], None).await.seen().await;
    assert!(matches!(&seen.hows[..], [How::NotStarted(_)]));
}

#[tokio::test]
async fn a_cancel_kills_the_whole_tree_before_the_stream_ends() {
    let served = Served::start();
    let mut execution = served.execute(&[BROOD], None).await;
    execution.said("ready").await;
    assert!(execution.n_processes() >= 6);
    let began = Instant::now();
    execution.cancel().await;
    let seen = execution.seen().await;
    assert_eq!(seen.hows, [How::Cancelled(true)]);
    assert_eq!(execution.n_processes(), 0);
    assert!(began.elapsed() < KILLED_WITHIN);
}

#[tokio::test]
async fn a_timeout_kills_the_whole_tree() {
    let served = Served::start();
    let began = Instant::now();
    let mut execution = served
        .execute(&[BROOD, &["echo"]], Some(Duration::from_millis(700)))
        .await;
    let seen = execution.seen().await;
    assert_eq!(seen.hows, [How::TimedOut(true)]);
    assert_eq!(execution.n_processes(), 0);
    assert!(began.elapsed() < Duration::from_millis(700) + KILLED_WITHIN);
}

#[tokio::test]
async fn a_client_that_is_gone_kills_the_whole_tree() {
    let served = Served::start();
    let mut execution = served.execute(&[BROOD], None).await;
    execution.said("ready").await;
    let mark = execution.mark.clone();
    drop(execution);
    eventually(KILLED_WITHIN, || n_processes(&mark) == 0).await;
}

#[tokio::test]
async fn a_shutdown_kills_what_runs_and_ends() {
    let mut served = Served::start();
    let mut execution = served.execute(&[BROOD], None).await;
    execution.said("ready").await;
    served.stop.take().unwrap().send(()).unwrap();
    assert_eq!(execution.seen().await.hows, [How::Cancelled(true)]);
    assert_eq!(execution.n_processes(), 0);
    drop(execution);
    served.serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_a_command_leaves_behind_does_not_survive_it() {
    let served = Served::start();
    let daemon: &[&str] = &[
        "sh",
        "-c",
        "setsid sh -c 'sleep 300 & sleep 301' & echo started",
    ];
    let mut execution = served.execute(&[daemon, &["echo", "next"]], None).await;
    let seen = execution.seen().await;
    assert_eq!(seen.hows, [How::ExitCode(0), How::ExitCode(0)]);
    assert_eq!(seen.stdout, b"started\nnext\n");
    assert_eq!(execution.n_processes(), 0);
}

#[tokio::test]
async fn two_executions_do_not_touch_each_other() {
    let served = Served::start();
    let mut first = served
        .execute(&[&["sh", "-c", "echo up; sleep 0.8; echo alive"]], None)
        .await;
    first.said("up").await;
    let mut second = served.execute(&[BROOD], None).await;
    second.said("ready").await;
    second.cancel().await;
    assert_eq!(second.seen().await.hows, [How::Cancelled(true)]);
    let seen = first.seen().await;
    assert_eq!(
        (seen.stdout, seen.hows),
        (b"alive\n".to_vec(), vec![How::ExitCode(0)])
    );
}
