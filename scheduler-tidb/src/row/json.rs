//! Options, errors and steps as JSON that people can read in the tables.
//!
//! A field that this program does not know is skipped, and one that is missing has no value: so an
//! older member reads what a newer one wrote. Durations are seconds with an `s`, as in protobuf's JSON.

mod cancels;
mod limits;

pub(crate) use self::{
    cancels::{decode_cancels, encode_cancels},
    limits::{decode_limits, encode_limits},
};

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use data_encoding::BASE64;
use scheduler_core::{
    Failure, Invalid, LeaseToken, Retention, Step, TaskOptions, Timestamp,
    pipeline::command::CommandTemplate,
    port::BoxError,
    task::{
        AttemptError,
        retry::{Jitter, RetryPolicy},
    },
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::key::{time_of, time_text};

fn text_of(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("texts, numbers, lists and maps of texts have a JSON form")
}

/// `2001-09-09 01:46:40.077`, as in the columns.
#[derive(Debug, Clone, Copy)]
struct Time(Timestamp);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&time_text(self.0))
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let time =
            time_of(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is no time")))?;
        Ok(Self(time))
    }
}

/// `1.5s`, exactly.
#[derive(Debug, Clone, Copy)]
struct Seconds(Duration);

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let (secs, nanos) = (self.0.as_secs(), self.0.subsec_nanos());
        if nanos == 0 {
            return to.collect_str(&format_args!("{secs}s"));
        }
        let fraction = format!("{nanos:09}");
        let fraction = fraction.trim_end_matches('0');
        to.collect_str(&format_args!("{secs}.{fraction}s"))
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let duration = seconds_of(&text);
        let duration =
            duration.ok_or_else(|| D::Error::custom(format!("{text:?} is no duration")))?;
        Ok(Self(duration))
    }
}

