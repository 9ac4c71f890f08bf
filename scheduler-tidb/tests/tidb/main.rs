//! The ports on a real TiDB: the suites of every port, and what only TiDB can get wrong.
#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod conformance;
mod fixture;
mod keyed;
mod opening;
mod outage;
mod plans;
mod proxy;
mod races;
mod tables;
