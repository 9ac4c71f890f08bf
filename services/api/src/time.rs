//! Times as RFC 3339 in UTC and durations as `30s`, `5m`, `1h30m`.

use std::time::Duration;

use jiff::fmt::friendly::{Designator, Spacing, SpanParser, SpanPrinter};
use scheduler_core::{Invalid, Timestamp};

const PARSER: SpanParser = SpanParser::new();
const PRINTER: SpanPrinter = SpanPrinter::new()
    .designator(Designator::Compact)
    .spacing(Spacing::None);

pub(crate) fn parse_duration(field: &str, text: &str) -> Result<Duration, Invalid> {
    PARSER.parse_unsigned_duration(text).map_err(|_| {
        Invalid::new(
            field.to_owned(),
            "must be a duration such as 30s, 5m or 1h30m",
        )
    })
}

pub(crate) fn print_duration(duration: Duration) -> String {
    PRINTER.unsigned_duration_to_string(&duration)
}

pub(crate) fn parse_timestamp(field: &str, text: &str) -> Result<Timestamp, Invalid> {
    let parsed: Result<jiff::Timestamp, _> = text.parse();
    parsed
        .ok()
        .and_then(|at| u64::try_from(at.as_millisecond()).ok())
        .map(Timestamp::from_millis)
        .ok_or_else(|| {
            Invalid::new(
                field.to_owned(),
                "must be a time such as 2030-01-31T12:00:00Z",
            )
        })
}

pub(crate) fn print_timestamp(at: Timestamp) -> String {
    let millis = i64::try_from(at.as_millis()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(millis)
        .unwrap_or(jiff::Timestamp::MAX)
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_printed_alike() {
        for text in ["30s", "5m", "1h30m", "250ms", "0s"] {
            let duration = parse_duration("x", text).unwrap();
            assert_eq!(print_duration(duration), text);
        }
        for text in ["", "30", "-5s", "5 parsecs"] {
            assert!(parse_duration("x", text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_read_and_printed_alike() {
        let at = parse_timestamp("x", "2030-01-31T12:00:00.25+02:00").unwrap();
        assert_eq!(print_timestamp(at), "2030-01-31T10:00:00.25Z");
        assert!(parse_timestamp("x", "yesterday").is_err());
    }
}
