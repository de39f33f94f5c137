//! The command line of Lazurite: jobs that show the engine at work, a look at snapshots, and the cold-start bench.
//!
//! Standard output carries the result, standard error everything else. Exit codes: 0 all is well, 1 something is wrong
//! (a run failed, `verify` or `fsck` found a bad file), 2 the arguments cannot be right.

mod bench;
mod demo;
mod error;
mod link;
mod output;
mod probe;
mod progress;
mod restore;
mod snapshots;
mod state;
mod upkeep;
mod values;
mod wordcount;

use std::{io::IsTerminal, net::SocketAddr, process::ExitCode};

use clap::{Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::{
    error::{Error, Result},
    output::Format,
};

/// Tiered state storage: state of any size that comes back in seconds, wherever it lands.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "LAZURITE_LOG sets what is logged to standard error, e.g. LAZURITE_LOG=lazurite=debug (default: warn)."
)]
struct Cli {
    /// How the result is printed on standard output.
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Serves metrics for Prometheus at http://ADDR/metrics while the command runs; port 0 takes a free one. Where it is stands
    /// on standard error.
    #[arg(long, global = true, value_name = "ADDR")]
    metrics_addr: Option<SocketAddr>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a job on keyed state.
    #[command(subcommand)]
    Run(Run),
    /// Looks at the snapshots in a remote store.
    #[command(subcommand)]
    Snapshots(snapshots::Command),
    /// Says what a restore would read, copy and cost.
    Restore(restore::Args),
    /// Finds what no snapshot needs (what killed processes and failed snapshots left), and deletes it with --delete. Exit code 1 if
    /// a snapshot cannot be read, or something not be deleted.
    Gc(upkeep::GcArgs),
    /// Looks whether all that the snapshots need is there as it was written. Exit code 1 if anything is wrong.
    Fsck(upkeep::FsckArgs),
    /// Reads one entry of a snapshot, in place: nothing is restored, and nothing written to the store. Exit code 1 where there is none.
    Get(state::get::Args),
    /// Prints the entries of a table of a snapshot, in place. With --format json one object a line.
    Scan(state::scan::Args),
    /// Writes the state of a snapshot as a plain RocksDB directory, which RocksDB's tools and bindings open.
    Export(state::export::Args),
    /// Measures.
    #[command(subcommand)]
    Bench(bench::Command),
    /// Counts words, dies, loses its disk and comes back, eager against lazy.
    Demo(demo::Args),
}

#[derive(Debug, Subcommand)]
enum Run {
    /// Counts the words in files and directory trees; a restart goes on from the newest complete snapshot.
    Wordcount(wordcount::Args),
}

/// What happens to remote files after a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Load {
    /// Serve at once, download behind.
    Lazy,
    /// Download everything before the first read.
    Eager,
    /// Fetch only what is read.
    OnDemand,
}

impl From<Load> for lazurite::LoadPolicy {
    fn from(load: Load) -> Self {
        match load {
            Load::Lazy => lazurite::LoadPolicy::Lazy,
            Load::Eager => lazurite::LoadPolicy::Eager,
            Load::OnDemand => lazurite::LoadPolicy::OnDemand,
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let started = start_logging().and_then(|()| serve_metrics(cli.metrics_addr));
    match started.and_then(|()| dispatch(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) if e.is_broken_pipe() => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("lazurite: {}", e.chain());
            ExitCode::from(e.exit_code())
        }
    }
}

fn dispatch(cli: Cli) -> Result<()> {
    let watched = cli.metrics_addr.is_some();
    match cli.command {
        Command::Run(Run::Wordcount(args)) => wordcount::run(&args, cli.format, watched),
        Command::Snapshots(command) => snapshots::run(&command, cli.format),
        Command::Restore(args) => restore::run(&args, cli.format),
        Command::Gc(args) => upkeep::gc(&args, cli.format),
        Command::Fsck(args) => upkeep::fsck(&args, cli.format),
        Command::Get(args) => state::get::run(&args, cli.format),
        Command::Scan(args) => state::scan::run(&args, cli.format),
        Command::Export(args) => state::export::run(&args, cli.format),
        Command::Bench(command) => bench::run(&command, cli.format),
        Command::Demo(args) => demo::run(&args, cli.format),
    }
}

/// Before anything is opened, so that the phases of its restore are in it.
fn serve_metrics(addr: Option<SocketAddr>) -> Result<()> {
    if let Some(addr) = addr {
        let bound = lazurite::metrics::serve(addr)?;
        eprintln!("lazurite: metrics at http://{bound}/metrics");
    }
    Ok(())
}

fn start_logging() -> Result<()> {
    let directives = std::env::var("LAZURITE_LOG").unwrap_or_else(|_| "warn".to_owned());
    let filter = EnvFilter::try_new(&directives)
        .map_err(|e| Error::Usage(format!("LAZURITE_LOG={directives}: {e}")))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, error::ErrorKind};

