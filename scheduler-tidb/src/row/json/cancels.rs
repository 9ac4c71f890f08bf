//! The bulk cancels of a shard.

use std::collections::{BTreeMap, BTreeSet};

use scheduler_core::{CancelFilter, CancelRule, Offset, StateName, port::BoxError};
use serde::{Deserialize, Serialize};

use super::{Time, text_of};

#[derive(Debug, Serialize, Deserialize)]
struct RuleRow {
    id: String,
    filter: FilterRow,
    #[serde(skip_serializing_if = "Option::is_none")]
    default_group: Option<String>,
    below: u64,
    made_at: Time,
    n_cancelled: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    over_at: Option<Time>,
}

/// A field that this program does not know might leave tasks out, so it is refused.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct FilterRow {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    states: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    accepted_from: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    accepted_before: Option<Time>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
}

pub(crate) fn encode_cancels(rules: &[CancelRule]) -> String {
    let rows: Vec<_> = rules.iter().map(rule_row).collect();
    text_of(&rows)
}

fn rule_row(rule: &CancelRule) -> RuleRow {
    let filter = &rule.filter;
    RuleRow {
        id: rule.id.to_string(),
        filter: FilterRow {
            key: filter.key.as_ref().map(ToString::to_string),
            group: filter.group.as_ref().map(ToString::to_string),
            states: filter
                .states
                .iter()
                .map(|state| state.as_str().to_owned())
                .collect(),
            accepted_from: filter.accepted_from.map(Time),
            accepted_before: filter.accepted_before.map(Time),
            metadata: filter.metadata.clone(),
        },
        default_group: rule.default_group.as_ref().map(ToString::to_string),
        below: rule.below.0,
        made_at: Time(rule.made_at),
        n_cancelled: rule.n_cancelled,
        over_at: rule.over_at.map(Time),
    }
}

pub(crate) fn decode_cancels(text: Option<&str>) -> Result<Vec<CancelRule>, BoxError> {
    let Some(text) = text else {
        return Ok(Vec::new());
    };
    let rows: Vec<RuleRow> = serde_json::from_str(text)?;
    rows.into_iter().map(rule_of).collect()
}

fn rule_of(row: RuleRow) -> Result<CancelRule, BoxError> {
    let filter = row.filter;
    let state = |name: &String| {
        let mut all = StateName::ALL.into_iter();
        let found = all.find(|state| state.as_str() == name);
        found.ok_or_else(|| BoxError::from(format!("there is no state {name:?}")))
    };
    Ok(CancelRule {
        id: row.id.as_str().try_into()?,
        filter: CancelFilter {
            key: filter.key.as_deref().map(TryInto::try_into).transpose()?,
            group: filter.group.as_deref().map(TryInto::try_into).transpose()?,
            states: filter
                .states
                .iter()
                .map(state)
                .collect::<Result<BTreeSet<_>, _>>()?,
            accepted_from: filter.accepted_from.map(|time| time.0),
            accepted_before: filter.accepted_before.map(|time| time.0),
            metadata: filter.metadata,
        },
        default_group: row
            .default_group
            .as_deref()
            .map(TryInto::try_into)
            .transpose()?,
        below: Offset(row.below),
        made_at: row.made_at.0,
        n_cancelled: row.n_cancelled,
        over_at: row.over_at.map(|time| time.0),
    })
}
