//! The asynchronous part of a snapshot, from the captured files to the commit; of a subtask's part, to its handle.
//!
//! Order: table files, in parallel; then the tails of the new ones; then the manifest; then a look whether another writer
//! has taken over; then `_metadata`, by which the snapshot comes to exist. A crash or an error before the last step leaves
//! orphans and no snapshot.
//!
//! After it, the catalog learns which local files the store holds, and older snapshots are deleted, within the same deadline; then
//! these local files may be demoted. None of this can undo the commit, so an error there is logged and made good after the next snapshot or at the next restore. One
//! finding is reported all the same: that another writer has taken over meanwhile. The snapshot exists then, but that writer
//! may not know of it, so nobody may count on it ([`Error::SnapshotConflict`]).

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use lazurite_env::{Env, remote::Key};
use lazurite_tiering::{CatalogEntry, Checksum, RemoteFile, TailSpec};

use super::{
    capture::Capture,
    commit::{commit, commit_savepoint},
    context::Context,
    copies::{self, CopiedSum},
    hot,
    layout::token,
    metadata::{ManifestRef, SnapshotFile, SnapshotMetadata, SubtaskState, TailsRef, UserValue},
    moment::Moment,
    part::SubtaskHandle,
    pending::{Deadline, SnapshotOptions, SnapshotReport},
    retention::retain,
    tails,
    upload::{read, upload_all},
};
use crate::{Error, Result, metrics::PhaseClock, rocks::Db, table::Tables};

/// A captured snapshot that waits to be uploaded.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) id: u64,
    pub(crate) db: Arc<Db>,
    pub(crate) capture: Capture,
    pub(crate) tables: Tables,
    pub(crate) options: SnapshotOptions,
    pub(crate) deadline: Deadline,
    /// Where it lies, where it is a savepoint.
    pub(crate) savepoint: Option<Key>,
    pub(crate) sync: Duration,
    /// Stands where the synchronous part has ended.
    pub(crate) phases: PhaseClock,
}

impl Job {
    /// Uploads and commits. Removes the staged links whatever happens.
    pub(crate) fn run(self, context: &Context) -> Result<SnapshotReport> {
        let span = tracing::info_span!("snapshot", id = self.id);
        let _entered = span.enter();
        let result = self.upload_and_commit(context, self.phases.clone());
        self.ended(context, result.as_ref(), "snapshot complete");
        result
    }

    /// Uploads what becomes a part of a snapshot, and leaves the rest to who completes it.
    pub(crate) fn run_part(self, context: &Context) -> Result<SubtaskHandle> {
        let span = tracing::info_span!("snapshot part", id = self.id);
        let _entered = span.enter();
        let result = self.upload_part(context, self.phases.clone());
        let report = result.as_ref().map(|handle| &handle.report);
        self.ended(context, report, "part complete");
        result
    }

    fn ended(&self, context: &Context, result: Result<&SnapshotReport, &Error>, what: &str) {
        self.capture.discard(&context.union);
        context.figures.ended(result);
        match result {
            Ok(report) => tracing::info!(
                files = report.uploaded_files,
                bytes = report.uploaded_bytes,
                reused_files = report.reused_files,
                "{what}"
            ),
            Err(error) => tracing::warn!(%error, "snapshot failed; the earlier ones are whole"),
        }
    }

    fn upload_part(&self, context: &Context, mut phases: PhaseClock) -> Result<SubtaskHandle> {
        let begun = Instant::now();
        let (mut state, report) = self.upload(context, &mut phases, begun)?;
        state.user_metadata = user_values(&self.options.user_metadata);
        let in_use = self.in_use(context, std::slice::from_ref(&state));
        let dropped = context.registry().take_dropped(&context.committer.bounds);
        Ok(SubtaskHandle {
            snapshot_id: self.id,
            dropped: texts(dropped),
            in_use,
            state,
            report,
        })
    }

