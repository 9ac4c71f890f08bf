//! `cargo xtask chaos`: the fault test of the system tests, for as long as one likes.

use anyhow::{Context as _, bail};

use crate::checks::cargo;

/// How long it goes on if nobody says.
const MINUTES: u64 = 5;

/// Builds, and runs the test with what was asked for.
pub(crate) fn run(options: &[&str]) -> anyhow::Result<()> {
    let (mut minutes, mut seed) = (MINUTES, None);
    let mut options = options.iter();
    while let Some(option) = options.next() {
        if !["--minutes", "--seed"].contains(option) {
            bail!("there is no option {option}; there are --minutes and --seed");
        }
        let value = options
            .next()
            .with_context(|| format!("{option} needs a number"))?;
        let number: u64 = value
            .parse()
            .with_context(|| format!("{option} needs a number, not {value:?}"))?;
        match *option {
            "--minutes" => minutes = number,
            _ => seed = Some(number),
        }
    }
    // Before our build, since each of them wants all cores.
    test_servers::fetch_kafka()?;
    test_servers::fetch_tidb()?;
    cargo(&["build", "--workspace", "--bins"], &[])?;
    let seconds = minutes.saturating_mul(60).to_string();
    let seed = seed.map(|seed| seed.to_string());
    let mut variables = vec![("CHAOS_SECONDS", seconds.as_str())];
    variables.extend(seed.as_deref().map(|seed| ("CHAOS_SEED", seed)));
    let test = [
        "test",
        "-p",
        "system-tests",
        "--test",
        "system",
        "engines::chaos::",
        "--",
        "--nocapture",
    ];
    cargo(&test, &variables)
}
