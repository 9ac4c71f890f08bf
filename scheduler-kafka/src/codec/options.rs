//! Options of a task as the message `workload.v1.TaskOptions` of `proto/workload/v1/task.proto`, so that
//! other producers can write them with any protobuf library. Fields of newer versions are ignored.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use prost::Message;
use scheduler_core::{
    ErrorCode, GroupName, IdempotencyKey, Invalid, Label, OrderingKey, Priority, Retention,
    TaskOptions, Timestamp,
    task::retry::{Jitter, RetryPolicy},
};

#[derive(Clone, PartialEq, Message)]
struct OptionsMessage {
    #[prost(message, optional, tag = "1")]
    run_at: Option<TimeMessage>,
    #[prost(string, tag = "2")]
    idempotency_key: String,
    #[prost(message, optional, tag = "3")]
    timeout: Option<TimeMessage>,
    #[prost(message, optional, tag = "4")]
    heartbeat_timeout: Option<TimeMessage>,
    #[prost(message, optional, tag = "5")]
    retry: Option<RetryMessage>,
    #[prost(message, optional, tag = "6")]
    non_retryable: Option<CodesMessage>,
    #[prost(message, optional, tag = "7")]
    retention: Option<RetentionMessage>,
    #[prost(btree_map = "string, string", tag = "8")]
    metadata: BTreeMap<String, String>,
    #[prost(uint32, optional, tag = "9")]
    priority: Option<u32>,
    #[prost(string, tag = "10")]
    key: String,
    #[prost(string, tag = "11")]
    group: String,
    #[prost(message, optional, tag = "12")]
    expires_at: Option<TimeMessage>,
    #[prost(message, optional, tag = "13")]
    total_timeout: Option<TimeMessage>,
    #[prost(message, optional, tag = "14")]
    labels: Option<LabelsMessage>,
    #[prost(uint32, optional, tag = "15")]
    cost: Option<u32>,
}

