//! A stored task as a blob.

use bytes::Bytes;
use scheduler_core::{
    Failure, LeaseToken, Offset, WorkerId,
    port::store::{Ending, Parked, StoredState, StoredTask},
    task::AttemptError,
};

use super::{Reader, Unreadable, Writer, options, record};

pub(crate) fn encode_task(task: &StoredTask) -> Vec<u8> {
    let mut out = Writer::blob(task.task.data.len() + 64);
    out.number(task.offset.0);
    out.time(task.accepted_at);
    write_state(&mut out, &task.state);
    out.number(u64::from(task.attempt));
    out.number(task.token.to_u64());
    out.option(task.started_at, Writer::time);
    out.number(task.errors.len() as u64);
    for error in &task.errors {
        write_error(&mut out, error);
    }
    record::write(&mut out, &task.task);
    out.into_blob()
}

pub(crate) fn decode_task(blob: &[u8]) -> Result<StoredTask, Unreadable> {
    let from = &mut Reader::blob(blob)?;
    let offset = Offset(from.number()?);
    let accepted_at = from.time()?;
    let state = read_state(from)?;
    let attempt = from.small()?;
    let token = LeaseToken::from_u64(from.number()?);
    let started_at = from.option(Reader::time)?;
    let errors = from.list(read_error)?;
    Ok(StoredTask {
        offset,
        accepted_at,
        task: record::read(from)?,
        state,
        attempt,
        token,
        started_at,
        errors,
    })
}

fn write_state(out: &mut Writer, state: &StoredState) {
    match state {
        StoredState::Parked { due_at, kind } => {
            out.byte(match kind {
                Parked::Scheduled => 0,
                Parked::Available => 1,
                Parked::Retryable => 3,
            });
            out.time(*due_at);
        }
        StoredState::Running { worker, leased_at } => {
            out.byte(2);
            out.bytes(worker.as_str().as_bytes());
            out.time(*leased_at);
        }
        StoredState::Ended {
            ending,
            ended_at,
            keep_until,
        } => {
            match ending {
                Ending::Completed { result } => {
                    out.byte(4);
                    out.bytes(result);
                }
                Ending::Cancelled => out.byte(5),
                Ending::Discarded => out.byte(6),
            }
            out.time(*ended_at);
            out.time(*keep_until);
        }
    }
}

fn read_state(from: &mut Reader<'_>) -> Result<StoredState, Unreadable> {
    match from.byte()? {
        0 => read_parked(from, Parked::Scheduled),
        1 => read_parked(from, Parked::Available),
        2 => Ok(StoredState::Running {
            worker: read_worker(from)?,
            leased_at: from.time()?,
        }),
        3 => read_parked(from, Parked::Retryable),
        4 => {
            let result: Bytes = from.bytes()?;
            read_ended(from, Ending::Completed { result })
        }
        5 => read_ended(from, Ending::Cancelled),
        6 => read_ended(from, Ending::Discarded),
        _ => Err(Unreadable::Value("a state")),
    }
}

fn read_parked(from: &mut Reader<'_>, kind: Parked) -> Result<StoredState, Unreadable> {
    let due_at = from.time()?;
    Ok(StoredState::Parked { due_at, kind })
}

fn read_ended(from: &mut Reader<'_>, ending: Ending) -> Result<StoredState, Unreadable> {
    Ok(StoredState::Ended {
        ending,
        ended_at: from.time()?,
        keep_until: from.time()?,
    })
}

fn read_worker(from: &mut Reader<'_>) -> Result<WorkerId, Unreadable> {
    WorkerId::try_from(from.text()?).map_err(|_| Unreadable::Value("a worker's id"))
}

fn write_error(out: &mut Writer, error: &AttemptError) {
    out.number(u64::from(error.attempt));
    out.number(error.token.to_u64());
    out.bytes(error.worker.as_str().as_bytes());
    out.time(error.at);
    out.bytes(error.failure.code.as_str().as_bytes());
    out.bytes(error.failure.message.as_bytes());
    out.byte(u8::from(error.failure.retryable));
    out.bytes(&error.failure.detail);
}

fn read_error(from: &mut Reader<'_>) -> Result<AttemptError, Unreadable> {
    Ok(AttemptError {
        attempt: from.small()?,
        token: LeaseToken::from_u64(from.number()?),
        worker: read_worker(from)?,
        at: from.time()?,
        failure: Failure {
            code: options::read_code(from)?,
            message: from.text()?.to_owned(),
            retryable: from.byte()? == 1,
            detail: from.bytes()?,
        },
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_make_reading_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut out = Writer::blob(bytes.len());
            out.raw(&bytes);
            let blob = out.into_blob();
            let Ok(task) = decode_task(&blob) else {
                return Ok(());
            };
            prop_assert_eq!(decode_task(&encode_task(&task)), Ok(task));
        }
    }
}
