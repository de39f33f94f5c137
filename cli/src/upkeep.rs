//! `lazurite gc` and `lazurite fsck`: what a store holds that nobody needs, and what it lacks that somebody does.

use std::time::Duration;

use lazurite::{
    FsckOptions, GcOptions, SnapshotStore,
    upkeep::{Broken, BrokenState, Count, Damage, FsckReport, GcReport, JobObjects, Unreadable},
};
use lazurite_env::IoRuntime;
use serde::Serialize;

use crate::{
    error::{Error, Result},
    link,
    output::{self, Format, Table, human_bytes},
    progress,
};

#[derive(Debug, clap::Args)]
pub struct GcArgs {
    /// The store: file:///dir, s3://bucket/prefix?endpoint=…, hdfs://host:port/dir.
    #[arg(long, value_name = "URI")]
    remote: String,
    /// Only this job's objects. Default: those of every job in the store.
    #[arg(long)]
    job: Option<String>,
    /// Deletes the orphans. Without it they are listed alone.
    #[arg(long)]
    delete: bool,
    /// What was put more recently stays: 90s, 30m, 24h, 7d. With less than 13h no job may be taking a snapshot meanwhile.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = duration)]
    min_age: Duration,
}

#[derive(Debug, clap::Args)]
pub struct FsckArgs {
    /// The store: file:///dir, s3://bucket/prefix?endpoint=…, hdfs://host:port/dir.
    #[arg(long, value_name = "URI")]
    remote: String,
    /// Only this job's snapshots. Default: those of every job in the store.
    #[arg(long)]
    job: Option<String>,
    /// Only whether everything is there with the right length; reads no object.
    #[arg(long)]
    quick: bool,
}

/// The one JSON document of a run.
#[derive(Serialize)]
struct Outcome<'a, T> {
    ok: bool,
    #[serde(flatten)]
    report: &'a T,
}

/// Runs `lazurite gc`.
pub fn gc(args: &GcArgs, format: Format) -> Result<()> {
    let options = GcOptions {
        job: args.job.clone(),
        min_age: args.min_age,
        delete: args.delete,
    };
    let report = open(&args.remote)?.gc(&options)?;
    let ok = report.is_ok();
    let outcome = Outcome {
        ok,
        report: &report,
    };
    output::report(&outcome, format, |of| gc_text(of.report, args.delete))?;
    let failed: usize = report.jobs.iter().map(|job| job.failed.len()).sum();
    match (report.unreadable.len(), failed) {
        (0, 0) => Ok(()),
        (0, failed) => Err(Error::Wrong(format!(
            "{failed} objects could not be deleted; run it again"
        ))),
        (unreadable, _) => Err(Error::Wrong(format!(
            "{unreadable} snapshots or claims cannot be read, so nobody knows what is needed, and nothing was deleted; give access to them, \
             or delete the _metadata or _claimed that is named"
        ))),
    }
}

/// Runs `lazurite fsck`.
pub fn fsck(args: &FsckArgs, format: Format) -> Result<()> {
    let options = FsckOptions {
        job: args.job.clone(),
        quick: args.quick,
    };
    let store = open(&args.remote)?;
    let bar = progress::bytes(0, "reading", format);
    let report = store.fsck(&options, &|progress| {
        bar.set_length(progress.bytes_total);
        bar.set_position(progress.bytes_done);
    });
    bar.finish_and_clear();
    let report = report?;
    let outcome = Outcome {
        ok: report.is_ok(),
        report: &report,
    };
    output::report(&outcome, format, |of| fsck_text(of.report))?;
    match report.damages.len() {
        0 => Ok(()),
        1 => Err(Error::Wrong("1 thing is wrong".into())),
        damages => Err(Error::Wrong(format!("{damages} things are wrong"))),
    }
}

fn open(remote: &str) -> Result<SnapshotStore> {
    let runtime = IoRuntime::new(2)?;
    let store = link::open_store(remote, &runtime)?;
    Ok(SnapshotStore::new(store, runtime))
}

fn gc_text(report: &GcReport, delete: bool) -> String {
    let mut text = unreadable_text(&report.unreadable);
    for job in &report.jobs {
        text += &job_text(&job.objects);
        for failed in &job.failed {
            text += &format!(
                "  could not be deleted: {}: {}\n",
                failed.key, failed.reason
            );
        }
        text += &orphans_text(&job.objects);
        if delete {
            text += &format!("  deleted: {}\n", count_text(job.deleted));
        }
    }
    let orphans = report
        .jobs
        .iter()
        .any(|job| !job.objects.orphans.is_empty());
    text += match (report.jobs.is_empty(), orphans, delete) {
        (true, ..) => "the store holds no job\n",
        (_, true, false) => "nothing was deleted: run it with --delete to delete the orphans\n",
        _ => "",
    };
    text.trim_end().to_owned()
}

