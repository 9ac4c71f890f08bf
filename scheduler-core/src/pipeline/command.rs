//! Command lines with placeholders: split into arguments first, filled afterwards.
//!
//! A placeholder stands inside one argument and stays inside it, so no value can add an argument,
//! open a quote or reach a shell.

use std::{borrow::Cow, fmt};

use serde_json::{Map, Value};

use crate::Invalid;

/// The longest command line in bytes.
pub const COMMAND_LEN_MAX: usize = 8 * 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Field(String),
}

/// A command line such as `wget -O /mnt/pipe/image.png {{url}}`, split into arguments.
///
/// Arguments are separated by spaces, tabs or newlines; `'…'` and `"…"` group, and a backslash takes
/// the next character as it is (inside `'…'` it is an ordinary character). Nothing else is special.
///
/// ```
/// # use scheduler_core::pipeline::command::CommandTemplate;
/// let command = CommandTemplate::parse("echo 'to {{name}}'")?;
/// let data = serde_json::json!({"name": "you; rm -rf /"});
/// let argv = command.fill(data.as_object().unwrap())?;
/// assert_eq!(argv, ["echo", "to you; rm -rf /"]);
/// # Ok::<(), scheduler_core::Invalid>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandTemplate {
    source: String,
    arguments: Vec<Vec<Piece>>,
}

impl CommandTemplate {
    /// Splits a command line.
    ///
    /// # Errors
    /// An empty line, one that is too long, an open quote or placeholder, a placeholder as the program
    /// itself, and a placeholder inside the script of a shell, where its value would be code.
    pub fn parse(source: &str) -> Result<Self, Invalid> {
        let invalid = |rule: &'static str| Err(Invalid::new("commands", rule));
        if source.len() > COMMAND_LEN_MAX {
            return invalid("must have at most 8192 bytes each");
        }
        if source.contains('\0') {
            return invalid("must not contain NUL characters");
        }
        let arguments = Splitter::new(source).split()?;
        let Some(program) = arguments.first() else {
            return invalid("must name a program");
        };
        if program.iter().any(|piece| matches!(piece, Piece::Field(_))) {
            return invalid("must name the program itself; a placeholder cannot stand for it");
        }
        refuse_placeholder_in_script(&arguments)?;
        Ok(Self {
            source: source.to_owned(),
            arguments,
        })
    }

    /// The names of the placeholders, in order, with repetitions.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.arguments
            .iter()
            .flatten()
            .filter_map(|piece| match piece {
                Piece::Field(name) => Some(name.as_str()),
                Piece::Text(_) => None,
            })
    }

    /// Whether [`fill`](Self::fill) can fill it, without doing so.
    ///
    /// # Errors
    /// As `fill`.
    pub fn check(&self, data: &Map<String, Value>) -> Result<(), Invalid> {
        self.fields()
            .try_for_each(|name| text_of(name, data).map(drop))
    }

    /// The arguments, with each placeholder replaced by the field of its name: strings as they are,
    /// numbers and booleans as JSON text, objects and arrays as compact JSON.
    ///
    /// # Errors
    /// Names the first field that is missing or null, or that has a NUL character, which no argument can hold.
    pub fn fill(&self, data: &Map<String, Value>) -> Result<Vec<String>, Invalid> {
        self.arguments
            .iter()
            .map(|argument| {
                let mut filled = String::new();
                for piece in argument {
                    match piece {
                        Piece::Text(text) => filled.push_str(text),
                        Piece::Field(name) => filled.push_str(&text_of(name, data)?),
                    }
                }
                Ok(filled)
            })
            .collect()
    }

    /// The same command with every path below `from` moved below `to`, in the template only: values
    /// that are filled in later stay as they are.
    ///
    /// A path starts where an argument starts or after a character that paths do not have, and `from`
    /// must end at a `/` or where the path ends, so `/mnt/pipeline` is not below `/mnt/pipe`.
    #[must_use]
    pub fn with_prefix_moved(&self, from: &str, to: &str) -> Self {
        let arguments = self
            .arguments
            .iter()
            .map(|argument| {
                argument
                    .iter()
                    .map(|piece| match piece {
                        Piece::Text(text) => Piece::Text(move_prefix(text, from, to)),
                        Piece::Field(name) => Piece::Field(name.clone()),
                    })
                    .collect()
            })
            .collect();
        Self {
            source: self.source.clone(),
            arguments,
        }
    }

    /// The line as it was written.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }
}

impl fmt::Display for CommandTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

