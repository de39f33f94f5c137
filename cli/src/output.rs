//! What goes to standard output: text for people, or one JSON document. Everything else goes to standard error.

use std::{
    io::{self, Write},
    time::Duration,
};

use serde::Serialize;

use crate::error::{Error, Result};

/// How a command prints its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON document on standard output.
    Json,
}

/// Writes `text` and a line end.
pub fn line(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")
        .and_then(|()| out.flush())
        .map_err(Error::Output)
}

/// Writes `document` as the one JSON document of this run.
pub fn json(document: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(document).map_err(|e| Error::Output(e.into()))?;
    line(&text)
}

/// Writes the result of a run: as `text` makes it, or as the one JSON document.
pub fn report<T: Serialize>(
    report: &T,
    format: Format,
    text: impl FnOnce(&T) -> String,
) -> Result<()> {
    match format {
        Format::Json => json(report),
        Format::Text => line(&text(report)),
    }
}

/// Milliseconds with three decimals: what every JSON field in `_ms` holds.
pub fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// A duration for people.
pub fn human_ms(ms: f64) -> String {
    if ms < 1.0 {
        format!("{:.0} µs", ms * 1e3)
    } else if ms < 100.0 {
        format!("{ms:.1} ms")
    } else if ms < 10_000.0 {
        format!("{ms:.0} ms")
    } else {
        format!("{:.1} s", ms / 1e3)
    }
}

/// A number of bytes for people.
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// A text table: columns of figures are set right, all others left.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column heads.
    pub fn new<const N: usize>(head: [&str; N]) -> Self {
        Table {
            rows: vec![head.map(str::to_owned).into()],
        }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    /// The table as lines, without a line end after the last.
    pub fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |c: usize| {
            self.rows
                .iter()
                .filter_map(|r| r.get(c))
                .map(|s| s.chars().count())
                .max()
                .unwrap_or(0)
        };
        let figures = |c: usize| {
            let mut cells = self.rows.iter().skip(1).filter_map(|r| r.get(c)).peekable();
            cells.peek().is_some()
                && cells.all(|s| {
                    s.is_empty() || s == "-" || s.starts_with(|c: char| c.is_ascii_digit())
                })
        };
        let shape: Vec<(usize, bool)> = (0..columns).map(|c| (width(c), figures(c))).collect();
        let lines = self.rows.iter().map(|row| {
            let cells = row.iter().zip(&shape).map(|(cell, &(width, right))| {
                if right {
                    format!("{cell:>width$}")
                } else {
                    format!("{cell:<width$}")
                }
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_set_right_and_words_left() {
        let mut table = Table::new(["name", "bytes"]);
        table.row(["a".into(), "5".into()]);
        table.row(["long".into(), "12345".into()]);
        assert_eq!(table.text(), "name  bytes\na         5\nlong  12345");
    }

    #[test]
    fn units_grow_with_the_value() {
        assert_eq!(human_bytes(1023), "1023 B");
        assert_eq!(human_bytes(1536), "1.5 KiB");
        assert_eq!(human_bytes(3 << 40), "3.0 TiB");
        assert_eq!(human_ms(0.25), "250 µs");
        assert_eq!(human_ms(12.34), "12.3 ms");
        assert_eq!(human_ms(61_000.0), "61.0 s");
    }
}
