//! What a server bears of slow, large and many clients.
#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::time::Duration;

use scheduler_core::{Config, Scheduler, memory};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};
use workload_api::{Api, Limits};

const PATIENCE: Duration = Duration::from_secs(10);

/// Serves an API with these limits until the sender is dropped.
async fn serve(
    limits: Limits,
) -> (
    std::net::SocketAddr,
    oneshot::Sender<()>,
    tokio::task::JoinHandle<()>,
) {
    let scheduler = Scheduler::start(Config::default(), memory::ports())
        .await
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (end, ended) = oneshot::channel::<()>();
    let serving = tokio::spawn(async move {
        let api = Api::new(scheduler, "default".try_into().unwrap());
        let ended = async { drop(ended.await) };
        api.serve(listener, limits, ended).await;
    });
    (address, end, serving)
}

/// Everything the server says until it closes.
async fn read_all(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut text)).await;
    // A reset is a close as well.
    drop(read.expect("the server closes the connection"));
    String::from_utf8(text).unwrap()
}

async fn ask(stream: &mut TcpStream) -> String {
    let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    read_all(stream).await
}

#[tokio::test]
async fn a_head_that_does_not_come_ends_the_connection() {
    let limits = Limits {
        head_wait: Duration::from_millis(200),
        ..Limits::default()
    };
    let (address, _end, _serving) = serve(limits).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: loc")
        .await
        .unwrap();
    let said = read_all(&mut stream).await;
    assert!(!said.contains("200 OK"), "{said}");
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let (address, _end, _serving) = serve(Limits::default()).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n",
        "x".repeat(128 << 10)
    );
    // The server may close before it has read all of it.
    drop(stream.write_all(head.as_bytes()).await);
    let said = read_all(&mut stream).await;
    assert!(
        said.is_empty() || said.starts_with("HTTP/1.1 431"),
        "{said}"
    );
}

#[tokio::test]
async fn a_connection_over_the_limit_waits_for_a_place() {
    let limits = Limits {
        n_connections: 1,
        ..Limits::default()
    };
    let (address, _end, _serving) = serve(limits).await;
    let first = TcpStream::connect(address).await.unwrap();
    let mut second = TcpStream::connect(address).await.unwrap();
    let asking = tokio::spawn(async move { ask(&mut second).await });
    tokio::task::yield_now().await;
    assert!(!asking.is_finished());
    drop(first);
    let said = tokio::time::timeout(PATIENCE, asking)
        .await
        .unwrap()
        .unwrap();
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
}

#[tokio::test]
async fn open_requests_end_before_the_server_does() {
    let (address, end, serving) = serve(Limits::default()).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = b"POST /api/applications HTTP/1.1\r\nHost: localhost\r\nContent-Length: 12\r\n\
        Expect: 100-continue\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    // The handler waits for the body from here on.
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    end.send(()).unwrap();
    stream.write_all(b"{\"name\":\"a\"}").await.unwrap();
    let said = read_all(&mut stream).await;
    assert!(said.starts_with("HTTP/1.1 201"), "{said}");
    tokio::time::timeout(PATIENCE, serving)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn an_early_answer_reaches_a_client_that_is_still_sending() {
    let (address, _end, _serving) = serve(Limits::default()).await;
    for (path, expected) in [
        ("/api/applications", "HTTP/1.1 413"),
        ("/api/nothing", "HTTP/1.1 404"),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let body = vec![b'x'; 8 << 20];
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&body).await.unwrap();
        let said = read_all(&mut stream).await;
        assert!(said.starts_with(expected), "{path}: {said}");
    }
}

#[tokio::test]
async fn a_client_that_asks_first_is_not_told_to_send_what_nobody_reads() {
    let (address, _end, _serving) = serve(Limits::default()).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = "POST /api/nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                Expect: 100-continue\r\nContent-Length: 10\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let said = read_all(&mut stream).await;
    assert!(said.starts_with("HTTP/1.1 404"), "{said}");
}
