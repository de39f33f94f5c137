//! [`UnionEnv`]: the Env that RocksDB sees, local files and remote ones under one name each.
//!
//! # Invariants
//! * Only table files directly in the db directory are ever remote. Every other path passes through to the base Env.
//! * A path is looked up without I/O. Creating a table that is not catalogued takes no lock that is held across I/O.
//! * Table files are immutable, and a file number is used once between two restores, as RocksDB does.
//!
//! # Crash story
//! * **Delete.** The entry goes from memory, then the local file; [`Env::sync_dir`] on the db directory saves the
//!   catalog. A crash before that: the entry is back as remote; RocksDB finds a table that no manifest names, and
//!   deletes it again.
//! * **Promotion.** A verified, synced file is renamed into the db directory. The durable catalog does not change. A
//!   crash leaves the file there, local, or not, remote.
//! * **Cache.** What is in it was verified when it is used, and is removed when no catalogued file is remote that needs it;
//!   see [`cache`](crate::cache).
//! * **Demotion.** See [`demote`]. **Disk budget.** See [`disk`](crate::disk).
//! * **Restore.** See [`UnionEnv::restore`]. **Upload.** See [`UnionEnv::record_uploaded`].
//! * Rename, link and create of catalogued names: see [`names`].

mod demote;
mod env;
mod heat;
mod names;
mod random;
mod restore;
mod sequential;

use std::{
    collections::HashSet,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock},
    time::SystemTime,
};

use lazurite_env::{
    Env, EnvExt, Error, ErrorKind, IoRuntime, Result,
    remote::{Key, RemoteStore},
};

use crate::{
    CacheOptions, CatalogEntry, DownloadOptions, Downloader, ReadAhead, RemoteFile, ScanPlan,
    TierStats, TransferBudget,
    ahead::Scans,
    cache::{Cache, Object, Parts},
    catalog::{Catalog, Decoded, Entry, Moves, Residency},
    disk::Disk,
    layout::{Layout, is_table_name},
    reads::{ReadObserver, ReadStats},
    stats::Counters,
    sync::lock,
    tails,
};

pub use demote::OpenFiles;
pub use restore::Reuse;

/// What a [`UnionEnv`] is made of.
#[derive(Debug, Clone)]
pub struct UnionOptions {
    /// Where local files are.
    pub base: Arc<dyn Env>,
    /// The directory on `base` that this union owns; created where it is missing. RocksDB must be given
    /// [`UnionEnv::db_dir`] spelt as it is here: paths are compared, not resolved.
    pub root: PathBuf,
    /// Where remote objects are.
    pub store: Arc<dyn RemoteStore>,
    /// Where requests run.
    pub runtime: IoRuntime,
    /// How the background download behaves.
    pub download: DownloadOptions,
    /// What is kept on the local disk of files that are not local.
    pub cache: CacheOptions,
    /// What downloads may take of the link, and whoever else takes of it: see [`UnionEnv::transfer_budget`].
    pub transfer_bytes_per_second: Option<u64>,
}

/// What reads, names and downloads share. Handles and download threads hold it, never the [`UnionEnv`] itself, so
/// dropping that one ends the download.
pub(crate) struct Core {
    pub layout: Layout,
    pub base: Arc<dyn Env>,
    pub store: Arc<dyn RemoteStore>,
    pub runtime: IoRuntime,
    pub catalog: Catalog,
    /// Where objects lie that were copied since they were catalogued.
    pub moves: Arc<Moves>,
    pub cache: Cache,
    pub counters: Arc<Counters>,
    pub budget: Arc<TransferBudget>,
    pub scans: Scans,
    /// Held, also across local I/O, by whatever deletes, renames, links or catalogues a table. Lookups do not take it.
    pub naming: Mutex<()>,
    pub disk: Disk,
    /// Who has local files open without this crate's knowing.
    pub open_files: OnceLock<Arc<dyn OpenFiles>>,
    /// What a remote file shows as its time of change.
    loaded: SystemTime,
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core")
            .field("root", &self.layout.root)
            .field("base", &self.base)
            .field("store", &self.store.uri())
            .finish_non_exhaustive()
    }
}

