//! Restore: from a snapshot's `_metadata` to a local directory that RocksDB opens without reading any table file.
//!
//! 1. Fetch, all at once: the manifest object, the tails objects, and a listing that shows every table file to be
//!    there at its full length. Verify what came. Nothing local has changed until all of it is right.
//! 2. Delete `CURRENT`, so that nothing opens a half-restored directory.
//! 3. Let the union env keep the local table files that the snapshot names by content, delete the others, and catalog
//!    the rest as remote.
//! 4. Write MANIFEST and OPTIONS, then `CURRENT`, atomically and last.
//!
//! Crash story: before 4 has ended there is no `CURRENT`, and the next open restores again, reusing the same files.

mod explain;
mod fetch;
mod local;
mod rescale;
mod sources;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use lazurite_env::{
    IoRuntime,
    remote::{Key, RemoteStore},
};
use lazurite_tiering::{CatalogEntry, Checksum, RemoteFile, TailSpec, UnionEnv};

pub use explain::{RestoreEstimate, RestorePlan};
use fetch::Fetched;
pub(crate) use local::{SmallFiles, clear_current, has_database, wipe};

use crate::{
    Error, Result,
    key_groups::KeyGroupRange,
    snapshot::{
        SnapshotFile, SubtaskState, TailsRef,
        heat::Heat,
        metadata::user_bytes,
        registry::Registry,
        store::{Found, as_damage},
    },
    table::Tables,
};

/// What a backend came back with when it was opened.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RestoreReport {
    /// The snapshot that it was restored from.
    pub snapshot_id: u64,
    /// Where that one lies in the store: `<job>/chk-<n>`, of this job or of the one that it
    /// [began with](crate::StateBackendBuilder::initial_state), or the directory of a savepoint.
    pub path: String,
    /// What the user gave with that snapshot, by name.
    pub user_metadata: BTreeMap<String, Vec<u8>>,
    /// What was given with the states of the operator's subtasks, all of them, whichever key groups this backend came back with: whose
    /// source position a subtask goes on with is the program's business.
    pub subtasks: Vec<(KeyGroupRange, BTreeMap<String, Vec<u8>>)>,
    /// Table files that this backend came back with.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Table files that were on the local disk already and were kept.
    pub reused_files: u64,
    /// Their bytes.
    pub reused_bytes: u64,
    /// From the call of open until the backend could be read.
    pub elapsed: Duration,
}

/// The key groups that a backend is to come back with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) operator: &'a str,
    pub(crate) key_groups: u16,
    pub(crate) range: KeyGroupRange,
}

/// A restore of which everything is fetched and checked, and nothing done.
pub(crate) struct Plan {
    /// What the backend will hold.
    pub(crate) tables: Tables,
    heat: Heat,
    small: SmallFiles,
    entries: Vec<CatalogEntry>,
    tails: Bytes,
    registry: Registry,
    report: RestoreReport,
}

/// Fetches and checks what a restore of the snapshot `found` needs. Blocks for one round of requests, however many and large the
/// table files are. `local`: the numbers of the table files that the directory has, by their objects. Changes nothing, so that a damaged snapshot costs nobody a local database that is whole.
pub(crate) fn plan(
    store: &Arc<dyn RemoteStore>,
    runtime: &IoRuntime,
    found: &Found,
    wanted: Wanted<'_>,
    local: &HashMap<String, u64>,
) -> Result<Plan> {
    let (metadata, path) = (&found.metadata, &found.place.metadata().to_string());
    let sources = sources::choose(metadata, wanted)?;
    let fetched = fetch::fetch(store, runtime, &found.place.dir(), &found.lengths, &sources)?;
    let restored = match &sources[..] {
        [same] if same.key_group_range == wanted.range => Restored::same(same, fetched)?,
        sources => rescale::compose(sources, fetched, wanted, local)?,
    };
    let (entries, tails) = catalog(&restored)?;
    // What `SnapshotMetadata::decode` lets pass, the catalog does too; should it not, then now.
    CatalogEntry::check_all(&entries, tails.len() as u64).map_err(as_damage)?;
    let registry = Registry::of(&restored.files, &restored.tails)?;
    let subtasks = metadata.subtasks.iter();
    let report = RestoreReport {
        snapshot_id: metadata.id,
        path: found.place.to_string(),
        user_metadata: user_bytes(&metadata.user_metadata, path)?,
        subtasks: subtasks
            .filter(|subtask| subtask.operator == wanted.operator)
            .map(|subtask| {
                let user = user_bytes(&subtask.user_metadata, path)?;
                Ok((subtask.key_group_range, user))
            })
            .collect::<Result<_>>()?,
        files: restored.files.len() as u64,
        bytes: restored.files.iter().map(|file| file.len).sum(),
        reused_files: 0,
        reused_bytes: 0,
        elapsed: Duration::ZERO,
    };
    Ok(Plan {
        tables: restored.tables,
        heat: Heat::of(&restored.files),
        small: restored.small,
        entries,
        tails,
        registry,
        report,
    })
}

