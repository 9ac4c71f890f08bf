//! The options of a task or pipeline as fields of a blob.

use std::collections::BTreeMap;

use scheduler_core::{
    ErrorCode, GroupName, IdempotencyKey, Label, OrderingKey, Priority, Retention, TaskOptions,
    task::retry::{Jitter, RetryPolicy},
};

use super::{Reader, Unreadable, WITH_KEYS, Writer};

/// A blob of options, for rows that hold nothing else.
pub(crate) fn encode_options(options: &TaskOptions) -> Vec<u8> {
    let mut out = Writer::blob(64);
    write(&mut out, options);
    out.into_blob()
}

pub(crate) fn decode_options(blob: &[u8]) -> Result<TaskOptions, Unreadable> {
    read(&mut Reader::blob(blob)?)
}

pub(super) fn write(out: &mut Writer, options: &TaskOptions) {
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
    out.option(*run_at, Writer::time);
    let text = |out: &mut Writer, text: &str| out.bytes(text.as_bytes());
    out.option(idempotency_key.as_ref().map(IdempotencyKey::as_str), text);
    out.option(*timeout, Writer::duration);
    out.option(*heartbeat_timeout, Writer::duration);
    out.option(retry.as_ref(), write_retry);
    out.option(non_retryable.as_ref(), |out, codes| {
        out.number(codes.len() as u64);
        for code in codes {
            out.bytes(code.as_str().as_bytes());
        }
    });
    out.option(*retention, write_retention);
    out.number(metadata.len() as u64);
    for (key, value) in metadata {
        out.bytes(key.as_bytes());
        out.bytes(value.as_bytes());
    }
    // Since version 2.
    out.option(priority.map(Priority::get), Writer::byte);
    out.option(key.as_ref().map(OrderingKey::as_str), text);
    out.option(group.as_ref().map(GroupName::as_str), text);
    out.option(*expires_at, Writer::time);
    out.option(*total_timeout, Writer::duration);
    out.option(labels.as_ref(), |out, labels| {
        out.number(labels.len() as u64);
        for label in labels {
            out.bytes(label.as_str().as_bytes());
        }
    });
    out.option(*cost, |out, cost| out.number(u64::from(cost)));
}

fn write_retry(out: &mut Writer, retry: &RetryPolicy) {
    out.number(u64::from(retry.max_attempts));
    out.duration(retry.initial);
    out.raw(&retry.factor.to_le_bytes());
    out.duration(retry.max);
    out.byte(match retry.jitter {
        Jitter::None => 0,
        Jitter::Full => 1,
    });
}

fn write_retention(out: &mut Writer, retention: Retention) {
    match retention {
        Retention::For(duration) => {
            out.byte(0);
            out.duration(duration);
        }
        Retention::Failures(duration) => {
            out.byte(1);
            out.duration(duration);
        }
        Retention::None => out.byte(2),
    }
}

pub(super) fn read(from: &mut Reader<'_>) -> Result<TaskOptions, Unreadable> {
    let mut options = TaskOptions {
        run_at: from.option(Reader::time)?,
        idempotency_key: from.option(|from| {
            IdempotencyKey::try_from(from.text()?)
                .map_err(|_| Unreadable::Value("an idempotency key"))
        })?,
        timeout: from.option(Reader::duration)?,
        heartbeat_timeout: from.option(Reader::duration)?,
        retry: from.option(read_retry)?,
        non_retryable: from.option(|from| from.list(read_code))?,
        retention: from.option(read_retention)?,
        metadata: from
            .list(|from| Ok((from.text()?.to_owned(), from.text()?.to_owned())))
            .map(BTreeMap::from_iter)?,
        ..TaskOptions::default()
    };
    if from.is_since(WITH_KEYS) {
        read_since_keys(from, &mut options)?;
    }
    Ok(options)
}

fn read_since_keys(from: &mut Reader<'_>, options: &mut TaskOptions) -> Result<(), Unreadable> {
    options.priority = from.option(|from| {
        let priority = u32::from(from.byte()?);
        Priority::try_from(priority).map_err(|_| Unreadable::Value("a priority"))
    })?;
    options.key = from.option(|from| {
        OrderingKey::try_from(from.text()?).map_err(|_| Unreadable::Value("an ordering key"))
    })?;
    options.group = from.option(|from| {
        GroupName::try_from(from.text()?).map_err(|_| Unreadable::Value("a group"))
    })?;
    options.expires_at = from.option(Reader::time)?;
    options.total_timeout = from.option(Reader::duration)?;
    let labels = from.option(|from| from.list(read_label))?;
    options.labels = labels.map(|labels| labels.into_iter().collect());
    options.cost = from.option(|from| {
        let cost = from.small()?;
        u16::try_from(cost).map_err(|_| Unreadable::Value("a cost"))
    })?;
    Ok(())
}

fn read_label(from: &mut Reader<'_>) -> Result<Label, Unreadable> {
    Label::try_from(from.text()?).map_err(|_| Unreadable::Value("a label"))
}

pub(super) fn read_code(from: &mut Reader<'_>) -> Result<ErrorCode, Unreadable> {
    ErrorCode::try_from(from.text()?).map_err(|_| Unreadable::Value("an error code"))
}

fn read_retry(from: &mut Reader<'_>) -> Result<RetryPolicy, Unreadable> {
    let max_attempts = from.small()?;
    let initial = from.duration()?;
    let (factor, _) = from.raw(8)?.split_first_chunk().ok_or(Unreadable::Short)?;
    Ok(RetryPolicy {
        max_attempts,
        initial,
        factor: f64::from_le_bytes(*factor),
        max: from.duration()?,
        jitter: match from.byte()? {
            0 => Jitter::None,
            1 => Jitter::Full,
            _ => return Err(Unreadable::Value("a jitter")),
        },
    })
}

fn read_retention(from: &mut Reader<'_>) -> Result<Retention, Unreadable> {
    match from.byte()? {
        0 => from.duration().map(Retention::For),
        1 => from.duration().map(Retention::Failures),
        2 => Ok(Retention::None),
        _ => Err(Unreadable::Value("a retention")),
    }
}
