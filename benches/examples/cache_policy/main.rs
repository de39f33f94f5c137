//! Prints how much of what is read the chunk cache would hold, against other policies in its place: the same reads of
//! blocks, the same bytes. Nothing is stored or fetched, so the figures depend on the seed alone, and on no clock.

mod policies;
mod traces;

use std::fmt::Write;

use clap::{Parser, ValueEnum};
use policies::{BLOCK_BYTES, BLOCKS, MAKERS, Maker};
use serde::Serialize;
use traces::{Access, Trace};

/// Hit ratios of the chunk cache's policy, of S3-FIFO as published, of moka's TinyLFU and of LRU.
#[derive(Parser)]
struct Args {
    /// Size of the state in MiB: values of 1 KiB in blocks of 16 KiB in chunks of 64 KiB.
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u64).range(1..=1 << 16))]
    state_mib: u64,
    /// Values read.
    #[arg(long, default_value_t = 2_000_000, value_parser = clap::value_parser!(u64).range(100..))]
    reads: u64,
    /// What a cache may take, in thousandths of the state; give it once for each.
    #[arg(long, default_values_t = [50, 125, 250], value_parser = clap::value_parser!(u64).range(1..=1000))]
    per_mille: Vec<u64>,
    /// A block cache before it, in MiB, whose hits no policy sees; give it once for each.
    #[arg(long, default_values_t = [0, 8])]
    block_cache_mib: Vec<u64>,
    /// Another seed, other reads.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A table, or one JSON document.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// The result. Field names are the JSON document's.
#[derive(Serialize)]
struct Report {
    state_bytes: u64,
    reads: u64,
    seed: u64,
    runs: Vec<Run>,
}

/// One trace and one size.
#[derive(Serialize)]
struct Run {
    keys: &'static str,
    block_cache_bytes: u64,
    cache_bytes: u64,
    /// Reads that came to the cache.
    reads: u64,
    policies: Vec<Outcome>,
}

#[derive(Serialize)]
struct Outcome {
    policy: &'static str,
    /// Reads that found all that they asked for, of those that came; a scan is not counted.
    hit_ratio: f64,
    /// The same of each tenth of them.
    tenths: Vec<f64>,
}

fn main() -> lazurite_benches::Result<()> {
    let args = Args::parse();
    let chunk_bytes = BLOCK_BYTES * u64::from(BLOCKS);
    let state_bytes = args.state_mib << 20;
    let mut report = Report {
        state_bytes,
        reads: args.reads,
        seed: args.seed,
        runs: Vec::new(),
    };
    for mib in &args.block_cache_mib {
        for trace in Trace::ALL {
            let block_cache_bytes = mib << 20;
            let chunks = state_bytes / chunk_bytes;
            let accesses = trace.accesses(chunks, args.reads, block_cache_bytes, args.seed);
            for per_mille in &args.per_mille {
                let cache_bytes = state_bytes / 1000 * per_mille;
                report.runs.push(Run {
                    keys: trace.name(),
                    block_cache_bytes,
                    cache_bytes,
                    reads: accesses.iter().filter(|access| !access.scan).count() as u64,
                    policies: MAKERS
                        .map(|maker| measure(maker, cache_bytes, &accesses))
                        .into(),
                });
            }
        }
    }
    match args.format {
        Format::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Format::Text => print!("{}", report.text()),
    }
    Ok(())
}

fn measure((policy, make): Maker, cache_bytes: u64, accesses: &[Access]) -> Outcome {
    let mut cache = make(cache_bytes);
    let mut hits = Vec::new();
    for access in accesses {
        let hit = cache.read(access.chunk, access.blocks);
        if !access.scan {
            hits.push(hit);
        }
    }
    let ratio = |hits: &[bool]| {
        let found = hits.iter().filter(|hit| **hit).count();
        (found as f64 / hits.len().max(1) as f64 * 1e4).round() / 1e4
    };
    Outcome {
        policy,
        hit_ratio: ratio(&hits),
        tenths: hits
            .chunks(hits.len().div_ceil(10).max(1))
            .map(ratio)
            .collect(),
    }
}

impl Report {
    fn text(&self) -> String {
        let mut text = String::from("| block cache | keys | cache, of the state |");
        for (name, _) in MAKERS {
            let _ = write!(text, " {name} |");
        }
        text += "\n|---|---|---|";
        text += &"---|".repeat(MAKERS.len());
        text.push('\n');
        for run in &self.runs {
            let share = run.cache_bytes as f64 / self.state_bytes as f64 * 100.0;
            let mib = run.block_cache_bytes >> 20;
            let _ = write!(text, "| {mib} MiB | {} | {share:.1} % |", run.keys);
            for outcome in &run.policies {
                let _ = write!(text, " {:.1} % |", outcome.hit_ratio * 100.0);
            }
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_figures_each_time() {
        let accesses = Trace::Zipf.accesses(200, 5000, 0, 1);
        for maker in MAKERS {
            let run = || measure(maker, 20 * BLOCK_BYTES * u64::from(BLOCKS), &accesses);
            let (one, other) = (run(), run());
            assert_eq!(one.tenths, other.tenths, "{}", maker.0);
            assert!(one.hit_ratio > 0.1 && one.tenths.len() == 10, "{}", maker.0);
        }
    }
}
