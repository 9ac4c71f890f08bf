//! Chores of this repository, in Rust, so that nothing but cargo must be installed.
#![expect(
    clippy::print_stdout,
    reason = "a chore talks to whoever types its name"
)]

mod chaos;
mod checks;
mod codegen;
mod dashboard;
mod demo;
mod mutants;
mod programs;
mod tidy;

use anyhow::bail;

const USAGE: &str = "usage: cargo xtask <chore>

  demo              builds everything, and reads the texts of pictures through the whole system
  demo --cluster    the same on Kafka and TiDB, with each service as a process of its own
  test              checks everything: format, rules, build, tests, demo, dashboard, lints, docs
  test --no-servers the same without Kafka and TiDB, and says so
  dashboard         tries every page of the dashboard in a real browser
  servers           fetches Kafka and builds TiDB for the tests, once
  chaos [--minutes N] [--seed S]
                    harms a cluster under load at random, and judges what was seen
  mutants [NAME]    breaks the core in known ways, and requires that the simulation notices
  tidy              checks the rules that no compiler checks
  codegen           generates scheduler-grpc/src/generated from proto/
  codegen --check   fails if what is committed differs from what would be generated";

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["demo"] => demo::build_and_run(demo::On::Dev),
        ["demo", "--cluster"] => demo::build_and_run(demo::On::Cluster),
        ["test"] => checks::run(checks::Servers::With),
        ["test", "--no-servers"] => checks::run(checks::Servers::Without),
        ["dashboard"] => dashboard::build_and_run(),
        ["servers"] => {
            println!("Kafka is in {}", test_servers::fetch_kafka()?.display());
            println!("TiDB is {}", test_servers::fetch_tidb()?.display());
            Ok(())
        }
        ["chaos", options @ ..] => chaos::run(options),
        ["mutants"] => mutants::run(None),
        ["mutants", wanted] => mutants::run(Some(wanted)),
        ["tidy"] => tidy::check(),
        ["codegen"] => {
            let n_files = codegen::write()?;
            println!("{n_files} files generated");
            Ok(())
        }
        ["codegen", "--check"] => codegen::check(),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            Ok(())
        }
        _ => bail!("{USAGE}"),
    }
}
