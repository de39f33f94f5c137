//! One catalogued table file: its durable facts ([`CatalogEntry`]) and where its bytes are now ([`Entry`]).

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
};

use bytes::Bytes;
use lazurite_env::{Error, ErrorKind, RandomFile, Result, remote::Key};

use crate::{
    Checksum,
    layout::is_table_name,
    sync::{read, write},
};

/// The remote object that holds all bytes of a table file. Objects are immutable: a key never means two contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFile {
    /// The object.
    pub key: Key,
    /// Its length in bytes.
    pub len: u64,
    /// The xxh3-128 of all its bytes.
    pub checksum: Checksum,
}

impl RemoteFile {
    /// True where both are the same bytes, wherever they lie.
    pub(crate) fn same_content(&self, other: &RemoteFile) -> bool {
        (self.len, self.checksum) == (other.len, other.checksum)
    }
}

/// Where the end of a table file lies beside it: in the tail bundle, or in a file of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TailSpec {
    /// The first byte of the file that is in it; it is there from that one to its end.
    pub offset: u64,
    /// Where that byte is in the bundle. `None`: the bundle does not hold it. It is kept in a file of its own while the
    /// table is remote after a [demotion](crate::CacheOptions::disk_budget_bytes).
    pub bundle_offset: Option<u64>,
    /// The xxh3-128 of those bytes.
    pub checksum: Checksum,
}

/// What the catalog knows durably of one table file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogEntry {
    /// Its name in the db directory, as RocksDB gives it: `000012.sst`.
    pub name: String,
    /// Its level when it was catalogued: what is downloaded first. 0 is the newest.
    pub level: u8,
    /// The remote object that it is.
    pub file: RemoteFile,
    /// Where its end is kept beside it, where that is known.
    pub tail: Option<TailSpec>,
}

impl CatalogEntry {
    /// Refuses names that leave the directory or are spelt twice, and tails outside the file or the bundle.
    ///
    /// Entries come from remote metadata: nothing of them is trusted before this. `bundle_len`: the length of the tail bundle
    /// in bytes. [`UnionEnv::restore`](crate::UnionEnv::restore) checks the same; this tells it before anything is changed.
    ///
    /// # Errors
    /// `Corruption` naming the entry.
    pub fn check_all(entries: &[CatalogEntry], bundle_len: u64) -> Result<()> {
        let mut names = BTreeSet::new();
        for entry in entries {
            let bad = |why: &str| {
                let name = entry.name.escape_debug().to_string();
                Err(Error::new(
                    ErrorKind::Corruption,
                    "check catalog entry",
                    name,
                    why,
                ))
            };
            if !is_table_name(&entry.name) {
                return bad("not the name of a table file");
            }
            if !names.insert(&entry.name) {
                return bad("named twice");
            }
            if let Some(tail) = entry.tail {
                let end = entry
                    .file
                    .len
                    .checked_sub(tail.offset)
                    .and_then(|len| tail.bundle_offset.unwrap_or(0).checked_add(len));
                let in_bundle = tail.bundle_offset.is_some();
                if end.is_none_or(|end| in_bundle && end > bundle_len) {
                    return bad("its tail is outside of the file or of the tail bundle");
                }
            }
        }
        Ok(())
    }
}

/// Where the bytes of a table file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Residency {
    /// In no catalog: not yet, or deleted. Handles that are open read the remote object.
    Gone = 0,
    /// Only in the remote store.
    Remote = 1,
    /// In the db directory, complete and verified; also in the remote store.
    Local = 2,
}

/// A catalogued table file. Its facts never change; a rename makes a new one.
///
/// Residency changes only through [`Catalog`](super::Catalog), which counts the remote ones. `Gone` is final while the
/// entry is shared.
#[derive(Debug)]
pub(crate) struct Entry {
    pub facts: CatalogEntry,
    /// Held by whoever changes the local file's name: a promotion from its last look at the residency until the file
    /// is in place, a deletion from its mark until the file is unlinked. So neither can undo the other.
    pub moving: Mutex<()>,
    residency: AtomicU8,
    /// Dropped at promotion, so that the bundle's memory is free once every file is local.
    tail: RwLock<Option<Bytes>>,
    /// This process knows that the store has the object: without that, a local file is the only one.
    stored: AtomicBool,
    /// The file of the catalog names it, whichever write of that file was the last to reach the disk.
    durable: AtomicBool,
    /// The local file, for handles that read it through this crate.
    local: RwLock<Option<Arc<dyn RandomFile>>>,
}

impl Entry {
    /// An entry that is in no catalog yet. `tail`: the bytes that `facts.tail` names, where they are at hand.
    pub fn new(facts: CatalogEntry, tail: Option<Bytes>) -> Self {
        Entry {
            facts,
            moving: Mutex::new(()),
            residency: AtomicU8::new(Residency::Gone as u8),
            tail: RwLock::new(tail),
            stored: AtomicBool::new(false),
            durable: AtomicBool::new(false),
            local: RwLock::default(),
        }
    }

    pub fn name(&self) -> &str {
        &self.facts.name
    }

    pub fn file(&self) -> &RemoteFile {
        &self.facts.file
    }

    pub fn residency(&self) -> Residency {
        match self.residency.load(Ordering::Acquire) {
            1 => Residency::Remote,
            2 => Residency::Local,
            _ => Residency::Gone,
        }
    }

    pub fn is_local(&self) -> bool {
        self.residency() == Residency::Local
    }

    /// Sets the residency and tells the one before.
    pub(super) fn swap_residency(&self, to: Residency) -> Residency {
        match self.residency.swap(to as u8, Ordering::AcqRel) {
            1 => Residency::Remote,
            2 => Residency::Local,
            _ => Residency::Gone,
        }
    }

    /// The end of the file that is in memory: its offset and its bytes.
    pub fn tail(&self) -> Option<(u64, Bytes)> {
        let bytes = read(&self.tail).clone()?;
        self.facts.tail.map(|spec| (spec.offset, bytes))
    }

    /// Keeps the end of the file in memory: the bytes that `facts.tail` names.
    pub fn set_tail(&self, tail: Bytes) {
        *write(&self.tail) = Some(tail);
    }

    /// Tells that the object is complete in the store.
    pub fn set_stored(&self) {
        self.stored.store(true, Ordering::Release);
    }

    /// True where this process knows that the object is complete in the store.
    pub fn is_stored(&self) -> bool {
        self.stored.load(Ordering::Acquire)
    }

    pub(super) fn set_durable(&self, durable: bool) {
        self.durable.store(durable, Ordering::Release);
    }

    /// True where the catalog on the disk names it, for as long as it is catalogued.
    pub fn is_durable(&self) -> bool {
        self.durable.load(Ordering::Acquire)
    }

    /// The local file; `open` opens it where it is there and nobody has.
    pub fn local_file(
        &self,
        open: impl FnOnce() -> Result<Box<dyn RandomFile>>,
    ) -> Result<Option<Arc<dyn RandomFile>>> {
        if let Some(file) = &*read(&self.local) {
            return Ok(Some(file.clone()));
        }
        if !self.is_local() {
            return Ok(None);
        }
        let file: Arc<dyn RandomFile> = open()?.into();
        let mut local = write(&self.local);
        if local.is_none() && self.is_local() {
            *local = Some(file.clone());
        }
        Ok(Some(file))
    }

    /// Closes the local file, once its readers have left. It is not local any more.
    pub fn close_local_file(&self) {
        *write(&self.local) = None;
    }

    /// Frees the tail's memory; reads there become requests.
    pub fn drop_tail(&self) {
        *write(&self.tail) = None;
    }
}
