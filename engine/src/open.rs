//! Opening a backend: from options to a running database, by way of a restore where there is something to restore.
//!
//! Which state it opens with: a kept directory under [`Durability::Wal`] goes on as it is; everything else goes back to
//! a snapshot, or begins empty. Crash story: nothing that is needed is deleted before the new state is complete; see
//! [`restore`](crate::restore).

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use lazurite_env::{
    ErrorKind, IoRuntime,
    remote::{CountingStore, Key, RemoteStore},
};
use lazurite_tiering::{Checksum, UnionEnv, UnionOptions};

use crate::{
    Error, LoadPolicy, Result,
    builder::{Durability, Restore, StateBackendBuilder},
    directory::Directory,
    key_groups::KeyGroupRange,
    metrics::{PhaseClock, kind_of, request_observer},
    restore::{self, RestoreReport, Wanted},
    snapshot::{
        ClaimMode, SnapshotMetadata, SubtaskState,
        claims::{Claims, refusal},
        context::Known,
        heat::Heat,
        job::look_at_job,
        layout::JobLayout,
        origin,
        place::Place,
        registry::{Registry, Uploaded},
        retention::History,
        store::{Found, is_missing, lengths, load},
        uploaded,
    },
    table::{TableSchema, Tables},
};

/// Everything below RocksDB, in the state that RocksDB is to open.
pub(crate) struct Prepared {
    pub(crate) directory: Directory,
    pub(crate) store: Arc<dyn RemoteStore>,
    /// The same, by its counters.
    pub(crate) requests: CountingStore,
    pub(crate) runtime: IoRuntime,
    pub(crate) layout: JobLayout,
    pub(crate) union: Arc<UnionEnv>,
    pub(crate) known: Known,
    pub(crate) tables: Tables,
    pub(crate) report: Option<RestoreReport>,
    /// The directory's own database goes on.
    pub(crate) kept: bool,
    /// The job begins with a snapshot that it leaves alone, and needs copies of it.
    pub(crate) copies: bool,
}

/// Makes the local directory what `options` ask for. No table file is read.
///
/// Whatever the new state needs from the store is fetched and checked before anything of the old one goes.
pub(crate) fn prepare(
    options: &StateBackendBuilder,
    range: KeyGroupRange,
    phases: &mut PhaseClock,
) -> Result<Prepared> {
    let runtime = match &options.runtime {
        Some(runtime) => runtime.clone(),
        None => IoRuntime::new(2)?,
    };
    let store = options.open_store(&runtime)?;
    let observer = request_observer(&options.job, kind_of(&*store));
    let requests = CountingStore::observed(store, observer);
    let store: Arc<dyn RemoteStore> = Arc::new(requests.clone());
    phases.ended("store");
    let mut directory = Directory::open(options.local_env(), &options.dir, &options.job)?;
    let layout = JobLayout::new(&options.job)?;
    let job = look_at_job(&store, &runtime, &layout)?;
    if job.claimed {
        return Err(refusal(&store, &runtime, &Place::Snapshot(layout, 1)));
    }
    let found = open_union(options, &store, &runtime)?;
    let kept = match &found {
        Some(union) if may_keep(options) && restore::has_database(union)? => Some(union.clone()),
        _ => None,
    };
    let newest_seen = job.newest.as_ref().map_or(0, |(id, _)| *id);
    let begins = job.newest.is_none() && options.restore == Restore::Latest;
    let begins_with = options.initial_state.as_ref().filter(|_| begins);
    let wanted = Wanted {
        operator: &options.operator,
        key_groups: options.key_groups,
        range,
    };
    // A kept directory goes on from what it began with.
    let path = match begins_with {
        Some((path, _)) if kept.is_some() => Some(directory.began_with(path)?),
        Some((path, _)) => Some(path.clone()),
        None => None,
    };
    let mut chosen = match &path {
        Some(path) => Some(origin::find_for(&store, &runtime, path, &options.job)?),
        None => choose(options, &store, &runtime, &layout, job.newest)?,
    };
    if let (Some(path), Some((_, ClaimMode::Claim)), Some(found)) = (&path, begins_with, &chosen) {
        // What cannot be restored is not claimed.
        restore::plan(&store, &runtime, found, wanted, &HashMap::new())?;
        chosen = Some(origin::take(&store, &runtime, path, found, &options.job)?);
    }
    if let Some(found) = &chosen {
        check_fits(options, &found.metadata)?;
    }
    let mut claims = Claims::of(chosen.as_ref(), begins_with.map(|(_, mode)| *mode))?;
    if begins_with.is_none() {
        claims.keep_own(&store, &runtime, &options.job)?;
    }
    phases.ended("find");
    let mut known = Known {
        history: History::new(job.ids, job.unfinished),
        claimed: claims.dirs,
        ..Known::default()
    };
    known.history.began_with(claims.origin);
    let (mut report, keep) = (None, kept.is_some());
    let (union, tables) = if let Some(union) = kept {
        directory.check_key_groups(options.key_groups, range)?;
        let newest = chosen.as_ref().map(|found| &found.metadata);
        let mut state = None;
        if let Some(newest) = newest {
            if begins_with.is_none() {
                refuse_stale(options, &directory, newest)?;
            }
            state = state_of(newest, wanted);
            known.part_of = part_of(newest, wanted);
        }
        if let Some(state) = state {
            known.heat = Heat::of(&state.files);
        }
        known.registry = kept_registry(&store, &runtime, &union, state)?;
        (union, directory.tables()?)
    } else if let Some(chosen) = chosen {
        let plan = restore::plan(&store, &runtime, &chosen, wanted, &numbers(&found))?;
        known.part_of = part_of(&chosen.metadata, wanted);
        phases.ended("fetch");
        let union = or_start_over(found, options, &store, &runtime)?;
        // Before CURRENT comes back, so that the directory never holds a database with another snapshot's tables.
        restore::clear_current(&union)?;
        let tables = plan.tables.clone();
        let began_with = begins_with.map(|_| chosen.place.to_string());
        let key_groups = (options.key_groups, range);
        directory.set_restored(newest_seen, began_with, key_groups, &tables)?;
        let restored = plan.apply(&union)?;
        (known.heat, known.registry) = (restored.heat, restored.registry);
        report = Some(restored.report);
        if begins_with.is_none() {
            known.history.completed(Arc::new(chosen.metadata));
        }
        (union, tables)
    } else {
        let union = or_start_over(found, options, &store, &runtime)?;
        restore::wipe(&union)?;
        let key_groups = (options.key_groups, range);
        directory.set_restored(newest_seen, None, key_groups, &Tables::default())?;
        (union, Tables::default())
    };
    check_declared(options, &tables.schemas)?;
    phases.ended("local");
    union.download().set_heat(known.heat.all());
    if options.load_policy != LoadPolicy::Eager {
        // Where nobody reads before all is here, no part of it is needed sooner.
        let chunks = known.heat.chunks.all();
        union.download().set_chunk_heat(chunks);
    }
    Ok(Prepared {
        directory,
        store,
        requests,
        runtime,
        layout,
        union,
        known,
        tables,
        report,
        kept: keep,
        copies: matches!(begins_with, Some((_, ClaimMode::NoClaim))),
    })
}

