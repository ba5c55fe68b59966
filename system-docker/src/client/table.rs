//! Columns for people, and how values are shown in them.

/// Columns as wide as they need to be, three spaces apart.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = head.iter().map(|&word| word.to_owned()).collect();
    let all: Vec<&Vec<String>> = std::iter::once(&head).chain(rows).collect();
    let width = |at: usize| {
        all.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |row: &&Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("   ").trim_end().to_owned() + "\n"
    };
    all.iter().map(line).collect()
}

/// Bytes as Docker shows them: decimal units, three digits.
pub fn size(bytes: i64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    match value {
        value if unit == 0 || value >= 100.0 => format!("{value:.0}{}", UNITS[unit]),
        value if value >= 10.0 => format!("{value:.1}{}", UNITS[unit]),
        value => format!("{value:.2}{}", UNITS[unit]),
    }
}

/// The first 12 hex digits of an id.
pub fn short(id: &str) -> String {
    let hex = id.strip_prefix("sha256:").unwrap_or(id);
    hex.get(..12).unwrap_or(hex).to_owned()
}

/// Text of `stdout`; a reader that went away is no error.
pub fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_and_sizes() {
        assert_eq!(table(&["A", "B"], &[vec!["xyz".into(), "1".into()]]), "A     B\nxyz   1\n");
        for (bytes, text) in
            [(0, "0B"), (999, "999B"), (1_980_000, "1.98MB"), (45_600_000, "45.6MB")]
        {
            assert_eq!(size(bytes), text);
        }
    }
}
