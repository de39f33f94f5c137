//! [`RestorePlan`]: what a restore will read, copy and cost, told before anything is done.
//!
//! It is no model of a restore but its first half: the same code looks for the snapshot, chooses the states, fetches what comes before the
//! first read, and composes. So requests and bytes are those that a restore makes, and what cannot be restored is found here too.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use lazurite_env::remote::{CopyKind, CountingStore, RemoteStore, sequential_round_trips};
use serde::Serialize;

use super::{Plan, Wanted, plan};
use crate::{
    Error, KeyGroupRange, Result, SnapshotPath, SnapshotStore,
    rocks::manifest::{Manifest, Reach, reach},
    snapshot::{SubtaskState, origin},
};

/// Local work from the begin of an open to the first read: what every open takes, and what each table file adds. Measured on two
/// cores with some 250 and 2,000 files; see `docs/PERFORMANCE.md`.
const LOCAL: Duration = Duration::from_millis(55);
const LOCAL_PER_FILE: Duration = Duration::from_micros(25);

/// The share of a link that downloads fill, as measured.
const DOWNLOAD_SHARE: f64 = 0.91;

/// Requests of one copy inside a store that copies by itself, and how many of them are under way.
const COPY_TRIPS: u64 = 3;
const COPIES_AT_ONCE: u64 = 64;

/// What a restore will read, copy and cost. Made by [`SnapshotStore::plan_restore`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RestorePlan {
    /// The snapshot's directory in the store.
    pub snapshot: String,
    /// The operator whose state comes back.
    pub operator: String,
    /// The number of key groups.
    pub key_groups: u16,
    /// Those that come back.
    pub key_group_range: KeyGroupRange,
    /// Subtasks that wrote them.
    pub subtasks: u64,
    /// Tables.
    pub tables: u64,
    /// Column families that hold them: one for each table, and more where parts cannot be joined before a compaction.
    pub columns: u64,
    /// Requests up to the first read, that one included.
    pub requests: u64,
    /// How many of these wait for one another.
    pub round_trips: u64,
    /// Bytes that come before the state can be read: `_metadata`, manifests, tails.
    pub bytes: u64,
    /// Table files that the state is made of.
    pub files: u64,
    /// Their bytes: what the download behind the reads brings, on an empty disk.
    pub file_bytes: u64,
    /// Table files of these subtasks that hold nothing of the key groups, and do not come.
    pub left_out_files: u64,
    /// Their bytes.
    pub left_out_bytes: u64,
    /// Of the files that come, those that hold other key groups too. They are rewritten without these once they are local.
    pub beyond_files: u64,
    /// Their bytes.
    pub beyond_bytes: u64,
    /// How the store copies what another job's first snapshot needs, where that begins with this snapshot and does not claim it.
    #[serde(serialize_with = "copy_name")]
    pub copy: CopyKind,
    /// Objects that such a job copies: table files and tails.
    pub copies: u64,
    /// Their bytes.
    pub copy_bytes: u64,
}

/// About how long it takes over a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RestoreEstimate {
    /// From the open to the first read of remote state.
    pub first_read: Duration,
    /// From there until all is local.
    pub all_local: Duration,
    /// The copies of the first snapshot of another job that does not claim the state.
    pub no_claim_copies: Duration,
}

impl RestorePlan {
    /// About how long it takes where a request waits `latency` and all of them share `bytes_per_second`. Rests on figures of two cores:
    /// right within a factor of two where the machine is not slower by more, and copies inside a store are as fast as its answers.
    pub fn estimate(&self, latency: Duration, bytes_per_second: u64) -> RestoreEstimate {
        let sending =
            |bytes: u64| Duration::from_secs_f64(bytes as f64 / bytes_per_second.max(1) as f64);
        let trips = |n: u64| latency * u32::try_from(n).unwrap_or(u32::MAX);
        let per_file = LOCAL_PER_FILE * u32::try_from(self.files).unwrap_or(u32::MAX);
        RestoreEstimate {
            first_read: LOCAL + per_file + trips(self.round_trips) + sending(self.bytes),
            all_local: sending(self.file_bytes).div_f64(DOWNLOAD_SHARE),
            no_claim_copies: match self.copy {
                CopyKind::Linked => Duration::ZERO,
                CopyKind::ServerSide => trips((self.copies * COPY_TRIPS).div_ceil(COPIES_AT_ONCE)),
                CopyKind::Streamed => 2 * sending(self.copy_bytes),
            },
        }
    }
}

