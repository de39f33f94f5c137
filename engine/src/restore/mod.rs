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

mod fetch;
mod local;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use lazurite_env::{IoRuntime, remote::RemoteStore};
use lazurite_tiering::{CatalogEntry, Checksum, RemoteFile, TailSpec, UnionEnv};

use local::SmallFiles;
pub(crate) use local::{clear_current, has_database, wipe};

use crate::{
    Error, Result,
    snapshot::{
        SnapshotMetadata,
        layout::JobLayout,
        registry::Registry,
        store::{Found, as_damage},
    },
};

/// What a backend came back with when it was opened.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RestoreReport {
    /// The snapshot that it was restored from.
    pub snapshot_id: u64,
    /// What the user gave with that snapshot, by name.
    pub user_metadata: BTreeMap<String, Vec<u8>>,
    /// Table files in the snapshot.
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

/// A restore of which everything is fetched and checked, and nothing done.
pub(crate) struct Plan<'a> {
    metadata: &'a SnapshotMetadata,
    small: SmallFiles<'a>,
    entries: Vec<CatalogEntry>,
    tails: Bytes,
    registry: Registry,
    report: RestoreReport,
}

/// Fetches and checks what a restore of the snapshot `found` needs. Blocks for one round of requests, however many and large the
/// table files are. Changes nothing, so that a damaged snapshot costs nobody a local database that is whole.
pub(crate) fn plan<'a>(
    store: &Arc<dyn RemoteStore>,
    runtime: &IoRuntime,
    layout: &JobLayout,
    found: &'a Found,
) -> Result<Plan<'a>> {
    let metadata = &found.metadata;
    let fetched = fetch::fetch(store, runtime, layout, found)?;
    let small = SmallFiles::new(metadata, &fetched.manifest)?;
    let (entries, tails) = catalog(layout, metadata, &fetched.tails)?;
    // What `SnapshotMetadata::decode` lets pass, the catalog does too; should it not, then now.
    CatalogEntry::check_all(&entries, tails.len() as u64).map_err(as_damage)?;
    let registry = Registry::from_metadata(metadata, layout)?;
    let report = RestoreReport {
        snapshot_id: metadata.id,
        user_metadata: user_metadata(metadata)?,
        files: metadata.files.len() as u64,
        bytes: metadata.data_bytes(),
        reused_files: 0,
        reused_bytes: 0,
        elapsed: Duration::ZERO,
    };
    Ok(Plan {
        metadata,
        small,
        entries,
        tails,
        registry,
        report,
    })
}

impl Plan<'_> {
    /// Brings the local directory of `union`, whose `CURRENT` is gone, to the state of the snapshot. Blocks for some small
    /// local writes.
    pub(crate) fn apply(self, union: &UnionEnv) -> Result<(Registry, RestoreReport)> {
        let (id, files) = (self.metadata.id, self.metadata.files.len());
        let span = tracing::info_span!("restore", id, files);
        let _entered = span.enter();
        let reuse = union.restore(self.entries, self.tails, &format!("chk-{id}.tails"))?;
        self.small.write(union)?;
        tracing::info!(reused_files = reuse.files, "restored");
        let report = RestoreReport {
            reused_files: reuse.files,
            reused_bytes: reuse.bytes,
            ..self.report
        };
        Ok((self.registry, report))
    }
}

/// The user's metadata as bytes.
pub(crate) fn user_metadata(metadata: &SnapshotMetadata) -> Result<BTreeMap<String, Vec<u8>>> {
    metadata
        .user_metadata
        .iter()
        .map(|(name, value)| match value.bytes() {
            Some(bytes) => Ok((name.clone(), bytes)),
            None => Err(Error::SnapshotCorrupt {
                path: format!("{}/chk-{}/_metadata", metadata.job, metadata.id),
                reason: format!("the user metadata {name:?} is not hexadecimal"),
            }),
        })
        .collect()
}

/// The catalog of a snapshot, and its files' tails one after another.
fn catalog(
    layout: &JobLayout,
    metadata: &SnapshotMetadata,
    objects: &[Bytes],
) -> Result<(Vec<CatalogEntry>, Bytes)> {
    let mut tails = BytesMut::new();
    let mut entries = Vec::with_capacity(metadata.files.len());
    for file in &metadata.files {
        let mut tail = None;
        if let Some((object, offset)) = file.tail {
            // `SnapshotMetadata::decode` checked that the tail lies inside its object, `fetch` the object's length.
            let bytes = &objects[object as usize][offset as usize..][..file.tail_len() as usize];
            if Checksum::of(bytes) != file.tail_checksum {
                return Err(Error::SnapshotCorrupt {
                    path: metadata.tails[object as usize].key.clone(),
                    reason: format!("what it holds at {offset} is not the tail of {}", file.key),
                });
            }
            tail = Some(TailSpec {
                offset: file.tail_offset,
                bundle_offset: Some(tails.len() as u64),
                checksum: file.tail_checksum,
            });
            tails.extend_from_slice(bytes);
        }
        entries.push(CatalogEntry {
            name: file.name.clone(),
            level: file.level,
            file: RemoteFile {
                key: layout.own(&file.key)?,
                len: file.len,
                checksum: file.checksum,
            },
            tail,
        });
    }
    Ok((entries, tails.freeze()))
}
