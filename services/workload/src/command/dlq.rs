//! Dead letters.

use std::{cell::Cell, time::Duration};

use serde_json::{Map, Value, json};

use super::{parse_duration, pipeline::path_of, segment};
use crate::{
    client::Api,
    failure::Failure,
    output::{Format, print},
};

/// Dead letters: discarded tasks, which are kept and can run again.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List them, newest first within each partition.
    List {
        /// The application.
        app: String,
        /// The pipeline.
        pipeline: String,
        /// At most so many, up to 1000.
        #[arg(long, default_value_t = 100)]
        limit: usize,
        /// The `next_page_token` of the page before.
        #[arg(long)]
        page_token: Option<String>,
    },
    /// Let them run again: one, then 10, then a hundredth, and the rest only if none of these fails as before.
    Redrive {
        /// The application.
        app: String,
        /// The pipeline.
        pipeline: String,
        /// Only tasks whose last failure has this code.
        #[arg(long)]
        code: Option<String>,
        /// At most so many, up to 100000, the oldest first.
        #[arg(long)]
        limit: Option<usize>,
        /// How long each of the first stages may take.
        #[arg(long, value_parser = parse_duration, default_value = "5m")]
        patience: Duration,
    },
}

impl Command {
    pub(crate) async fn run(self, api: &Api, format: Format) -> Result<(), Failure> {
        match self {
            Self::List {
                app,
                pipeline,
                limit,
                page_token,
            } => {
                let token = page_token.map_or(String::new(), |token| {
                    format!("&page_token={}", segment(&token))
                });
                let path = path_of(&app, &pipeline);
                let path = format!("{path}/tasks?state=discarded&limit={limit}{token}");
                let answer = api.get(&path).await?;
                if format == Format::Json {
                    return format.one(&answer.body);
                }
                let tasks = answer.body["tasks"].as_array().cloned().unwrap_or_default();
                let rows = tasks.iter().map(row).collect();
                format.many(&Value::Array(rows), &["id", "ended_at", "code", "message"])
            }
            Self::Redrive {
                app,
                pipeline,
                code,
                limit,
                patience,
            } => {
                let mut body = Map::new();
                body.insert(
                    "patience".to_owned(),
                    format!("{}ms", patience.as_millis()).into(),
                );
                body.extend(code.map(|code| ("code".to_owned(), code.into())));
                body.extend(limit.map(|limit| ("limit".to_owned(), limit.into())));
                let path = format!("{}/redrive", path_of(&app, &pipeline));
                let (told, last) = (Cell::new(None), Cell::new(Value::Null));
                api.post_for_lines(&path, &Value::Object(body), |line| {
                    last.set(line.clone());
                    // The looks between two steps say nothing new.
                    let count = (line["redriven"].as_u64(), line["changed"].as_u64());
                    if format == Format::Json {
                        return print(&format!("{line}\n"));
                    }
                    if told.replace(Some(count)) == Some(count) {
                        return Ok(());
                    }
                    let (found, redriven) = (&line["found"], &line["redriven"]);
                    let (skipped, changed) = (&line["skipped"], &line["changed"]);
                    print(&format!("{redriven} of {found} redriven, {changed} seen to have changed, {skipped} skipped\n"))
                })
                .await?;
                end(&last.take())
            }
        }
    }
}

/// A dead letter with its last failure.
fn row(task: &Value) -> Value {
    let last = task["errors"].as_array().and_then(|errors| errors.last());
    let last = last.unwrap_or(&Value::Null);
    json!({
        "id": task["id"],
        "ended_at": task["ended_at"],
        "code": last["code"],
        "message": last["message"],
    })
}

/// What the last line means for who called.
fn end(last: &Value) -> Result<(), Failure> {
    if let Some(problem) = last["problem"].as_str() {
        return Err(Failure::Halted(format!(
            "the redrive broke off: {problem}; the same command goes on"
        )));
    }
    if last["over"] != true {
        return Err(Failure::Unreachable(
            "the answer broke off; the same command goes on".to_owned(),
        ));
    }
    let halted = &last["halted"];
    match halted["reason"].as_str() {
        None => Ok(()),
        Some("same-failure") => Err(Failure::Halted(format!(
            "halted: task {} failed as before ({}: {}); mend that first",
            halted["task"].as_str().unwrap_or_default(),
            halted["code"].as_str().unwrap_or_default(),
            halted["message"]
                .as_str()
                .unwrap_or_default()
                .escape_debug(),
        ))),
        Some(_) => Err(Failure::Halted(format!(
            "halted: {} of the tasks redriven did not end in time; are there workers?",
            halted["tasks"]
        ))),
    }
}