fn copy_name<S: serde::Serializer>(kind: &CopyKind, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(match kind {
        CopyKind::Linked => "linked",
        CopyKind::ServerSide => "server_side",
        CopyKind::Streamed => "streamed",
    })
}

impl SnapshotStore {
    /// What a restore of the snapshot at `path` will read, for the key groups `range` of `operator`; `None`: all that the snapshot holds. Makes the requests that
    /// come before the first read, and blocks for them. Changes nothing.
    ///
    /// # Errors
    /// Those of a restore: where there is no such snapshot or operator, where it is damaged, or does not hold the key groups.
    pub fn plan_restore(
        &self,
        path: &SnapshotPath,
        operator: &str,
        range: Option<KeyGroupRange>,
    ) -> Result<RestorePlan> {
        let counting = CountingStore::new(self.store.clone());
        let store: Arc<dyn RemoteStore> = Arc::new(counting.clone());
        counting.start_recording();
        let found = origin::find(&store, &self.runtime, path)?;
        let own = found.metadata.subtasks.iter();
        let own: Vec<&SubtaskState> = own.filter(|state| state.operator == operator).collect();
        let held = own.iter().map(|state| state.key_group_range);
        let (Some(first), Some(held)) = (own.first(), held.reduce(|a, b| a.hull(b))) else {
            return Err(Error::InvalidOption {
                option: "operator",
                reason: format!("{} holds no state of {operator:?}", found.place),
            });
        };
        let wanted = Wanted {
            operator,
            key_groups: first.key_groups,
            range: range.unwrap_or(held),
        };
        let plan = plan(&store, &self.runtime, &found, wanted, &HashMap::new())?;
        let trips = sequential_round_trips(&counting.take_recording());
        let sent = counting.snapshot();
        let sources = own
            .iter()
            .filter(|state| state.key_group_range.intersection(wanted.range).is_some());
        let sources: Vec<&SubtaskState> = sources.copied().collect();
        let all = objects(
            sources
                .iter()
                .flat_map(|s| s.files.iter().map(|f| (&*f.key, f.len))),
        );
        let taken = plan.entries.iter();
        let taken = objects(taken.map(|entry| (entry.file.key.as_str(), entry.file.len)));
        let tails = sources
            .iter()
            .flat_map(|s| s.tails.iter().map(|t| (&*t.key, t.len)));
        let tails = objects(tails);
        let sum = |of: &BTreeMap<&str, u64>| of.values().sum::<u64>();
        let (beyond_files, beyond_bytes) = beyond(&plan, &found.place.to_string())?;
        Ok(RestorePlan {
            snapshot: found.place.to_string(),
            operator: operator.to_owned(),
            key_groups: wanted.key_groups,
            key_group_range: wanted.range,
            subtasks: sources.len() as u64,
            tables: plan.tables.schemas.len() as u64,
            columns: plan.tables.columns.len() as u64,
            requests: sent.total() + 1,
            round_trips: trips as u64 + 1,
            bytes: sent.bytes_in,
            files: taken.len() as u64,
            file_bytes: sum(&taken),
            left_out_files: (all.len() - taken.len()) as u64,
            left_out_bytes: sum(&all) - sum(&taken),
            beyond_files,
            beyond_bytes,
            copy: self.store.capabilities().copy,
            copies: (taken.len() + tails.len()) as u64,
            copy_bytes: sum(&taken) + sum(&tails),
        })
    }
}

/// Each object once.
fn objects<'a>(named: impl Iterator<Item = (&'a str, u64)>) -> BTreeMap<&'a str, u64> {
    named.collect()
}

/// The files of the restored state that hold more than their column family is asked for, and their bytes.
fn beyond(plan: &Plan, path: &str) -> Result<(u64, u64)> {
    let bytes = plan.small.manifest().cloned().unwrap_or_default();
    let manifest = Manifest::decode(path, &bytes)?;
    let (mut files, mut bytes) = (0, 0);
    for column in &plan.tables.columns {
        let range = column.key_group_range;
        let held = manifest.column(&column.column);
        for file in held.iter().flat_map(|held| &held.files) {
            if reach(file, (range.start(), range.end())) == Reach::Beyond {
                files += 1;
                bytes += file.len;
            }
        }
    }
    Ok((files, bytes))
}
