//! Limits of pipelines in their JSON form.

use std::time::Duration;

use scheduler_core::{
    Invalid,
    pipeline::limits::{Limit, Limits, Rate},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    input::Object,
    time::{parse_duration, print_duration},
};

/// How many tasks may run at once and start in a while: `{"concurrency": 10, "rate": "100/1s", "group": {…}}`.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = Limits)]
pub(crate) struct LimitsJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    concurrency: Option<u32>,
    /// So many starts in so much time.
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<String>,
    /// The same for each group.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<GroupLimitJson>)]
    group: Option<Object<GroupLimitJson>>,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = GroupLimit)]
struct GroupLimitJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    concurrency: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<String>,
}

impl LimitsJson {
    pub(crate) fn is_none(&self) -> bool {
        self.concurrency.is_none() && self.rate.is_none() && self.group.is_none()
    }

    pub(crate) fn read(&self) -> Result<Limits, Invalid> {
        let group = self.group.as_ref().map(|group| &group.0);
        Ok(Limits {
            all: limit("limits.rate", self.concurrency, self.rate.as_deref())?,
            group: match group {
                None => Limit::default(),
                Some(group) => {
                    let rate = group.rate.as_deref();
                    limit("limits.group.rate", group.concurrency, rate)?
                }
            },
        })
    }

    pub(crate) fn of(limits: &Limits) -> Self {
        let group = &limits.group;
        let group = (!group.is_none()).then(|| {
            Object(GroupLimitJson {
                concurrency: group.concurrency,
                rate: group.rate.map(print_rate),
            })
        });
        Self {
            concurrency: limits.all.concurrency,
            rate: limits.all.rate.map(print_rate),
            group,
        }
    }
}

fn limit(
    field: &'static str,
    concurrency: Option<u32>,
    rate: Option<&str>,
) -> Result<Limit, Invalid> {
    let rate = rate.map(|rate| read_rate(field, rate)).transpose()?;
    Ok(Limit { concurrency, rate })
}

fn read_rate(field: &'static str, text: &str) -> Result<Rate, Invalid> {
    let no_rate = || Invalid::new(field, "must be starts per time, such as 100/1s or 5/10m");
    let (n, per) = text.split_once('/').ok_or_else(no_rate)?;
    let per: Duration = parse_duration(field, per).map_err(|_| no_rate())?;
    let n = n.parse().map_err(|_| no_rate())?;
    Ok(Rate { n, per })
}

fn print_rate(rate: Rate) -> String {
    format!("{}/{}", rate.n, print_duration(rate.per))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_back_as_they_were_written() {
        let text = r#"{"concurrency":8,"rate":"100/1s","group":{"concurrency":2,"rate":"5/10m"}}"#;
        let json: LimitsJson = serde_json::from_str(text).unwrap();
        let limits = json.read().unwrap();
        assert_eq!(
            limits.group.rate.map(|rate| rate.per),
            Some(Duration::from_secs(600))
        );
        let printed = serde_json::to_string(&LimitsJson::of(&limits)).unwrap();
        assert_eq!(printed, text);
    }

    #[test]
    fn a_rate_that_is_none_is_refused_with_an_example() {
        for rate in ["", "5", "5/", "/1s", "x/1s", "5/x"] {
            let fault = read_rate("limits.rate", rate).unwrap_err();
            assert!(fault.rule.contains("100/1s"), "{rate}");
        }
    }
}
