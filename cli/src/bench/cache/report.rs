//! What `lazurite bench cache` found, as JSON and as text.

use serde::Serialize;

use super::{restart, restore::RestoreRun};
use crate::output::{Table, human_bytes, human_ms};

/// The result. Field names are the JSON document's.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub state_bytes: u64,
    pub files: usize,
    pub budget_bytes: u64,
    pub block_cache_bytes: u64,
    pub reads: u64,
    pub threads: u64,
    pub latency_ms: u64,
    pub bandwidth_mbps: u64,
    pub promote_after: u32,
    pub promote_limit: u32,
    pub runs: Vec<Run>,
    /// The first reads after a restore.
    pub restores: Vec<RestoreRun>,
    /// The last reads before a kill, and the first ones after it.
    pub restart: Option<restart::Report>,
    /// How many times more bytes a read cost with whole files than with chunks, for keys by Zipf.
    pub zipf_bytes_whole_files_over_chunks: f64,
    /// The same with ForSt's guards.
    pub zipf_bytes_guarded_whole_files_over_chunks: f64,
    /// The same where the keys that are read often lie side by side, and how many times longer a read took.
    pub clustered_bytes_whole_files_over_chunks: f64,
    pub clustered_bytes_guarded_whole_files_over_chunks: f64,
    pub clustered_time_whole_files_over_chunks: f64,
    /// How many times longer a read took without a cache than with chunks, for uniform keys.
    pub uniform_time_no_cache_over_chunks: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct Run {
    pub keys: &'static str,
    pub cache: &'static str,
    /// Fewer than were asked for where the time was up.
    pub reads: u64,
    pub seconds: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// Of the second half of the reads.
    pub warm_p50_ms: f64,
    pub warm_p99_ms: f64,
    /// Reads of files that the cache answered, of all that came to it.
    pub hit_ratio: f64,
    pub remote_requests: u64,
    pub remote_bytes: u64,
    pub bytes_per_read: f64,
    /// Whole files fetched.
    pub loads: u64,
    pub evictions: u64,
    /// What the cache took when the reads ended.
    pub cache_bytes: u64,
    pub windows: Vec<Window>,
}

/// What had been done when a tenth of the reads had ended: sums since the begin.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Window {
    pub until_ms: f64,
    pub reads: u64,
    pub remote_requests: u64,
    pub remote_bytes: u64,
}

impl Report {
    pub fn text(&self) -> String {
        let mut text = format!(
            "{} in {} files, {} for a cache; {} reads by {} threads, {} ms a request, {} Mbit/s\n\n",
            human_bytes(self.state_bytes),
            self.files,
            human_bytes(self.budget_bytes),
            self.reads,
            self.threads,
            self.latency_ms,
            self.bandwidth_mbps,
        );
        let mut table = Table::new([
            "keys",
            "cache",
            "reads",
            "time",
            "p50",
            "p99",
            "warm p50",
            "warm p99",
            "hits",
            "requests",
            "bytes",
            "bytes a read",
        ]);
        for run in &self.runs {
            table.row([
                run.keys.to_owned(),
                run.cache.to_owned(),
                run.reads.to_string(),
                human_ms(run.seconds * 1e3),
                human_ms(run.p50_ms),
                human_ms(run.p99_ms),
                human_ms(run.warm_p50_ms),
                human_ms(run.warm_p99_ms),
                format!("{:.1} %", run.hit_ratio * 100.0),
                run.remote_requests.to_string(),
                human_bytes(run.remote_bytes),
                human_bytes(run.bytes_per_read as u64),
            ]);
        }
        if self.runs.is_empty() {
            return text + &self.restores_text();
        }
        text += &table.text();
        text += &format!(
            "\n\na read by Zipf costs {} times the bytes of chunks with whole files, {} times with guarded ones; of keys that lie side by side {} and {} times the bytes, {} times the time; a uniform one takes {} times as long without a cache",
            self.zipf_bytes_whole_files_over_chunks,
            self.zipf_bytes_guarded_whole_files_over_chunks,
            self.clustered_bytes_whole_files_over_chunks,
            self.clustered_bytes_guarded_whole_files_over_chunks,
            self.clustered_time_whole_files_over_chunks,
            self.uniform_time_no_cache_over_chunks,
        );
        if let Some(restart) = &self.restart {
            text += "\n";
            text += &restart.text();
        }
        text + "\n\n" + &self.restores_text()
    }

    fn restores_text(&self) -> String {
        let mut table = Table::new([
            "restored from",
            "disk budget",
            "reads",
            "time",
            "p50",
            "p99",
            "hits",
            "of the first tenth",
            "bytes of reads",
            "of the first tenth",
            "warmed",
            "bytes of the download",
        ]);
        for run in &self.restores {
            let first = run.windows.first();
            table.row([
                if run.heat { "with heat" } else { "without" }.to_owned(),
                run.disk_budget_bytes.map_or("none".to_owned(), human_bytes),
                run.reads.to_string(),
                human_ms(run.seconds * 1e3),
                human_ms(run.p50_ms),
                human_ms(run.p99_ms),
                format!("{:.1} %", run.hit_ratio * 100.0),
                first.map_or(String::new(), |w| format!("{:.1} %", w.hit_ratio * 100.0)),
                human_bytes(run.read_bytes),
                first.map_or(String::new(), |w| human_bytes(w.read_bytes)),
                human_bytes(run.warmed_bytes),
                human_bytes(run.download_bytes),
            ]);
        }
        table.text()
    }
}
