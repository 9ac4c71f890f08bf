//! `workload task cancel-many`: cancels all tasks of a pipeline that fit, or counts them.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::pipeline::path_of;
use crate::{
    client::Api,
    failure::Failure,
    output::{Format, print},
};

/// How long to wait between two looks at how far it is: doubles from the first to the last.
const LOOK_FIRST: Duration = Duration::from_millis(100);
const LOOK_LAST: Duration = Duration::from_secs(2);

/// Which tasks, and whether they are only counted.
#[derive(Debug, clap::Args)]
pub(crate) struct CancelMany {
    /// The application.
    app: String,
    /// The pipeline.
    pipeline: String,
    /// Only tasks with this ordering key.
    #[arg(long)]
    key: Option<String>,
    /// Only tasks of this group.
    #[arg(long)]
    group: Option<String>,
    /// Only tasks in these states, with commas between: scheduled, available, running, retryable.
    #[arg(long, value_delimiter = ',')]
    state: Vec<String>,
    /// Only tasks accepted at or after this time.
    #[arg(long)]
    accepted_from: Option<String>,
    /// Only tasks accepted before this time.
    #[arg(long)]
    accepted_before: Option<String>,
    /// Only tasks with this among their metadata: NAME=VALUE. Can be given several times.
    #[arg(long, value_parser = parse_entry)]
    metadata: Vec<(String, String)>,
    /// All tasks, where nothing above is given.
    #[arg(long)]
    all: bool,
    /// Goes on with the bulk cancel of this id, or gives a new one this id.
    #[arg(long)]
    id: Option<String>,
    /// Only count them.
    #[arg(long)]
    dry_run: bool,
    /// Do not wait until all are cancelled. None of them starts any more in either case.
    #[arg(long)]
    no_wait: bool,
}

fn parse_entry(text: &str) -> Result<(String, String), String> {
    let entry = text.split_once('=');
    let (name, value) = entry.ok_or("NAME=VALUE is expected")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl CancelMany {
    fn filter(&self) -> Value {
        let mut filter = Map::new();
        let texts = [
            ("key", &self.key),
            ("group", &self.group),
            ("accepted_from", &self.accepted_from),
            ("accepted_before", &self.accepted_before),
        ];
        for (name, text) in texts {
            filter.extend(text.clone().map(|text| (name.to_owned(), text.into())));
        }
        if !self.state.is_empty() {
            filter.insert("states".to_owned(), self.state.clone().into());
        }
        if !self.metadata.is_empty() {
            let entries = self.metadata.iter().cloned();
            let entries = entries.map(|(name, value)| (name, value.into()));
            filter.insert("metadata".to_owned(), Value::Object(entries.collect()));
        }
        filter.into()
    }

    pub(crate) async fn run(self, api: &Api, format: Format) -> Result<(), Failure> {
        let path = format!("{}/tasks/cancel", path_of(&self.app, &self.pipeline));
        if self.dry_run {
            let body = json!({"filter": self.filter(), "preview": true});
            return format.one(&api.post(&path, &body).await?.body);
        }
        let mut body = json!({"filter": self.filter(), "all": self.all});
        if let Some(id) = &self.id {
            body["id"] = id.as_str().into();
        }
        let mut pause = LOOK_FIRST;
        let mut told = None;
        loop {
            let answer = api.post(&path, &body).await?.body;
            let is_over = answer["over"] == true;
            if is_over || self.no_wait {
                return format.one(&answer);
            }
            body["id"] = answer["id"].clone();
            let count = answer["cancelled"].as_u64();
            if format == Format::Table && told.replace(count) != Some(count) {
                let (n, id) = (&answer["cancelled"], answer["id"].as_str());
                let id = id.unwrap_or_default();
                print(&format!("{n} cancelled so far; --id {id} goes on\n"))?;
            }
            tokio::time::sleep(pause).await;
            pause = LOOK_LAST.min(pause * 2);
        }
    }
}
