//! Batches and event streams: what a server bears of clients that stop, stall or come too many.
#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::{net::SocketAddr, time::Duration};

use scheduler_core::{Config, ListTasks, PipelinePath, PipelineSpec, Scheduler, memory};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};
use workload_api::{Api, Limits};

const PATIENCE: Duration = Duration::from_secs(30);
const BATCH: &str = "/api/applications/app/pipelines/pipe/tasks/batch";

struct Served {
    scheduler: Scheduler,
    path: PipelinePath,
    address: SocketAddr,
    end: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

async fn serve(config: Config) -> Served {
    let scheduler = Scheduler::start(config, memory::ports()).await.unwrap();
    let path = scheduler_core::path("default", "app", "pipe").unwrap();
    let spec = PipelineSpec {
        n_partitions: 2,
        ..PipelineSpec::default()
    };
    scheduler.create_pipeline(&path, spec).await.unwrap();
    let claimed = async {
        while scheduler.stats(&path).await.unwrap().n_absent > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, claimed).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (end, ended) = oneshot::channel::<()>();
    let api = Api::new(scheduler.clone(), "default".try_into().unwrap());
    let serving = tokio::spawn(async move {
        let ended = async { drop(ended.await) };
        api.serve(listener, Limits::default(), ended).await;
    });
    Served {
        scheduler,
        path,
        address,
        end,
        serving,
    }
}

async fn open(address: SocketAddr, method: &str, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let coding = match method {
        "POST" => "Transfer-Encoding: chunked\r\n",
        _ => "",
    };
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{coding}\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

async fn send(stream: &mut (impl tokio::io::AsyncWrite + Unpin), text: &str) {
    let chunk = format!("{:x}\r\n{text}\r\n", text.len());
    stream.write_all(chunk.as_bytes()).await.unwrap();
}

/// All that comes, without what frames it: heads, and lengths of chunks.
async fn read_lines(stream: impl tokio::io::AsyncRead + Unpin) -> Vec<Value> {
    let mut text = String::new();
    let mut stream = BufReader::new(stream);
    let read = tokio::time::timeout(PATIENCE, stream.read_to_string(&mut text)).await;
    read.expect("the answer ends").ok();
    let (_, body) = text.split_once("\r\n\r\n").unwrap();
    let mut rest = body;
    let mut whole = String::new();
    while let Some((length, after)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        whole.push_str(&after[..length]);
        rest = after[length..].trim_start_matches("\r\n");
    }
    let lines = whole.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

async fn batch(address: SocketAddr, pieces: &[&str]) -> Vec<Value> {
    let stream = open(address, "POST", BATCH).await;
    let (from, mut to) = stream.into_split();
    let sending = async {
        for piece in pieces {
            send(&mut to, piece).await;
        }
        to.write_all(b"0\r\n\r\n").await.unwrap();
    };
    tokio::join!(sending, read_lines(from)).1
}

async fn n_tasks(served: &Served) -> u64 {
    let page = ListTasks {
        limit: 1,
        ..ListTasks::default()
    };
    let page = served.scheduler.list(&served.path, page).await.unwrap();
    let states = served.scheduler.stats(&served.path).await.unwrap().states;
    page.backlog + states.values().sum::<u64>()
}

#[tokio::test]
async fn thousands_of_lines_are_answered_in_order_and_a_broken_one_stops_none() {
    let served = serve(Config::default()).await;
    let mut text = String::new();
    let mut expected = Vec::new();
    for n in 1..=5_000_u64 {
        let (line, answer) = match n % 10 {
            3 => ("", None),
            5 => (r#"{"data": {"n": 1"#, Some("malformed")),
            6 => (r#"{"data": 7}"#, Some("malformed")),
            7 => (
                r#"{"data": {}, "options": {"priority": 77}}"#,
                Some("invalid"),
            ),
            8 => (r#"{"data": {}, "more": 1}"#, Some("malformed")),
            _ => (r#"{"data": {"n": 1}}"#, Some("")),
        };
        text.push_str(line);
        text.push('\n');
        expected.extend(answer.map(|answer| (n, answer)));
    }
    let (one, other) = text.split_at(50_003);
    let answers = batch(served.address, &[one, other]).await;
    let told = answers.iter().map(|answer| {
        let problem = answer["type"].as_str().unwrap_or("urn:workload:problem:");
        let problem = problem.strip_prefix("urn:workload:problem:").unwrap();
        assert_eq!(answer["id"].is_string(), problem.is_empty(), "{answer}");
        (answer["line"].as_u64().unwrap(), problem)
    });
    assert_eq!(told.collect::<Vec<_>>(), expected);
    assert_eq!(n_tasks(&served).await, 2_500);
}

#[tokio::test]
async fn lines_are_answered_while_the_body_still_comes() {
    let served = serve(Config::default()).await;
    let mut stream = open(served.address, "POST", BATCH).await;
    let mut reading = String::new();
    for n in 1..=3 {
        send(&mut stream, "{\"data\": {}}\n").await;
        let answered = async {
            let mut stream = BufReader::new(&mut stream);
            while !reading.contains(&format!("\"line\":{n}")) {
                stream.read_line(&mut reading).await.unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, answered).await.unwrap();
    }
    // A client that goes in the middle of a line has submitted what came before.
    send(&mut stream, "{\"data\": {}}\n{\"data\"").await;
    drop(stream);
    let four = async {
        while n_tasks(&served).await < 4 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, four).await.unwrap();
}

#[tokio::test]
async fn a_batch_that_is_sent_again_with_keys_makes_no_second_task() {
    let served = serve(Config::default()).await;
    let lines: Vec<_> = (0..300)
        .map(|n| format!("{{\"data\": {{}}, \"options\": {{\"idempotency_key\": \"k{n}\"}}}}\n"))
        .collect();
    let text = lines.concat();
    // The first one breaks off in the middle.
    let mut stream = open(served.address, "POST", BATCH).await;
    send(&mut stream, &text[..text.len() / 2]).await;
    drop(stream);
    let first = batch(served.address, &[&text]).await;
    let again = batch(served.address, &[&text]).await;
    assert_eq!(first.len(), 300);
    for (one, other) in first.iter().zip(&again) {
        assert_eq!(one["id"], other["id"]);
        assert_eq!(other["repeated"], true);
    }
    assert_eq!(n_tasks(&served).await, 300);
}

#[tokio::test]
async fn a_line_that_is_too_long_is_refused_and_the_next_is_read() {
    let config = Config {
        payload_bytes_max: 1_000,
        ..Config::default()
    };
    let served = serve(config).await;
    let long = format!("{{\"data\": {{\"x\": \"{}\"}}}}\n", "x".repeat(200_000));
    let answers = batch(served.address, &[&long, "{\"data\": {}}"]).await;
    assert_eq!(answers[0]["status"], 413);
    assert!(answers[1]["id"].is_string(), "{answers:?}");
    let other = open(
        served.address,
        "POST",
        "/api/applications/app/pipelines/no/tasks/batch",
    );
    let mut other = other.await;
    other.write_all(b"0\r\n\r\n").await.unwrap();
    let mut text = String::new();
    other.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 404"), "{text}");
}

#[tokio::test]
async fn only_so_many_streams_are_open_and_all_end_with_the_server() {
    let config = Config {
        watches_max: 1,
        ..Config::default()
    };
    let served = serve(config).await;
    let path = "/api/applications/app/pipelines/pipe/events";
    let mut stream = BufReader::new(open(served.address, "GET", path).await);
    let mut text = String::new();
    let begun = async {
        while !text.contains("event: stats") {
            stream.read_line(&mut text).await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, begun).await.unwrap();
    assert!(text.contains("text/event-stream"), "{text}");
    let mut refused = String::new();
    let mut other = open(served.address, "GET", path).await;
    other.read_to_string(&mut refused).await.unwrap();
    assert!(refused.starts_with("HTTP/1.1 429"), "{refused}");
    assert!(refused.contains("retry-after: 5"), "{refused}");
    // A batch that waits for more ends as well, and has been answered so far.
    let mut waiting = open(served.address, "POST", BATCH).await;
    send(&mut waiting, "{\"data\": {}}\n").await;
    let accepted = async {
        while n_tasks(&served).await == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, accepted).await.unwrap();
    served.end.send(()).unwrap();
    tokio::time::timeout(PATIENCE, served.serving)
        .await
        .unwrap()
        .unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    let answers = read_lines(waiting).await;
    assert!(answers[0]["id"].is_string(), "{answers:?}");
}
