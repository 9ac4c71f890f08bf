//! What commands print: a table for people, or JSON for programs.

use std::io::Write as _;

use serde_json::Value;

use crate::failure::Failure;

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Columns for people.
    Table,
    /// The API's own JSON.
    Json,
}

impl Format {
    /// Prints one thing: its fields, a line each.
    pub(crate) fn one(self, value: &Value) -> Result<(), Failure> {
        match (self, value) {
            (Self::Table, Value::Object(fields)) => {
                let rows = fields
                    .iter()
                    .map(|(name, value)| vec![name.clone(), cell(value)]);
                print(&align(rows.collect()))
            }
            _ => json(value),
        }
    }

    /// Prints many things: a row each, with these fields.
    pub(crate) fn many(self, values: &Value, fields: &[&str]) -> Result<(), Failure> {
        match (self, values) {
            (Self::Table, Value::Array(values)) => {
                let heads = fields.iter().map(|field| field.to_uppercase()).collect();
                let row = |value: &Value| fields.iter().map(|field| cell(&value[*field])).collect();
                let rows = std::iter::once(heads).chain(values.iter().map(row));
                print(&align(rows.collect()))
            }
            _ => json(values),
        }
    }
}

fn json(value: &Value) -> Result<(), Failure> {
    print(&format!("{value:#}\n"))
}

/// Prints, and ends quietly when nobody reads any more (`| head`).
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let printed = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    match printed {
        Err(err) if err.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        printed => printed.map_err(|err| Failure::Usage(format!("cannot print: {err}"))),
    }
}

/// A value on one line, with control characters escaped: what a task says must not drive a terminal.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text
            .escape_debug()
            .to_string()
            .replace("\\'", "'")
            .replace("\\\"", "\""),
        value => value.to_string(),
    }
}

fn align(rows: Vec<Vec<String>>) -> String {
    let n_columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column| {
        rows.iter()
            .filter_map(|row: &Vec<String>| row.get(column))
            .map(|cell: &String| cell.chars().count())
            .max()
    };
    let widths: Vec<_> = (0..n_columns)
        .map(|column| width(column).unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width + 2 - cell.chars().count()));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_control_characters_escaped() {
        let rows = vec![
            vec!["ID".to_owned(), "STATE".to_owned()],
            vec!["longer".to_owned(), cell(&Value::from("\u{1b}[31mred"))],
        ];
        assert_eq!(align(rows), "ID      STATE\nlonger  \\u{1b}[31mred\n");
    }
}
