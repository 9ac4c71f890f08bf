//! A task as a record, and back: the value is the data, the headers hold the rest. Whatever cannot be
//! a task is told with its reason and its hash.

mod options;

use std::{fmt::Write as _, sync::Arc};

use bytes::Bytes;
use rdkafka::message::{Header, OwnedHeaders};
use scheduler_core::{
    Offset, OrderingKey, TaskOptions, Timestamp,
    port::log::{NewTask, Record, RecordBody},
};
use serde::de::IgnoredAny;
use sha2::{Digest as _, Sha256};

use crate::native::{OPTIONS_HEADER, Raw, TRACE_HEADER};

/// The key of the last record of a closed log, which has nothing else.
pub(crate) const MARK_KEY: &[u8] = b"";
/// The key of a record that asks whether a log is closed, which has nothing else.
pub(crate) const PROBE_KEY: &[u8] = b"workload-is-closed";
/// What a dead letter keeps of a value that cannot be a task.
const HEAD_BYTES: usize = 64 << 10;
/// The longest `traceparent`; those of today have 55 bytes.
const TRACE_BYTES_MAX: usize = 256;
/// What a record takes in memory beside its data, about.
const RECORD_OVERHEAD: usize = 256;

/// The headers of a task. The one with the options is always there: it says that whoever wrote the
/// record has checked the data. Without options it has no value.
pub(crate) fn headers(task: &NewTask) -> OwnedHeaders {
    let options = task.options.as_deref().map(options::encode);
    let headers = OwnedHeaders::new_with_capacity(2).insert(Header {
        key: name(OPTIONS_HEADER),
        value: options.as_deref(),
    });
    match task.traceparent.as_deref() {
        Some(traceparent) => headers.insert(Header {
            key: name(TRACE_HEADER),
            value: Some(traceparent),
        }),
        None => headers,
    }
}

/// The key of a task's record: its ordering key, so that other readers find the tasks of one key together.
pub(crate) fn key(task: &NewTask) -> Option<&[u8]> {
    let options = task.options.as_ref()?;
    options.key.as_ref().map(|key| key.as_str().as_bytes())
}

