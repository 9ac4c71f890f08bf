//! The options of a task or pipeline as fields of a blob.

use std::collections::BTreeMap;

use scheduler_core::{
    ErrorCode, IdempotencyKey, Retention, TaskOptions,
    task::retry::{Jitter, RetryPolicy},
};

use super::{Reader, Unreadable, Writer};

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
        idempotency_key,
        timeout,
        heartbeat_timeout,
        retry,
        non_retryable,
        retention,
        metadata,
    } = options;
    out.option(*run_at, Writer::time);
    out.option(idempotency_key.as_ref(), |out, key| {
        out.bytes(key.as_str().as_bytes())
    });
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
    Ok(TaskOptions {
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
    })
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
