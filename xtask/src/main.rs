//! Chores of this repository, in Rust, so that nothing but cargo must be installed.
#![expect(
    clippy::print_stdout,
    reason = "a chore talks to whoever types its name"
)]

mod codegen;

use anyhow::bail;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["codegen"] => {
            println!("{} files generated", codegen::write()?);
            Ok(())
        }
        ["codegen", "--check"] => codegen::check(),
        _ => bail!("usage: cargo xtask codegen [--check]"),
    }
}
