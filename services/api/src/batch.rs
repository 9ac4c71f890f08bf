//! Submitting many tasks: a line of JSON each, and a line of JSON for each that comes back.
//!
//! Lines are submitted as they come, so that a body may have any length: what is in memory is one chunk. A client that does
//! not read the answers is not read on either.

mod lines;

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use futures::{FutureExt as _, stream};
use http_body_util::BodyExt as _;
use scheduler_core::{Error, PipelinePath, Submit, Submitted};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, watch};

use self::lines::{Line, Lines};
use utoipa::ToSchema;

use crate::{
    Api,
    input::{BODY_WAIT, NoQuery, Segments, WRAPPING_BYTES_MAX, slow_body},
    pipeline::pipeline_path,
    problem::{self, Problem},
    redrive::json_line,
    task::{SubmittedJson, Wrapped},
    unread::ReadsOn,
};

/// Batches at once: each has a chunk in memory.
pub(crate) const BATCHES_MAX: usize = 64;
/// The most lines and bytes that are submitted together, but at least one line.
const CHUNK_LINES_MAX: usize = 500;
const CHUNK_BYTES_MAX: usize = 4 << 20;

/// What became of one line.
#[derive(Debug, Serialize, ToSchema)]
struct AcceptedLine {
    /// Counted from 1, with those that are blank.
    line: u64,
    #[serde(flatten)]
    #[schema(ignore)]
    submitted: SubmittedJson,
}

/// Why a line was not accepted.
#[derive(Serialize, ToSchema)]
pub(crate) struct RefusedLine<'a> {
    line: u64,
    #[serde(flatten)]
    #[schema(ignore)]
    problem: problem::Body<'a>,
}

/// A line that was read: its number, and its task unless it is none.
type Read = (u64, Result<Submit, Problem>);

/// A batch that is being read.
struct Batch {
    api: Api,
    path: PipelinePath,
    body: Body,
    lines: Lines,
    has_ended: bool,
    closing: watch::Receiver<bool>,
    _place: OwnedSemaphorePermit,
}

/// The lines from here on were not looked at.
fn stopping() -> Problem {
    Problem::from(Error::Unavailable {
        what: "the server stops; submit this line and those after it again".into(),
        retry_after: Duration::from_secs(1),
    })
}

impl Batch {
    /// Reads the next chunk: what has come, but at least one line, and nothing at the end.
    async fn read(&mut self) -> Vec<Read> {
        let mut chunk = Vec::new();
        let mut n_bytes = 0;
        loop {
            while chunk.len() < CHUNK_LINES_MAX
                && n_bytes < CHUNK_BYTES_MAX
                && let Some(line) = self.lines.next()
            {
                n_bytes += line.n_bytes();
                chunk.extend(self.task(line));
            }
            let is_full = chunk.len() >= CHUNK_LINES_MAX || n_bytes >= CHUNK_BYTES_MAX;
            if is_full || self.has_ended {
                return chunk;
            }
            let frame = if chunk.is_empty() {
                tokio::select! {
                    frame = tokio::time::timeout(BODY_WAIT, self.body.frame()) => frame,
                    _ = self.closing.wait_for(|closing| *closing) => {
                        // What has come whole is answered; the rest is for another server.
                        self.has_ended = true;
                        chunk.push((self.lines.number() + 1, Err(stopping())));
                        return chunk;
                    }
                }
            } else {
                match self.body.frame().now_or_never() {
                    Some(frame) => Ok(frame),
                    None => return chunk,
                }
            };
            match frame {
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        self.lines.push(&data);
                    }
                }
                Ok(None) => {
                    self.has_ended = true;
                    self.lines.end();
                }
                // A line that did not come whole is no line.
                Ok(Some(Err(err))) => {
                    self.has_ended = true;
                    let problem = Problem::malformed(format!("the body broke off: {err}"));
                    chunk.push((self.lines.number() + 1, Err(problem)));
                }
                Err(_) => {
                    self.has_ended = true;
                    chunk.push((self.lines.number() + 1, Err(slow_body())));
                }
            }
        }
    }

    fn task(&self, line: Line) -> Option<Read> {
        let read = match line.text {
            Some(text) if text.trim_ascii().is_empty() => return None,
            Some(text) => Wrapped::of_line(&text),
            None => Err(Problem::from(Error::TooLarge {
                what: "the line".into(),
                max: self.lines.bytes_max(),
            })),
        };
        Some((line.number, read))
    }
}

