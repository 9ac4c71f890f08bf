//! Charts in local directories: the pipeline that a chart carries as a ConfigMap with the key
//! `pipeline.json`.
//!
//! With `helm` on the machine the chart is rendered, so it may use any template. Without it, a
//! `pipeline.json` is found in the chart's own files as long as these need no rendering.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use scheduler_core::Step;
use serde::Deserialize;
use serde_json::Value;
use tokio::process::Command;
use workload_api::{ChartError, Charts, parse_pipeline_json};

/// How long `helm template` may take.
const HELM_WAIT: Duration = Duration::from_secs(30);
/// The largest file of a chart that is read, and the most files.
const FILE_BYTES_MAX: u64 = 1 << 20;
const FILES_MAX: usize = 256;
const KEY: &str = "pipeline.json";

/// Reads charts from directories on this machine.
#[derive(Debug)]
pub(crate) struct LocalCharts {
    helm: Option<PathBuf>,
}

impl LocalCharts {
    /// Finds `helm` in `PATH`, if it is there.
    pub(crate) fn new() -> Self {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let helm = std::env::split_paths(&paths)
            .map(|dir| dir.join("helm"))
            .find(|file| file.is_file());
        Self { helm }
    }
}

#[async_trait]
impl Charts for LocalCharts {
    async fn steps(&self, chart: &str) -> Result<Arc<[Step]>, ChartError> {
        if chart.contains("://") {
            return Err(ChartError(
                "`workload dev` reads charts from local directories only; clone the chart and give its path".to_owned(),
            ));
        }
        let dir = std::fs::canonicalize(chart)
            .map_err(|err| ChartError(format!("cannot find the directory {chart}: {err}")))?;
        if !dir.join("Chart.yaml").is_file() {
            return Err(ChartError(format!(
                "{} is no chart: it has no Chart.yaml",
                dir.display()
            )));
        }
        let found = match &self.helm {
            Some(helm) => find_in_manifests(&render(helm, &dir).await?)?,
            None => find_in_files(&dir)?,
        };
        match found.as_slice() {
            [text] => parse_pipeline_json(text),
            [] => Err(ChartError(format!(
                "no ConfigMap of the chart has the key {KEY}"
            ))),
            _ => Err(ChartError(format!(
                "{} ConfigMaps of the chart have the key {KEY}; one is expected",
                found.len()
            ))),
        }
    }
}

async fn render(helm: &Path, dir: &Path) -> Result<String, ChartError> {
    let mut command = Command::new(helm);
    command
        .arg("template")
        .arg("dev")
        .arg(dir)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let failed = |what: String| ChartError(format!("helm template: {what}"));
    let output = tokio::time::timeout(HELM_WAIT, command.output()).await;
    let output = output
        .map_err(|_| failed("took longer than 30s".to_owned()))?
        .map_err(|err| failed(err.to_string()))?;
    if !output.status.success() {
        return Err(failed(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        ));
    }
    String::from_utf8(output.stdout).map_err(|_| failed("printed no UTF-8".to_owned()))
}

fn find_in_files(dir: &Path) -> Result<Vec<String>, ChartError> {
    let mut found = Vec::new();
    let files = files_of(&dir.join("templates"))?;
    for file in files {
        let unreadable =
            |err: std::io::Error| ChartError(format!("cannot read {}: {err}", file.display()));
        if std::fs::metadata(&file).map_err(unreadable)?.len() > FILE_BYTES_MAX {
            return Err(ChartError(format!(
                "{} is larger than 1 MiB",
                file.display()
            )));
        }
        let text = std::fs::read_to_string(&file).map_err(unreadable)?;
        if !text.contains(KEY) {
            continue;
        }
        // A pipeline's own placeholders look like a template's actions but are plain names.
        if has_actions(&text) {
            return Err(ChartError(format!(
                "{} needs rendering; install helm (https://helm.sh), or write the ConfigMap without templates",
                file.display()
            )));
        }
        found.extend(find_in_manifests(&text)?);
    }
    Ok(found)
}