    /// Uploads all but `_metadata`, and gives the state and what it cost.
    fn upload(
        &self,
        context: &Context,
        phases: &mut PhaseClock,
        begun: Instant,
    ) -> Result<(SubtaskState, SnapshotReport)> {
        let mut copied = CopiedSum::default();
        if self.savepoint.is_none() {
            copied = copies::adopt(context, &self.capture.files, &self.deadline)?;
            phases.ended("copy");
        }
        let sent = upload_all(context, &self.capture.files, &self.deadline)?;
        phases.ended("upload");
        let tails_bytes = self.store_tails(context)?;
        phases.ended("tails");
        if self.savepoint.is_none() {
            // From here on the number is seen in the store, and another writer steps over it: it must never be used again.
            context.committer.history().attempted(self.id);
        }
        let manifest = self.store_manifest(context)?;
        let mut state = self.state(context, manifest)?;
        phases.ended("manifest");
        let mut reused = (
            state.data_bytes() - sent.bytes,
            state.files.len() as u64 - sent.files,
        );
        if let Some(dir) = &self.savepoint {
            copied = copies::relocate(context, &mut state, dir, &self.deadline)?;
            phases.ended("copy");
            reused = (0, 0);
        } else {
            let files = copied.files + copied.streamed_files;
            let bytes = copied.bytes + copied.streamed_file_bytes;
            reused = (
                reused.0.saturating_sub(bytes),
                reused.1.saturating_sub(files),
            );
        }
        let report = SnapshotReport {
            id: self.id,
            sync: self.sync,
            async_: begun.elapsed(),
            uploaded_bytes: sent.bytes + tails_bytes + state.manifest.len,
            uploaded_files: sent.files,
            uploaded_data_bytes: sent.bytes,
            reused_bytes: reused.0,
            reused_files: reused.1,
            copied_files: copied.files,
            copied_bytes: copied.bytes,
            streamed_files: copied.streamed_files,
            streamed_bytes: copied.streamed_bytes,
        };
        Ok((state, report))
    }

    fn upload_and_commit(
        &self,
        context: &Context,
        mut phases: PhaseClock,
    ) -> Result<SnapshotReport> {
        let begun = Instant::now();
        let (state, report) = self.upload(context, &mut phases, begun)?;
        if let Some(dir) = &self.savepoint {
            let metadata = self.metadata(context, vec![state], true);
            return self.commit_savepoint(context, dir, &metadata, report, begun);
        }
        let metadata = self.metadata(context, vec![state], false);
        context
            .committer
            .refuse_overtaken(self.id, &self.deadline)?;
        phases.ended("check");
        let place = context.committer.place(self.id);
        let metadata_bytes = match commit(&context.committer, &place, &metadata, &self.deadline) {
            Ok(bytes) => bytes,
            Err(error) => {
                if matches!(error, Error::SnapshotConflict { .. }) {
                    context.committer.history().overtaken(self.id);
                }
                return Err(error);
            }
        };
        phases.ended("commit");
        let report = SnapshotReport {
            async_: begun.elapsed(),
            uploaded_bytes: report.uploaded_bytes + metadata_bytes,
            ..report
        };
        self.after_commit(context, metadata)?;
        phases.ended("retention");
        Ok(report)
    }

    /// Objects of the job's own that this process may yet read or refer to and `states` do not name.
    fn in_use(&self, context: &Context, states: &[SubtaskState]) -> Vec<String> {
        let named = states.iter().flat_map(SubtaskState::objects);
        let named: HashSet<&str> = named.map(|(key, ..)| key).collect();
        let mut in_use = context.union.referenced_keys();
        in_use.extend(context.registry().needed());
        in_use.retain(|key| context.committer.bounds.hold(key) && !named.contains(key.as_str()));
        texts(in_use)
    }

    fn metadata(
        &self,
        context: &Context,
        subtasks: Vec<SubtaskState>,
        savepoint: bool,
    ) -> SnapshotMetadata {
        let (mut claimed, mut origin, mut in_use) = (Vec::new(), None, Vec::new());
        if !savepoint {
            in_use = self.in_use(context, &subtasks);
            (claimed, origin) = context.committer.claims(&subtasks, &in_use);
        }
        SnapshotMetadata {
            job: context.layout.job().to_string(),
            id: self.id,
            writer: context.writer.clone(),
            created_unix_ms: unix_ms(),
            user_metadata: user_values(&self.options.user_metadata),
            claimed,
            origin,
            in_use,
            savepoint,
            subtasks,
        }
    }

