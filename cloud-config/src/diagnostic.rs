//! What is wrong with a configuration: where, what was expected, and what to do.

use serde::Serialize;

use crate::tree::Origin;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The value is left out.
    Error,
    /// The value counts, or has no effect here.
    Warning,
}

/// One complaint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad.
    pub severity: Severity,
    /// Where.
    pub origin: Origin,
    /// Dotted path of the key; empty when it is about the file.
    pub path: String,
    /// What is wrong and what was expected.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl Diagnostic {
    /// An error.
    #[must_use]
    pub fn error(origin: Origin, message: String) -> Self {
        Self { severity: Severity::Error, origin, path: String::new(), message, hint: None }
    }

    /// A warning.
    #[must_use]
    pub fn warning(origin: Origin, message: String) -> Self {
        Self { severity: Severity::Warning, ..Self::error(origin, message) }
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: &str) -> Self {
        self.hint = Some(hint.to_owned());
        self
    }

    /// The same about the key at `path`.
    #[must_use]
    pub fn about(mut self, path: &str) -> Self {
        path.clone_into(&mut self.path);
        self
    }

    /// One line: `file:line:column: error: …`.
    #[must_use]
    pub fn line(&self) -> String {
        let word = if self.severity == Severity::Error { "error" } else { "warning" };
        let key = if self.path.is_empty() { String::new() } else { format!("{}: ", self.path) };
        let hint = self.hint.as_ref().map_or_else(String::new, |hint| format!(" ({hint})"));
        format!("{}: {word}: {key}{}{hint}", self.origin, self.message)
    }

    /// The line, then the source line with a caret below the place.
    #[must_use]
    pub fn with_source(&self, source: &str) -> String {
        let mut text = self.line();
        if let Some(line) =
            self.origin.line.checked_sub(1).and_then(|index| source.lines().nth(index))
        {
            let caret = " ".repeat(self.origin.column.saturating_sub(1));
            text.push_str(&format!("\n  | {line}\n  | {caret}^"));
        }
        text
    }

    /// As JSON, for `--format json`.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "severity": self.severity, "file": self.origin.file, "line": self.origin.line,
            "column": self.origin.column, "path": self.path, "message": self.message, "hint": self.hint,
        })
    }
}
