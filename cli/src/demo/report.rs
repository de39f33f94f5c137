//! What the demo ends in: eager against lazy.

use serde::Serialize;

use crate::{
    output::{Table, human_bytes, human_ms},
    probe::{self, Figures},
};

/// The result. Field names are the JSON document's.
#[derive(Debug, Serialize)]
pub struct Report {
    pub text_bytes: u64,
    pub records: u64,
    pub words: u64,
    pub distinct: u64,
    pub latency_ms: u64,
    pub bandwidth_mbps: Option<u64>,
    pub killed_after_ms: f64,
    /// The snapshot that the restores came back from, and the records that it holds.
    pub restored_from: u64,
    pub restored_records: u64,
    pub counts_exact: bool,
    /// Coming back with the counted words.
    pub words_state: Comparison,
    /// Coming back with more state than the words are; `None` where that was left out.
    pub larger_state: Option<Comparison>,
}

/// Coming back with the same state in both ways.
#[derive(Debug, Serialize)]
pub struct Comparison {
    pub bytes: u64,
    pub files: usize,
    pub eager: Figures,
    pub lazy: Figures,
    /// Until the first read.
    pub eager_over_lazy: f64,
}

impl Comparison {
    /// Two cold starts with `bytes` of state in `files` files.
    pub fn new(bytes: u64, files: usize, eager: Figures, lazy: Figures) -> Self {
        Comparison {
            bytes,
            files,
            eager,
            lazy,
            eager_over_lazy: probe::times(eager.first_read_ms, lazy.first_read_ms),
        }
    }
}

impl Report {
    /// The report for people.
    pub fn text(&self) -> String {
        let mut table = Table::new([
            "state",
            "files",
            "policy",
            "first read",
            "requests",
            "round trips",
            "bytes",
            "eager/lazy",
        ]);
        let compared = [
            Some(("words", &self.words_state)),
            self.larger_state.as_ref().map(|c| ("noise", c)),
        ];
        for (what, c) in compared.into_iter().flatten() {
            for (policy, f) in [("eager", &c.eager), ("lazy", &c.lazy)] {
                table.row([
                    format!("{what}, {}", human_bytes(c.bytes)),
                    c.files.to_string(),
                    policy.to_owned(),
                    human_ms(f.first_read_ms),
                    f.requests_before_first_read.to_string(),
                    f.sequential_round_trips_before_first_read.to_string(),
                    human_bytes(f.bytes_before_first_read),
                    if policy == "lazy" {
                        c.eager_over_lazy.to_string()
                    } else {
                        String::new()
                    },
                ]);
            }
        }
        format!(
            "{}\n(from the call of open until the first read has ended)",
            table.text()
        )
    }
}
