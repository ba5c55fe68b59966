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

/// Complaints that a boot says, one by one.
const SAID: usize = 20;
/// Characters of one.
const LONGEST: usize = 400;

/// What a boot says of `found`: a serial line takes a second for a hundred lines, and a file may have any number of them.
/// Errors come first when it is not all.
#[must_use]
pub fn summary(found: &[Diagnostic]) -> Vec<String> {
    let mut all: Vec<&Diagnostic> = found.iter().collect();
    let more = all.len().saturating_sub(SAID);
    if more > 0 {
        all.sort_by_key(|wrong| wrong.severity == Severity::Warning);
    }
    let clean = |line: String| {
        let visible = line.chars().map(|c| if c.is_control() { ' ' } else { c });
        visible.take(LONGEST).collect::<String>()
    };
    let mut lines: Vec<String> = all.iter().take(SAID).map(|wrong| clean(wrong.line())).collect();
    if more > 0 {
        lines.push(format!("and {more} more: `ros config validate` says them all"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Layer;

    #[test]
    fn a_boot_says_so_many_and_errors_first() {
        let origin = Origin { layer: Layer::User, file: "f".into(), line: 1, column: 2 };
        let warning = Diagnostic::warning(origin.clone(), format!("w\n{}", "x".repeat(1000)));
        let error = Diagnostic::error(origin, "e".into());
        let few = summary(&[warning.clone(), error.clone()]);
        assert!(few[0].starts_with("f:1:2: warning: w xx") && few[0].chars().count() == LONGEST);
        assert_eq!(few[1..], ["f:1:2: error: e"]);
        let many = [vec![warning; 5000], vec![error]].concat();
        let said = summary(&many);
        assert_eq!((said.len(), said[0].as_str()), (SAID + 1, "f:1:2: error: e"));
        assert!(said[SAID].starts_with("and 4981 more"), "{}", said[SAID]);
    }
}
