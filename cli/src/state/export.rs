//! `lazurite export`: the state of a snapshot as a plain RocksDB directory.

use std::path::PathBuf;

use lazurite::{ExportOptions, ExportReport, ExportWay, ExportedTable, KeyGroupRange};
use serde::Serialize;

use super::{Source, parse_range};
use crate::{
    error::Result,
    output::{self, Format, human_bytes, human_ms, ms},
    progress,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// Only these key groups, both included. Default: all that the snapshot has.
    #[arg(long, value_name = "FIRST-LAST", value_parser = parse_range)]
    range: Option<KeyGroupRange>,
    /// The directory to write: empty, or not there yet. Beside it, DIR.partial is used meanwhile.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Writes all table files anew, in a format that RocksDB reads since 6.6. Without, it takes RocksDB 10.4.
    #[arg(long)]
    rewrite: bool,
}

#[derive(Serialize)]
struct Report {
    job: String,
    snapshot: u64,
    operator: String,
    key_groups: [u16; 2],
    tables: Vec<Table>,
    elapsed_ms: f64,
}

#[derive(Serialize)]
struct Table {
    name: String,
    way: &'static str,
    files: u64,
    bytes: u64,
    /// Of a table that was rewritten.
    entries: Option<u64>,
}

/// Writes the directory, behind a progress bar.
pub fn run(args: &Args, format: Format) -> Result<()> {
    let (store, mut options) = args.source.open()?;
    if let Some(range) = args.range {
        options = options.key_group_range(range);
    }
    let bar = progress::bytes(0, "exporting", format);
    let to = ExportOptions::new(&args.out).rewrite(args.rewrite);
    let done = lazurite::export(&store, options, to, &|done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    output::report(&Report::from(done?), format, text)
}

impl From<ExportReport> for Report {
    fn from(report: ExportReport) -> Self {
        let range = report.key_group_range;
        Report {
            job: report.job,
            snapshot: report.snapshot_id,
            operator: report.operator,
            key_groups: [range.start(), range.end()],
            tables: report.tables.into_iter().map(Table::from).collect(),
            elapsed_ms: ms(report.elapsed),
        }
    }
}

impl From<ExportedTable> for Table {
    fn from(table: ExportedTable) -> Self {
        let (way, entries) = match table.way {
            ExportWay::Rewritten { entries } => ("rewritten", Some(entries)),
            _ => ("moved", None),
        };
        Table {
            name: table.name,
            way,
            files: table.files,
            bytes: table.bytes,
            entries,
        }
    }
}

fn text(report: &Report) -> String {
    let [first, last] = report.key_groups;
    let mut text = format!(
        "snapshot {} of job {}, operator {}, key groups {first}..={last}: exported in {}",
        report.snapshot,
        report.job,
        report.operator,
        human_ms(report.elapsed_ms)
    );
    for table in &report.tables {
        let how = match table.entries {
            Some(entries) => format!("{entries} entries written anew to"),
            None => "kept in".into(),
        };
        let (files, bytes) = (table.files, human_bytes(table.bytes));
        text += &format!("\n  {}: {how} {files} files, {bytes}", table.name);
    }
    text
}