fn files_of(dir: &Path) -> Result<Vec<PathBuf>, ChartError> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        let unreadable =
            |err: std::io::Error| ChartError(format!("cannot read {}: {err}", dir.display()));
        for entry in std::fs::read_dir(&dir).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let kind = entry.file_type().map_err(unreadable)?;
            let path = entry.path();
            if kind.is_dir() {
                dirs.push(path);
            } else if kind.is_file()
                && path
                    .extension()
                    .is_some_and(|ext| ext == "yaml" || ext == "yml")
            {
                files.push(path);
            }
            if files.len() + dirs.len() > FILES_MAX {
                return Err(ChartError(
                    "the chart has more than 256 templates".to_owned(),
                ));
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Whether a text holds template actions other than plain placeholders such as `{{url}}`.
fn has_actions(text: &str) -> bool {
    text.split("{{").skip(1).any(|rest| {
        let inside = rest.split("}}").next().unwrap_or_default().trim();
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        inside.is_empty() || !inside.chars().all(plain) || inside == "end" || inside == "else"
    })
}

fn find_in_manifests(text: &str) -> Result<Vec<String>, ChartError> {
    let mut found = Vec::new();
    for document in serde_norway::Deserializer::from_str(text) {
        let manifest = Value::deserialize(document)
            .map_err(|err| ChartError(format!("a manifest is no YAML: {err}")))?;
        if manifest["kind"] == "ConfigMap"
            && let Some(text) = manifest["data"][KEY].as_str()
        {
            found.push(text.to_owned());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIPELINE: &str = r#"{"pipeline": [{"executor": "e", "commands": ["echo {{name}}"]}]}"#;

    fn chart(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("templates")).unwrap();
        std::fs::write(dir.path().join("Chart.yaml"), "name: x\n").unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join("templates").join(name), text).unwrap();
        }
        dir
    }

    fn config_map(pipeline: &str) -> String {
        format!("kind: ConfigMap\ndata:\n  pipeline.json: |\n    {pipeline}\n")
    }

    async fn steps(dir: &tempfile::TempDir) -> Result<Arc<[Step]>, String> {
        let charts = LocalCharts { helm: None };
        let steps = charts.steps(dir.path().to_str().unwrap()).await;
        steps.map_err(|err| err.to_string())
    }

    #[tokio::test]
    async fn a_pipeline_is_found_in_files_that_need_no_rendering() {
        let dir = chart(&[
            (
                "a.yaml",
                "kind: Service\n---\nkind: ConfigMap\ndata: {x: y}\n",
            ),
            ("b.yaml", &config_map(PIPELINE)),
            ("c.yaml", "name: {{ .Values.name }}\n"),
        ]);
        assert_eq!(steps(&dir).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn charts_that_give_no_pipeline_say_why() {
        let templated = format!("{}  x: {{{{ .Values.x }}}}\n", config_map(PIPELINE));
        let twice = format!("{}---\n{}", config_map(PIPELINE), config_map(PIPELINE));
        for (text, why) in [
            ("kind: Service\n", "no ConfigMap"),
            (templated.as_str(), "install helm"),
            (twice.as_str(), "2 ConfigMaps"),
            (&config_map("{}"), "not as expected"),
            (
                &config_map(r#"{"pipeline": [{"executor": "E", "commands": ["x"]}]}"#),
                "executor",
            ),
            ("kind: ConfigMap\npipeline.json: [", "no YAML"),
        ] {
            let err = steps(&chart(&[("a.yaml", text)])).await.unwrap_err();
            assert!(err.contains(why), "{err}");
        }
        let empty = tempfile::tempdir().unwrap();
        assert!(steps(&empty).await.unwrap_err().contains("Chart.yaml"));
    }
}