/// True where a database that is in the directory goes on.
fn may_keep(options: &StateBackendBuilder) -> bool {
    options.durability == Durability::Wal && options.restore == Restore::Latest
}

/// The snapshot that the options ask for.
fn choose(
    options: &StateBackendBuilder,
    store: &Arc<dyn RemoteStore>,
    runtime: &IoRuntime,
    layout: &JobLayout,
    newest: Option<(u64, Result<Found>)>,
) -> Result<Option<Found>> {
    let missing = |id| Error::SnapshotNotFound {
        job: options.job.clone(),
        id,
    };
    match options.restore {
        Restore::Latest => newest.map(|(_, found)| found).transpose(),
        Restore::Snapshot(id) => match newest {
            Some((newest, found)) if newest == id => found.map(Some),
            _ => match load(store, runtime, &Place::Snapshot(layout.clone(), id)) {
                Ok(found) if found.metadata.is_fence() => Err(missing(id)),
                Ok(found) => Ok(Some(found)),
                Err(error) if is_missing(&error) => Err(missing(id)),
                Err(error) => Err(error),
            },
        },
        Restore::Empty => Ok(None),
    }
}

fn union_options(
    options: &StateBackendBuilder,
    store: &Arc<dyn RemoteStore>,
    runtime: &IoRuntime,
) -> UnionOptions {
    UnionOptions {
        base: options.local_env(),
        root: options.dir.clone(),
        store: store.clone(),
        runtime: runtime.clone(),
        download: options.download,
        cache: options.cache,
        transfer_bytes_per_second: options.transfer_bytes_per_second,
    }
}

/// The union env; `None` where its own records are damaged and the state that the directory holds is not asked for anyway.
fn open_union(
    options: &StateBackendBuilder,
    store: &Arc<dyn RemoteStore>,
    runtime: &IoRuntime,
) -> Result<Option<Arc<UnionEnv>>> {
    match UnionEnv::open(union_options(options, store, runtime)) {
        Err(error) if error.kind() == ErrorKind::Corruption && !may_keep(options) => {
            tracing::warn!(%error, "the local files cannot be told apart any more; none will be used again");
            Ok(None)
        }
        opened => Ok(Some(opened?)),
    }
}

/// The union env of `found`, or one of an empty directory in place of one that is damaged. Only to be called when the
/// state that is to come is known to be whole.
fn or_start_over(
    found: Option<Arc<UnionEnv>>,
    options: &StateBackendBuilder,
    store: &Arc<dyn RemoteStore>,
    runtime: &IoRuntime,
) -> Result<Arc<UnionEnv>> {
    if let Some(union) = found {
        return Ok(union);
    }
    UnionEnv::discard_local(&*options.local_env(), &options.dir)?;
    Ok(UnionEnv::open(union_options(options, store, runtime))?)
}

