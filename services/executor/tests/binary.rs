//! The binary, killed softly and hard.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Child, Command as Process, Stdio},
    time::Duration,
};

use scheduler_grpc::{
    client::connect,
    pb::{
        Command, ExecuteRequest, ExecuteResponse, ExecuteStart, execute_request::Request as Wanted,
        execute_response::Event, executor_service_client::ExecutorServiceClient,
    },
};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

fn start(socket: &Path) -> Child {
    Process::new(env!("CARGO_BIN_EXE_workload-executor"))
        .arg("--listen")
        .arg(format!("unix:{}", socket.display()))
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Runs a script; whoever holds the first part keeps it alive.
async fn execute(
    socket: &Path,
    script: &str,
) -> (mpsc::Sender<ExecuteRequest>, Streaming<ExecuteResponse>) {
    eventually(Duration::from_secs(5), || {
        std::os::unix::net::UnixStream::connect(socket).is_ok()
    })
    .await;
    let arguments = ["sh", "-c", script].map(ToOwned::to_owned).into();
    let start = ExecuteStart {
        commands: vec![Command { arguments }],
        environment: BTreeMap::new(),
        ..Default::default()
    };
    let (requests, outgoing) = mpsc::channel(2);
    let request = Some(Wanted::Start(start));
    requests.send(ExecuteRequest { request }).await.unwrap();
    let channel = connect(&format!("unix:{}", socket.display())).unwrap();
    let mut client = ExecutorServiceClient::new(channel);
    let responses = client.execute(ReceiverStream::new(outgoing)).await.unwrap();
    (requests, responses.into_inner())
}

async fn eventually(within: Duration, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < within, "not within {within:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn n_processes_with(argument: &str) -> usize {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .filter(|line| {
            line.split(|byte| *byte == 0)
                .any(|text| text == argument.as_bytes())
        })
        .count()
}

fn unique_sleep() -> String {
    format!("{}.{}", 1000 + std::process::id() % 1000, rand())
}

fn rand() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(0) % 10_000_000
}

#[tokio::test]
async fn a_daemon_that_emptied_its_environment_is_found_too() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("executor.sock");
    let mut executor = start(&socket);
    let sleep = unique_sleep();
    let script = format!("env -i setsid sh -c 'sleep {sleep} & sleep {sleep} & exit'; echo done");
    let (_requests, mut responses) = execute(&socket, &script).await;
    let mut ended = false;
    while let Some(response) = responses.message().await.unwrap() {
        ended |= matches!(response.event, Some(Event::Ended(_)));
    }
    assert!(ended);
    assert_eq!(n_processes_with(&sleep), 0);

    let pid = rustix::process::Pid::from_child(&executor);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let status = tokio::task::spawn_blocking(move || executor.wait().unwrap());
    assert!(status.await.unwrap().success());
}

#[tokio::test]
async fn what_a_killed_executor_left_is_killed_by_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("executor.sock");
    let mut executor = start(&socket);
    let sleep = unique_sleep();
    let script = format!("setsid sleep {sleep} & sleep {sleep}");
    let (_requests, _responses) = execute(&socket, &script).await;
    eventually(Duration::from_secs(5), || n_processes_with(&sleep) >= 2).await;
    executor.kill().unwrap();
    executor.wait().unwrap();
    assert!(n_processes_with(&sleep) >= 2);

    let mut next = start(&socket);
    eventually(Duration::from_secs(5), || n_processes_with(&sleep) == 0).await;
    next.kill().unwrap();
    next.wait().unwrap();
}
