//! `lazurite snapshots list|show|verify`: what a store holds, and whether it is what was written.

use std::collections::BTreeSet;

use indicatif::ProgressBar;
use lazurite::snapshot::{Finding, SnapshotMetadata, SnapshotStore, SubtaskState, UserValue};
use lazurite_env::IoRuntime;
use serde::Serialize;

use crate::{
    error::{Error, Result},
    link,
    output::{self, Format, Table, human_bytes},
    progress,
};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Lists the complete snapshots.
    List(Args),
    /// Shows what a snapshot holds: the newest of each job, or those numbered ID.
    Show(Args),
    /// Reads every file of every snapshot, or of those numbered ID, and checks length and checksum. Exit code 1 if
    /// anything is wrong.
    Verify(Args),
}

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The store: file:///dir, s3://bucket/prefix?endpoint=…, hdfs://host:port/dir.
    #[arg(long, value_name = "URI")]
    remote: String,
    /// Only this job. Default: every job in the store.
    #[arg(long)]
    job: Option<String>,
    /// Only snapshots of this number.
    id: Option<u64>,
}

/// A snapshot that could be read, or why not.
struct Found {
    job: String,
    id: u64,
    metadata: lazurite::Result<SnapshotMetadata>,
}

/// Runs one of the commands.
pub fn run(command: &Command, format: Format) -> Result<()> {
    let (Command::List(args) | Command::Show(args) | Command::Verify(args)) = command;
    let runtime = IoRuntime::new(2)?;
    let store = SnapshotStore::new(link::open_store(&args.remote, &runtime)?, runtime);
    let mut found = find(&store, args)?;
    match command {
        Command::List(_) => list(&found, format)?,
        Command::Show(_) => {
            if args.id.is_none() {
                keep_newest(&mut found);
            }
            show(&found, format)?;
        }
        Command::Verify(_) => return verify(&store, &found, format),
    }
    match found
        .iter()
        .find_map(|f| f.metadata.as_ref().err().map(|e| (f, e)))
    {
        Some((found, error)) => Err(Error::Wrong(format!(
            "snapshot {} of job {}: {error}",
            found.id, found.job
        ))),
        None => Ok(()),
    }
}

fn find(store: &SnapshotStore, args: &Args) -> Result<Vec<Found>> {
    let jobs = match &args.job {
        Some(job) => vec![job.clone()],
        None => store.jobs()?,
    };
    let mut found = Vec::new();
    for job in jobs {
        for (id, metadata) in store.list(&job)? {
            if args.id.is_none_or(|wanted| wanted == id) {
                let job = job.clone();
                found.push(Found { job, id, metadata });
            }
        }
    }
    match args.id {
        Some(id) if found.is_empty() => {
            Err(Error::Wrong(format!("there is no complete snapshot {id}")))
        }
        _ => Ok(found),
    }
}

/// Keeps the last snapshot of each job; they come job by job, oldest first.
fn keep_newest(found: &mut Vec<Found>) {
    found.reverse();
    found.dedup_by(|next, kept| next.job == kept.job);
    found.reverse();
}

#[derive(Serialize)]
struct Summary<'a> {
    job: &'a str,
    id: u64,
    created_unix_ms: Option<u64>,
    files: Option<usize>,
    bytes: Option<u64>,
    key_groups: Option<u16>,
    tables: Option<Vec<&'a str>>,
    error: Option<String>,
}

impl<'a> From<&'a Found> for Summary<'a> {
    fn from(found: &'a Found) -> Self {
        let metadata = found.metadata.as_ref().ok();
        Summary {
            job: &found.job,
            id: found.id,
            created_unix_ms: metadata.map(|m| m.created_unix_ms),
            files: metadata.map(|m| m.files().count()),
            bytes: metadata.map(SnapshotMetadata::data_bytes),
            key_groups: metadata.map(|m| m.subtasks[0].key_groups),
            tables: metadata.map(|m| tables(m).into_iter().collect()),
            error: found.metadata.as_ref().err().map(ToString::to_string),
        }
    }
}

fn list(found: &[Found], format: Format) -> Result<()> {
    if format == Format::Json {
        let snapshots: Vec<Summary> = found.iter().map(Summary::from).collect();
        return output::json(&serde_json::json!({ "snapshots": snapshots }));
    }
    if found.is_empty() {
        return output::line("no complete snapshot");
    }
    let mut table = Table::new(["job", "snapshot", "created", "files", "bytes", "tables"]);
    for f in found {
        let name = [f.job.clone(), f.id.to_string()];
        let rest = match &f.metadata {
            Ok(m) => [
                utc(m.created_unix_ms),
                m.files().count().to_string(),
                human_bytes(m.data_bytes()),
                tables(m).into_iter().collect::<Vec<_>>().join(" "),
            ],
            Err(_) => ["-", "-", "-", "cannot be read"].map(str::to_owned),
        };
        let [job, id] = name;
        let [created, files, bytes, tables] = rest;
        table.row([job, id, created, files, bytes, tables]);
    }
    output::line(&table.text())
}

fn show(found: &[Found], format: Format) -> Result<()> {
    let readable: Vec<&SnapshotMetadata> = found
        .iter()
        .filter_map(|f| f.metadata.as_ref().ok())
        .collect();
    if format == Format::Json {
        return output::json(&serde_json::json!({ "snapshots": readable }));
    }
    if found.is_empty() {
        return output::line("no complete snapshot");
    }
    for metadata in readable {
        output::line(&show_text(metadata))?;
    }
    Ok(())
}

fn show_text(m: &SnapshotMetadata) -> String {
    let mut text = format!(
        "job {}, snapshot {}, created {}\n{} in {} files\n",
        m.job,
        m.id,
        utc(m.created_unix_ms),
        human_bytes(m.data_bytes()),
        m.files().count()
    );
    for (name, value) in &m.user_metadata {
        text += &user_text(name, value);
    }
    for state in &m.subtasks {
        text += &state_text(state);
    }
    text
}

