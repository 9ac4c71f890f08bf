//! Reading requests: bounded bodies that are JSON whatever their content type says, and strict queries.

use std::{fmt, marker::PhantomData, time::Duration};

use axum::{
    body::Body,
    extract::{FromRequestParts, Path},
    http::{Uri, request::Parts},
};
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use scheduler_core::{Error, Invalid, TaskId};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, MapAccess, Visitor, value::MapAccessDeserializer},
};

use crate::problem::Problem;

/// How long a client may take to send a body, or the next piece of one that has any length.
pub(crate) const BODY_WAIT: Duration = Duration::from_secs(30);
/// The largest body that describes something (a pipeline, an application).
pub(crate) const DESCRIPTION_BYTES_MAX: usize = 256 << 10;
/// What a task's data may be wrapped in.
pub(crate) const WRAPPING_BYTES_MAX: usize = 64 << 10;

/// What is read from a JSON object only. A derived struct would take a list of its fields' values as
/// well, where nobody could see which is which.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(transparent)]
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_map(Fields(PhantomData)).map(Self)
    }
}

/// The names and ids in the path.
#[derive(Debug)]
pub(crate) struct Segments<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Segments<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::from_request_parts(parts, state).await;
        path.map(|Path(segments)| Self(segments)).map_err(|err| {
            Problem::malformed(format!("the path cannot be read: {}", err.body_text()))
        })
    }
}

/// A call that has no query parameters: any would be an unknown one.
#[derive(Debug)]
pub(crate) struct NoQuery;

impl<S: Send + Sync> FromRequestParts<S> for NoQuery {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        match parts.uri.query() {
            None | Some("") => Ok(Self),
            Some(_) => Err(Problem::malformed("this call has no query parameters")),
        }
    }
}

/// Reads a whole body of at most `max` bytes.
pub(crate) async fn read_body(
    body: Body,
    what: &'static str,
    max: usize,
) -> Result<Bytes, Problem> {
    let whole = tokio::time::timeout(BODY_WAIT, Limited::new(body, max).collect()).await;
    match whole {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(err)) if err.is::<LengthLimitError>() => Err(Error::TooLarge {
            what: what.into(),
            max,
        }
        .into()),
        Ok(Err(err)) => Err(Problem::malformed(format!("the body broke off: {err}"))),
        Err(_) => Err(slow_body()),
    }
}

pub(crate) fn slow_body() -> Problem {
    Problem::new(
        axum::http::StatusCode::REQUEST_TIMEOUT,
        "slow-body",
        "The body came too slowly",
        "the whole body must arrive within 30s, or of a batch the next line",
    )
}

/// Reads a body as a JSON object. Unknown fields are errors, and nesting is limited to 128 levels.
pub(crate) async fn read_json<T: DeserializeOwned>(
    body: Body,
    what: &'static str,
    max: usize,
) -> Result<T, Problem> {
    let bytes = read_body(body, what, max).await?;
    serde_json::from_slice(&bytes)
        .map(|Object(read)| read)
        .map_err(|err| Problem::malformed(format!("the body is not as expected: {err}")))
}

/// Reads the query: a parameter that `T` does not know is an error.
pub(crate) fn read_query<T: DeserializeOwned>(uri: &Uri) -> Result<T, Problem> {
    axum::extract::Query::try_from_uri(uri)
        .map(|axum::extract::Query(query)| query)
        .map_err(|err| {
            Problem::malformed(format!("the query is not as expected: {}", err.body_text()))
        })
}

/// Reads a task's id from the path: what is no id is no task.
pub(crate) fn read_id(text: &str) -> Result<TaskId, Problem> {
    text.parse()
        .map_err(|_: Invalid| Error::not_found("task", text).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    struct Pair {
        a: u8,
        b: Box<str>,
    }

    #[test]
    fn a_list_of_values_is_no_object() {
        let read = |text| serde_json::from_str::<Object<Pair>>(text);
        let pair = read(r#"{"b": "x", "a": 1}"#).unwrap().0;
        assert_eq!((pair.a, &*pair.b), (1, "x"));
        let err = read(r#"[1, "x"]"#).unwrap_err().to_string();
        assert!(err.contains("expected an object"), "{err}");
    }
}