fn text_of<'a>(name: &str, data: &'a Map<String, Value>) -> Result<Cow<'a, str>, Invalid> {
    let missing = || {
        Invalid::new(
            name.to_owned(),
            "is missing; a command of the pipeline needs it",
        )
    };
    let text = match data.get(name) {
        None | Some(Value::Null) => return Err(missing()),
        Some(Value::String(text)) => Cow::Borrowed(text.as_str()),
        Some(value) => Cow::Owned(value.to_string()),
    };
    if text.contains('\0') {
        let rule = "must not contain NUL characters; no argument can hold one";
        return Err(Invalid::new(name.to_owned(), rule));
    }
    Ok(text)
}

fn move_prefix(text: &str, from: &str, to: &str) -> String {
    let in_path = |c: char| c.is_alphanumeric() || matches!(c, '/' | '.' | '_' | '-');
    let mut moved = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(from) {
        let (before, found) = rest.split_at(at);
        let after = &found[from.len()..];
        let starts = !moved
            .chars()
            .chain(before.chars())
            .next_back()
            .is_some_and(in_path);
        let ends = after.chars().next().is_none_or(|c| c == '/' || !in_path(c));
        moved.push_str(before);
        moved.push_str(if starts && ends { to } else { from });
        rest = after;
    }
    moved.push_str(rest);
    moved
}

const SHELLS: [&str; 7] = ["sh", "bash", "dash", "zsh", "ash", "ksh", "busybox"];

/// In `sh -c SCRIPT $0 $1 …` a placeholder is fine as `$0`, `$1`, … and an injection inside SCRIPT.
fn refuse_placeholder_in_script(arguments: &[Vec<Piece>]) -> Result<(), Invalid> {
    let text_of = |argument: &[Piece]| match argument {
        [Piece::Text(text)] => Some(text.clone()),
        _ => None,
    };
    let is_shell = |argument: &Vec<Piece>| {
        text_of(argument).is_some_and(|text| {
            let name = text.rsplit('/').next().unwrap_or_default();
            SHELLS.contains(&name)
        })
    };
    // The shell may stand behind `env`, `timeout 5` and the like, so any argument can be one.
    let Some(shell) = arguments.iter().position(is_shell) else {
        return Ok(());
    };
    let after = &arguments[shell + 1..];
    let takes_script = |argument: &Vec<Piece>| {
        text_of(argument).is_some_and(|text| {
            text.starts_with('-') && !text.starts_with("--") && text.contains('c')
        })
    };
    let Some(option) = after.iter().position(takes_script) else {
        return Ok(());
    };
    let script = after[option + 1..]
        .iter()
        .find(|argument| !text_of(argument).is_some_and(|text| text.starts_with('-')));
    let has_field =
        script.is_some_and(|script| script.iter().any(|piece| matches!(piece, Piece::Field(_))));
    if has_field {
        return Err(Invalid::new(
            "commands",
            "must not have a placeholder inside a shell's script, where its value would run as code; \
             pass it as an argument: sh -c 'echo \"$1\"' sh {{name}}",
        ));
    }
    Ok(())
}

struct Splitter<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    arguments: Vec<Vec<Piece>>,
    /// The argument being read; `None` between arguments.
    argument: Option<Vec<Piece>>,
    text: String,
}

impl<'a> Splitter<'a> {
    fn new(source: &'a str) -> Self {
        Self {
            rest: source.chars().peekable(),
            arguments: Vec::new(),
            argument: None,
            text: String::new(),
        }
    }

    fn split(mut self) -> Result<Vec<Vec<Piece>>, Invalid> {
        let mut quote = None;
        while let Some(c) = self.rest.next() {
            match (quote, c) {
                (None, ' ' | '\t' | '\n' | '\r') => self.end_argument(),
                (None, '\'' | '"') => {
                    quote = Some(c);
                    self.argument.get_or_insert_default();
                }
                (Some(open), c) if c == open => quote = None,
                (None | Some('"'), '\\') => match self.rest.next() {
                    Some(escaped) => self.push(escaped),
                    None => return Err(open_at_end("backslash")),
                },
                (_, '{') if self.rest.peek() == Some(&'{') => self.read_field()?,
                (_, c) => self.push(c),
            }
        }
        if quote.is_some() {
            return Err(open_at_end("quote"));
        }
        self.end_argument();
        Ok(self.arguments)
    }

    fn push(&mut self, c: char) {
        self.argument.get_or_insert_default();
        self.text.push(c);
    }

    fn end_text(&mut self) {
        if !self.text.is_empty() {
            let text = std::mem::take(&mut self.text);
            self.argument
                .get_or_insert_default()
                .push(Piece::Text(text));
        }
    }

    fn end_argument(&mut self) {
        self.end_text();
        self.arguments.extend(self.argument.take());
    }