fn name(header: &'static std::ffi::CStr) -> &'static str {
    header.to_str().unwrap_or_default()
}

/// Whether a record only tells that its log was closed: to readers it does not exist.
pub(crate) fn is_mark(raw: Raw<'_>) -> bool {
    raw.value.is_none()
        && raw
            .key
            .is_some_and(|key| key == MARK_KEY || key == PROBE_KEY)
}

/// What was read at an offset.
pub(crate) fn record(offset: Offset, raw: Raw<'_>, payload_bytes_max: usize) -> Record {
    let body = match task(raw, payload_bytes_max) {
        Ok(task) => RecordBody::Task(task),
        Err(reason) => malformed(reason, raw.value.unwrap_or_default()),
    };
    Record {
        offset,
        accepted_at: Timestamp::from_millis(u64::try_from(raw.millis).unwrap_or(0)),
        body,
    }
}

/// What a record takes in memory, about.
pub(crate) fn memory_of(record: &Record) -> usize {
    RECORD_OVERHEAD
        + match &record.body {
            RecordBody::Task(task) => {
                task.data.len() + task.options.as_ref().map_or(0, |options| options.n_bytes())
            }
            RecordBody::Malformed { reason, head } => reason.len() + head.len(),
        }
}

/// Bytes of what a record holds.
pub(crate) fn data_len(record: &Record) -> usize {
    match &record.body {
        RecordBody::Task(task) => task.data.len(),
        RecordBody::Malformed { head, .. } => head.len(),
    }
}

fn task(raw: Raw<'_>, payload_bytes_max: usize) -> Result<NewTask, String> {
    let Some(value) = raw.value else {
        return Err("the record has no value".to_owned());
    };
    if value.len() > payload_bytes_max {
        let n = value.len();
        return Err(format!(
            "the value has {n} bytes; a task has at most {payload_bytes_max}"
        ));
    }
    let options = match raw.options {
        Some(Some(options)) => Some(options::decode(options)?),
        Some(None) => None,
        // Anyone may have written it, so it may be anything.
        None => {
            check_json(value)?;
            None
        }
    };
    let options = with_key(options, raw.key);
    let traceparent = raw.traceparent.and_then(|text| str::from_utf8(text).ok());
    Ok(NewTask {
        data: Bytes::copy_from_slice(value),
        options: options.map(Arc::new),
        traceparent: traceparent
            .filter(|text| text.len() <= TRACE_BYTES_MAX)
            .map(Arc::from),
    })
}

/// The record's key orders the task, unless its options have one. A key that no task may have means nothing.
fn with_key(options: Option<TaskOptions>, key: Option<&[u8]>) -> Option<TaskOptions> {
    let key = key.and_then(|key| str::from_utf8(key).ok());
    let Some(key) = key.and_then(|key| OrderingKey::try_from(key).ok()) else {
        return options;
    };
    let mut options = options.unwrap_or_default();
    options.key.get_or_insert(key);
    Some(options)
}

fn check_json(value: &[u8]) -> Result<(), String> {
    let first = value.iter().find(|byte| !byte.is_ascii_whitespace());
    match serde_json::from_slice::<IgnoredAny>(value) {
        Ok(_) if first == Some(&b'{') => Ok(()),
        Ok(_) => Err("the value is not a JSON object".to_owned()),
        Err(err) => Err(format!("the value is not JSON: {err}")),
    }
}

fn malformed(mut reason: String, value: &[u8]) -> RecordBody {
    let hash = data_encoding::HEXLOWER.encode(&Sha256::digest(value));
    let n = value.len();
    // Writing to a text cannot fail.
    write!(reason, " (sha256 of its {n} bytes: {hash})").ok();
    RecordBody::Malformed {
        reason,
        head: Bytes::copy_from_slice(&value[..n.min(HEAD_BYTES)]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RAW: Raw<'_> = Raw {
        key: None,
        value: None,
        options: None,
        traceparent: None,
        millis: 7,
    };

    fn reason(raw: Raw<'_>) -> String {
        match record(Offset(3), raw, 1_000).body {
            RecordBody::Malformed { reason, .. } => reason,
            RecordBody::Task(task) => panic!("it became a task: {task:?}"),
        }
    }

    #[test]
    fn json_objects_without_headers_are_tasks() {
        for value in ["{}", " {\"a\": [1, {}]}\n"] {
            let raw = Raw {
                value: Some(value.as_bytes()),
                ..RAW
            };
            let RecordBody::Task(task) = record(Offset(3), raw, 1_000).body else {
                panic!("it must be a task");
            };
            assert_eq!((task.data.as_ref(), task.options), (value.as_bytes(), None));
        }
    }

    fn key_of(key: &[u8], options: Option<Option<&[u8]>>) -> Option<String> {
        let raw = Raw {
            key: Some(key),
            value: Some(b"{}"),
            options,
            ..RAW
        };
        let RecordBody::Task(task) = record(Offset(3), raw, 1_000).body else {
            panic!("it must be a task");
        };
        let options = task.options?;
        Some(options.key.as_ref()?.as_str().to_owned())
    }

    #[test]
    fn the_key_of_a_record_orders_its_task() {
        let own = options::encode(&TaskOptions {
            key: Some("own".try_into().unwrap()),
            ..TaskOptions::default()
        });
        let other = options::encode(&TaskOptions {
            cost: Some(2),
            ..TaskOptions::default()
        });
        for options in [None, Some(None), Some(Some(&other[..]))] {
            assert_eq!(key_of(b"order-7", options).as_deref(), Some("order-7"));
        }
        assert_eq!(key_of(b"order-7", Some(Some(&own))).as_deref(), Some("own"));
        // With a value it does not ask whether the log is closed.
        let probe = String::from_utf8(PROBE_KEY.to_vec()).ok();
        assert_eq!(key_of(PROBE_KEY, None), probe);
    }

    #[test]
    fn a_key_that_no_task_may_have_means_nothing() {
        let long = [b'k'; 256];
        for key in [&b""[..], b"a key", b"\xff", "\u{e4}".as_bytes(), &long] {
            assert_eq!(key_of(key, None), None, "{key:?}");
        }
    }

    #[test]
    fn the_ordering_key_is_the_key_of_the_record() {
        let task = |options| NewTask {
            data: Bytes::from_static(b"{}"),
            options: Some(Arc::new(options)),
            traceparent: None,
        };
        let mut options = TaskOptions {
            idempotency_key: Some("once".try_into().unwrap()),
            ..TaskOptions::default()
        };
        assert_eq!(key(&task(options.clone())), None);
        options.key = Some("order-7".try_into().unwrap());
        assert_eq!(key(&task(options)), Some(&b"order-7"[..]));
    }

    #[test]
    fn what_cannot_be_a_task_says_why() {
        assert!(reason(RAW).starts_with("the record has no value"));
        let long = vec![b' '; 1_001];
        for (value, expected) in [
            (&b"[]"[..], "the value is not a JSON object"),
            (b"7", "the value is not a JSON object"),
            (b"", "the value is not JSON"),
            (b"{", "the value is not JSON"),
            (b"\xff\xfe", "the value is not JSON"),
            (b"{} {}", "the value is not JSON"),
            (&long, "the value has 1001 bytes"),
        ] {
            let raw = Raw {
                value: Some(value),
                ..RAW
            };
            let told = reason(raw);
            assert!(told.starts_with(expected), "{told}");
        }
        let raw = Raw {
            value: Some(b"{}"),
            options: Some(Some(b"\xff")),
            ..RAW
        };
        assert!(reason(raw).starts_with("the options cannot be read"));
    }

    #[test]
    fn a_dead_letter_has_the_hash_of_all_and_the_head_of_it() {
        let value = vec![b'x'; HEAD_BYTES + 1];
        let RecordBody::Malformed { reason, head } = malformed("why".to_owned(), &value) else {
            panic!("it is malformed");
        };
        assert_eq!(head.len(), HEAD_BYTES);
        let hash = data_encoding::HEXLOWER.encode(&Sha256::digest(&value));
        assert_eq!(reason, format!("why (sha256 of its 65537 bytes: {hash})"));
    }
}
