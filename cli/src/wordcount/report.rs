//! What a run prints, and the file of counts that it writes.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::Path,
    time::Duration,
};

use lazurite::TierStats;
use serde::Serialize;

use super::{position::Position, snapshot, subtasks::Subtasks};
use crate::{
    error::{Error, Result},
    output::{Table, human_bytes, human_ms, ms},
};

/// What a restart cost.
#[derive(Debug, Clone, Copy)]
pub struct Restored {
    /// The snapshot.
    pub id: u64,
    /// From the first look at the job until all subtasks were open.
    pub open: Duration,
    /// From that look to the end of the first read.
    pub first_read: Duration,
}

/// The result of a run. Field names are the JSON document's.
#[derive(Debug, Serialize)]
pub struct RunReport {
    parallelism: u16,
    restored_from: Option<u64>,
    restore_ms: Option<f64>,
    first_read_ms: Option<f64>,
    /// Table files that were on the local disk already.
    reused_files: u64,
    records: u64,
    distinct: u64,
    snapshots: Vec<Snapshot>,
    tier: Tier,
}

#[derive(Debug, Serialize)]
struct Snapshot {
    id: u64,
    sync_ms: f64,
    async_ms: f64,
    uploaded_bytes: u64,
    reused_bytes: u64,
    uploaded_files: u64,
    reused_files: u64,
}

/// Sums over all subtasks.
#[derive(Debug, Default, Serialize)]
struct Tier {
    local_reads: u64,
    remote_reads: u64,
    remote_requests: u64,
    remote_bytes: u64,
    cache_hits: u64,
    cache_misses: u64,
    cache_hit_bytes: u64,
    cache_evictions: u64,
    cache_dropped: u64,
    cache_disk_failures: u64,
    cache_mismatches: u64,
    cache_bytes: u64,
    demotions: u64,
    demoted_bytes: u64,
}

impl RunReport {
    /// Puts together what a run that ended at `position` is to report.
    pub fn new(
        restored: Option<Restored>,
        position: &Position,
        snapshots: &[snapshot::Snapshot],
        subtasks: &Subtasks,
    ) -> Self {
        let mut tier = Tier::default();
        for stats in subtasks.tiers() {
            tier.add(stats);
        }
        RunReport {
            parallelism: subtasks.parallelism(),
            restored_from: restored.map(|r| r.id),
            restore_ms: restored.map(|r| ms(r.open)),
            first_read_ms: restored.map(|r| ms(r.first_read)),
            reused_files: subtasks.reused_files(),
            records: position.records,
            distinct: position.distinct,
            snapshots: snapshots.iter().map(Snapshot::from).collect(),
            tier,
        }
    }

    /// The report for people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if let (Some(id), Some(open), Some(first)) =
            (self.restored_from, self.restore_ms, self.first_read_ms)
        {
            text += &format!(
                "restored from snapshot {id} in {}, first read after {}\n",
                human_ms(open),
                human_ms(first)
            );
        }
        text += &format!(
            "{} records, {} distinct words, parallelism {}\n\n",
            self.records, self.distinct, self.parallelism
        );
        let mut table = Table::new([
            "snapshot", "sync", "async", "uploaded", "files", "reused", "files",
        ]);
        for s in &self.snapshots {
            table.row([
                s.id.to_string(),
                human_ms(s.sync_ms),
                human_ms(s.async_ms),
                human_bytes(s.uploaded_bytes),
                s.uploaded_files.to_string(),
                human_bytes(s.reused_bytes),
                s.reused_files.to_string(),
            ]);
        }
        text += &table.text();
        let t = &self.tier;
        text += &format!(
            "\n\nreads of files: {} local, {} from the cache on the disk, {} remote in {} requests for {}",
            t.local_reads,
            t.cache_hits,
            t.remote_reads,
            t.remote_requests,
            human_bytes(t.remote_bytes)
        );
        text
    }
}

impl Tier {
    fn add(&mut self, stats: TierStats) {
        self.local_reads += stats.local_reads;
        self.remote_reads += stats.remote_reads;
        self.remote_requests += stats.remote_requests;
        self.remote_bytes += stats.remote_bytes;
        self.cache_hits += stats.cache_hits;
        self.cache_misses += stats.cache_misses;
        self.cache_hit_bytes += stats.cache_hit_bytes;
        self.cache_evictions += stats.cache_evictions;
        self.cache_dropped += stats.cache_dropped;
        self.cache_disk_failures += stats.cache_disk_failures;
        self.cache_mismatches += stats.cache_mismatches;
        self.cache_bytes += stats.cache_bytes;
        self.demotions += stats.demotions;
        self.demoted_bytes += stats.demoted_bytes;
    }
}

impl From<&snapshot::Snapshot> for Snapshot {
    fn from(of: &snapshot::Snapshot) -> Self {
        Snapshot {
            id: of.id,
            sync_ms: ms(of.sync),
            async_ms: ms(of.async_),
            uploaded_bytes: of.uploaded_bytes,
            reused_bytes: of.reused_bytes,
            uploaded_files: of.uploaded_files,
            reused_files: of.reused_files,
        }
    }
}

/// Writes the counts of all subtasks to `path`, one `word<TAB>count` a line, sorted by word; whole or not at all.
///
/// Fails, and leaves `path` as it was, if the counts do not add up to what `position` says was counted.
pub fn write_counts(subtasks: &Subtasks, position: &Position, path: &Path) -> Result<()> {
    let mut all = subtasks.all()?;
    let words: u64 = all.iter().map(|(_, count)| count).sum();
    if all.len() as u64 != position.distinct || words != position.words {
        return Err(Error::Wrong(format!(
            "the state is wrong: it holds {} words with a sum of {words}, but {} with a sum of {} were counted",
            all.len(),
            position.distinct,
            position.words
        )));
    }
    all.sort_unstable();
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = Path::new(&part);
    let file = File::create(part).map_err(Error::file("create", part))?;
    let mut out = BufWriter::new(file);
    all.iter()
        .try_for_each(|(word, count)| writeln!(out, "{word}\t{count}"))
        .and_then(|()| out.into_inner().map_err(|e| e.into_error())?.sync_all())
        .map_err(Error::file("write", part))?;
    fs::rename(part, path).map_err(Error::file("rename to", path))
}