fn seconds_of(text: &str) -> Option<Duration> {
    let text = text.strip_suffix('s')?;
    let (secs, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_fraction = fraction.len() <= 9 && fraction.bytes().all(|byte| byte.is_ascii_digit());
    let nanos = is_fraction.then(|| format!("{fraction:0<9}"))?;
    Some(Duration::new(secs.parse().ok()?, nanos.parse().ok()?))
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct OptionsRow {
    #[serde(skip_serializing_if = "Option::is_none")]
    run_at: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_timeout: Option<Seconds>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<Seconds>,
    #[serde(skip_serializing_if = "Option::is_none")]
    heartbeat_timeout: Option<Seconds>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry: Option<RetryRow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    non_retryable: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retention: Option<RetentionRow>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct RetryRow {
    max_attempts: u32,
    initial: Seconds,
    factor: f64,
    max: Seconds,
    jitter: JitterRow,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum JitterRow {
    None,
    Full,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RetentionRow {
    For(Seconds),
    Failures(Seconds),
    None,
}

impl From<RetryPolicy> for RetryRow {
    fn from(retry: RetryPolicy) -> Self {
        Self {
            max_attempts: retry.max_attempts,
            initial: Seconds(retry.initial),
            factor: retry.factor,
            max: Seconds(retry.max),
            jitter: match retry.jitter {
                Jitter::None => JitterRow::None,
                Jitter::Full => JitterRow::Full,
            },
        }
    }
}

impl From<RetryRow> for RetryPolicy {
    fn from(row: RetryRow) -> Self {
        Self {
            max_attempts: row.max_attempts,
            initial: row.initial.0,
            factor: row.factor,
            max: row.max.0,
            jitter: match row.jitter {
                JitterRow::None => Jitter::None,
                JitterRow::Full => Jitter::Full,
            },
        }
    }
}

fn texts<'a, T: ToString + 'a>(names: impl IntoIterator<Item = &'a T>) -> Vec<String> {
    names.into_iter().map(ToString::to_string).collect()
}

fn name_of<T: for<'a> TryFrom<&'a str, Error = Invalid>>(
    text: Option<String>,
) -> Result<Option<T>, Invalid> {
    text.as_deref().map(T::try_from).transpose()
}

fn names_of<T: for<'a> TryFrom<&'a str, Error = Invalid>, C: FromIterator<T>>(
    texts: Vec<String>,
) -> Result<C, Invalid> {
    texts.iter().map(|text| T::try_from(text)).collect()
}

pub(crate) fn encode_options(options: &TaskOptions) -> String {
    let TaskOptions {
        run_at,
        priority,
        key,
        group,
        idempotency_key,
        expires_at,
        total_timeout,
        labels,
        cost,
        timeout,
        heartbeat_timeout,
        retry,
        non_retryable,
        retention,
        metadata,
    } = options;
    text_of(&OptionsRow {
        run_at: run_at.map(Time),
        priority: priority.map(|priority| priority.get().into()),
        key: key.as_ref().map(ToString::to_string),
        group: group.as_ref().map(ToString::to_string),
        idempotency_key: idempotency_key.as_ref().map(ToString::to_string),
        expires_at: expires_at.map(Time),
        total_timeout: total_timeout.map(Seconds),
        labels: labels.as_ref().map(texts),
        cost: *cost,
        timeout: timeout.map(Seconds),
        heartbeat_timeout: heartbeat_timeout.map(Seconds),
        retry: retry.map(Into::into),
        non_retryable: non_retryable.as_ref().map(texts),
        retention: retention.map(|retention| match retention {
            Retention::For(kept) => RetentionRow::For(Seconds(kept)),
            Retention::Failures(kept) => RetentionRow::Failures(Seconds(kept)),
            Retention::None => RetentionRow::None,
        }),
        metadata: metadata.clone(),
    })
}

pub(crate) fn decode_options(text: &str) -> Result<TaskOptions, BoxError> {
    let row: OptionsRow = serde_json::from_str(text)?;
    Ok(TaskOptions {
        run_at: row.run_at.map(|time| time.0),
        priority: row.priority.map(TryInto::try_into).transpose()?,
        key: name_of(row.key)?,
        group: name_of(row.group)?,
        idempotency_key: name_of(row.idempotency_key)?,
        expires_at: row.expires_at.map(|time| time.0),
        total_timeout: row.total_timeout.map(|timeout| timeout.0),
        labels: row.labels.map(names_of).transpose()?,
        cost: row.cost,
        timeout: row.timeout.map(|timeout| timeout.0),
        heartbeat_timeout: row.heartbeat_timeout.map(|timeout| timeout.0),
        retry: row.retry.map(Into::into),
        non_retryable: row.non_retryable.map(names_of).transpose()?,
        retention: row.retention.map(|retention| match retention {
            RetentionRow::For(kept) => Retention::For(kept.0),
            RetentionRow::Failures(kept) => Retention::Failures(kept.0),
            RetentionRow::None => Retention::None,
        }),
        metadata: row.metadata,
    })
}

#[derive(Debug, Serialize, Deserialize)]
struct ErrorRow {
    attempt: u32,
    token: u64,
    worker: String,
    at: Time,
    code: String,
    message: String,
    retryable: bool,
    /// A JSON value as text, so that it comes back byte for byte.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    /// The detail where it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    detail_base64: Option<String>,
}

pub(super) fn encode_errors(errors: &[AttemptError]) -> String {
    let row = |error: &AttemptError| {
        let failure = &error.failure;
        let detail = Some(&failure.detail).filter(|detail| !detail.is_empty());
        let text = detail.and_then(|detail| std::str::from_utf8(detail).ok());
        let base64 = detail.filter(|_| text.is_none());
        ErrorRow {
            attempt: error.attempt,
            token: error.token.to_u64(),
            worker: error.worker.as_str().to_owned(),
            at: Time(error.at),
            code: failure.code.as_str().to_owned(),
            message: failure.message.clone(),
            retryable: failure.retryable,
            detail: text.map(str::to_owned),
            detail_base64: base64.map(|detail| BASE64.encode(detail)),
        }
    };
    text_of(&errors.iter().map(row).collect::<Vec<_>>())
}

pub(super) fn decode_errors(text: &str) -> Result<Vec<AttemptError>, BoxError> {
    let rows: Vec<ErrorRow> = serde_json::from_str(text)?;
    let error = |row: ErrorRow| -> Result<AttemptError, BoxError> {
        let detail = match (row.detail, row.detail_base64) {
            (Some(text), _) => Bytes::from(text),
            (None, Some(base64)) => BASE64.decode(base64.as_bytes())?.into(),
            (None, None) => Bytes::new(),
        };
        Ok(AttemptError {
            attempt: row.attempt,
            token: LeaseToken::from_u64(row.token),
            worker: row.worker.as_str().try_into()?,
            at: row.at.0,
            failure: Failure {
                code: row.code.as_str().try_into()?,
                message: row.message,
                retryable: row.retryable,
                detail,
            },
        })
    };
    rows.into_iter().map(error).collect()
}

#[derive(Debug, Serialize, Deserialize)]
struct StepRow {
    executor: String,
    commands: Vec<String>,
}

pub(crate) fn encode_steps(steps: &[Step]) -> String {
    let command = |command: &CommandTemplate| command.source().to_owned();
    let step = |step: &Step| StepRow {
        executor: step.executor.as_str().to_owned(),
        commands: step.commands.iter().map(command).collect(),
    };
    text_of(&steps.iter().map(step).collect::<Vec<_>>())
}

pub(crate) fn decode_steps(text: &str) -> Result<Arc<[Step]>, BoxError> {
    let rows: Vec<StepRow> = serde_json::from_str(text)?;
    let step = |row: StepRow| -> Result<Step, BoxError> {
        let commands = row.commands.iter();
        let commands = commands.map(|source| CommandTemplate::parse(source));
        Ok(Step {
            executor: row.executor.as_str().try_into()?,
            commands: commands.collect::<Result<_, _>>()?,
        })
    };
    rows.into_iter().map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_back_exactly() {
        for (duration, text) in [
            (Duration::ZERO, "\"0s\""),
            (Duration::from_millis(1_500), "\"1.5s\""),
            (Duration::new(7, 1), "\"7.000000001s\""),
            (
                Duration::new(u64::MAX, 999_999_999),
                "\"18446744073709551615.999999999s\"",
            ),
        ] {
            assert_eq!(text_of(&Seconds(duration)), text);
            assert_eq!(serde_json::from_str::<Seconds>(text).unwrap().0, duration);
        }
        for text in ["1", "s", "1.s1", "-1s", "1.0000000001s"] {
            assert_eq!(seconds_of(text), None, "{text}");
        }
    }

    #[test]
    fn no_labels_are_not_the_labels_of_the_pipeline() {
        for labels in [None, Some([].into())] {
            let options = TaskOptions {
                labels,
                ..TaskOptions::default()
            };
            let text = encode_options(&options);
            assert_eq!(decode_options(&text).unwrap(), options, "{text}");
        }
    }

    #[test]
    fn options_out_of_range_are_refused() {
        for text in [
            r#"{"priority":10}"#,
            r#"{"key":""}"#,
            r#"{"group":"a b"}"#,
            r#"{"labels":[""]}"#,
            r#"{"cost":-1}"#,
        ] {
            assert!(decode_options(text).is_err(), "{text}");
        }
    }

    #[test]
    fn fields_of_a_newer_program_are_skipped() {
        let options = decode_options(r#"{"timeout":"2s","color":{"red":1}}"#).unwrap();
        let expected = TaskOptions {
            timeout: Some(Duration::from_secs(2)),
            ..TaskOptions::default()
        };
        assert_eq!(options, expected);
        let errors = decode_errors(
            r#"[{"attempt":1,"token":1,"worker":"w","at":"2000-01-01 00:00:00.000","code":"c","message":"m",
                "retryable":true,"color":"red"}]"#,
        );
        assert_eq!(errors.unwrap().len(), 1);
    }

    #[test]
    fn a_detail_that_is_no_text_is_read_back() {
        let error = AttemptError {
            attempt: 1,
            token: LeaseToken::NONE,
            worker: "w".try_into().unwrap(),
            at: Timestamp::EPOCH,
            failure: Failure {
                code: "c".try_into().unwrap(),
                message: String::new(),
                retryable: false,
                detail: Bytes::from_static(&[0, 255]),
            },
        };
        let errors = vec![error];
        assert_eq!(decode_errors(&encode_errors(&errors)).unwrap(), errors);
    }
}
