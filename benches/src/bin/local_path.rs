//! Prints how fast reads and writes of local files are through Lazurite, against plain RocksDB.

use clap::{Parser, ValueEnum};
use lazurite_benches::{
    CASES, CaseReport, Quartiles, Result, Scene, SceneOptions, SideKind, compare,
};

/// Compares plain RocksDB, RocksDB through Lazurite's env, and a typed ValueState, on the same local files with the same
/// options, in slices that take turns. A ratio of 1 is as fast as plain RocksDB, 0.5 takes twice as long.
#[derive(Parser)]
struct Args {
    /// How many times each side has its turn.
    #[arg(long, default_value_t = 400)]
    rounds: usize,
    /// Entries of the table, of about 120 bytes each.
    #[arg(long, default_value_t = 200_000)]
    entries: usize,
    /// Only the cases whose name contains this.
    #[arg(long, default_value = "")]
    case: String,
    /// Only this side (plain, control, env, coded or typed), alone: for a profiler.
    #[arg(long, value_parser = parse_side)]
    side: Option<SideKind>,
    /// With a disk budget, under which local files can be let go.
    #[arg(long)]
    disk_budget: bool,
    /// Has the RocksDB below ValueState count what `RocksDbOptions::statistics` says, and no other side.
    #[arg(long)]
    statistics: bool,
    /// A table, or one JSON document.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Format {
    Text,
    Json,
}

fn parse_side(name: &str) -> std::result::Result<SideKind, String> {
    SideKind::ALL
        .into_iter()
        .find(|kind| kind.name() == name)
        .ok_or_else(|| format!("{name} is none of plain, control, env, coded, typed"))
}

fn main() -> Result<()> {
    let args = Args::parse();
    let mut reports = Vec::new();
    // Cases of the same options share their databases.
    let mut scene: Option<(SceneOptions, Scene)> = None;
    if args.format == Format::Text {
        heading();
    }
    for case in CASES.iter().filter(|case| case.name.contains(&args.case)) {
        let needed = SceneOptions {
            disk_budget: args.disk_budget,
            statistics: args.statistics,
            ..case.scene(args.entries)
        };
        let built = match scene.take() {
            Some((options, built)) if options == needed => built,
            _ => Scene::build(needed)?,
        };
        // A flush takes longer than any other slice, and all of them leave files behind.
        let rounds = match case.slice {
            10_000.. => args.rounds.div_ceil(10),
            _ => args.rounds,
        };
        let report = compare(case, &built, rounds, args.side)?;
        scene = Some((needed, built));
        if args.format == Format::Text {
            print(&report);
        }
        reports.push(report);
    }
    if args.format == Format::Json {
        println!("{}", serde_json::to_string_pretty(&reports)?);
    }
    Ok(())
}

fn heading() {
    println!(
        "{:<15} {:<8} {:>9} {:>9}   {:<22} {:<22}",
        "case", "side", "cpu ns", "wall ns", "cpu ratio (quartiles)", "wall ratio (quartiles)"
    );
}

fn print(report: &CaseReport) {
    for side in &report.sides {
        println!(
            "{:<15} {:<8} {:>9.0} {:>9.0}   {:<22} {:<22}",
            report.case,
            side.side,
            side.cpu_ns.median,
            side.wall_ns.median,
            ratio(side.cpu_ratio),
            ratio(side.wall_ratio),
        );
    }
}

fn ratio(q: Quartiles) -> String {
    format!("{:.3} ({:.3}..{:.3})", q.median, q.low, q.high)
}
