//! `lazurite bench`: what can be measured on the user's own machine, in one run.

pub mod cache;
pub mod cold_start;
pub mod download;
pub mod ownership;
pub mod points;
pub mod process;
pub mod reads;
pub mod rescale;
pub mod scan;
pub mod scene;
pub mod shape;
pub mod stores;
pub mod trace;

use crate::{error::Result, output::Format};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Point reads of remote state that is larger than the local disk: chunks against whole files and no cache.
    Cache(cache::Args),
    /// How soon state is back after its local disk was lost: lazy against eager.
    ColdStart(cold_start::Args),
    /// What the background download does to reads in front of it, and how much of the link it has.
    Download(download::Args),
    /// The first snapshot of a job that begins with another's, copied or claimed, and a savepoint: what is sent, and how long it takes.
    Ownership(ownership::Args),
    /// Cold point reads, many at once: requests a read, and how near to what round trip and link allow.
    Points(points::Args),
    /// Records processed straight after a restore, from the begin of the open on: lazy against eager and all local.
    Process(process::Args),
    /// How soon state is back for another parallelism, and what the first snapshot after that costs.
    Rescale(rescale::Args),
    /// Iterators over remote state: their share of the link, and what they fetch for nothing.
    Scan(scan::Args),
    /// What a snapshot, a restore and cold reads cost on each of some stores, in one run.
    Stores(stores::Args),
}

/// Runs one of the benches.
pub fn run(command: &Command, format: Format) -> Result<()> {
    match command {
        Command::Cache(args) => cache::run(args, format),
        Command::ColdStart(args) => cold_start::run(args, format),
        Command::Download(args) => download::run(args, format),
        Command::Ownership(args) => ownership::run(args, format),
        Command::Points(args) => points::run(args, format),
        Command::Process(args) => process::run(args, format),
        Command::Rescale(args) => rescale::run(args, format),
        Command::Scan(args) => scan::run(args, format),
        Command::Stores(args) => stores::run(args, format),
    }
}