/// The union of a local Env and a remote store, and an [`Env`] itself. What a crash leaves stands at the head of `union/mod.rs`.
///
/// Any thread may call it, tokio workers included; a read of a remote file blocks on the network. Dropping it stops the
/// download; files that are open go on being readable.
#[derive(Debug)]
pub struct UnionEnv {
    core: Arc<Core>,
    downloader: Downloader,
}

impl UnionEnv {
    /// Opens the union below `options.root`: creates its directories, loads the catalog, the tail bundle and the maps of
    /// the cache, and finds out which files are local. No request is made, and no file is looked at that is not there.
    ///
    /// A catalogued file whose local length is wrong is deleted and is then remote. What the cache holds of other objects
    /// than those of remote files is removed.
    ///
    /// # Errors
    /// `Corruption` naming the CATALOG file where it is damaged: [`discard_local`](Self::discard_local) and a restore
    /// bring everything back that the remote store has. `Unsupported` where a newer version wrote it.
    pub fn open(options: UnionOptions) -> Result<Arc<UnionEnv>> {
        let UnionOptions {
            base,
            root,
            store,
            runtime,
            download,
            cache,
            transfer_bytes_per_second,
        } = options;
        let layout = Layout::new(&root);
        for dir in [&layout.db, &layout.tails, &layout.cache, &layout.download] {
            base.create_dir_all(dir)?;
        }
        // Of a write that a crash cut short; where it stays, the next one replaces it.
        let _ = base.delete(&layout.catalog_temp);
        let decoded = Catalog::load(&*base, &layout.catalog)?;
        let Decoded {
            tails: bundle,
            entries,
        } = decoded.unwrap_or(Decoded {
            tails: None,
            entries: Vec::new(),
        });
        let tail_bytes = match &bundle {
            Some(bundle) => bundle.load(&*base, &layout.tails)?,
            None => None,
        };
        let entries = find_local(&*base, &layout, entries)?;
        let remote = |(facts, residency): &(CatalogEntry, Residency)| {
            (*residency == Residency::Remote).then(|| facts.file.clone())
        };
        let wanted: Vec<_> = entries.iter().filter_map(remote).collect();
        let mut own_tails = HashSet::new();
        let entries = entries
            .into_iter()
            .map(|(facts, residency)| {
                if residency == Residency::Remote {
                    own_tails.insert(tails::own_name(&facts.name));
                }
                let tail = match residency {
                    Residency::Local => None,
                    _ => tails::slice(tail_bytes.as_ref(), &facts)
                        .or_else(|| tails::load_own(&*base, &layout.tails, &facts)),
                };
                (Arc::new(Entry::new(facts, tail)), residency)
            })
            .collect();
        tails::remove_others(&*base, &layout.download, |_| false);
        let bundle_name = bundle.as_ref().map(|bundle| bundle.name.as_str());
        tails::remove_others(&*base, &layout.tails, |name| {
            Some(name) == bundle_name || own_tails.contains(name)
        });

        let moves = Arc::new(Moves::default());
        let counters = Arc::new(Counters::default());
        let disk = Disk::new(&cache);
        let budget = Arc::new(TransferBudget::new(transfer_bytes_per_second));
        let cache = Cache::open(
            Parts {
                base: base.clone(),
                dir: layout.cache.clone(),
                store: store.clone(),
                moves: moves.clone(),
                runtime: runtime.clone(),
                counters: counters.clone(),
                budget: budget.clone(),
                options: cache,
            },
            &wanted,
        )?;
        let path = layout.catalog.clone();
        let core = Arc::new(Core {
            catalog: Catalog::new(base.clone(), path, entries, bundle, moves.clone()),
            moves,
            cache,
            layout,
            base,
            store,
            runtime,
            counters,
            budget,
            scans: Scans::default(),
            naming: Mutex::new(()),
            disk,
            open_files: OnceLock::new(),
            loaded: SystemTime::now(),
        });
        core.cap_cache();
        core.start_keeper().inspect_err(|_| core.cache.close())?;
        Ok(Arc::new(UnionEnv {
            downloader: Downloader::new(core.clone(), download),
            core,
        }))
    }

