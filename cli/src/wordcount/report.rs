//! What a run prints, and the file of counts that it writes.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::Path,
    time::Duration,
};

use lazurite::{SnapshotReport, TierStats};
use serde::Serialize;

use super::{Counts, position::Position};
use crate::{
    error::{Error, Result},
    output::{Table, human_bytes, human_ms, ms},
};

/// What a restart cost.
#[derive(Debug, Clone, Copy)]
pub struct Restored {
    /// The snapshot.
    pub id: u64,
    /// From the call of open to its return.
    pub open: Duration,
    /// From the call of open to the end of the first read.
    pub first_read: Duration,
}

/// The result of a run. Field names are the JSON document's.
#[derive(Debug, Serialize)]
pub struct RunReport {
    restored_from: Option<u64>,
    restore_ms: Option<f64>,
    first_read_ms: Option<f64>,
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

#[derive(Debug, Serialize)]
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
        snapshots: &[SnapshotReport],
        tier: TierStats,
    ) -> Self {
        RunReport {
            restored_from: restored.map(|r| r.id),
            restore_ms: restored.map(|r| ms(r.open)),
            first_read_ms: restored.map(|r| ms(r.first_read)),
            records: position.records,
            distinct: position.distinct,
            snapshots: snapshots.iter().map(Snapshot::from).collect(),
            tier: Tier {
                local_reads: tier.local_reads,
                remote_reads: tier.remote_reads,
                remote_requests: tier.remote_requests,
                remote_bytes: tier.remote_bytes,
                cache_hits: tier.cache_hits,
                cache_misses: tier.cache_misses,
                cache_hit_bytes: tier.cache_hit_bytes,
                cache_evictions: tier.cache_evictions,
                cache_dropped: tier.cache_dropped,
                cache_disk_failures: tier.cache_disk_failures,
                cache_mismatches: tier.cache_mismatches,
                cache_bytes: tier.cache_bytes,
                demotions: tier.demotions,
                demoted_bytes: tier.demoted_bytes,
            },
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
            "{} records, {} distinct words\n\n",
            self.records, self.distinct
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

impl From<&SnapshotReport> for Snapshot {
    fn from(report: &SnapshotReport) -> Self {
        Snapshot {
            id: report.id,
            sync_ms: ms(report.sync),
            async_ms: ms(report.async_),
            uploaded_bytes: report.uploaded_bytes,
            reused_bytes: report.reused_bytes,
            uploaded_files: report.uploaded_files,
            reused_files: report.reused_files,
        }
    }
}

/// Writes all counts to `path`, one `word<TAB>count` a line, sorted by word; whole or not at all.
///
/// Fails, and leaves `path` as it was, if the counts do not add up to what `position` says was counted.
pub fn write_counts(counts: &Counts, position: &Position, path: &Path) -> Result<()> {
    let mut all = Vec::with_capacity(position.distinct as usize);
    for entry in counts.iter()? {
        all.push(entry?);
    }
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
