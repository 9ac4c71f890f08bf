//! The limits of a pipeline.

use scheduler_core::{
    pipeline::limits::{Limit, Limits, Rate},
    port::BoxError,
};
use serde::{Deserialize, Serialize};

use super::{Seconds, text_of};

/// Those for all tasks, with those for the tasks of each group inside.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct LimitsRow {
    #[serde(skip_serializing_if = "Option::is_none")]
    concurrency: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<RateRow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<GroupRow>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct GroupRow {
    #[serde(skip_serializing_if = "Option::is_none")]
    concurrency: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<RateRow>,
}

#[derive(Debug, Serialize, Deserialize)]
struct RateRow {
    n: u32,
    per: Seconds,
}

impl From<Rate> for RateRow {
    fn from(rate: Rate) -> Self {
        Self {
            n: rate.n,
            per: Seconds(rate.per),
        }
    }
}

impl From<RateRow> for Rate {
    fn from(row: RateRow) -> Self {
        Self {
            n: row.n,
            per: row.per.0,
        }
    }
}

/// `None` where nothing is limited.
pub(crate) fn encode_limits(limits: &Limits) -> Option<String> {
    let Limits { all, group } = limits;
    if all.is_none() && group.is_none() {
        return None;
    }
    Some(text_of(&LimitsRow {
        concurrency: all.concurrency,
        rate: all.rate.map(Into::into),
        group: (!group.is_none()).then(|| GroupRow {
            concurrency: group.concurrency,
            rate: group.rate.map(Into::into),
        }),
    }))
}

pub(crate) fn decode_limits(text: Option<&str>) -> Result<Limits, BoxError> {
    let Some(text) = text else {
        return Ok(Limits::default());
    };
    let row: LimitsRow = serde_json::from_str(text)?;
    let group = row.group.unwrap_or_default();
    Ok(Limits {
        all: Limit {
            concurrency: row.concurrency,
            rate: row.rate.map(Into::into),
        },
        group: Limit {
            concurrency: group.concurrency,
            rate: group.rate.map(Into::into),
        },
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn limits_are_read_back() {
        let rate = Some(Rate {
            n: 7,
            per: Duration::from_millis(1_500),
        });
        let concurrency = Some(9);
        let none = Limit::default();
        let some = Limit { concurrency, rate };
        let one = Limit {
            concurrency,
            rate: None,
        };
        for (all, group, text) in [
            (none, none, None),
            (one, none, Some(r#"{"concurrency":9}"#)),
            (none, one, Some(r#"{"group":{"concurrency":9}}"#)),
            (
                some,
                some,
                Some(
                    r#"{"concurrency":9,"rate":{"n":7,"per":"1.5s"},"group":{"concurrency":9,"rate":{"n":7,"per":"1.5s"}}}"#,
                ),
            ),
        ] {
            let limits = Limits { all, group };
            assert_eq!(encode_limits(&limits).as_deref(), text);
            assert_eq!(decode_limits(text).unwrap(), limits);
        }
        let newer = decode_limits(Some(r#"{"concurrency":9,"color":{"red":1}}"#));
        let expected = Limits {
            all: one,
            group: none,
        };
        assert_eq!(newer.unwrap(), expected);
    }
}
