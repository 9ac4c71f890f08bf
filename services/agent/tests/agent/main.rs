//! The agent with a local executor, real programs and a fake scheduler.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod scheduler;

use std::{fs, net::SocketAddr, time::Duration};

use scheduler_grpc::pb::{self, lost_lease::Reason, task_report::Outcome};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::oneshot,
    task::JoinHandle,
    time::Instant,
};
use workload_agent::{Agent, AgentError, Builder, Directory, Executors, LocalExecutor};

use crate::scheduler::FakeScheduler;

/// An agent that works in a folder of its own.
struct Working {
    folder: tempfile::TempDir,
    scheduler: FakeScheduler,
    local: LocalExecutor,
    stop: oneshot::Sender<()>,
    agent: JoinHandle<Result<(), AgentError>>,
}

impl Working {
    async fn on(steps: &[(&str, &[&str])]) -> Self {
        Self::with(steps, |agent| agent).await
    }

    async fn with(steps: &[(&str, &[&str])], tell: impl FnOnce(Builder) -> Builder) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let scheduler = FakeScheduler::start(steps).await;
        let local = LocalExecutor::start(folder.path()).await.unwrap();
        let path = scheduler_core::path("default", "shop", "test").unwrap();
        let agent = Agent::builder(path)
            .scheduler(&scheduler.endpoint)
            .executors(local.executors())
            .directory(Directory::PrivateUnder(folder.path().join("tasks")))
            .concurrency(2)
            .grace(Duration::from_millis(300));
        let agent = tell(agent).build().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let agent = tokio::spawn(agent.run(async { drop(stopped.await) }));
        Self {
            folder,
            scheduler,
            local,
            stop,
            agent,
        }
    }

    /// Submits one task and waits for its result.
    async fn result(&self, data: Value) -> Value {
        self.scheduler.submit(1, data, None);
        match self.scheduler.outcome(1).await {
            Outcome::Completed(done) => serde_json::from_slice(&done.result).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// Submits one task and waits for its failure.
    async fn failure(&self, data: Value, timeout: Option<Duration>) -> (pb::Failure, Value) {
        self.scheduler.submit(1, data, timeout);
        match self.scheduler.outcome(1).await {
            Outcome::Failed(failure) => {
                let detail = serde_json::from_slice(&failure.detail).unwrap_or_default();
                (failure, detail)
            }
            other => panic!("{other:?}"),
        }
    }

    fn task_directories(&self) -> usize {
        let entries = fs::read_dir(self.folder.path().join("tasks"));
        entries.map_or(0, Iterator::count)
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.agent.await.unwrap().unwrap();
        self.local.stop().await;
    }
}

async fn eventually(within: Duration, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < within, "not within {within:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Processes that have this argument.
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

/// Sleeps so long that it is found by it, and by no other test's.
fn unique_sleep() -> String {
    format!(
        "{}.{}",
        1000 + fastrand::u32(..1000),
        fastrand::u32(1_000_000..9_999_999)
    )
}

/// A command that starts two sleepers, one of them in a session of its own, and waits.
const BROOD: &str = r#"sh -c 'setsid sleep "$1" & echo up; sleep "$1"' sh {{for}}"#;

fn command(result: &Value, step: usize, command: usize) -> &Value {
    &result["steps"][step]["commands"][command]
}

#[tokio::test]
async fn a_tasks_steps_run_in_order_and_their_output_is_its_result() {
    let working = Working::on(&[
        ("one", &["sh -c 'echo \"$1\" > /dev/stderr; echo \"$1\" > file' sh {{text}}"]),
        ("two", &["cat file", "sh -c 'echo $WORKLOAD_TASK_ID $WORKLOAD_ATTEMPT $WORKLOAD_LEASE_TOKEN $TRACEPARENT'"]),
    ]).await;
    let result = working.result(json!({"text": "hello"})).await;
    assert_eq!(result["steps"][0]["executor"], "one");
    assert_eq!(result["steps"][0]["state"], "completed");
    assert_eq!(command(&result, 0, 0)["stderr"], "hello\n");
    assert_eq!(command(&result, 1, 0)["stdout"], "hello\n");
    assert_eq!(command(&result, 1, 0)["exit_code"], 0);
    let environment = command(&result, 1, 1)["stdout"].as_str().unwrap();
    assert!(environment.ends_with(" 1 1 00-trace-01\n"), "{environment}");
    let ended_at = command(&result, 1, 1)["ended_at"].as_str().unwrap();
    assert!(ended_at.ends_with('Z'), "{ended_at}");
    assert_eq!(working.task_directories(), 0);
    working.stop().await;
}

#[tokio::test]
async fn a_value_is_exactly_one_argument_whatever_is_in_it() {
    let working = Working::on(&[(
        "sh",
        &["sh -c 'printf %s, $#; printf %s \"$1\"' sh {{value}}"],
    )])
    .await;
    let nasty = [
        "two words",
        "'",
        "\"",
        "$(touch owned)",
        "`id`",
        "; touch owned",
        "a\nb",
        "-rf",
        "--",
        "",
        "*",
        "\\",
        "{{value}}",
        "&& true",
        "| cat",
        "> owned",
        "é",
        "/mnt/pipe/x",
    ];
    for (n, value) in (1..).zip(nasty) {
        working.scheduler.submit(n, json!({"value": value}), None);
        let Outcome::Completed(done) = working.scheduler.outcome(n).await else {
            panic!("{value:?} failed");
        };
        let result: Value = serde_json::from_slice(&done.result).unwrap();
        assert_eq!(command(&result, 0, 0)["stdout"], format!("1,{value}"));
    }
    working.stop().await;
}

#[tokio::test]
async fn a_failed_command_fails_the_task_with_its_steps() {
    let working = Working::on(&[
        (
            "a",
            &["echo fine", "sh -c 'echo why >&2; exit 3'", "echo never"],
        ),
        ("b", &["echo never"]),
    ])
    .await;
    let (failure, detail) = working.failure(json!({}), None).await;
    assert_eq!(
        (failure.code.as_str(), failure.retryable),
        ("exit_code", Some(true))
    );
    assert_eq!(detail["steps"].as_array().unwrap().len(), 1);
    assert_eq!(detail["steps"][0]["state"], "failed");
    assert_eq!(command(&detail, 0, 1)["exit_code"], 3);
    assert_eq!(command(&detail, 0, 1)["stderr"], "why\n");
    working.stop().await;
}

#[tokio::test]
async fn what_no_attempt_can_mend_is_not_retried() {
    let working = Working::on(&[("a", &["echo {{there}}", "no-such-program {{missing}}"])]).await;
    for (n, data, code) in [
        (1, json!({"there": 1}), "missing_field"),
        (2, json!({"there": 1, "missing": 1}), "program_not_found"),
        (3, json!([1]), "bad_data"),
        (
            4,
            json!({"there": "a".repeat(128 << 10), "missing": 1}),
            "argument_too_long",
        ),
    ] {
        working.scheduler.submit(n, data, None);
        let Outcome::Failed(failure) = working.scheduler.outcome(n).await else {
            panic!("{code} did not fail");
        };
        assert_eq!(
            (failure.code.as_str(), failure.retryable),
            (code, Some(false))
        );
    }
    working.stop().await;
}

#[tokio::test]
async fn output_is_kept_whole_or_by_its_end_and_flagged() {
    let working = Working::on(&[
        (
            "a",
            &["sh -c 'head -c 200000 /dev/zero | tr \"\\0\" x; echo END'"],
        ),
        (
            "b",
            &[
                "sh -c 'head -c 200000 /dev/zero | tr \"\\0\" y'",
                "printf '\\377\\000'",
            ],
        ),
    ])
    .await;
    let result = working.result(json!({})).await;
    let first = command(&result, 0, 0);
    assert_eq!(first["stdout"].as_str().unwrap().len(), 64 * 1024);
    assert!(first["stdout"].as_str().unwrap().ends_with("xEND\n"));
    assert_eq!(first["stdout_truncated"], true);
    let last = command(&result, 1, 0);
    assert_eq!(last["stdout"].as_str().unwrap().len(), 200_000);
    assert_eq!(last.get("stdout_truncated"), None);
    let binary = command(&result, 1, 1);
    assert_eq!(
        (&binary["stdout"], &binary["stdout_encoding"]),
        (&json!("/wA="), &json!("base64"))
    );
    working.stop().await;
}

#[tokio::test]
async fn a_result_over_the_limit_fails_and_is_stopped() {
    let working = Working::on(&[("a", &["cat /dev/zero"])]).await;
    let (failure, _) = working.failure(json!({}), None).await;
    assert_eq!(
        (failure.code.as_str(), failure.retryable),
        ("output_too_large", Some(false))
    );
    eventually(Duration::from_secs(2), || working.task_directories() == 0).await;
    working.stop().await;
}

#[tokio::test]
async fn a_lost_lease_kills_the_tree_and_removes_the_files() {
    for reason in [Reason::Cancelled, Reason::Stale] {
        let working = Working::on(&[("a", &[BROOD])]).await;
        let sleep = unique_sleep();
        working.scheduler.submit(1, json!({"for": sleep}), None);
        eventually(Duration::from_secs(10), || n_processes_with(&sleep) >= 3).await;
        working.scheduler.lose(1, reason);
        eventually(Duration::from_secs(2), || n_processes_with(&sleep) == 0).await;
        eventually(Duration::from_secs(2), || working.task_directories() == 0).await;
        assert_eq!(working.scheduler.n_reports(), 0);
        working.stop().await;
    }
}

#[tokio::test]
async fn a_timeout_kills_the_tree_and_reports_the_steps_so_far() {
    let working = Working::on(&[("a", &["echo before", BROOD])]).await;
    let sleep = unique_sleep();
    let timeout = Some(Duration::from_secs(2));
    let (failure, detail) = working.failure(json!({"for": sleep}), timeout).await;
    assert_eq!(
        (failure.code.as_str(), failure.retryable),
        ("timeout", Some(true))
    );
    assert_eq!(command(&detail, 0, 0)["stdout"], "before\n");
    assert_eq!(command(&detail, 0, 1)["stdout"], "up\n");
    eventually(Duration::from_secs(2), || n_processes_with(&sleep) == 0).await;
    working.stop().await;
}

#[tokio::test]
async fn a_shutdown_kills_what_does_not_end_in_time_and_reports_it_interrupted() {
    let working = Working::on(&[("a", &[BROOD])]).await;
    let scheduler = working.scheduler.clone();
    let sleep = unique_sleep();
    scheduler.submit(1, json!({"for": sleep}), None);
    eventually(Duration::from_secs(10), || n_processes_with(&sleep) >= 3).await;
    working.stop().await;
    assert!(matches!(
        scheduler.outcome(1).await,
        Outcome::Interrupted(_)
    ));
    assert_eq!(n_processes_with(&sleep), 0);
}

#[tokio::test]
async fn steps_and_output_show_while_they_run() {
    let working = Working::on(&[(
        "a",
        &["echo first", "sh -c 'echo second; sleep 1; echo third'"],
    )])
    .await;
    working.scheduler.submit(1, json!({}), None);
    let shown = working
        .scheduler
        .sees(|seen| {
            let shows = |progress: &&Value| command(progress, 0, 1)["stdout"] == "second\n";
            seen.progress.iter().find(shows).cloned()
        })
        .await;
    assert_eq!(shown["steps"][0]["state"], "running");
    assert_eq!(command(&shown, 0, 0)["exit_code"], 0);
    assert_eq!(working.scheduler.n_reports(), 0);
    working.scheduler.outcome(1).await;
    working.stop().await;
}

#[tokio::test]
async fn tasks_at_once_have_directories_of_their_own_in_the_volumes_place() {
    // Each waits for the other, and then reads what it wrote itself.
    let script = "sh -c 'echo \"$1\" > /mnt/pipe/x; touch \"$2/$1\"; until [ -e \"$2/a\" ] && [ -e \"$2/b\" ]; do sleep 0.02; done' sh {{name}} {{meet}}";
    let read = "cat /mnt/pipe/x";
    let meet = tempfile::tempdir().unwrap();
    let working = Working::with(&[("a", &[script, read])], |agent| agent.concurrency(2)).await;
    for (n, name) in [(1, "a"), (2, "b")] {
        working
            .scheduler
            .submit(n, json!({"name": name, "meet": meet.path()}), None);
    }
    for (n, name) in [(1, "a"), (2, "b")] {
        match working.scheduler.outcome(n).await {
            Outcome::Completed(done) => {
                let result: Value = serde_json::from_slice(&done.result).unwrap();
                assert_eq!(command(&result, 0, 1)["stdout"], format!("{name}\n"));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(working.task_directories(), 0);
    working.stop().await;
}

#[tokio::test]
async fn a_shared_directory_is_one_tasks_at_a_time_and_emptied_after_each() {
    let pipe = tempfile::tempdir().unwrap();
    let shared = pipe.path().to_owned();
    let working = Working::with(&[("a", &["sh -c 'ls | wc -l; touch left'"])], |agent| {
        agent.directory(Directory::Shared(shared)).concurrency(1)
    })
    .await;
    for n in 1..=3 {
        working.scheduler.submit(n, json!({}), None);
    }
    for n in 1..=3 {
        let Outcome::Completed(done) = working.scheduler.outcome(n).await else {
            panic!("task {n} failed");
        };
        let result: Value = serde_json::from_slice(&done.result).unwrap();
        assert_eq!(
            command(&result, 0, 0)["stdout"].as_str().unwrap().trim(),
            "0"
        );
    }
    working.stop().await;
    assert_eq!(fs::read_dir(pipe.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn an_executor_that_is_not_there_is_told_apart_from_a_failed_command() {
    let working = Working::with(&[("a", &["echo"])], |agent| {
        agent.executors(Executors::Named([].into()))
    })
    .await;
    let (failure, _) = working.failure(json!({}), None).await;
    assert_eq!(
        (failure.code.as_str(), failure.retryable),
        ("executor_unavailable", Some(true))
    );
    working.stop().await;
}

/// One request over a connection of its own; answers status and body.
async fn http(address: SocketAddr, request: &str, body: &str) -> (u16, String) {
    let began = Instant::now();
    let mut stream = loop {
        match tokio::net::TcpStream::connect(address).await {
            Ok(stream) => break stream,
            Err(err) => assert!(began.elapsed() < Duration::from_secs(5), "{err}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let head = format!(
        "{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream
        .write_all(format!("{head}{body}").as_bytes())
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}

fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

#[tokio::test]
async fn the_pipeline_runs_for_one_call_over_http() {
    let address = free_address();
    let working = Working::with(&[("a", &["echo hello {{name}}"])], |agent| {
        agent.http(address)
    })
    .await;
    assert_eq!(http(address, "GET /healthz", "").await.0, 200);
    assert_eq!(http(address, "GET /readyz", "").await.0, 200);
    let (status, body) = http(address, "POST /", r#"{"name":"you"}"#).await;
    let result: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (status, &command(&result, 0, 0)["stdout"]),
        (200, &json!("hello you\n"))
    );
    let (status, body) = http(address, "POST /", "{}").await;
    let problem: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (status, &problem["type"]),
        (422, &json!("urn:workload:problem:missing-field"))
    );
    let (status, body) = http(address, "POST /", &"a".repeat((1 << 20) + 1)).await;
    assert_eq!(status, 413);
    assert!(body.contains("urn:workload:problem:too-large"), "{body}");
    working.stop().await;
}

#[tokio::test]
async fn a_task_that_is_given_up_while_its_step_starts_leaves_nothing() {
    let working = Working::on(&[("a", &[BROOD])]).await;
    let sleep = unique_sleep();
    for n in 1..=20 {
        working.scheduler.submit(n, json!({"for": sleep}), None);
        tokio::time::sleep(Duration::from_micros(fastrand::u64(..3_000))).await;
        working.scheduler.lose(n, Reason::Cancelled);
    }
    working.scheduler.submit(21, json!({"for": 0}), None);
    working.scheduler.outcome(21).await;
    eventually(Duration::from_secs(5), || {
        n_processes_with(&sleep) == 0 && working.task_directories() == 0
    })
    .await;
    working.stop().await;
}

#[tokio::test]
async fn a_caller_over_http_that_is_gone_kills_its_run() {
    let address = free_address();
    let working = Working::with(&[("a", &[BROOD])], |agent| agent.http(address)).await;
    let sleep = unique_sleep();
    let body = json!({"for": sleep}).to_string();
    let call = tokio::spawn(async move { http(address, "POST /", &body).await });
    eventually(Duration::from_secs(10), || n_processes_with(&sleep) >= 3).await;
    call.abort();
    eventually(Duration::from_secs(2), || n_processes_with(&sleep) == 0).await;
    working.stop().await;
}

#[test]
fn a_shared_directory_is_refused_for_tasks_at_once() {
    let path = scheduler_core::path("default", "shop", "test").unwrap();
    let agent = Agent::builder(path).concurrency(2).build();
    assert!(matches!(agent, Err(AgentError::Invalid(fault)) if fault.field == "concurrency"));
}
