//! [`Catalog`]: which table file is which remote object, in memory and durable in `<root>/CATALOG`.
//!
//! # Invariants
//! * Looking a name up does no I/O; the lock on the names is never held across I/O.
//! * `remote` is the number of catalogued entries whose residency is `Remote`.
//! * The durable catalog never maps a name to an object while a local file of that name and another content may be
//!   found after a crash. A write whose outcome is not known ([`Catalog::settle`]) is repeated before any new bytes
//!   get a table's name.
//!
//! # Crash story
//! The file is replaced atomically, so after a crash it is the old one or the new one. Residency is not in it: an entry
//! is local where its file is there with the right length. A deletion that was not yet saved is undone by a crash: the
//! entry is back, remote, RocksDB finds a table that no manifest names and deletes it again. Until it was saved, the
//! object counts as [referenced](Catalog::referenced).

mod entry;
mod file;
mod moves;

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
    sync::{
        Arc, Mutex, RwLock, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use lazurite_env::{Env, EnvExt, Result, remote::Key};

pub use entry::{CatalogEntry, RemoteFile, TailSpec};
pub(crate) use entry::{Entry, Residency};
pub(crate) use file::Decoded;
pub(crate) use moves::Moves;

use crate::{
    sync::{lock, read, write},
    tails::Bundle,
};

/// No catalog is longer: about 250 bytes a file, so millions of files.
const MAX_CATALOG_BYTES: u64 = 1 << 30;

#[derive(Debug)]
pub(crate) struct Catalog {
    base: Arc<dyn Env>,
    path: PathBuf,
    names: RwLock<Names>,
    /// Where objects lie that were copied since they were catalogued.
    moves: Arc<Moves>,
    remote: AtomicUsize,
    /// The change that the file holds. Held while the file is written.
    saved: Mutex<u64>,
    /// A write was begun and did not report success: the file may hold either catalog.
    unsettled: AtomicBool,
}

#[derive(Debug, Default)]
struct Names {
    live: BTreeMap<String, Arc<Entry>>,
    tails: Option<Bundle>,
    /// Counts the changes of `live` and `tails`.
    change: u64,
    /// Removed, but the file still names them.
    unsaved: Vec<Arc<Entry>>,
    /// Removed for good, but a handle may be open.
    departed: Vec<Weak<Entry>>,
}

impl Catalog {
    /// Reads the catalog file; `None` where there is none. `Corruption` where it is damaged, naming the file.
    pub fn load(base: &dyn Env, path: &std::path::Path) -> Result<Option<Decoded>> {
        match base.read_to_vec(path, MAX_CATALOG_BYTES) {
            Ok(bytes) => file::decode(path, &bytes).map(Some),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// A catalog of what its file holds.
    pub fn new(
        base: Arc<dyn Env>,
        path: PathBuf,
        entries: Vec<(Arc<Entry>, Residency)>,
        tails: Option<Bundle>,
        moves: Arc<Moves>,
    ) -> Self {
        let catalog = Catalog {
            base,
            path,
            names: RwLock::default(),
            moves,
            remote: AtomicUsize::new(0),
            saved: Mutex::new(0),
            unsettled: AtomicBool::new(false),
        };
        entries
            .iter()
            .for_each(|(entry, _)| entry.set_durable(true));
        catalog.exchange(entries, tails);
        *lock(&catalog.saved) = read(&catalog.names).change;
        catalog
    }

    pub fn lookup(&self, name: &str) -> Option<Arc<Entry>> {
        read(&self.names).live.get(name).cloned()
    }

    pub fn contains(&self, name: &str) -> bool {
        read(&self.names).live.contains_key(name)
    }

    /// Number of catalogued files.
    pub fn len(&self) -> usize {
        read(&self.names).live.len()
    }

    /// Number of catalogued files that are remote. Takes no lock.
    pub fn remote(&self) -> usize {
        self.remote.load(Ordering::Acquire)
    }

    pub fn names(&self) -> Vec<String> {
        read(&self.names).live.keys().cloned().collect()
    }

    /// What is catalogued, by name.
    pub fn facts(&self) -> Vec<CatalogEntry> {
        let names = read(&self.names);
        names.live.values().map(|e| self.facts_of(e)).collect()
    }

    /// What is known of an entry by now.
    pub fn facts_of(&self, entry: &Entry) -> CatalogEntry {
        let mut facts = entry.facts.clone();
        facts.file.key = self.moves.now(&facts.file.key);
        facts
    }

    /// Notes that the object of `entry` lies at `to` as well: it is read there from now on. Not durable before
    /// [`save`](Self::save).
    pub fn moved(&self, entry: &Entry, to: &Key) {
        if self.moves.note(&entry.file().key, to) {
            write(&self.names).change += 1;
        }
    }

    pub fn tails(&self) -> Option<Bundle> {
        read(&self.names).tails.clone()
    }

    /// The entries that are remote now.
    pub fn remote_entries(&self) -> Vec<Arc<Entry>> {
        let names = read(&self.names);
        let remote = |entry: &&Arc<Entry>| entry.residency() == Residency::Remote;
        names.live.values().filter(remote).cloned().collect()
    }

    /// True where some catalogued file is remote and this object.
    pub fn is_remote(&self, file: &RemoteFile) -> bool {
        let names = read(&self.names);
        let mut live = names.live.values();
        live.any(|entry| entry.residency() == Residency::Remote && entry.file().same_content(file))
    }

    /// The entries that are local now.
    pub fn local_entries(&self) -> Vec<Arc<Entry>> {
        let names = read(&self.names);
        let local = |entry: &&Arc<Entry>| entry.is_local();
        names.live.values().filter(local).cloned().collect()
    }

    /// The bytes of the local files, with those of `others` that are not catalogued, and of the remote ones; each catalogued
    /// file rounded up as by `round`.
    pub fn bytes(&self, round: impl Fn(u64) -> u64, others: &BTreeMap<String, u64>) -> (u64, u64) {
        let names = read(&self.names);
        let others = others
            .iter()
            .filter(|(name, _)| !names.live.contains_key(*name));
        let (mut local, mut remote) = (others.map(|(_, len)| len).sum(), 0);
        for entry in names.live.values() {
            let len = round(entry.file().len);
            match entry.residency() {
                Residency::Local => local += len,
                Residency::Remote => remote += len,
                Residency::Gone => {}
            }
        }
        (local, remote)
    }

    /// Objects that may still be read: catalogued, in the file, or held by an open handle.
    pub fn referenced(&self) -> HashSet<Key> {
        let mut names = write(&self.names);
        names.departed.retain(|entry| entry.strong_count() > 0);
        let held = names.departed.iter().filter_map(Weak::upgrade);
        let held: Vec<_> = held.collect();
        let all = names.live.values().chain(&names.unsaved).chain(&held);
        all.map(|entry| self.moves.now(&entry.file().key)).collect()
    }

    /// Catalogues `entry` under its name. Not durable before [`save`](Self::save). The caller removed one of that name.
    pub fn insert(&self, entry: Arc<Entry>, residency: Residency) {
        let mut names = write(&self.names);
        names.change += 1;
        self.set_residency(&entry, residency);
        names.live.insert(entry.name().to_owned(), entry);
    }

    /// Takes `name` out; its entry is `Gone`. Not durable before [`save`](Self::save).
    pub fn remove(&self, name: &str) {
        let mut names = write(&self.names);
        if let Some(entry) = names.live.remove(name) {
            names.change += 1;
            self.set_residency(&entry, Residency::Gone);
            names.unsaved.push(entry);
        }
    }

    /// Tells where the bytes of `entry` now are, and counts.
    pub fn set_residency(&self, entry: &Entry, to: Residency) {
        let from = entry.swap_residency(to);
        match (from == Residency::Remote, to == Residency::Remote) {
            (false, true) => self.remote.fetch_add(1, Ordering::AcqRel),
            (true, false) => self.remote.fetch_sub(1, Ordering::AcqRel),
            _ => 0,
        };
    }

    /// True where the file on disk may be another catalog than the last one that was saved.
    pub fn is_unsettled(&self) -> bool {
        self.unsettled.load(Ordering::Acquire)
    }

    /// Makes sure what the file holds, where a write of it failed before. To be called before new bytes get the name of
    /// a table. Free of cost otherwise.
    pub fn settle(&self) -> Result<()> {
        if self.is_unsettled() {
            self.save()
        } else {
            Ok(())
        }
    }

    /// Makes every change so far durable; does nothing where none was made. Blocks on the disk.
    pub fn save(&self) -> Result<()> {
        let mut saved = lock(&self.saved);
        let (change, entries, tails, unsaved) = {
            let names = read(&self.names);
            if names.change == *saved && !self.is_unsettled() {
                return Ok(());
            }
            let entries: Vec<_> = names.live.values().cloned().collect();
            (
                names.change,
                entries,
                names.tails.clone(),
                names.unsaved.len(),
            )
        };
        self.write_file(tails.as_ref(), &entries)?;
        *saved = change;
        let mut names = write(&self.names);
        // Only this function takes from `unsaved`, under `saved`: its first ones are those that were there before.
        let durable: Vec<_> = names.unsaved.drain(..unsaved).collect();
        names.departed.retain(|entry| entry.strong_count() > 0);
        names.departed.extend(durable.iter().map(Arc::downgrade));
        Ok(())
    }

    /// Replaces the whole catalog, first in the file, then in memory. On an error memory is as before, and the file is
    /// either the old or the new one.
    pub fn replace(
        &self,
        entries: Vec<(Arc<Entry>, Residency)>,
        tails: Option<Bundle>,
    ) -> Result<()> {
        let mut saved = lock(&self.saved);
        let files: Vec<_> = entries.iter().map(|(entry, _)| entry.clone()).collect();
        // Where this fails, the file may be the new one.
        let old = read(&self.names).live.clone();
        old.values().for_each(|entry| entry.set_durable(false));
        self.write_file(tails.as_ref(), &files)?;
        *saved = self.exchange(entries, tails);
        Ok(())
    }

    fn write_file(&self, tails: Option<&Bundle>, entries: &[Arc<Entry>]) -> Result<()> {
        let facts: Vec<_> = entries.iter().map(|entry| self.facts_of(entry)).collect();
        let bytes = file::encode(&self.path, tails, facts.iter())?;
        self.unsettled.store(true, Ordering::Release);
        self.base.write_atomic(&self.path, &bytes)?;
        self.unsettled.store(false, Ordering::Release);
        entries.iter().for_each(|entry| entry.set_durable(true));
        Ok(())
    }

    /// Swaps the names in memory; the change number after it.
    fn exchange(&self, entries: Vec<(Arc<Entry>, Residency)>, tails: Option<Bundle>) -> u64 {
        let mut names = write(&self.names);
        let old = std::mem::take(&mut names.live);
        for entry in old.into_values().chain(std::mem::take(&mut names.unsaved)) {
            self.set_residency(&entry, Residency::Gone);
            names.departed.push(Arc::downgrade(&entry));
        }
        for (entry, residency) in entries {
            self.set_residency(&entry, residency);
            names.live.insert(entry.name().to_owned(), entry);
        }
        names.tails = tails;
        names.change += 1;
        names.change
    }
}
