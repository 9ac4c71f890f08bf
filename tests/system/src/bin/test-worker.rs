//! A worker for tests: notes each run in a file, works as long as the task says, or fails if it says so,
//! and answers.
//!
//! `test-worker [--unary] ENDPOINT PIPELINE NOTES [CONCURRENCY]`; a note is a line `<task id> <attempt> <token> <worker's pid>
//! <milliseconds since 1970>`.

use std::{
    io::Write as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use worker_sdk::{Failure, Outcome, TaskContext, Worker};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    // As a worker from before there were streams.
    let is_older = arguments.first().is_some_and(|first| first == "--unary");
    arguments.drain(..usize::from(is_older));
    let (endpoint, pipeline) = (arguments.first(), arguments.get(1));
    let notes = arguments
        .get(2)
        .context("ENDPOINT PIPELINE NOTES are needed")?
        .clone();
    let concurrency = arguments.get(3).map_or(Ok(1), |text| text.parse())?;
    let handler = move |ctx: TaskContext| work(notes.clone(), ctx);
    let mut builder = Worker::builder("app", pipeline.context("no pipeline")?)
        .endpoint(endpoint.context("no endpoint")?)
        .concurrency(concurrency);
    if is_older {
        builder = builder.unary();
    }
    builder.build(handler)?.run().await?;
    Ok(())
}

async fn work(notes: String, ctx: TaskContext) -> Outcome {
    let began_at = SystemTime::now().duration_since(UNIX_EPOCH);
    let note = format!(
        "{} {} {} {} {}\n",
        ctx.id(),
        ctx.attempt(),
        ctx.lease_token(),
        std::process::id(),
        began_at.unwrap_or_default().as_millis()
    );
    let noted = std::fs::File::options()
        .create(true)
        .append(true)
        .open(notes);
    let noted = noted.and_then(|mut file| file.write_all(note.as_bytes()));
    if let Err(err) = noted {
        return Failure::new("no_notes", err.to_string()).into();
    }
    let data: Result<std::collections::BTreeMap<String, u64>, _> = ctx.data();
    if data.as_ref().is_ok_and(|data| data.contains_key("fail")) {
        return Failure::new("asked_to", "the task asked to fail").into();
    }
    let millis = data
        .ok()
        .and_then(|data| data.get("millis").copied())
        .unwrap_or(0);
    tokio::time::sleep(Duration::from_millis(millis)).await;
    Outcome::completed(&millis)
}
