//! The deadline that a client gave its call, so that a long wait is answered before it.

use std::time::Duration;

use tonic::metadata::MetadataMap;

/// The part of the deadline that is kept for the answer's way back, and its bounds.
const MARGIN_SHARE: u32 = 10;
const MARGIN_MIN: Duration = Duration::from_millis(20);
const MARGIN_MAX: Duration = Duration::from_millis(500);

/// How long a call may wait: as asked for, but not past the deadline in its `grpc-timeout` header.
pub(super) fn wait_within(headers: &MetadataMap, asked: Duration) -> Duration {
    let timeout = headers
        .get("grpc-timeout")
        .and_then(|value| value.to_str().ok());
    match timeout.and_then(parse) {
        Some(timeout) => {
            let margin = (timeout / MARGIN_SHARE).clamp(MARGIN_MIN, MARGIN_MAX);
            asked.min(timeout.saturating_sub(margin))
        }
        None => asked,
    }
}

/// `grpc-timeout` is up to 8 digits and a unit.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(n * 3600),
        "M" => Duration::from_secs(n * 60),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        "n" => Duration::from_nanos(n),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_before_the_deadline() {
        let asked = Duration::from_secs(20);
        let within = |timeout: &'static str| {
            let mut headers = MetadataMap::new();
            headers.insert("grpc-timeout", timeout.parse().unwrap());
            wait_within(&headers, asked)
        };
        assert_eq!(within("10S"), Duration::from_millis(9_500));
        assert_eq!(within("1000m"), Duration::from_millis(900));
        assert_eq!(within("5m"), Duration::ZERO);
        assert_eq!(within("1H"), asked);
        for none in ["x", "5", "5d", "123456789S"] {
            assert_eq!(within(none), asked, "{none}");
        }
        assert_eq!(wait_within(&MetadataMap::new(), asked), asked);
    }
}
