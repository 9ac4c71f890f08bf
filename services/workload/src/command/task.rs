//! `workload task`: tasks.

use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Subcommand;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::{
    cancel::CancelMany, parse_duration, pipeline::path_of, read_json, read_options, segment,
};
use crate::{client::Api, failure::Failure, output::Format};

/// The longest wait of one call; longer waits are many calls.
const CALL_WAIT: Duration = Duration::from_secs(60);

/// What to do with tasks.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Submit a task.
    Submit {
        /// The application.
        app: String,
        /// The pipeline.
        pipeline: String,
        /// The task's data: a JSON object, @FILE or - for standard input.
        data: String,
        /// What is asked for it, as JSON, @FILE or -: delay, priority, key, group, labels, timeout, retry and so on.
        #[arg(long)]
        options: Option<String>,
        /// Repeated submits with one key are one task.
        #[arg(long)]
        idempotency_key: Option<String>,
        /// Wait until it ends, at most so long: 30s, 5m.
        #[arg(long, value_parser = parse_duration)]
        wait: Option<Duration>,
    },
    /// Show a task.
    Get {
        /// The application.
        app: String,
        /// The task's id.
        id: String,
    },
    /// Wait until a task ends.
    Wait {
        /// The application.
        app: String,
        /// The task's id.
        id: String,
        /// At most so long: 30s, 5m.
        #[arg(long, default_value = "5m", value_parser = parse_duration)]
        timeout: Duration,
    },
    /// List the tasks of a pipeline, newest first.
    List {
        /// The application.
        app: String,
        /// The pipeline.
        pipeline: String,
        /// Only in these states, with commas between.
        #[arg(long)]
        state: Option<String>,
        /// Only tasks accepted since this time.
        #[arg(long)]
        since: Option<String>,
        /// At most so many: 1 to 1000.
        #[arg(long, default_value_t = 100)]
        limit: u32,
        /// Where the page before ended.
        #[arg(long)]
        page_token: Option<String>,
    },
    /// Let a discarded task run again, with all its attempts.
    Redrive {
        /// The application.
        app: String,
        /// The task's id.
        id: String,
    },
    /// Cancel a task.
    Cancel {
        /// The application.
        app: String,
        /// The task's id.
        id: String,
    },
    /// Cancel all tasks of a pipeline that fit: none of them starts any more. Later ones are not meant.
    CancelMany(CancelMany),
}

impl Command {
    pub(crate) async fn run(self, api: &Api, format: Format) -> Result<(), Failure> {
        match self {
            Self::Submit {
                app,
                pipeline,
                data,
                options,
                idempotency_key,
                wait,
            } => {
                let mut options = read_options(options.as_deref())?;
                if let Some(key) = idempotency_key {
                    options.insert("idempotency_key".to_owned(), key.into());
                }
                let body = json!({"data": read_json(&data)?, "options": options});
                let answer = api
                    .post(&format!("{}/tasks", path_of(&app, &pipeline)), &body)
                    .await?;
                match (wait, answer.body["id"].as_str()) {
                    (Some(wait), Some(id)) => wait_for(api, &app, id, wait, format).await,
                    _ => format.one(&answer.body),
                }
            }
            Self::Get { app, id } => {
                let answer = api.get(&task_path(&app, &id)).await?;
                format.one(&answer.body)
            }
            Self::Wait { app, id, timeout } => wait_for(api, &app, &id, timeout, format).await,
            Self::List {
                app,
                pipeline,
                state,
                since,
                limit,
                page_token,
            } => {
                let mut path = format!("{}/tasks?limit={limit}", path_of(&app, &pipeline));
                for (name, value) in [
                    ("state", state),
                    ("since", since),
                    ("page_token", page_token),
                ] {
                    if let Some(value) = value {
                        path.push_str(&format!("&{name}={}", segment(&value)));
                    }
                }
                let answer = api.get(&path).await?;
                match format {
                    Format::Json => format.one(&answer.body),
                    Format::Table => {
                        let fields = ["id", "state", "attempt", "accepted_at", "ended_at"];
                        format.many(&answer.body["tasks"], &fields)?;
                        if let Some(token) = answer.body["next_page_token"].as_str() {
                            eprintln!("there are more: --page-token {token}");
                        }
                        Ok(())
                    }
                }
            }
            Self::Redrive { app, id } => {
                let path = format!("{}/redrive", task_path(&app, &id));
                let answer = api.post(&path, &Value::Null).await?;
                format.one(&answer.body)
            }
            Self::CancelMany(cancel) => cancel.run(api, format).await,
            Self::Cancel { app, id } => {
                let path = format!("{}/cancel", task_path(&app, &id));
                let answer = api.post(&path, &Value::Null).await?;
                format.one(&answer.body)
            }
        }
    }
}

fn task_path(app: &str, id: &str) -> String {
    format!("/api/applications/{}/tasks/{}", segment(app), segment(id))
}

async fn wait_for(
    api: &Api,
    app: &str,
    id: &str,
    wait: Duration,
    format: Format,
) -> Result<(), Failure> {
    let start = Instant::now();
    loop {
        let left = wait.saturating_sub(start.elapsed()).min(CALL_WAIT);
        let path = format!("{}?wait={}ms", task_path(app, id), left.as_millis());
        let answer = api
            .call(Method::GET, &path, &[], Bytes::new(), left)
            .await?;
        let state = answer.body["state"].as_str().unwrap_or_default().to_owned();
        let has_ended = answer.status == StatusCode::OK && !answer.body["ended_at"].is_null();
        if has_ended || start.elapsed() >= wait {
            format.one(&answer.body)?;
            return match state.as_str() {
                "completed" => Ok(()),
                _ if has_ended => Err(Failure::NotCompleted(state)),
                _ => Err(Failure::NotEnded),
            };
        }
    }
}
