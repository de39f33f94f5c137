//! What this backend knows to lie in the store already, so that no file is uploaded twice.
//!
//! Keyed by RocksDB's file name. RocksDB never gives a number out twice while it lives in one directory, and a restore
//! builds the registry anew, so a name means one content for the life of a registry.
//!
//! A file is entered as soon as its upload ended, whatever became of the snapshot that it was for: the next one reuses
//! it. Nothing here is durable; after a crash the newest snapshot's metadata and the
//! catalog fill it again, and what was uploaded for a
//! snapshot that never completed is an orphan.

use std::collections::{HashMap, HashSet};

use lazurite_env::remote::Key;
use lazurite_tiering::Checksum;

use super::{
    layout::JobLayout,
    metadata::{SnapshotFile, TailsRef},
};

/// A table file that is in the store.
#[derive(Debug, Clone)]
pub(crate) struct Uploaded {
    pub(crate) key: Key,
    pub(crate) len: u64,
    pub(crate) checksum: Checksum,
    pub(crate) tail_offset: u64,
    pub(crate) tail_checksum: Checksum,
    /// The tails object that holds them, and where in it; `None` until one does.
    pub(crate) stored_tail: Option<(Key, u64)>,
}

impl Uploaded {
    /// The tail's length in bytes.
    pub(crate) fn tail_len(&self) -> u64 {
        self.len.saturating_sub(self.tail_offset)
    }
}

/// The table files and tails objects that are in the store.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    files: HashMap<String, Uploaded>,
    tails: HashMap<Key, TailsRef>,
    /// Objects of files that RocksDB has dropped since: to be deleted once no snapshot needs them.
    dropped: HashSet<Key>,
}

impl Registry {
    /// What a snapshot says is in the store.
    pub(crate) fn of(
        files: &[SnapshotFile],
        tails: &[TailsRef],
        layout: &JobLayout,
    ) -> crate::Result<Self> {
        let mut registry = Registry::default();
        for object in tails {
            registry
                .tails
                .insert(layout.own(&object.key)?, object.clone());
        }
        for file in files {
            let stored_tail = match file.tail {
                Some((object, offset)) => Some((layout.own(&tails[object as usize].key)?, offset)),
                None => None,
            };
            registry.files.insert(
                file.name.clone(),
                Uploaded {
                    key: layout.own(&file.key)?,
                    len: file.len,
                    checksum: file.checksum,
                    tail_offset: file.tail_offset,
                    tail_checksum: file.tail_checksum,
                    stored_tail,
                },
            );
        }
        Ok(registry)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Uploaded> {
        self.files.get(name)
    }

    pub(crate) fn insert(&mut self, name: String, file: Uploaded) {
        self.files.insert(name, file);
    }

    pub(crate) fn tails_object(&self, key: &Key) -> Option<&TailsRef> {
        self.tails.get(key)
    }

    /// Notes that the tails of `files` (name, offset) now lie in the object `tails`.
    pub(crate) fn store_tails(&mut self, key: Key, tails: TailsRef, files: &[(String, u64)]) {
        for (name, offset) in files {
            if let Some(file) = self.files.get_mut(name) {
                file.stored_tail = Some((key.clone(), *offset));
            }
        }
        self.tails.insert(key, tails);
        self.drop_unused_tails();
    }

    /// Forgets every file that is not in `live`; RocksDB will never use those names again.
    pub(crate) fn keep_only(&mut self, live: &HashSet<&str>) {
        let dropped = &mut self.dropped;
        self.files.retain(|name, file| {
            let keep = live.contains(name.as_str());
            if !keep {
                dropped.insert(file.key.clone());
            }
            keep
        });
        self.drop_unused_tails();
    }

    fn drop_unused_tails(&mut self) {
        let dropped = &mut self.dropped;
        let used: HashSet<&Key> = self
            .files
            .values()
            .filter_map(|f| f.stored_tail.as_ref())
            .map(|(key, _)| key)
            .collect();
        self.tails.retain(|key, _| {
            let keep = used.contains(key);
            if !keep {
                dropped.insert(key.clone());
            }
            keep
        });
    }

    /// Objects that a later snapshot may refer to: never to be deleted.
    pub(crate) fn needed(&self) -> HashSet<Key> {
        self.files
            .values()
            .map(|f| f.key.clone())
            .chain(self.tails.keys().cloned())
            .collect()
    }

    /// Takes the objects of forgotten files; the caller deletes those that no snapshot needs.
    pub(crate) fn take_dropped(&mut self) -> HashSet<Key> {
        std::mem::take(&mut self.dropped)
    }
}
