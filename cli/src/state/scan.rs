//! `lazurite scan`: the entries of a table of a snapshot.

use lazurite::{KeyGroupRange, SnapshotReader};

use super::{
    Source, parse_range,
    print::{Forms, Printer},
};
use crate::{error::Result, output::Format};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// The table.
    #[arg(long)]
    table: String,
    /// Only this key, of which all entries are printed: a text, a number, or JSON for what is made of several; or `hex:` and its encoded
    /// bytes, for any type. Nothing else is read.
    #[arg(long, conflicts_with = "prefix")]
    key: Option<String>,
    /// Only keys that begin so, as they are printed. All keys are read for it: they are spread over the key groups by their hash.
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
    /// No more entries than this.
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Only these key groups, both included. Default: all that the snapshot has.
    #[arg(long, value_name = "FIRST-LAST", value_parser = parse_range)]
    range: Option<KeyGroupRange>,
}

/// Prints the entries as they come.
pub fn run(args: &Args, format: Format) -> Result<()> {
    let (store, mut options) = args.source.open()?;
    if let Some(range) = args.range {
        options = options.key_group_range(range);
    }
    let reader = SnapshotReader::open(&store, options)?;
    let table = reader.table(&args.table)?;
    let forms = Forms::new(table.schema());
    let entries = match &args.key {
        Some(key) => table.entries_of(&forms.key.encode("--key", key)?)?,
        None => table.entries()?,
    };
    let mut printer = Printer::new(format);
    let mut left = args.limit.unwrap_or(u64::MAX);
    for entry in entries {
        if left == 0 {
            break;
        }
        let entry = entry?;
        let prefix = args.prefix.as_deref().unwrap_or_default();
        if prefix.is_empty() || forms.key.text(&entry.key).starts_with(prefix) {
            printer.print(&forms, &entry)?;
            left -= 1;
        }
    }
    printer.finish()
}