    use super::*;

    fn parse(line: &str) -> Result<Cli, ErrorKind> {
        Cli::try_parse_from(line.split_whitespace()).map_err(|e| e.kind())
    }

    #[test]
    fn the_commands_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_run_has_the_documented_defaults() {
        let cli =
            parse("lazurite run wordcount --dir d --remote file:///r a b --format json").unwrap();
        assert_eq!(cli.format, Format::Json);
        let Command::Run(Run::Wordcount(args)) = cli.command else {
            panic!("another command");
        };
        assert_eq!((args.job.as_str(), args.key_groups), ("wordcount", 128));
        assert_eq!(args.parallelism, 1);
        assert_eq!((args.snapshot_every, args.max_records), (1_000_000, None));
        assert_eq!(args.load, Load::Lazy);
        assert_eq!((args.cache_mib, args.disk_budget_mib), (None, None));
        assert_eq!(args.paths.len(), 2);
        assert_eq!(cli.metrics_addr, None);
    }

    #[test]
    fn what_cannot_be_right_is_refused() {
        let run = "lazurite run wordcount --dir d --remote file:///r";
        assert_eq!(parse(run).unwrap_err(), ErrorKind::MissingRequiredArgument);
        for wrong in [
            "--key-groups 0",
            "--key-groups 32769",
            "--parallelism 0",
            "--parallelism 32769",
            "--snapshot-every 0",
            "--snapshot-every -1",
            "--cache-mib 0",
            "--disk-budget-mib 3",
        ] {
            let kind = parse(&format!("{run} {wrong} text")).unwrap_err();
            assert!(
                matches!(
                    kind,
                    ErrorKind::ValueValidation | ErrorKind::UnknownArgument
                ),
                "{wrong}: {kind:?}"
            );
        }
        assert_eq!(
            parse(&format!("{run} --load later text")).unwrap_err(),
            ErrorKind::InvalidValue
        );
        let addr = parse(&format!("{run} --metrics-addr 127.0.0.1 text"));
        assert_eq!(addr.unwrap_err(), ErrorKind::ValueValidation);
    }

    #[test]
    fn the_other_commands_parse() {
        for line in [
            "lazurite snapshots list --remote s3://b/p",
            "lazurite snapshots show --remote s3://b/p --job j 7",
            "lazurite snapshots verify --remote s3://b/p",
            "lazurite gc --remote s3://b/p",
            "lazurite gc --remote s3://b/p --job j --delete --min-age 36h",
            "lazurite fsck --remote s3://b/p --quick --format json",
            "lazurite get --remote s3://b/p --table counts --key lazy --snapshot 7 --format json",
            "lazurite scan --remote s3://b/p --job j --table m --key hex:00ff --limit 5 --range 0-63",
            "lazurite export --remote s3://b/p --operator o --range 5-5 --out dir --rewrite",
            "lazurite bench cold-start --files 2000 --state-mib 1024 --latency-ms 10 --bandwidth-mbps 1000 --policy on-demand",
            "lazurite --format json demo --dir d text",
            "lazurite bench cold-start --metrics-addr [::1]:9187",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
    }
}