/// `google.protobuf.Timestamp` and `google.protobuf.Duration`, which are alike on the wire.
#[derive(Clone, Copy, PartialEq, Message)]
struct TimeMessage {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[derive(Clone, PartialEq, Message)]
struct RetryMessage {
    #[prost(uint32, optional, tag = "1")]
    max_attempts: Option<u32>,
    #[prost(message, optional, tag = "2")]
    initial: Option<TimeMessage>,
    #[prost(double, optional, tag = "3")]
    factor: Option<f64>,
    #[prost(message, optional, tag = "4")]
    max: Option<TimeMessage>,
    #[prost(int32, tag = "5")]
    jitter: i32,
}

const JITTER_NONE: i32 = 1;
const JITTER_FULL: i32 = 2;

#[derive(Clone, PartialEq, Message)]
struct CodesMessage {
    #[prost(string, repeated, tag = "1")]
    codes: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct LabelsMessage {
    #[prost(string, repeated, tag = "1")]
    labels: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct RetentionMessage {
    #[prost(message, optional, tag = "1")]
    all: Option<TimeMessage>,
    #[prost(message, optional, tag = "2")]
    failures: Option<TimeMessage>,
    #[prost(bool, optional, tag = "3")]
    none: Option<bool>,
}

/// Writes options.
pub(super) fn encode(options: &TaskOptions) -> Vec<u8> {
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
    let time = |at: Timestamp| Duration::from_millis(at.as_millis()).into();
    let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
    let names = |labels: &BTreeSet<Label>| LabelsMessage {
        labels: labels
            .iter()
            .map(|label| label.as_str().to_owned())
            .collect(),
    };
    let codes = |codes: &Vec<ErrorCode>| CodesMessage {
        codes: codes.iter().map(|code| code.as_str().to_owned()).collect(),
    };
    OptionsMessage {
        run_at: run_at.map(time),
        idempotency_key: text(idempotency_key.as_ref().map(IdempotencyKey::as_str)),
        timeout: timeout.map(Into::into),
        heartbeat_timeout: heartbeat_timeout.map(Into::into),
        retry: retry.map(Into::into),
        non_retryable: non_retryable.as_ref().map(codes),
        retention: retention.map(Into::into),
        metadata: metadata.clone(),
        priority: priority.map(|priority| priority.get().into()),
        key: text(key.as_ref().map(OrderingKey::as_str)),
        group: text(group.as_ref().map(GroupName::as_str)),
        expires_at: expires_at.map(time),
        total_timeout: total_timeout.map(Into::into),
        labels: labels.as_ref().map(names),
        cost: cost.map(u32::from),
    }
    .encode_to_vec()
}

/// Reads options, and checks them as a submit does.
pub(super) fn decode(bytes: &[u8]) -> Result<TaskOptions, String> {
    let message = OptionsMessage::decode(bytes)
        .map_err(|err| format!("the options cannot be read: {err}"))?;
    let options = read(message).map_err(|fault| format!("an option is not allowed: {fault}"))?;
    options
        .validate()
        .map_err(|fault| format!("an option is not allowed: {fault}"))?;
    Ok(options)
}

fn read(message: OptionsMessage) -> Result<TaskOptions, Invalid> {
    let codes = message.non_retryable.map(|message| {
        let codes = message.codes.iter();
        codes
            .map(|code| ErrorCode::try_from(code.as_str()))
            .collect()
    });
    let labels = message.labels.map(|message| {
        let labels = message.labels.iter();
        labels
            .map(|label| Label::try_from(label.as_str()))
            .collect()
    });
    Ok(TaskOptions {
        run_at: time("run_at", message.run_at)?,
        priority: message.priority.map(Priority::try_from).transpose()?,
        key: name(&message.key)?,
        group: name(&message.group)?,
        idempotency_key: name(&message.idempotency_key)?,
        expires_at: time("expires_at", message.expires_at)?,
        total_timeout: duration("total_timeout", message.total_timeout)?,
        labels: labels.transpose()?,
        // What is too large for the type is out of range as well, and is refused with the rest.
        cost: message
            .cost
            .map(|cost| u16::try_from(cost).unwrap_or(u16::MAX)),
        timeout: duration("timeout", message.timeout)?,
        heartbeat_timeout: duration("heartbeat_timeout", message.heartbeat_timeout)?,
        retry: message.retry.map(RetryMessage::read).transpose()?,
        non_retryable: codes.transpose()?,
        retention: match message.retention {
            Some(retention) => retention.read()?,
            None => None,
        },
        metadata: message.metadata,
    })
}

/// A text that is empty where nothing is said.
fn name<'a, T: TryFrom<&'a str, Error = Invalid>>(text: &'a str) -> Result<Option<T>, Invalid> {
    let text = Some(text).filter(|text| !text.is_empty());
    text.map(T::try_from).transpose()
}

fn time(field: &'static str, message: Option<TimeMessage>) -> Result<Option<Timestamp>, Invalid> {
    let since = duration(field, message)?;
    Ok(since.map(|since| Timestamp::EPOCH + since))
}

fn duration(
    field: &'static str,
    message: Option<TimeMessage>,
) -> Result<Option<Duration>, Invalid> {
    message.map(|message| message.read(field)).transpose()
}

impl From<Duration> for TimeMessage {
    fn from(duration: Duration) -> Self {
        Self {
            seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
        }
    }
}

impl TimeMessage {
    fn read(self, field: &'static str) -> Result<Duration, Invalid> {
        let seconds = u64::try_from(self.seconds).ok();
        let nanos = u32::try_from(self.nanos).ok();
        match (seconds, nanos) {
            (Some(seconds), Some(nanos)) if nanos < 1_000_000_000 => {
                Ok(Duration::new(seconds, nanos))
            }
            _ => Err(Invalid::new(
                field,
                "must be a time or duration that is not negative",
            )),
        }
    }
}

impl From<RetryPolicy> for RetryMessage {
    fn from(policy: RetryPolicy) -> Self {
        let RetryPolicy {
            max_attempts,
            initial,
            factor,
            max,
            jitter,
        } = policy;
        Self {
            max_attempts: Some(max_attempts),
            initial: Some(initial.into()),
            factor: Some(factor),
            max: Some(max.into()),
            jitter: match jitter {
                Jitter::None => JITTER_NONE,
                Jitter::Full => JITTER_FULL,
            },
        }
    }
}

impl RetryMessage {
    /// What is not said is as in the default policy.
    fn read(self) -> Result<RetryPolicy, Invalid> {
        let default = RetryPolicy::default();
        Ok(RetryPolicy {
            max_attempts: self.max_attempts.unwrap_or(default.max_attempts),
            initial: duration("retry.initial", self.initial)?.unwrap_or(default.initial),
            factor: self.factor.unwrap_or(default.factor),
            max: duration("retry.max", self.max)?.unwrap_or(default.max),
            jitter: if self.jitter == JITTER_NONE {
                Jitter::None
            } else {
                Jitter::Full
            },
        })
    }
}

impl From<Retention> for RetentionMessage {
    fn from(retention: Retention) -> Self {
        let mut message = Self::default();
        match retention {
            Retention::For(kept) => message.all = Some(kept.into()),
            Retention::Failures(kept) => message.failures = Some(kept.into()),
            Retention::None => message.none = Some(true),
        }
        message
    }
}

impl RetentionMessage {
    fn read(self) -> Result<Option<Retention>, Invalid> {
        Ok(match (self.all, self.failures, self.none) {
            (Some(kept), ..) => Some(Retention::For(kept.read("retention")?)),
            (_, Some(kept), _) => Some(Retention::Failures(kept.read("retention")?)),
            (.., Some(_)) => Some(Retention::None),
            (None, None, None) => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_option() -> Vec<TaskOptions> {
        let mut all = options_of_one_attempt();
        all.extend(options_of_its_place());
        all
    }

    /// Where it waits and runs.
    fn options_of_its_place() -> [TaskOptions; 9] {
        let labels = || ["gpu", "zone=eu"].map(|label| label.try_into().unwrap());
        let with = |set: &dyn Fn(&mut TaskOptions)| {
            let mut options = TaskOptions::default();
            set(&mut options);
            options
        };
        [
            with(&|of| of.priority = Some(0.try_into().unwrap())),
            with(&|of| of.priority = Some(Priority::HIGHEST)),
            with(&|of| of.key = Some("order-7".try_into().unwrap())),
            with(&|of| of.group = Some("group-3".try_into().unwrap())),
            with(&|of| of.expires_at = Some(Timestamp::from_millis(1_700_000_000_123))),
            with(&|of| of.total_timeout = Some(Duration::from_millis(90_001))),
            with(&|of| of.labels = Some(labels().into())),
            with(&|of| of.labels = Some(BTreeSet::new())),
            with(&|of| of.cost = Some(256)),
        ]
    }

    fn options_of_one_attempt() -> Vec<TaskOptions> {
        let none = TaskOptions::default();
        let retry = RetryPolicy {
            max_attempts: 3,
            initial: Duration::from_micros(1_500),
            factor: 1.25,
            max: Duration::from_secs(60),
            jitter: Jitter::None,
        };
        let codes = vec!["bad-input".try_into().unwrap(), "gone".try_into().unwrap()];
        let metadata = [("tracking", "ä-1"), ("empty", "")];
        let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned()));
        vec![
            none.clone(),
            TaskOptions {
                run_at: Some(Timestamp::from_millis(1_700_000_000_123)),
                ..none.clone()
            },
            TaskOptions {
                idempotency_key: Some("key-1".try_into().unwrap()),
                ..none.clone()
            },
            TaskOptions {
                timeout: Some(Duration::from_millis(1_500)),
                ..none.clone()
            },
            TaskOptions {
                heartbeat_timeout: Some(Duration::from_secs(7)),
                ..none.clone()
            },
            TaskOptions {
                retry: Some(retry),
                ..none.clone()
            },
            TaskOptions {
                retry: Some(RetryPolicy::default()),
                ..none.clone()
            },
            TaskOptions {
                non_retryable: Some(codes),
                ..none.clone()
            },
            TaskOptions {
                non_retryable: Some(Vec::new()),
                ..none.clone()
            },
            TaskOptions {
                retention: Some(Retention::None),
                ..none.clone()
            },
            TaskOptions {
                retention: Some(Retention::For(Duration::from_secs(60))),
                ..none.clone()
            },
            TaskOptions {
                retention: Some(Retention::Failures(Duration::from_secs(9))),
                ..none.clone()
            },
            TaskOptions {
                metadata: metadata.into(),
                ..none
            },
        ]
    }

    #[test]
    fn every_option_is_read_back() {
        for options in every_option() {
            assert_eq!(decode(&encode(&options)), Ok(options));
        }
    }

    #[test]
    fn fields_of_newer_versions_are_ignored() {
        for options in every_option() {
            let mut bytes = encode(&options);
            // Field 100: a text.
            bytes.extend([0xa2, 0x06, 3, b'n', b'e', b'w']);
            assert_eq!(decode(&bytes), Ok(options));
        }
    }

    #[test]
    fn options_out_of_range_are_refused() {
        let negative = OptionsMessage {
            timeout: Some(TimeMessage {
                seconds: -1,
                nanos: 0,
            }),
            ..OptionsMessage::default()
        };
        let carry = OptionsMessage {
            run_at: Some(TimeMessage {
                seconds: i64::MAX,
                nanos: 1_000_000_000,
            }),
            ..OptionsMessage::default()
        };
        let attempts = OptionsMessage {
            retry: Some(RetryMessage {
                max_attempts: Some(0),
                ..RetryMessage::default()
            }),
            ..OptionsMessage::default()
        };
        let priority = OptionsMessage {
            priority: Some(10),
            ..OptionsMessage::default()
        };
        let key = OptionsMessage {
            key: "a key".to_owned(),
            ..OptionsMessage::default()
        };
        let cost = |cost| OptionsMessage {
            cost: Some(cost),
            ..OptionsMessage::default()
        };
        let costs = [0, 257, 1 << 16, u32::MAX].map(cost);
        let others = [negative, carry, attempts, priority, key];
        for message in others.into_iter().chain(costs) {
            let told = decode(&message.encode_to_vec()).unwrap_err();
            assert!(told.starts_with("an option is not allowed"), "{told}");
        }
    }

    #[test]
    fn the_numbers_are_those_of_the_published_message() {
        let proto = include_str!("../../../proto/workload/v1/task.proto");
        let message = proto.split("message TaskOptions {").nth(1).unwrap();
        let message = message.split("\n}").next().unwrap();
        for (field, number) in [
            ("run_at", 1),
            ("idempotency_key", 2),
            ("timeout", 3),
            ("heartbeat_timeout", 4),
            ("retry", 5),
            ("non_retryable", 6),
            ("retention", 7),
            ("metadata", 8),
            ("priority", 9),
            ("key", 10),
            ("group", 11),
            ("expires_at", 12),
            ("total_timeout", 13),
            ("labels", 14),
            ("cost", 15),
        ] {
            let declared = format!(" {field} = {number};");
            assert!(message.contains(&declared), "{declared}");
        }
    }
}