    /// Removes everything that a union keeps below `root`, so that a restore starts from nothing; `root` stays, with
    /// whatever else is in it. Not an error where nothing is there. No union may be open there.
    ///
    /// `db/CURRENT` goes first, then the catalog, each durably: after a crash in the middle nothing opens what is left,
    /// and calling this again finishes it.
    pub fn discard_local(base: &dyn Env, root: &Path) -> Result<()> {
        let layout = Layout::new(root);
        let first = [
            (layout.db.join("CURRENT"), &layout.db),
            (layout.catalog, &layout.root),
            (layout.catalog_temp, &layout.root),
        ];
        for (path, dir) in first {
            match base.delete(&path) {
                Ok(()) => base.sync_dir(dir)?,
                Err(e) if e.is_not_found() => {}
                Err(e) => return Err(e),
            }
        }
        for dir in [&layout.db, &layout.tails, &layout.cache, &layout.download] {
            base.remove_dir_all(dir)?;
        }
        match base.sync_dir(root) {
            Err(e) if e.is_not_found() => Ok(()),
            result => result,
        }
    }

    /// The directory for RocksDB: `<root>/db`. It exists.
    pub fn db_dir(&self) -> &Path {
        &self.core.layout.db
    }

    /// What the catalog knows of the table file `name`. No I/O.
    pub fn get(&self, name: &str) -> Option<CatalogEntry> {
        let catalog = &self.core.catalog;
        catalog.lookup(name).map(|entry| catalog.facts_of(&entry))
    }

    /// All that the catalog knows, in the order of the names. No I/O.
    pub fn entries(&self) -> Vec<CatalogEntry> {
        self.core.catalog.facts()
    }

    /// True where `name` is catalogued and its bytes are on the local disk. No I/O.
    pub fn is_local(&self, name: &str) -> bool {
        self.core
            .catalog
            .lookup(name)
            .is_some_and(|entry| entry.is_local())
    }

    /// Number of catalogued files that are not local; 0: every byte is local. Takes no lock.
    pub fn remote_files(&self) -> usize {
        self.core.catalog.remote()
    }

    /// What the tiers did since the union was opened.
    pub fn stats(&self) -> TierStats {
        let remote_files = self.core.catalog.remote() as u64;
        let cache = self.core.cache.usage();
        let disk = self.core.disk_use();
        TierStats {
            table_bytes: disk.tables,
            disk_budget_bytes: disk.budget,
            disk_over_bytes: disk.over,
            cache_bytes: cache.bytes,
            cache_budget_bytes: cache.budget,
            remote_files,
            local_files: (self.core.catalog.len() as u64).saturating_sub(remote_files),
            ..self.core.counters.read()
        }
    }

    /// Reads of files that were remote when they were opened, by what served them and what they were for: a row for each
    /// pair, those without a read included.
    pub fn read_stats(&self) -> Vec<ReadStats> {
        self.core.counters.reads.stats().collect()
    }

    /// Tells `observer` how long readers wait for bytes from the store, from now on. The first observer stays.
    pub fn observe_reads(&self, observer: ReadObserver) {
        self.core.counters.reads.observe(observer);
    }

