//! `workload pipeline`: pipelines.

use std::time::Duration;

use bytes::Bytes;
use clap::Subcommand;
use hyper::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::{read_json, read_options, segment};
use crate::{client::Api, failure::Failure, output::Format};

/// What to do with pipelines.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a pipeline, or change it to this.
    Apply {
        /// The application; made if it is missing.
        app: String,
        /// The pipeline's name.
        pipeline: String,
        /// Its steps: `{"pipeline": [...]}` or the list itself, as JSON, @FILE or - for standard input.
        #[arg(long, required_unless_present = "chart", conflicts_with = "chart")]
        steps: Option<String>,
        /// A chart that carries the steps; only to create.
        #[arg(long)]
        chart: Option<String>,
        /// What its tasks start from, as JSON, @FILE or -.
        #[arg(long)]
        options: Option<String>,
    },
    /// Show a pipeline.
    Get {
        /// The application.
        app: String,
        /// The pipeline.
        pipeline: String,
    },
    /// List the pipelines of an application.
    List {
        /// The application.
        app: String,
    },
    /// Start no more tasks of a pipeline until it is resumed.
    Pause {
        /// The application.
        app: String,
        /// The pipeline.
        pipeline: String,
        /// Why; shown with every task that waits.
        #[arg(long, default_value = "")]
        reason: String,
        /// Who pauses it; without it, the user of this computer.
        #[arg(long, env = "USER", default_value = "")]
        by: String,
    },
    /// Take and start tasks of a pipeline again.
    Resume {
        /// The application.
        app: String,
        /// The pipeline.
        pipeline: String,
    },
    /// Take no more tasks until the pipeline is resumed; those that it has come to their end.
    Drain {
        /// The application.
        app: String,
        /// The pipeline.
        pipeline: String,
    },
    /// Delete a pipeline whose tasks have all ended.
    Delete {
        /// The application.
        app: String,
        /// The pipeline.
        pipeline: String,
    },
}

impl Command {
    pub(crate) async fn run(self, api: &Api, format: Format) -> Result<(), Failure> {
        match self {
            Self::Apply {
                app,
                pipeline,
                steps,
                chart,
                options,
            } => {
                let steps = steps
                    .as_deref()
                    .map(read_json)
                    .transpose()?
                    .map(list_of_steps);
                let options = read_options(options.as_deref())?;
                let applied = match (steps, chart) {
                    (Some(steps), _) => apply_steps(api, &app, &pipeline, steps, options).await?,
                    (None, chart) => {
                        let chart = chart.as_deref().map(chart_for_server);
                        let body = json!({"name": pipeline, "chart": chart, "options": options});
                        api.post(&pipelines(&app), &body).await?.body
                    }
                };
                format.one(&applied)
            }
            Self::Get { app, pipeline } => {
                let answer = api.get(&path_of(&app, &pipeline)).await?;
                format.one(&answer.body)
            }
            Self::List { app } => {
                let answer = api.get(&pipelines(&app)).await?;
                format.many(
                    &answer.body["pipelines"],
                    &["name", "state", "revision", "created_at"],
                )
            }
            Self::Pause {
                app,
                pipeline,
                reason,
                by,
            } => {
                let body = json!({"by": by, "reason": reason});
                let path = format!("{}/pause", path_of(&app, &pipeline));
                format.one(&api.post(&path, &body).await?.body)
            }
            Self::Resume { app, pipeline } => {
                let path = format!("{}/resume", path_of(&app, &pipeline));
                format.one(&api.post(&path, &Value::Null).await?.body)
            }
            Self::Drain { app, pipeline } => {
                let path = format!("{}/drain", path_of(&app, &pipeline));
                format.one(&api.post(&path, &Value::Null).await?.body)
            }
            Self::Delete { app, pipeline } => {
                let path = path_of(&app, &pipeline);
                let answer = api
                    .call(Method::DELETE, &path, &[], Bytes::new(), Duration::ZERO)
                    .await?;
                // It goes on by itself; what it is says so.
                if answer.status == StatusCode::ACCEPTED {
                    return format.one(&answer.body);
                }
                Ok(())
            }
        }
    }
}

fn pipelines(app: &str) -> String {
    format!("/api/applications/{}/pipelines", segment(app))
}

pub(super) fn path_of(app: &str, pipeline: &str) -> String {
    format!("{}/{}", pipelines(app), segment(pipeline))
}

/// Takes the form of a chart's `pipeline.json` as well as the bare list.
fn list_of_steps(steps: Value) -> Value {
    match steps {
        Value::Object(mut object) if object.contains_key("pipeline") => {
            object.remove("pipeline").unwrap_or_default()
        }
        steps => steps,
    }
}

/// A chart as the server must be told: a directory of this machine by its whole path, since the server
/// was started elsewhere.
fn chart_for_server(chart: &str) -> String {
    match std::fs::canonicalize(chart) {
        Ok(path) if path.is_dir() => path.to_string_lossy().into_owned(),
        _ => chart.to_owned(),
    }
}

async fn apply_steps(
    api: &Api,
    app: &str,
    pipeline: &str,
    steps: Value,
    options: Map<String, Value>,
) -> Result<Value, Failure> {
    let path = path_of(app, pipeline);
    let answer = match api.get(&path).await {
        Ok(current) => {
            let body = json!({"pipeline": steps, "options": options});
            let tag = current.tag.unwrap_or_default();
            let headers = [("if-match", tag.as_str())];
            let body = Bytes::from(body.to_string());
            api.call(Method::PUT, &path, &headers, body, Duration::ZERO)
                .await?
        }
        Err(Failure::Refused { status: 404, .. }) => {
            let body = json!({"name": pipeline, "pipeline": steps, "options": options});
            api.post(&pipelines(app), &body).await?
        }
        Err(failure) => return Err(failure),
    };
    Ok(answer.body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_named_by_its_whole_path_and_all_else_as_it_is() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(chart_for_server("."), here.to_str().unwrap());
        for other in ["oci://registry/chart", "no/such/chart"] {
            assert_eq!(chart_for_server(other), other);
        }
    }
}
