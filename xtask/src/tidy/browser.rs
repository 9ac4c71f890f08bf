//! Rules for what runs in a browser, and for its tests: scripts, styles and pages.

use anyhow::bail;

use super::{BANNED, LINES_MAX, listed};
use crate::checks::root;

/// The longest line, so that a template is still read as one.
const COLUMNS_MAX: usize = 140;

/// Ways from a text to markup or code. Everything that is shown was written by someone else.
const UNSAFE: [&str; 10] = [
    "nnerHTML",
    "outerHTML =",
    "insertAdjacentHTML",
    "document.write",
    "srcdoc",
    "eval(",
    "new Function",
    "javascript:",
    "cssText",
    "createContextualFragment",
];

/// Checks scripts and styles of ours; those of others in `vendor` stay as they came.
pub(super) fn check(faults: &mut Vec<String>) -> anyhow::Result<()> {
    let mut n_files = 0;
    for pattern in ["*.js", "*.css", "*.html"] {
        for file in listed(root(), pattern)? {
            let name = file.strip_prefix(root()).unwrap_or(&file);
            let name = name.display().to_string();
            if name.contains("/vendor/") {
                continue;
            }
            n_files += 1;
            faults.extend(faults_of(&name, &std::fs::read_to_string(&file)?));
        }
    }
    if n_files < 20 {
        bail!("only {n_files} scripts and styles were found; the search is broken");
    }
    Ok(())
}

fn faults_of(name: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let mut fault = |what: String| faults.push(format!("{name}: {what}"));
    let heading = match name.rsplit_once('.') {
        Some((_, "js")) => Some("// "),
        Some((_, "css")) => Some("/* "),
        _ => None,
    };
    if let Some(heading) = heading.filter(|heading| !text.starts_with(heading)) {
        fault(format!("must open with {heading}and say what it owns"));
    }
    let n_lines = text.lines().count();
    if n_lines > LINES_MAX && !name.ends_with(".test.js") {
        fault(format!("has {n_lines} lines; at most {LINES_MAX}"));
    }
    let is_test = name.starts_with("tests/");
    for (i, line) in text.lines().enumerate() {
        let n = i + 1;
        if line.chars().count() > COLUMNS_MAX {
            fault(format!("line {n} is longer than {COLUMNS_MAX} characters"));
        }
        if !is_test && let Some(found) = UNSAFE.iter().find(|found| line.contains(**found)) {
            fault(format!("line {n} has {found}: a text must stay a text"));
        }
        if !is_test && has_inline(line) {
            fault(format!(
                "line {n} has an inline handler or style, which the policy refuses"
            ));
        }
        let says_nothing = |name: &&str| BANNED.iter().any(|word| name.ends_with(word));
        if let Some(name) = declared(line).filter(says_nothing) {
            fault(format!(
                "line {n}: {name} needs a name that says what it is"
            ));
        }
    }
    faults
}

/// Whether an attribute holds a script or a style as a text: `onclick="…"`, `style="…"`.
fn has_inline(line: &str) -> bool {
    line.split_whitespace().any(|word| {
        let Some((attribute, _)) = word.split_once("=\"") else {
            return false;
        };
        let is_handler = attribute.starts_with("on") && attribute.chars().all(char::is_alphabetic);
        is_handler || attribute == "style"
    })
}

/// The name of the class that a line declares.
fn declared(line: &str) -> Option<&str> {
    let line = line.strip_prefix("export ").unwrap_or(line);
    line.strip_prefix("class ")?.split_whitespace().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        faults_of("services/x.js", &format!("// Owns x.\n{text}\n"))
    }

    #[test]
    fn what_makes_code_of_a_text_is_found() {
        for text in [
            "element.innerHTML = name;",
            "html`<p dangerouslySetInnerHTML=${x}>`;",
            "return html`<a onclick=\"go()\">`;",
            "html`<p style=\"color: red\">`;",
            "class RowManager {}",
            "export class Info {}",
        ] {
            assert_eq!(faults(text).len(), 1, "{text}");
        }
        let good = "return html`<a href=${x} onClick=${go} class=\"style\">`;";
        assert_eq!(faults(good), [""; 0]);
    }

    #[test]
    fn every_file_says_what_it_owns() {
        assert_eq!(faults_of("services/x.js", "let x;\n").len(), 1);
        assert_eq!(faults_of("services/x.css", "p {}\n").len(), 1);
        assert_eq!(
            faults_of("services/x.css", "/* Owns p. */\np {}\n"),
            [""; 0]
        );
    }
}