    /// The remote objects that may still be read through this union: they must not be deleted from the store.
    ///
    /// These are all that the catalog names, in memory or durably, and those of deleted files that are still open. A
    /// deletion takes effect here once the catalog was saved: call [`Env::sync_dir`] on [`db_dir`](Self::db_dir) first
    /// to have the shortest answer.
    pub fn referenced_keys(&self) -> HashSet<Key> {
        self.core.catalog.referenced()
    }

    /// Tells that local files of the db directory are now also in the remote store. Durable on
    /// return; blocks on the disk. A file that was deleted meanwhile is left out. One that is catalogued already, local or not, as an object
    /// of the same content at another place is read at this one from now on, by handles that are open too. From now on these files may be demoted, and where the
    /// [disk budget](CacheOptions::disk_budget_bytes) asks for it, some are on return.
    ///
    /// The objects must be complete and durable in the store before this is called.
    ///
    /// # Errors
    /// `InvalidInput` where a name is no table file's, the local length differs from the object's, or the name is
    /// catalogued as another content. After any error none of the files may be counted on to be catalogued.
    pub fn record_uploaded(&self, files: &[CatalogEntry]) -> Result<()> {
        let stored = self.core.catalogue(files)?;
        stored.iter().for_each(|entry| entry.set_stored());
        self.core.balance();
        Ok(())
    }

    /// The same, for who does not know yet whether the objects stay: none of these files may be demoted before
    /// [`record_uploaded`](Self::record_uploaded) tells it of them as well.
    ///
    /// # Errors
    /// As [`record_uploaded`](Self::record_uploaded).
    pub fn catalogue_uploaded(&self, files: &[CatalogEntry]) -> Result<()> {
        self.core.catalogue(files).map(drop)
    }

    /// Tells that the object of the catalogued file `name` is complete in the store: the file may be
    /// [demoted](CacheOptions::disk_budget_bytes). After an [`open`](Self::open) nobody knows this of local files; a restore,
    /// a download and [`record_uploaded`](Self::record_uploaded) tell it of theirs. No I/O.
    pub fn confirm_stored(&self, name: &str) {
        if let Some(entry) = self.core.catalog.lookup(name) {
            entry.set_stored();
        }
    }

    /// Has `open` asked, when a local file is to be demoted, whether it is used, and to let go of it; and what users read of local
    /// files. The first call counts. Without, space of demoted files is free once their native handles are closed.
    pub fn watch_open_files(&self, open: Arc<dyn OpenFiles>) {
        // Once; the others would only be asked too late.
        let _ = self.core.open_files.set(open);
        self.core.disk.prod();
    }

    /// Demotes the local file `name`: its object in the store is read from now on, and its space is free. Blocks on the local
    /// disk. `false` where it cannot be: it is not catalogued, not local, or nobody told that the store has it.
    ///
    /// # Errors
    /// What the local disk says. The file is local then or, where it may be gone, remote.
    pub fn demote(&self, name: &str) -> Result<bool> {
        match self.core.catalog.lookup(name) {
            Some(entry) => self.core.demote(&entry),
            None => Ok(false),
        }
    }

    /// Changes the disk budget ([`CacheOptions::disk_budget_bytes`]), and demotes and evicts what is too much before this
    /// returns, which blocks on the local disk. Nothing where the union was opened without one.
    pub fn set_disk_budget(&self, bytes: u64) {
        self.core.set_disk_budget(bytes);
    }

    /// Changes what the chunk cache may take of the local disk: [`CacheOptions::budget_bytes`]. Where that is less than it
    /// takes now, cold chunks go before this returns, which blocks on the local disk; what running downloads have reserved
    /// stays theirs.
    pub fn set_cache_budget(&self, bytes: u64) {
        self.core.set_cache_budget(bytes);
    }

    /// Ends the looks at the disk budget and waits for the demotion that is under way: from now on nothing is demoted but by
    /// [`demote`](Self::demote), and nothing more is deleted below the root because of the budget. For whoever is about to give
    /// the directory to another while handles of this union live on.
    pub fn stop_demotions(&self) {
        self.core.stop_keeper();
    }