/// Tables that are declared as they are not stored are refused before anything else, whichever part of the snapshot has them.
fn check_fits(options: &StateBackendBuilder, metadata: &SnapshotMetadata) -> Result<()> {
    let own = metadata.subtasks.iter();
    own.filter(|state| state.operator == options.operator)
        .try_for_each(|state| check_declared(options, &state.tables))
}

/// The snapshot's number, where it holds more than what is wanted.
fn part_of(metadata: &SnapshotMetadata, wanted: Wanted<'_>) -> Option<u64> {
    let is_ours = |state: &SubtaskState| {
        state.operator == wanted.operator && wanted.range.covers(state.key_group_range)
    };
    (!metadata.subtasks.iter().all(is_ours)).then_some(metadata.id)
}

/// The numbers of the table files that the directory knows, by their objects.
fn numbers(union: &Option<Arc<UnionEnv>>) -> HashMap<String, u64> {
    let entries = union.iter().flat_map(|union| union.entries());
    entries
        .filter_map(|entry| {
            let number = entry.name.strip_suffix(".sst")?.parse().ok()?;
            Some((entry.file.key.to_string(), number))
        })
        .collect()
}

/// The state of exactly these key groups, if the snapshot has one.
fn state_of<'a>(metadata: &'a SnapshotMetadata, wanted: Wanted<'_>) -> Option<&'a SubtaskState> {
    metadata
        .subtasks
        .iter()
        .find(|state| state.operator == wanted.operator && state.key_group_range == wanted.range)
}

fn check_declared(options: &StateBackendBuilder, stored: &[TableSchema]) -> Result<()> {
    for declared in &options.declared()? {
        if let Some(stored) = stored.iter().find(|s| s.name == declared.name) {
            declared.check_compatible(stored)?;
        }
    }
    Ok(())
}

/// A kept directory must not go on if another one has taken snapshots of the job since: it holds the past.
fn refuse_stale(
    options: &StateBackendBuilder,
    directory: &Directory,
    newest: &SnapshotMetadata,
) -> Result<()> {
    let own = |state: &SubtaskState| state.writer == directory.token();
    if newest.subtasks.iter().any(own) || newest.id <= directory.newest_seen() {
        return Ok(());
    }
    Err(Error::LocalDirectory {
        path: options.dir.clone(),
        reason: format!(
            "snapshot {} of the job was written from another directory since; delete this one to restore that snapshot",
            newest.id
        ),
    })
}

/// Which files of the kept directory the store has: what the newest snapshot says of them and, for those that it does not
/// name, the catalog. It does not name those of an older snapshot that the directory was restored from, for example; as long
/// as they are remote, nothing but the catalog can bring them into the next snapshot.
///
/// The catalog alone does not prove that an object is still there, so this costs one listing where it is asked.
fn kept_registry(
    store: &Arc<dyn RemoteStore>,
    runtime: &IoRuntime,
    union: &UnionEnv,
    newest: Option<&SubtaskState>,
) -> Result<Registry> {
    let mut registry = Registry::default();
    if let Some(newest) = newest {
        let mut kept = newest.files.clone();
        kept.retain(|file| {
            union.get(&file.name).is_some_and(|entry| {
                // The job may have copied it since, with its first snapshot.
                (entry.file.len, entry.file.checksum) == (file.len, file.checksum)
            })
        });
        union.catalogue_uploaded(&uploaded(kept.iter())?)?;
        registry = Registry::of(&kept, &newest.tails)?;
        // A complete snapshot needs them, so they are in the store.
        kept.iter()
            .for_each(|file| union.confirm_stored(&file.name));
    }
    let mut rest = union.entries();
    rest.retain(|entry| registry.get(&entry.name).is_none());
    let dirs: BTreeSet<Key> = rest.iter().filter_map(|of| of.file.key.parent()).collect();
    let mut present = HashMap::new();
    for dir in dirs {
        let (store, prefix) = (store.clone(), dir.clone());
        let listed = runtime.wait(async move { store.list(Some(&prefix)).await })?;
        present.extend(lengths(&dir, listed));
    }
    for entry in rest {
        let file = entry.file;
        if present.get(file.key.as_str()) != Some(&file.len) {
            continue; // A local one is uploaded again.
        }
        let (tail_offset, tail_checksum) = match entry.tail {
            Some(tail) => (tail.offset, tail.checksum),
            // Uploaded again, which finds out where its tail begins.
            None if union.is_local(&entry.name) => continue,
            None => (file.len, Checksum::of(b"")),
        };
        let uploaded = Uploaded {
            key: file.key,
            len: file.len,
            checksum: file.checksum,
            tail_offset,
            tail_checksum,
            stored_tail: None,
            fresh: None,
        };
        // What is not in the registry must stay here, for the next snapshot to link it.
        union.confirm_stored(&entry.name);
        registry.insert(entry.name, uploaded);
    }
    Ok(registry)
}

/// The report's time, once the backend can be read.
pub(crate) fn with_elapsed(report: Option<RestoreReport>, begun: Instant) -> Option<RestoreReport> {
    report.map(|report| RestoreReport {
        elapsed: begun.elapsed().max(Duration::from_nanos(1)),
        ..report
    })
}
