//! How times become columns and texts become literals.

use scheduler_core::{ShardId, Timestamp};

const DAY_MILLIS: u64 = 24 * 3600 * 1000;
/// 9999-12-31 23:59:59.999, the last time that a column can hold: stands for never.
const LAST_MILLIS: u64 = 253_402_300_799_999;

/// `2024-02-29 12:00:00.000`, in UTC.
pub(crate) fn time_text(at: Timestamp) -> String {
    let millis = at.as_millis().min(LAST_MILLIS);
    let (days, rest) = (millis / DAY_MILLIS, millis % DAY_MILLIS);
    let (year, month, day) = date_of(days);
    let (hours, minutes) = (rest / 3_600_000, rest / 60_000 % 60);
    let (seconds, millis) = (rest / 1000 % 60, rest % 1000);
    format!("{year:04}-{month:02}-{day:02} {hours:02}:{minutes:02}:{seconds:02}.{millis:03}")
}

/// The time that [`time_text`] wrote; `None` if the text is no such time.
pub(crate) fn time_of(text: &str) -> Option<Timestamp> {
    let (date, time) = text.split_once(' ')?;
    let mut date = date.split('-').map(str::parse::<u64>);
    let mut time = time.split(':');
    let (year, month, day) = (date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?);
    let hours: u64 = time.next()?.parse().ok()?;
    let minutes: u64 = time.next()?.parse().ok()?;
    let (seconds, fraction) = time.next()?.split_once('.')?;
    let (seconds, fraction): (u64, u64) = (seconds.parse().ok()?, fraction.parse().ok()?);
    let in_range = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hours < 24
        && minutes < 60
        && seconds < 60
        && fraction < 1000;
    if !in_range {
        return None;
    }
    let millis = days_of(year, month, day) * DAY_MILLIS
        + hours * 3_600_000
        + minutes * 60_000
        + seconds * 1000
        + fraction;
    Some(if millis >= LAST_MILLIS {
        Timestamp::NEVER
    } else {
        Timestamp::from_millis(millis)
    })
}

/// Year, month and day of a day since 1970-01-01: Howard Hinnant's `civil_from_days`.
fn date_of(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// The inverse of [`date_of`].
fn days_of(year: u64, month: u64, day: u64) -> u64 {
    let year = year - u64::from(month <= 2);
    let (era, year_of_era) = (year / 400, year % 400);
    let from_march = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// A text as a literal. Sessions have an `sql_mode` in which a backslash escapes.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('\'');
    for char in text.chars() {
        match char {
            '\'' => out.push_str("''"),
            '\\' => out.push_str("\\\\"),
            '\0' => out.push_str("\\0"),
            char => out.push(char),
        }
    }
    out.push('\'');
    out
}

/// A time as a literal.
pub(crate) fn quoted_time(at: Timestamp) -> String {
    format!("'{}'", time_text(at))
}

/// The condition that picks a shard.
pub(crate) fn is_shard(shard: ShardId) -> String {
    let (pipeline, partition) = (shard.pipeline.0, shard.partition.0);
    format!("pipeline = {pipeline} AND `partition` = {partition}")
}

/// The shards as a list of pairs.
pub(crate) fn shard_list(shards: impl IntoIterator<Item = ShardId>) -> String {
    let pair = |shard: ShardId| format!("({},{})", shard.pipeline.0, shard.partition.0);
    let pairs: Vec<_> = shards.into_iter().map(pair).collect();
    pairs.join(",")
}

/// Texts of numbers, with commas between.
pub(crate) fn join<T: ToString>(numbers: impl IntoIterator<Item = T>, between: &str) -> String {
    let texts: Vec<_> = numbers
        .into_iter()
        .map(|number| number.to_string())
        .collect();
    texts.join(between)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_back() {
        for (millis, text) in [
            (0, "1970-01-01 00:00:00.000"),
            (951_782_400_000, "2000-02-29 00:00:00.000"),
            (1_000_000_000_077, "2001-09-09 01:46:40.077"),
            (4_107_542_399_999, "2100-02-28 23:59:59.999"),
            (4_107_542_400_000, "2100-03-01 00:00:00.000"),
        ] {
            let at = Timestamp::from_millis(millis);
            assert_eq!(time_text(at), text);
            assert_eq!(time_of(text), Some(at));
        }
        for day in 0..100_000 {
            let at = Timestamp::from_millis(day * 20 * DAY_MILLIS + day);
            assert_eq!(time_of(&time_text(at)), Some(at));
        }
    }

    #[test]
    fn never_is_the_last_time() {
        let text = time_text(Timestamp::NEVER);
        assert_eq!(text, "9999-12-31 23:59:59.999");
        assert_eq!(time_of(&text), Some(Timestamp::NEVER));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "2000-01-01",
            "2000-13-01 00:00:00.000",
            "0000-00-00 00:00:00.000",
            "x y",
        ] {
            assert_eq!(time_of(text), None, "{text}");
        }
    }

    #[test]
    fn no_text_ends_its_literal() {
        assert_eq!(quoted("a'b\\c\0"), "'a''b\\\\c\\0'");
    }
}