    fn commit_savepoint(
        &self,
        context: &Context,
        dir: &Key,
        metadata: &SnapshotMetadata,
        report: SnapshotReport,
        begun: Instant,
    ) -> Result<SnapshotReport> {
        let bytes = commit_savepoint(&context.committer, dir, metadata, &self.deadline)?;
        Ok(SnapshotReport {
            async_: begun.elapsed(),
            uploaded_bytes: report.uploaded_bytes + bytes,
            ..report
        })
    }

    fn store_tails(&self, context: &Context) -> Result<u64> {
        let names: Vec<String> = self.capture.files.iter().map(|f| f.name.clone()).collect();
        let Some(packing) = tails::plan(&context.registry(), &names) else {
            return Ok(0);
        };
        let read = |name: &str| self.read_tail(context, name);
        let Some(new) = tails::pack(packing, read)? else {
            return Ok(0);
        };
        let key = context.layout.tails(&token());
        let (len, since) = (new.bytes.len() as u64, Moment::now());
        self.put(context, key.clone(), new.bytes)?;
        let tails = TailsRef {
            key: key.to_string(),
            len,
            checksum: new.checksum,
        };
        context
            .registry()
            .store_tails(key, tails, &new.files, since);
        Ok(len)
    }

    /// The tail of a captured file that the store has: from the local file, or else from the store. Verified.
    fn read_tail(&self, context: &Context, name: &str) -> Result<Bytes> {
        self.deadline.check()?;
        let Some(stored) = context.registry().get(name).cloned() else {
            return Err(Error::Closed);
        };
        let files = &self.capture.files; // in the order of their names
        let index = files.binary_search_by(|file| file.name.as_str().cmp(name));
        let path = match index.ok().and_then(|index| files[index].staged.clone()) {
            Some(link) => link,
            None => context.union.db_dir().join(name),
        };
        let (offset, len) = (stored.tail_offset, stored.tail_len());
        let local = context
            .union
            .open_random(&path)
            .map_err(Error::from)
            .and_then(|file| read(&*file, offset, len as usize, &path));
        if let Ok(bytes) = local
            && Checksum::of(&bytes) == stored.tail_checksum
        {
            return Ok(bytes);
        }
        // RocksDB may have deleted the file since, but its object stays for as long as the registry names it.
        let (store, key) = (context.store.clone(), stored.key.clone());
        let range = async move { store.get_range(&key, offset..offset + len).await };
        let bytes = self.deadline.wait(&context.runtime, range)?;
        if Checksum::of(&bytes) != stored.tail_checksum {
            return Err(Error::SnapshotCorrupt {
                path: stored.key.to_string(),
                reason: format!("its last {len} bytes are not those that were written"),
            });
        }
        Ok(bytes)
    }

    fn store_manifest(&self, context: &Context) -> Result<ManifestRef> {
        let small = &self.capture.small;
        let bytes = Bytes::from(
            small
                .iter()
                .flat_map(|(_, content)| content)
                .copied()
                .collect::<Vec<u8>>(),
        );
        let key = match &self.savepoint {
            Some(dir) => dir.join(&format!("manifest-{}-{}", context.writer, token()))?,
            None => context
                .layout
                .manifest(self.id, &context.writer, &token())?,
        };
        let manifest = ManifestRef {
            key: key.to_string(),
            len: bytes.len() as u64,
            checksum: Checksum::of(&bytes),
            parts: small
                .iter()
                .map(|(name, content)| (name.clone(), content.len() as u64))
                .collect(),
        };
        self.put(context, key, bytes)?;
        Ok(manifest)
    }

    fn put(&self, context: &Context, key: Key, bytes: Bytes) -> Result<()> {
        let store = context.store.clone();
        self.deadline.wait(
            &context.runtime,
            async move { store.put(&key, bytes).await },
        )
    }

