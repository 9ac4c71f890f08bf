//! Options of tasks and pipelines in their JSON form.

use std::{collections::BTreeMap, time::Duration};

use scheduler_core::{
    Invalid, Retention, TaskOptions,
    task::retry::{Jitter, RetryPolicy},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    input::Object,
    time::{parse_duration, parse_timestamp, print_duration, print_timestamp},
};

/// Options as users write them and read them back.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = TaskOptions)]
pub(crate) struct OptionsJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) delay: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) run_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) idempotency_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) heartbeat_timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<RetryJson>)]
    pub(crate) retry: Option<Object<RetryJson>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) non_retryable: Option<Vec<String>>,
    /// A duration, `none`, or `failures` with an optional duration: `failures:24h`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) retention: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) priority: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) total_timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) labels: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cost: Option<u16>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) metadata: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = RetryPolicy)]
pub(crate) struct RetryJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    max_attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    initial: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    factor: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jitter: Option<String>,
}

impl OptionsJson {
    /// The options and the delay that they ask for.
    pub(crate) fn read(&self) -> Result<(TaskOptions, Option<Duration>), Invalid> {
        let duration = |field: &str, text: &Option<String>| {
            text.as_deref()
                .map(|text| parse_duration(field, text))
                .transpose()
        };
        let run_at = self.run_at.as_deref();
        let key = self.idempotency_key.as_deref();
        let codes = self.non_retryable.as_ref().map(|codes| {
            codes
                .iter()
                .map(|code| code.as_str().try_into())
                .collect::<Result<_, Invalid>>()
        });
        let expires_at = self.expires_at.as_deref();
        let labels = self.labels.as_ref().map(|labels| {
            let labels = labels.iter().map(|label| label.as_str().try_into());
            labels.collect::<Result<_, Invalid>>()
        });
        let options = TaskOptions {
            run_at: run_at
                .map(|text| parse_timestamp("run_at", text))
                .transpose()?,
            idempotency_key: key.map(TryInto::try_into).transpose()?,
            timeout: duration("timeout", &self.timeout)?,
            heartbeat_timeout: duration("heartbeat_timeout", &self.heartbeat_timeout)?,
            retry: self
                .retry
                .as_ref()
                .map(|retry| retry.0.read())
                .transpose()?,
            non_retryable: codes.transpose()?,
            retention: self.retention.as_deref().map(read_retention).transpose()?,
            priority: self.priority.map(TryInto::try_into).transpose()?,
            key: self.key.as_deref().map(TryInto::try_into).transpose()?,
            group: self.group.as_deref().map(TryInto::try_into).transpose()?,
            expires_at: expires_at
                .map(|text| parse_timestamp("expires_at", text))
                .transpose()?,
            total_timeout: duration("total_timeout", &self.total_timeout)?,
            labels: labels.transpose()?,
            cost: self.cost,
            metadata: self.metadata.clone(),
        };
        Ok((options, duration("delay", &self.delay)?))
    }

    pub(crate) fn of(options: &TaskOptions) -> Self {
        Self {
            delay: None,
            run_at: options.run_at.map(print_timestamp),
            idempotency_key: options.idempotency_key.as_ref().map(ToString::to_string),
            timeout: options.timeout.map(print_duration),
            heartbeat_timeout: options.heartbeat_timeout.map(print_duration),
            retry: options.retry.as_ref().map(RetryJson::of).map(Object),
            non_retryable: options
                .non_retryable
                .as_ref()
                .map(|codes| codes.iter().map(ToString::to_string).collect()),
            retention: options.retention.map(print_retention),
            priority: options.priority.map(|priority| priority.get().into()),
            key: options.key.as_ref().map(ToString::to_string),
            group: options.group.as_ref().map(ToString::to_string),
            expires_at: options.expires_at.map(print_timestamp),
            total_timeout: options.total_timeout.map(print_duration),
            labels: options
                .labels
                .as_ref()
                .map(|labels| labels.iter().map(ToString::to_string).collect()),
            cost: options.cost,
            metadata: options.metadata.clone(),
        }
    }
}

impl RetryJson {
    fn read(&self) -> Result<RetryPolicy, Invalid> {
        let default = RetryPolicy::default();
        let duration = |field, text: &Option<String>, default| {
            text.as_deref()
                .map_or(Ok(default), |text| parse_duration(field, text))
        };
        Ok(RetryPolicy {
            max_attempts: self.max_attempts.unwrap_or(default.max_attempts),
            initial: duration("retry.initial", &self.initial, default.initial)?,
            factor: self.factor.unwrap_or(default.factor),
            max: duration("retry.max", &self.max, default.max)?,
            jitter: match self.jitter.as_deref() {
                None | Some("full") => Jitter::Full,
                Some("none") => Jitter::None,
                Some(_) => return Err(Invalid::new("retry.jitter", "must be full or none")),
            },
        })
    }

    fn of(retry: &RetryPolicy) -> Self {
        let jitter = match retry.jitter {
            Jitter::Full => "full",
            Jitter::None => "none",
        };
        Self {
            max_attempts: Some(retry.max_attempts),
            initial: Some(print_duration(retry.initial)),
            factor: Some(retry.factor),
            max: Some(print_duration(retry.max)),
            jitter: Some(jitter.to_owned()),
        }
    }
}

const FAILURES_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

fn read_retention(text: &str) -> Result<Retention, Invalid> {
    match text.split_once(':') {
        None if text == "none" => Ok(Retention::None),
        None if text == "failures" => Ok(Retention::Failures(FAILURES_KEPT)),
        Some(("failures", kept)) => Ok(Retention::Failures(parse_duration("retention", kept)?)),
        _ => match parse_duration("retention", text) {
            Ok(kept) => Ok(Retention::For(kept)),
            Err(_) => Err(Invalid::new(
                "retention",
                "must be a duration such as 24h, or none, failures or failures:24h",
            )),
        },
    }
}

fn print_retention(retention: Retention) -> String {
    match retention {
        Retention::For(kept) => print_duration(kept),
        Retention::Failures(kept) => format!("failures:{}", print_duration(kept)),
        Retention::None => "none".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_back_as_they_were_written() {
        let text = r#"{"timeout":"30s","retry":{"max_attempts":3,"initial":"1s","factor":2.0,"max":"5m","jitter":"none"},"non_retryable":["bad"],"retention":"failures:24h","priority":9,"key":"k","group":"g","total_timeout":"1h","labels":["gpu"],"cost":2,"metadata":{"a":"b"}}"#;
        let json: OptionsJson = serde_json::from_str(text).unwrap();
        let (options, delay) = json.read().unwrap();
        assert_eq!(delay, None);
        assert_eq!(
            serde_json::to_string(&OptionsJson::of(&options)).unwrap(),
            text
        );
    }

    #[test]
    fn unknown_options_are_refused() {
        assert!(serde_json::from_str::<OptionsJson>(r#"{"tiemout":"30s"}"#).is_err());
    }
}
