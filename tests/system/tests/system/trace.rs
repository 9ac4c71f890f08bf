//! By system call: no answer leaves the process before the sync that covers it.

use serde_json::json;

use crate::{
    fixture::{Dev, data_in},
    workers::Worker,
};

/// What is answered once it is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Submit,
    Report,
}

/// What one line of the trace shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    /// A submit came in, or a task went out whose report will come.
    Begin(Kind),
    Write,
    Sync,
    Answer(Kind),
}

fn call_in(line: &str) -> Option<Call> {
    // A call that was cut off by another thread's shows its data first and its end in a "resumed" line.
    let is_resumed = line.contains(" resumed>");
    let has_ended = !line.contains("<unfinished");
    if line.contains("fdatasync") || line.contains("fsync") {
        return has_ended.then_some(Call::Sync);
    }
    if line.contains("pwrite64") {
        return (!is_resumed).then_some(Call::Write);
    }
    if line.contains("\"POST /api/applications/app/pipelines/slow ") {
        return Some(Call::Begin(Kind::Submit));
    }
    if line.contains("202 Accepted") {
        return Some(Call::Answer(Kind::Submit));
    }
    // gRPC: a message of one leased task begins with the task's id (field 1 of field 1, 23 bytes).
    if line.contains("write") && line.contains(r"\n\27aaaa") {
        return Some(Call::Begin(Kind::Report));
    }
    // The answer to one good report, an empty status: on a stream field 5 of a message, to a call the whole message.
    let is_reported = line.contains(r"*\2\n\0") || line.contains(r"\0\0\0\0\2\n\0");
    if line.contains("write") && is_reported {
        return Some(Call::Answer(Kind::Report));
    }
    None
}

/// How far the way to the disk has gone since something began: the log's write and sync, then the
/// high-water mark's.
#[derive(Debug, Default, Clone, Copy)]
struct Way(u8);

impl Way {
    fn step(&mut self, call: Call) {
        self.0 = match (self.0, call) {
            (0, Call::Write) | (2, Call::Write) | (1, Call::Sync) | (3, Call::Sync) => self.0 + 1,
            (way, _) => way,
        };
    }
}

#[test]
fn no_answer_leaves_before_its_sync() {
    let home = tempfile::tempdir().unwrap();
    let trace = home.path().join("trace");
    let calls = "trace=fdatasync,fsync,pwrite64,read,recvfrom,write,writev,sendto,sendmsg";
    let strace = [
        "strace",
        // The traced process is then the child, so that it ends with the test.
        "-D",
        "-f",
        "-s",
        "256",
        "-e",
        calls,
        "-o",
        trace.to_str().unwrap(),
    ];
    let dev = Dev::start_with(&data_in(&home), &["--grpc", "127.0.0.1:0"], Some(&strace));
    dev.create("slow", json!([]), json!({"partitions": 1}));
    let _worker = Worker::start(&dev, &home.path().join("notes"));
    let n = 20;
    for _ in 0..n {
        let id = dev.submit("slow", &json!({}));
        assert_eq!(dev.ended(&id)["state"], "completed");
    }
    let (mut submit, mut report) = (Way::default(), Way::default());
    let (mut n_submits, mut n_reports) = (0, 0);
    let trace = std::fs::read_to_string(&trace).unwrap();
    let calls = trace.lines().filter_map(call_in);
    // What came before the first submit created the pipeline.
    for call in calls.skip_while(|call| *call != Call::Begin(Kind::Submit)) {
        match call {
            Call::Begin(Kind::Submit) => submit = Way::default(),
            Call::Begin(Kind::Report) => report = Way::default(),
            Call::Write | Call::Sync => {
                submit.step(call);
                report.step(call);
            }
            Call::Answer(Kind::Submit) => {
                assert_eq!(
                    submit.0, 4,
                    "answer {n_submits} to a submit left before its sync"
                );
                n_submits += 1;
            }
            Call::Answer(Kind::Report) => {
                assert_eq!(
                    report.0, 4,
                    "answer {n_reports} to a report left before its sync"
                );
                n_reports += 1;
            }
        }
    }
    assert_eq!(
        (n_submits, n_reports),
        (n, n),
        "each answer is in the trace"
    );
}
