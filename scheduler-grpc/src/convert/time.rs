//! Times and durations.

use std::time::Duration;

use scheduler_core::{Invalid, Timestamp};

/// A duration for the wire. One that is longer than the wire can say is cut.
#[must_use]
pub fn duration(duration: Duration) -> prost_types::Duration {
    duration.try_into().unwrap_or(prost_types::Duration {
        seconds: i64::MAX,
        nanos: 0,
    })
}

/// A duration from the wire, in whole milliseconds, rounded up.
///
/// # Errors
/// A negative one, under the name of its field.
pub fn duration_of(
    field: &'static str,
    duration: prost_types::Duration,
) -> Result<Duration, Invalid> {
    let duration =
        Duration::try_from(duration).map_err(|_| Invalid::new(field, "must not be negative"))?;
    let millis = u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
    Ok(Duration::from_millis(millis))
}

/// A time for the wire.
#[must_use]
pub fn timestamp(at: Timestamp) -> prost_types::Timestamp {
    let millis = at.as_millis();
    prost_types::Timestamp {
        seconds: i64::try_from(millis / 1000).unwrap_or(i64::MAX),
        nanos: i32::try_from(millis % 1000).unwrap_or_default() * 1_000_000,
    }
}

/// A time from the wire, in whole milliseconds, rounded up.
///
/// # Errors
/// A time before 1970, under the name of its field.
pub fn timestamp_of(field: &'static str, at: prost_types::Timestamp) -> Result<Timestamp, Invalid> {
    let since_epoch = prost_types::Duration {
        seconds: at.seconds,
        nanos: at.nanos,
    };
    let since_epoch = duration_of(field, since_epoch)
        .map_err(|_| Invalid::new(field, "must not be before 1970"))?;
    Ok(Timestamp::EPOCH + since_epoch)
}
