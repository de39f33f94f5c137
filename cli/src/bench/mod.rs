//! `lazurite bench`: what can be measured on the user's own machine, in one run.

pub mod cold_start;
pub mod reads;
pub mod shape;
pub mod stores;

use crate::{error::Result, output::Format};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// How soon state is back after its local disk was lost: lazy against eager.
    ColdStart(cold_start::Args),
    /// What a snapshot, a restore and cold reads cost on each of some stores, in one run.
    Stores(stores::Args),
}

/// Runs one of the benches.
pub fn run(command: &Command, format: Format) -> Result<()> {
    match command {
        Command::ColdStart(args) => cold_start::run(args, format),
        Command::Stores(args) => stores::run(args, format),
    }
}
