//! How lists of services are shown: a table for people, or JSON and YAML with the same content for programs.

use std::io::{self, Write};

use anyhow::{Context, Result};
use serde::Serialize;

/// What a list is shown as. The default does not depend on the terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Columns.
    #[default]
    Table,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// Shows `data`; as a table, `rows` under `head`.
///
/// # Errors
/// When it cannot be written. A reader that went away is no error.
pub fn show<T: Serialize>(
    format: Format,
    data: &T,
    head: &[&str],
    rows: &[Vec<String>],
) -> Result<()> {
    let text = match format {
        Format::Table => table(head, rows),
        Format::Json => serde_json::to_string_pretty(data).context("make JSON")? + "\n",
        Format::Yaml => serde_yaml::to_string(data).context("make YAML")?,
    };
    print(&text)
}

/// Text for standard output.
///
/// # Errors
/// When it cannot be written. A reader that went away is no error.
pub fn print(text: &str) -> Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(e).context("write"),
        _ => Ok(()),
    }
}

/// Columns as wide as they need to be, two spaces apart; nothing after the last.
fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = head.iter().map(|&word| word.to_owned()).collect();
    let all: Vec<&Vec<String>> = std::iter::once(&head).chain(rows).collect();
    let width = |column: usize| {
        all.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let line = |row: &Vec<String>| {
        let cells =
            row.iter().enumerate().map(|(at, cell)| format!("{cell:0$}", width(at).unwrap_or(0)));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    all.iter().map(|row| line(row)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows =
            [vec!["network".to_owned(), "ready".to_owned()], vec!["ntp".to_owned(), String::new()]];
        assert_eq!(table(&["NAME", "STATE"], &rows), "NAME     STATE\nnetwork  ready\nntp\n");
    }
}
