//! Rules that no compiler checks: how the repository reads, and which way its arrows point.

mod browser;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};
use syn::{Arm, ImplItem, Item, Pat, visit::Visit};

use crate::checks::root;

/// Names that say nothing about what a thing is.
const BANNED: [&str; 8] = [
    "Manager", "Helper", "Util", "Utils", "Common", "Impl", "Wrapper", "Info",
];
/// What the core may depend on, without and with its features.
const CORE_PURE: [&str; 7] = [
    "async-trait",
    "bytes",
    "data-encoding",
    "fastrand",
    "rustc-hash",
    "serde_json",
    "thiserror",
];
const CORE_OPTIONAL: [&str; 4] = ["mockall", "serde", "tokio", "tracing"];
/// A longer file usually holds two things. Tests are lists, and may be longer.
const LINES_MAX: usize = 500;

/// Checks all rules, and tells everything that breaks one.
pub(crate) fn check() -> anyhow::Result<()> {
    let mut faults = Vec::new();
    let files = listed(root(), "*.rs")?;
    if files.len() < 50 {
        bail!(
            "only {} Rust files were found; the search is broken",
            files.len()
        );
    }
    for file in &files {
        let text = std::fs::read_to_string(file)?;
        let name = file
            .strip_prefix(root())
            .unwrap_or(file)
            .display()
            .to_string();
        check_file(&name, &text, &mut faults);
    }
    browser::check(&mut faults)?;
    check_apply("scheduler-core/src/task/event.rs", &mut faults)?;
    for port in ["log", "store", "catalog"] {
        check_cases(port, &mut faults)?;
    }
    check_core_dependencies(&mut faults)?;
    if faults.is_empty() {
        return Ok(());
    }
    bail!("{} faults:\n{}", faults.len(), faults.join("\n"))
}

/// All files of the repository that fit a pattern, new ones too.
fn listed(dir: &Path, pattern: &str) -> anyhow::Result<Vec<PathBuf>> {
    let listed = Command::new("git")
        .args([
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
            pattern,
        ])
        .current_dir(dir)
        .output()
        .context("cannot run git")?;
    let listed = String::from_utf8(listed.stdout)?;
    let files = listed.lines().map(|line| dir.join(line));
    Ok(files.filter(|file| file.is_file()).collect())
}

fn check_file(name: &str, text: &str, faults: &mut Vec<String>) {
    if name.contains("/generated/") {
        return;
    }
    if !text.starts_with("//!") {
        faults.push(format!("{name}: must open with //! and say what it owns"));
    }
    if name.ends_with("/mod.rs") {
        faults.push(format!("{name}: must be foo.rs beside foo/"));
    }
    let n_lines = text
        .lines()
        .take_while(|line| *line != "#[cfg(test)]")
        .count();
    let is_test = name.contains("/tests/") || name.ends_with("/tests.rs");
    if n_lines > LINES_MAX && !is_test {
        faults.push(format!("{name}: has {n_lines} lines; at most {LINES_MAX}"));
    }
    let parsed = match syn::parse_file(text) {
        Ok(parsed) => parsed,
        Err(err) => return faults.push(format!("{name}: {err}")),
    };
    for item in &parsed.items {
        let ident = match item {
            Item::Struct(item) => &item.ident,
            Item::Enum(item) => &item.ident,
            Item::Trait(item) => &item.ident,
            _ => continue,
        };
        let ident = ident.to_string();
        if BANNED.iter().any(|word| ident.ends_with(word)) {
            faults.push(format!("{name}: {ident} needs a name that says what it is"));
        }
    }
}

/// In a machine's `apply` every pair of state and event is written out, so that a new one asks to be
/// thought about: no arm may catch all.
fn check_apply(name: &str, faults: &mut Vec<String>) -> anyhow::Result<()> {
    let parsed = syn::parse_file(&std::fs::read_to_string(root().join(name))?)?;
    let applies: Vec<_> = parsed
        .items
        .iter()
        .filter_map(|item| match item {
            Item::Impl(item) => Some(&item.items),
            _ => None,
        })
        .flatten()
        .filter_map(|item| match item {
            ImplItem::Fn(item) if item.sig.ident == "apply" => Some(item),
            _ => None,
        })
        .collect();
    let [apply] = applies.as_slice() else {
        bail!("{name}: expected one apply, found {}", applies.len());
    };
    let mut arms = Wildcards::default();
    arms.visit_impl_item_fn(apply);
    if arms.n_arms < 10 {
        bail!(
            "{name}: only {} arms were found in apply; the search is broken",
            arms.n_arms
        );
    }
    if arms.n_wildcards > 0 {
        faults.push(format!(
            "{name}: apply has {} arms with a wildcard",
            arms.n_wildcards
        ));
    }
    Ok(())
}

#[derive(Default)]
struct Wildcards {
    n_arms: usize,
    n_wildcards: usize,
}

impl<'ast> Visit<'ast> for Wildcards {
    fn visit_arm(&mut self, arm: &'ast Arm) {
        self.n_arms += 1;
        self.n_wildcards += usize::from(catches_all(&arm.pat));
        syn::visit::visit_arm(self, arm);
    }
}

fn catches_all(pattern: &Pat) -> bool {
    match pattern {
        Pat::Wild(_) => true,
        Pat::Ident(ident) => ident.subpat.is_none(),
        Pat::Tuple(tuple) => tuple.elems.iter().any(catches_all),
        Pat::Or(or) => or.cases.iter().any(catches_all),
        _ => false,
    }
}

/// A case that no macro lists would run for no port.
fn check_cases(port: &str, faults: &mut Vec<String>) -> anyhow::Result<()> {
    let dir = root().join("scheduler-core/src");
    let listed = std::fs::read_to_string(dir.join("conformance.rs"))?;
    let mut n_cases = 0;
    let own = [format!("conformance/{port}.rs")].into_iter();
    let parts = std::fs::read_dir(dir.join("conformance").join(port));
    let parts = parts.into_iter().flatten().flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        Some(format!("conformance/{port}/{name}"))
    });
    for file in own.chain(parts) {
        for item in syn::parse_file(&std::fs::read_to_string(dir.join(&file))?)?.items {
            if let Item::Fn(case) = item
                && matches!(case.vis, syn::Visibility::Public(_))
                && case.sig.asyncness.is_some()
            {
                n_cases += 1;
                let name = case.sig.ident.to_string();
                if !listed.contains(&name) {
                    faults.push(format!(
                        "scheduler-core/src/{file}: case {name} is in no macro"
                    ));
                }
            }
        }
    }
    if n_cases == 0 {
        bail!("no cases were found for {port}; the search is broken");
    }
    Ok(())
}

fn check_core_dependencies(faults: &mut Vec<String>) -> anyhow::Result<()> {
    let manifest = std::fs::read_to_string(root().join("scheduler-core/Cargo.toml"))?;
    let manifest: toml::Table = manifest.parse()?;
    let allowed: BTreeSet<&str> = CORE_PURE.into_iter().chain(CORE_OPTIONAL).collect();
    let dependencies = manifest["dependencies"]
        .as_table()
        .context("no dependencies")?;
    for (name, value) in dependencies {
        if !allowed.contains(name.as_str()) {
            faults.push(format!("scheduler-core: must not depend on {name}"));
        }
        let is_optional = value.get("optional").and_then(toml::Value::as_bool) == Some(true);
        if CORE_OPTIONAL.contains(&name.as_str()) && !is_optional {
            faults.push(format!("scheduler-core: {name} must be optional"));
        }
    }
    Ok(())
}