    /// Blocks until what reads brought so far is stored in the chunk cache, or dropped. For tests, benches, and whoever is
    /// about to end the process and wants it warm.
    pub fn flush_cache(&self) {
        self.core.cache.flush();
    }

    /// The bytes per second that the download may take. Whoever uploads is to take from it too.
    pub fn transfer_budget(&self) -> &Arc<TransferBudget> {
        &self.core.budget
    }

    /// Fetches remote bytes ahead of an iterator that reads as `plan` says, for as long as the result lives. A plan that is
    /// wrong costs bytes, never more than the iterator has read.
    pub fn read_ahead(&self, plan: ScanPlan) -> ReadAhead {
        ReadAhead::begin(self.core.clone(), plan)
    }

    /// Bytes asked for ahead of readers that have not passed them.
    #[cfg(test)]
    pub(crate) fn kept_bytes(&self) -> u64 {
        self.core.kept_bytes()
    }

    /// The background download of remote files.
    pub fn download(&self) -> &Downloader {
        &self.downloader
    }
}

impl Drop for UnionEnv {
    fn drop(&mut self) {
        self.downloader.stop();
        self.core.stop_keeper();
        // Another union may be opened here: from now on nobody writes below the root.
        self.core.cache.close();
    }
}

impl Core {
    /// Catalogues local files whose objects are `files`, durably; the entries of those that are there.
    fn catalogue(&self, files: &[CatalogEntry]) -> Result<Vec<Arc<Entry>>> {
        let mut entries = Vec::with_capacity(files.len());
        for facts in files {
            let (name, file) = (&facts.name, &facts.file);
            let bad = |why: &str| {
                Err(Error::new(
                    ErrorKind::InvalidInput,
                    "record upload",
                    name,
                    why,
                ))
            };
            if !is_table_name(name) {
                return bad("not the name of a table file");
            }
            let _naming = lock(&self.naming);
            if let Some(entry) = self.catalog.lookup(name) {
                if !entry.file().same_content(file) {
                    return bad("it is catalogued as another object");
                }
                self.catalog.moved(&entry, &file.key);
                entries.push(entry);
                continue;
            }
            match self.base.stat(&self.layout.db.join(name)) {
                Ok(stat) if stat.len == file.len => {}
                Ok(_) => return bad("the local file has another length than the object"),
                Err(e) if e.is_not_found() => continue,
                Err(e) => return Err(e),
            }
            let entry = Arc::new(Entry::new(facts.clone(), None));
            self.catalog.insert(entry.clone(), Residency::Local);
            entries.push(entry);
        }
        self.catalog.save()?;
        Ok(entries)
    }

    /// Has the cache forget `file`, unless a remote table still is that object.
    pub fn uncache(&self, file: &RemoteFile) {
        let object = Object::new(file).id;
        self.cache
            .retire_unless(object, || self.catalog.is_remote(file));
    }
}

/// Which of `entries` have their file in the db directory. Files of a wrong length are deleted.
fn find_local(
    base: &dyn Env,
    layout: &Layout,
    entries: Vec<CatalogEntry>,
) -> Result<Vec<(CatalogEntry, Residency)>> {
    let there = base.list(&layout.db)?;
    let there: HashSet<_> = there.into_iter().map(|entry| entry.name).collect();
    let mut found = Vec::with_capacity(entries.len());
    for entry in entries {
        let mut residency = Residency::Remote;
        if there.contains(&entry.name) {
            let path = layout.db.join(&entry.name);
            let len = base.stat(&path)?.len;
            if len == entry.file.len {
                residency = Residency::Local;
            } else {
                tracing::warn!(
                    path = %path.display(), len, expected = entry.file.len,
                    "local table file has the wrong length: deleted, its remote object is used"
                );
                base.delete(&path)?;
            }
        }
        found.push((entry, residency));
    }
    Ok(found)
}