fn fsck_text(report: &FsckReport) -> String {
    let mut text = unreadable_text(&report.unreadable_elsewhere);
    for damage in &report.damages {
        text += &damage_text(damage);
    }
    report.jobs.iter().for_each(|job| text += &job_text(job));
    let read = match report.read_bytes {
        0 => "none of them read".to_owned(),
        bytes => format!("{} read", human_bytes(bytes)),
    };
    let verdict = match report.damages.len() {
        0 => "nothing is wrong".to_owned(),
        damages => format!("{damages} wrong"),
    };
    text + &format!(
        "{} snapshots with {}, {read}: {verdict}",
        report.snapshots,
        count_text(report.objects)
    )
}

fn damage_text(damage: &Damage) -> String {
    let mut text = format!("{}: {}\n", damage.key, damage.problem);
    for Broken { job, id, states } in &damage.breaks {
        text += &match id {
            0 => format!("  nobody knows who has claimed job {job}\n"),
            id => format!("  breaks snapshot {id} of job {job}\n"),
        };
        states.iter().for_each(|state| text += &state_text(state));
    }
    text
}

fn state_text(state: &BrokenState) -> String {
    let tables = state.tables.iter();
    let tables: Vec<String> = tables
        .map(|of| format!("table {} {}", of.table, of.key_group_range))
        .collect();
    let head = format!("    operator {} {}", state.operator, state.key_group_range);
    match tables.is_empty() {
        true => head + "\n",
        false => format!("{head}: {}\n", tables.join(", ")),
    }
}

fn unreadable_text(unreadable: &[Unreadable]) -> String {
    let lines = unreadable.iter().map(|of| {
        let what = match of.id {
            0 => "the claim".to_owned(),
            id => format!("snapshot {id}"),
        };
        format!(
            "{what} of job {} cannot be read: {}: {}\n",
            of.job, of.key, of.reason
        )
    });
    lines.collect()
}

fn job_text(job: &JobObjects) -> String {
    let mut text = format!(
        "job {}: {} referenced, {} orphans",
        job.job,
        count_text(job.referenced),
        count_text(job.orphan_count())
    );
    let unknown = job.unknown.len();
    for (count, what) in [(job.young, "too new to tell"), (job.undecided, "undecided")] {
        if count.objects > 0 {
            text += &format!(", {} {what}", count_text(count));
        }
    }
    text += "\n";
    if unknown > 0 {
        text += &format!("  {unknown} that no job gives such names, left alone:\n");
        for of in &job.unknown {
            text += &format!("    {}\n", of.key);
        }
    }
    text
}

fn orphans_text(job: &JobObjects) -> String {
    if job.orphans.is_empty() {
        return String::new();
    }
    let mut table = Table::new(["  orphan", "bytes", "age"]);
    for orphan in &job.orphans {
        table.row([
            format!("  {}", orphan.key),
            orphan.bytes.to_string(),
            age_text(orphan.age),
        ]);
    }
    table.text() + "\n"
}

fn count_text(count: Count) -> String {
    format!("{} ({})", count.objects, human_bytes(count.bytes))
}

/// The two largest units.
fn age_text(age: Duration) -> String {
    let seconds = age.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {} min", minutes % 60),
        (days, hours, _) => format!("{days} d {} h", hours % 24),
    }
}

/// `90s`, `30m`, `24h` or `7d`.
fn duration(text: &str) -> Result<Duration, String> {
    let at = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err("give a whole number and its unit: 90s, 30m, 24h, 7d".into()),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| "give a whole number before the unit".to_owned())?;
    let seconds = number.checked_mul(seconds).ok_or("that is too long")?;
    Ok(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_number_and_a_unit() {
        for (text, seconds) in [
            ("0s", 0),
            ("90s", 90),
            ("30m", 1800),
            ("24h", 86_400),
            ("7d", 604_800),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)));
        }
        for text in [
            "",
            "24",
            "h",
            "1.5h",
            "-1h",
            " 1h",
            "1 h",
            "1w",
            "1hh",
            "99999999999999999999s",
            "9999999999999999999d",
        ] {
            assert!(duration(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn ages_are_short() {
        for (seconds, text) in [
            (0, "0 s"),
            (119, "1 min"),
            (3_700, "1 h 1 min"),
            (90_000, "1 d 1 h"),
            (900_000, "10 d 10 h"),
        ] {
            assert_eq!(age_text(Duration::from_secs(seconds)), text);
        }
    }
}