    /// Reads a placeholder's name; the first `{` is read already.
    fn read_field(&mut self) -> Result<(), Invalid> {
        self.rest.next();
        let mut name = String::new();
        loop {
            match self.rest.next() {
                Some('}') if self.rest.peek() == Some(&'}') => break,
                Some(c) => name.push(c),
                None => return Err(open_at_end("{{")),
            }
        }
        self.rest.next();
        let name = name.trim();
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.is_empty() || !name.chars().all(plain) {
            return Err(Invalid::new(
                "commands",
                "must have placeholders such as {{name}}, of letters, digits, _, - and .",
            ));
        }
        self.end_text();
        self.argument
            .get_or_insert_default()
            .push(Piece::Field(name.to_owned()));
        Ok(())
    }
}

fn open_at_end(what: &str) -> Invalid {
    Invalid::new("commands", format!("must not end inside an open {what}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fill(line: &str, data: Value) -> Vec<String> {
        let command = CommandTemplate::parse(line).unwrap();
        command.fill(data.as_object().unwrap()).unwrap()
    }

    #[test]
    fn a_value_is_exactly_one_argument() {
        for value in [
            "a b",
            "'",
            "\"",
            "$(reboot)",
            "`reboot`",
            ";ls",
            "a\nb",
            "-rf",
            "--",
            "{{x}}",
            "\\",
            "*",
            "",
        ] {
            let argv = fill("program before {{x}} after", json!({ "x": value }));
            assert_eq!(argv, ["program", "before", value, "after"]);
        }
    }

    #[test]
    fn quotes_group_and_backslashes_escape() {
        let argv = fill(r#"p 'a b' "c \" d" e\ f '' '\'"#, json!({}));
        assert_eq!(argv, ["p", "a b", "c \" d", "e f", "", "\\"]);
    }

    #[test]
    fn placeholders_mix_with_text() {
        let argv = fill("p --url={{ u }}/{{n}}x", json!({"u": "http://a", "n": 7}));
        assert_eq!(argv, ["p", "--url=http://a/7x"]);
    }

    #[test]
    fn values_that_are_not_strings_become_json() {
        let data = json!({"a": true, "b": 1.5, "c": {"d": [1, "x"]}});
        assert_eq!(
            fill("p {{a}} {{b}} {{c}}", data),
            ["p", "true", "1.5", r#"{"d":[1,"x"]}"#]
        );
    }

    #[test]
    fn a_missing_or_null_field_is_named() {
        let command = CommandTemplate::parse("p {{url}}").unwrap();
        for data in [json!({}), json!({"url": null})] {
            let fault = command.fill(data.as_object().unwrap()).unwrap_err();
            assert_eq!(command.check(data.as_object().unwrap()), Err(fault.clone()));
            assert_eq!(fault.field, "url");
        }
    }

    #[test]
    fn bad_lines_are_refused() {
        for line in [
            "",
            "  ",
            "p 'a",
            "p \"a",
            "p \\",
            "p {{a",
            "p {{}}",
            "p {{a b}}",
            "{{p}} a",
            "p\0",
        ] {
            assert!(CommandTemplate::parse(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn a_placeholder_inside_a_shell_script_is_refused() {
        for line in [
            "sh -c 'echo {{x}}'",
            "/bin/bash -ec \"echo {{x}}\"",
            "env A=1 sh -c {{x}}",
            "timeout 5 dash -c 'a {{x}}'",
            "sh -e -c 'echo {{x}}'",
            "sh -c -e 'echo {{x}}'",
            "busybox sh -c 'echo {{x}}'",
        ] {
            assert!(CommandTemplate::parse(line).is_err(), "{line}");
        }
        for line in [
            "sh -c 'echo \"$1\"' sh {{x}}",
            "sh script.sh {{x}}",
            "echo sh {{x}}",
        ] {
            assert!(CommandTemplate::parse(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn only_paths_below_the_prefix_move() {
        let line = "p /mnt/pipe/a --out=/mnt/pipe /mnt/pipeline /x/mnt/pipe {{v}}/mnt/pipe";
        let command = CommandTemplate::parse(line)
            .unwrap()
            .with_prefix_moved("/mnt/pipe", "/t/1");
        let data = json!({"v": "/mnt/pipe/kept"});
        assert_eq!(
            command.fill(data.as_object().unwrap()).unwrap()[..5],
            ["p", "/t/1/a", "--out=/t/1", "/mnt/pipeline", "/x/mnt/pipe"]
        );
        assert!(command.fill(data.as_object().unwrap()).unwrap()[5].starts_with("/mnt/pipe/kept"));
    }
}