fn state_text(state: &SubtaskState) -> String {
    let mut text = format!(
        "\noperator {}, range {} of {} key groups\n",
        state.operator, state.key_group_range, state.key_groups
    );
    for table in &state.tables {
        text += &format!("table {}\n", table.name);
    }
    for (name, value) in &state.user_metadata {
        text += &user_text(name, value);
    }
    let mut files = Table::new(["file", "level", "bytes", "xxh3-128", "object"]);
    for file in &state.files {
        files.row([
            file.name.clone(),
            file.level.to_string(),
            file.len.to_string(),
            file.checksum.to_string(),
            file.key.clone(),
        ]);
    }
    text + "\n" + &files.text() + "\n"
}

fn user_text(name: &str, value: &UserValue) -> String {
    let (UserValue::Text(value) | UserValue::Hex(value)) = value;
    format!("user metadata {name}: {value}\n")
}

/// The names of the tables, each once.
fn tables(metadata: &SnapshotMetadata) -> BTreeSet<&str> {
    let tables = metadata.subtasks.iter().flat_map(|state| &state.tables);
    tables.map(|table| table.name.as_str()).collect()
}

#[derive(Serialize)]
struct Verified<'a> {
    job: &'a str,
    id: u64,
    files: usize,
    bytes: u64,
    findings: Vec<BadFile>,
}

#[derive(Serialize)]
struct BadFile {
    object: String,
    problem: String,
}

impl From<Finding> for BadFile {
    fn from(finding: Finding) -> Self {
        BadFile {
            object: finding.key,
            problem: finding.problem.to_string(),
        }
    }
}

fn verify(store: &SnapshotStore, found: &[Found], format: Format) -> Result<()> {
    let readable = found.iter().filter_map(|f| f.metadata.as_ref().ok());
    let total = readable.map(bytes_to_read).sum();
    let bar = progress::bytes(total, "verifying", format);
    let mut verified = Vec::new();
    for f in found {
        verified.push(verify_one(store, f, &bar)?);
    }
    bar.finish_and_clear();
    let bad: usize = verified.iter().map(|v| v.findings.len()).sum();
    match format {
        Format::Json => {
            output::json(&serde_json::json!({ "ok": bad == 0, "snapshots": verified }))?
        }
        Format::Text => {
            for v in &verified {
                output::line(&verified_text(v))?;
            }
            if verified.is_empty() {
                output::line("no complete snapshot")?;
            }
        }
    }
    if bad == 0 {
        Ok(())
    } else {
        Err(Error::Wrong(format!("{bad} damaged or missing objects")))
    }
}

/// Table files, their tails, and the manifests.
fn bytes_to_read(metadata: &SnapshotMetadata) -> u64 {
    let small = metadata.subtasks.iter().map(|state| {
        let tails: u64 = state.tails.iter().map(|t| t.len).sum();
        tails + state.manifest.len
    });
    metadata.data_bytes() + small.sum::<u64>()
}

fn verify_one<'a>(
    store: &SnapshotStore,
    found: &'a Found,
    bar: &ProgressBar,
) -> Result<Verified<'a>> {
    let (files, bytes, findings) = match &found.metadata {
        Ok(metadata) => (
            metadata.files().count(),
            metadata.data_bytes(),
            store
                .verify(metadata, &|bytes| bar.inc(bytes))?
                .into_iter()
                .map(BadFile::from)
                .collect(),
        ),
        Err(error) => {
            let bad = BadFile {
                object: format!("{}/chk-{}/_metadata", found.job, found.id),
                problem: error.to_string(),
            };
            (0, 0, vec![bad])
        }
    };
    Ok(Verified {
        job: &found.job,
        id: found.id,
        files,
        bytes,
        findings,
    })
}

fn verified_text(v: &Verified) -> String {
    let head = format!("job {}, snapshot {}: ", v.job, v.id);
    if v.findings.is_empty() {
        return format!(
            "{head}{} files, {}, all as they were written",
            v.files,
            human_bytes(v.bytes)
        );
    }
    let lines = v
        .findings
        .iter()
        .map(|f| format!("\n  {}: {}", f.object, f.problem));
    format!(
        "{head}{} damaged or missing{}",
        v.findings.len(),
        lines.collect::<String>()
    )
}

/// A moment as people write it: `2026-01-31 23:59:59Z`.
fn utc(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000;
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    // Civil date from a count of days; years are taken from March, so that the leap day comes last.
    let from_march_0000 = days + 719_468;
    let era = from_march_0000 / 146_097;
    let day_of_era = from_march_0000 % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}Z",
        time / 3600,
        time / 60 % 60,
        time % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right_around_leap_days() {
        for (seconds, want) in [
            (0, "1970-01-01 00:00:00Z"),
            (951_782_399, "2000-02-28 23:59:59Z"),
            (951_782_400, "2000-02-29 00:00:00Z"),
            (1_709_251_200, "2024-03-01 00:00:00Z"),
            (4_107_542_400, "2100-03-01 00:00:00Z"),
        ] {
            assert_eq!(utc(seconds * 1000), want);
        }
    }

    #[test]
    fn the_newest_of_each_job_stays() {
        let found = |job: &str, id| Found {
            job: job.into(),
            id,
            metadata: Err(lazurite::Error::Closed),
        };
        let mut all = vec![found("a", 1), found("a", 3), found("b", 2)];
        keep_newest(&mut all);
        let left: Vec<_> = all.iter().map(|f| (f.job.as_str(), f.id)).collect();
        assert_eq!(left, [("a", 3), ("b", 2)]);
    }
}