    fn state(&self, context: &Context, manifest: ManifestRef) -> Result<SubtaskState> {
        let mut hot = hot::texts(context, &self.db, &self.capture.files);
        let registry = context.registry();
        let mut tails: Vec<TailsRef> = Vec::new();
        // A file that is there twice has one tail, though subtasks that it came from may have kept it in two places.
        let mut places: HashMap<&Key, Option<(u32, u64)>> = HashMap::new();
        let mut files = Vec::with_capacity(self.capture.files.len());
        for captured in &self.capture.files {
            let Some(stored) = registry.get(&captured.name) else {
                // Every captured file was either in the registry or uploaded into it, and one snapshot runs at a time.
                return Err(Error::Closed);
            };
            let tail = *places.entry(&stored.key).or_insert_with(|| {
                let (key, offset) = stored.stored_tail.as_ref()?;
                let index = match tails.iter().position(|t| t.key == key.as_str()) {
                    Some(index) => index,
                    None => {
                        tails.push(registry.tails_object(key)?.clone());
                        tails.len() - 1
                    }
                };
                Some((index as u32, *offset))
            });
            files.push(SnapshotFile {
                name: captured.name.clone(),
                level: captured.level,
                key: stored.key.to_string(),
                len: stored.len,
                checksum: stored.checksum,
                tail_offset: stored.tail_offset,
                tail_checksum: stored.tail_checksum,
                tail,
                heat: captured.heat,
                hot: hot.remove(&captured.name),
            });
        }
        Ok(SubtaskState {
            operator: context.operator.clone(),
            writer: context.writer.clone(),
            key_groups: context.key_groups,
            key_group_range: context.range,
            tables: self.tables.schemas.clone(),
            columns: self.tables.columns.clone(),
            user_metadata: BTreeMap::new(),
            manifest,
            tails,
            files,
        })
    }

    /// `SnapshotConflict` where a later number was begun meanwhile: its writer may not know of this snapshot, and delete what
    /// it needs, so no local file goes because the store has it. Any other error is no reason to call the snapshot failed.
    fn after_commit(&self, context: &Context, metadata: SnapshotMetadata) -> Result<()> {
        // Nobody reads the links any more, and a file that is demoted frees no space while it has one.
        self.capture.discard(&context.union);
        for state in &metadata.subtasks {
            context.registry().completed(state);
        }
        let uploaded = uploaded(metadata.files());
        let catalogued = uploaded.and_then(|files| {
            context.union.catalogue_uploaded(&files)?;
            Ok(files)
        });
        context.committer.history().completed(Arc::new(metadata));
        let dropped = context.registry().take_dropped(&context.committer.bounds);
        context.committer.spare(dropped);
        let needed = || {
            let mut needed = context.union.referenced_keys();
            needed.extend(context.registry().needed());
            needed
        };
        match retain(&context.committer, self.id, &self.deadline, needed) {
            Err(error @ (Error::SnapshotConflict { .. } | Error::Claimed { .. })) => {
                return Err(error);
            }
            Err(error) => {
                tracing::warn!(%error, "subsumed snapshots were not deleted; the next snapshot tries again");
            }
            Ok(()) => {}
        }
        let recorded = catalogued.and_then(|files| Ok(context.union.record_uploaded(&files)?));
        if let Err(error) = recorded {
            tracing::warn!(%error, "a restart on this directory will download files that it could have reused");
        }
        Ok(())
    }
}

/// The catalog's entries for files that the store holds.
pub(crate) fn uploaded<'a>(
    files: impl Iterator<Item = &'a SnapshotFile>,
) -> Result<Vec<CatalogEntry>> {
    files
        .map(|file| {
            let remote = RemoteFile {
                key: Key::new(&*file.key)?,
                len: file.len,
                checksum: file.checksum,
            };
            Ok(CatalogEntry {
                name: file.name.clone(),
                level: file.level,
                file: remote,
                tail: (file.tail_offset < file.len).then_some(TailSpec {
                    offset: file.tail_offset,
                    bundle_offset: None,
                    checksum: file.tail_checksum,
                }),
            })
        })
        .collect()
}

fn texts(keys: HashSet<Key>) -> Vec<String> {
    let mut texts: Vec<String> = keys.into_iter().map(|key| key.to_string()).collect();
    texts.sort_unstable();
    texts
}

pub(crate) fn user_values(user: &BTreeMap<String, Vec<u8>>) -> BTreeMap<String, UserValue> {
    user.iter()
        .map(|(name, value)| (name.clone(), UserValue::new(value)))
        .collect()
}

pub(crate) fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}