/// A state as it is brought back: that of one subtask, or one that was composed of several.
struct Restored {
    tables: Tables,
    small: SmallFiles,
    files: Vec<SnapshotFile>,
    tails: Vec<TailsRef>,
    /// What is in them.
    tails_bytes: Vec<Bytes>,
}

impl Restored {
    /// The state of exactly one subtask, as it was.
    fn same(state: &SubtaskState, fetched: Vec<Fetched>) -> Result<Restored> {
        let (mut small, mut tails_bytes) = (None, Vec::new());
        for fetched in fetched {
            small = Some(SmallFiles::new(&state.manifest, &fetched.manifest)?);
            tails_bytes.extend(fetched.tails);
        }
        Ok(Restored {
            tables: Tables {
                schemas: state.tables.clone(),
                columns: state.columns.clone(),
            },
            small: small.ok_or(Error::Closed)?, // one was asked for
            files: state.files.clone(),
            tails: state.tails.clone(),
            tails_bytes,
        })
    }
}

impl Plan {
    /// Brings the local directory of `union`, whose `CURRENT` is gone, to the state of the snapshot. Blocks for some small
    /// local writes.
    pub(crate) fn apply(self, union: &UnionEnv) -> Result<Done> {
        let (id, files) = (self.report.snapshot_id, self.entries.len());
        let span = tracing::info_span!("restore", id, files);
        let _entered = span.enter();
        let reuse = union.restore(self.entries, self.tails, &format!("chk-{id}.tails"))?;
        self.small.write(union)?;
        tracing::info!(reused_files = reuse.files, "restored");
        Ok(Done {
            heat: self.heat,
            registry: self.registry,
            report: RestoreReport {
                reused_files: reuse.files,
                reused_bytes: reuse.bytes,
                ..self.report
            },
        })
    }
}

/// What is known after a restore.
pub(crate) struct Done {
    pub(crate) heat: Heat,
    pub(crate) registry: Registry,
    pub(crate) report: RestoreReport,
}

/// The catalog of a state, and its files' tails one after another.
fn catalog(restored: &Restored) -> Result<(Vec<CatalogEntry>, Bytes)> {
    let mut tails = BytesMut::new();
    let mut places = HashMap::new();
    let mut entries = Vec::with_capacity(restored.files.len());
    for file in &restored.files {
        let mut tail = None;
        if let Some((object, offset)) = file.tail {
            // `SnapshotMetadata::decode` checked that the tail lies inside its object, `fetch` the object's length.
            let bytes = &restored.tails_bytes[object as usize][offset as usize..]
                [..file.tail_len() as usize];
            if Checksum::of(bytes) != file.tail_checksum {
                return Err(Error::SnapshotCorrupt {
                    path: restored.tails[object as usize].key.clone(),
                    reason: format!("what it holds at {offset} is not the tail of {}", file.key),
                });
            }
            // A file that is there twice has one tail.
            let place = *places.entry(&*file.key).or_insert_with(|| {
                let place = tails.len() as u64;
                tails.extend_from_slice(bytes);
                place
            });
            tail = Some(TailSpec {
                offset: file.tail_offset,
                bundle_offset: Some(place),
                checksum: file.tail_checksum,
            });
        }
        entries.push(CatalogEntry {
            name: file.name.clone(),
            level: file.level,
            file: RemoteFile {
                key: Key::new(&*file.key)?,
                len: file.len,
                checksum: file.checksum,
            },
            tail,
        });
    }
    Ok((entries, tails.freeze()))
}
