//! The verbs of the command line.

pub(crate) mod app;
mod cancel;
pub(crate) mod dlq;
pub(crate) mod pipeline;
pub(crate) mod task;

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::failure::Failure;

/// Reads JSON from an argument: `@FILE` reads a file, `-` standard input, anything else is the JSON itself.
fn read_json(argument: &str) -> Result<Value, Failure> {
    let (text, from) = match argument.strip_prefix('@') {
        Some(file) => {
            let text = std::fs::read_to_string(file);
            (
                text.map_err(|err| Failure::Usage(format!("cannot read {file}: {err}")))?,
                file,
            )
        }
        None if argument == "-" => {
            let text = std::io::read_to_string(std::io::stdin());
            (
                text.map_err(|err| Failure::Usage(format!("cannot read standard input: {err}")))?,
                "standard input",
            )
        }
        None => (argument.to_owned(), "the argument"),
    };
    serde_json::from_str(&text).map_err(|err| Failure::Usage(format!("{from} is no JSON: {err}")))
}

/// Reads options: a JSON object, like [`read_json`]; without an argument, none.
fn read_options(argument: Option<&str>) -> Result<Map<String, Value>, Failure> {
    match argument.map_or_else(|| Ok(json!({})), read_json)? {
        Value::Object(options) => Ok(options),
        _ => Err(Failure::Usage(
            "--options must be a JSON object, such as {\"timeout\":\"30s\"}".to_owned(),
        )),
    }
}

/// Reads a duration.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let parser = jiff::fmt::friendly::SpanParser::new();
    let duration = parser.parse_unsigned_duration(text);
    duration.map_err(|_| "a duration such as 30s or 5m is expected".to_owned())
}

/// A name or id as part of a path: what a path cannot hold is refused by the server, not smuggled into it.
fn segment(text: &str) -> String {
    let mut segment = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~') {
            segment.push(char::from(byte));
        } else {
            segment.push_str(&format!("%{byte:02X}"));
        }
    }
    segment
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_an_object_and_nothing_else() {
        assert!(read_options(None).unwrap().is_empty());
        assert_eq!(
            read_options(Some(r#"{"delay":"1s"}"#)).unwrap()["delay"],
            "1s"
        );
        for other in ["5", "[]", "null", "x"] {
            assert!(
                matches!(read_options(Some(other)), Err(Failure::Usage(_))),
                "{other}"
            );
        }
    }

    #[test]
    fn what_a_path_cannot_hold_is_escaped() {
        assert_eq!(segment("a-b"), "a-b");
        assert_eq!(segment("../x?y#z%"), "%2E%2E%2Fx%3Fy%23z%25");
    }
}
