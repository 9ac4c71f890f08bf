//! `workload app`: applications.

use bytes::Bytes;
use clap::Subcommand;
use hyper::Method;
use serde_json::json;

use super::segment;
use crate::{client::Api, failure::Failure, output::Format};

/// What to do with applications.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create an application.
    Create {
        /// Its name.
        app: String,
    },
    /// Show an application.
    Get {
        /// Its name.
        app: String,
    },
    /// List the applications.
    List,
    /// Delete an application without pipelines.
    Delete {
        /// Its name.
        app: String,
    },
}

impl Command {
    pub(crate) async fn run(self, api: &Api, format: Format) -> Result<(), Failure> {
        match self {
            Self::Create { app } => {
                let answer = api
                    .post("/api/applications", &json!({ "name": app }))
                    .await?;
                format.one(&answer.body)
            }
            Self::Get { app } => {
                let answer = api
                    .get(&format!("/api/applications/{}", segment(&app)))
                    .await?;
                format.one(&answer.body)
            }
            Self::List => {
                let answer = api.get("/api/applications").await?;
                format.many(&answer.body["applications"], &["name", "created_at"])
            }
            Self::Delete { app } => {
                let path = format!("/api/applications/{}", segment(&app));
                api.call(
                    Method::DELETE,
                    &path,
                    &[],
                    Bytes::new(),
                    std::time::Duration::ZERO,
                )
                .await
                .map(|_| ())
            }
        }
    }
}