/// Submits a chunk; the lines to answer.
async fn submit_chunk(api: &Api, path: &PipelinePath, chunk: Vec<Read>) -> Bytes {
    let good = chunk.iter().filter_map(|(_, read)| read.as_ref().ok());
    let answers = api.scheduler().submit_batch(path, good.cloned().collect());
    let mut answers = answers.await.map(Vec::into_iter);
    let mut text = Vec::new();
    for (number, read) in chunk {
        let answer = read.and_then(|_| {
            let answer = match &mut answers {
                Ok(answers) => answers.next().unwrap_or_else(unanswered),
                // The pipeline takes no more.
                Err(error) => Err(error.clone()),
            };
            answer.map_err(Problem::from)
        });
        text.extend(line(number, answer));
    }
    text.into()
}

fn unanswered<T>() -> Result<T, Error> {
    Err(Error::UnknownOutcome {
        what: "the submit".into(),
    })
}

fn line(line: u64, answer: Result<Submitted, Problem>) -> Bytes {
    match answer {
        Ok(submitted) => json_line(&AcceptedLine {
            line,
            submitted: submitted.into(),
        }),
        Err(problem) => json_line(&RefusedLine {
            line,
            problem: problem.body(),
        }),
    }
}

async fn step(mut batch: Batch) -> Option<(Result<Bytes, Error>, Batch)> {
    let chunk = batch.read().await;
    if chunk.is_empty() {
        return None;
    }
    let (api, path) = (batch.api.clone(), batch.path.clone());
    Some((Ok(submit_chunk(&api, &path, chunk).await), batch))
}

/// Submits many tasks: a line of JSON each.
#[utoipa::path(
    post, path = "/applications/{app}/pipelines/{pipeline}/tasks/batch", operation_id = "submitTasks", tag = "tasks",
    request_body(content = Wrapped, content_type = "application/x-ndjson", description = "A line of JSON for each task; any number of them"),
    responses(
        (status = 200, description = "A line of JSON for each line that is not blank, in order: `AcceptedLine` or `RefusedLine`", body = AcceptedLine, content_type = "application/x-ndjson"),
        (status = 409, description = "The pipeline takes no tasks"),
    ),
)]
pub(crate) async fn submit(
    State(api): State<Api>,
    Segments((app, pipeline)): Segments<(String, String)>,
    _: NoQuery,
    body: Body,
) -> Result<Response, Problem> {
    let path = pipeline_path(&api, &app, &pipeline)?;
    let place = api.batches().try_acquire_owned();
    let place = place.map_err(|_| Error::Overloaded {
        what: "batches at once".into(),
        retry_after: Duration::from_secs(1),
    })?;
    // A pipeline that is not there, or takes none, is told at once and not by each line.
    api.scheduler().submit_batch(&path, Vec::new()).await?;
    let bytes_max = api.scheduler().config().payload_bytes_max + WRAPPING_BYTES_MAX;
    let batch = Batch {
        path,
        body,
        lines: Lines::new(bytes_max),
        has_ended: false,
        closing: api.closing(),
        _place: place,
        api,
    };
    let lines = Body::from_stream(stream::unfold(batch, step));
    let media_type = [(header::CONTENT_TYPE, "application/x-ndjson")];
    let mut response = (media_type, lines).into_response();
    response.extensions_mut().insert(ReadsOn);
    Ok(response)
}
