//! What changes the names of table files: delete, rename, link, create.
//!
//! Each holds `naming`, so they see each other's whole effect; a rename or deletion also holds the entry's `moving`, so
//! that a promotion cannot bring a file back.
//!
//! # Crash story
//! A name is catalogued in memory only after everything that its earlier local file did is durable (`sync_dir`), and
//! new bytes get a name only after the durable catalog has let go of it. So the durable catalog, whenever it is saved,
//! never names an object for a name under which a crash may bring other bytes back. RocksDB does none of this to table
//! files, except to delete them, so the syncs cost nothing.
//!
//! A local table that is renamed has both names on the disk until the catalog, saved, names the new one: a crash leaves
//! one of them that is catalogued, and perhaps the other, for RocksDB to delete.
//!
//! A rename that fails, or that a crash cuts short, may have cost what it was to replace; RocksDB renames no table over another.
//!
//! Where a step on the local file fails, or may fail later, its entry is remote meanwhile: the object is right in any
//! case, and a local file that nothing counts on does no harm.

use std::{path::Path, sync::Arc};

use lazurite_env::{EnvExt, Error, ErrorKind, Result};

use super::Core;
use crate::{
    CatalogEntry,
    catalog::{Entry, Residency},
    sync::lock,
    tails,
};

impl Core {
    /// Deletes the table `name` at `path`: the entry, and the local file where there is one.
    pub(super) fn delete_table(&self, path: &Path, name: &str) -> Result<()> {
        let _naming = lock(&self.naming);
        let Some(entry) = self.catalog.lookup(name) else {
            return self.base.delete(path);
        };
        let _moving = lock(&entry.moving);
        // A remote one has no local file, unless a promotion failed after its rename.
        match self.base.delete(path) {
            Err(e) if !e.is_not_found() => {
                self.distrust(&entry);
                Err(e)
            }
            _ => {
                self.catalog.remove(name);
                self.uncache(entry.file());
                tails::remove_own(&*self.base, &self.layout.tails, &entry.facts);
                Ok(())
            }
        }
    }

    /// The local file of `entry`, which is catalogued, may be gone: from here on its object is read. `moving` is held.
    fn distrust(&self, entry: &Entry) {
        self.catalog.set_residency(entry, Residency::Remote);
    }

    /// Makes sure that the durable catalog does not know `name`, which new bytes are about to get.
    pub(super) fn make_room(&self, name: &str) -> Result<()> {
        if !self.catalog.contains(name) {
            return self.catalog.settle();
        }
        tracing::warn!(name, "a catalogued table file is being replaced");
        let _naming = lock(&self.naming);
        self.forget(name)
    }

    /// Takes `name` out of the catalog, durably. `naming` is held.
    fn forget(&self, name: &str) -> Result<()> {
        if let Some(entry) = self.catalog.lookup(name) {
            let _moving = lock(&entry.moving);
            self.catalog.remove(name);
            self.uncache(entry.file());
        }
        self.catalog.save()
    }

    /// Renames where `from`, `to` or both name a table.
    pub(super) fn rename_table(&self, from: &Path, to: &Path) -> Result<()> {
        if from == to {
            return self.base.rename(from, to);
        }
        let (old, new) = (self.layout.table(from), self.layout.table(to));
        let _naming = lock(&self.naming);
        let entry = old.and_then(|name| self.catalog.lookup(name));
        let Some((old, entry)) = old.zip(entry) else {
            if let Some(new) = new {
                // A missing source must not cost the target its entry.
                self.base.stat(from)?;
                self.forget(new)?;
                // Where this is done again, both names may be links of one file, and POSIX renames neither.
                if self.base.exists(to)? {
                    self.base.delete(to)?;
                }
            }
            return self.base.rename(from, to);
        };
        let Some(new) = new else {
            return self.rename_out(&entry, from, to);
        };
        self.forget(new)?;
        let _moving = lock(&entry.moving);
        let residency = entry.residency();
        if self.base.exists(to)? {
            self.base.delete(to)?;
        }
        if residency == Residency::Local {
            // The old name keeps the bytes until the catalog has let go of it: a crash never has them come again.
            self.base.link(from, to)?;
        }
        self.base.sync_dir(&self.layout.db)?;
        self.catalog.remove(old);
        self.catalog.insert(self.renamed(&entry, new), residency);
        tails::remove_own(&*self.base, &self.layout.tails, &entry.facts);
        if residency == Residency::Local {
            self.catalog.save()?;
            self.base.delete(from)?;
        }
        Ok(())
    }

    /// Renames a catalogued table to a path that is none: only a local file can go there.
    fn rename_out(&self, entry: &Entry, from: &Path, to: &Path) -> Result<()> {
        let _moving = lock(&entry.moving);
        if !entry.is_local() {
            return Err(not_local("rename", from));
        }
        self.distrust(entry);
        self.base.rename(from, to)?;
        self.catalog.remove(entry.name());
        Ok(())
    }

    /// Links where `from`, `to` or both name a table.
    pub(super) fn link_table(&self, from: &Path, to: &Path) -> Result<()> {
        let (old, new) = (self.layout.table(from), self.layout.table(to));
        let _naming = lock(&self.naming);
        if new.is_some_and(|name| self.catalog.contains(name)) {
            return Err(Error::new(ErrorKind::AlreadyExists, "link", to, ""));
        }
        let entry = old.and_then(|name| self.catalog.lookup(name));
        let Some(entry) = entry else {
            if new.is_some() {
                self.catalog.settle()?;
            }
            return self.base.link(from, to);
        };
        // A promotion could otherwise end between the look at the residency and its use.
        let _moving = lock(&entry.moving);
        let residency = entry.residency();
        match (residency == Residency::Local, new) {
            (true, _) => self.base.link(from, to)?,
            (false, None) => return Err(not_local("link", from)),
            (false, Some(_)) if self.base.exists(to)? => {
                return Err(Error::new(ErrorKind::AlreadyExists, "link", to, ""));
            }
            (false, Some(_)) => {}
        }
        if let Some(new) = new {
            self.base.sync_dir(&self.layout.db)?;
            self.catalog.insert(self.renamed(&entry, new), residency);
        }
        Ok(())
    }

    /// The same object under another name. Its tail is shared, not copied, but for one in a file of its own.
    fn renamed(&self, entry: &Entry, name: &str) -> Arc<Entry> {
        let facts = CatalogEntry {
            name: name.to_owned(),
            ..entry.facts.clone()
        };
        let tail = entry.tail().map(|(_, bytes)| bytes);
        if let Some(tail) = &tail {
            // Lost, it costs a request after the next open.
            let _ = tails::store_own(&*self.base, &self.layout.tails, &facts, tail);
        }
        let renamed = Entry::new(facts, tail);
        if entry.is_stored() {
            renamed.set_stored();
        }
        Arc::new(renamed)
    }
}

/// The catalog names files of one directory, so a remote file can be named nowhere else. Nothing in the engine asks for that:
/// of the files that a snapshot takes, it links those that the store lacks, and these are local.
fn not_local(operation: &'static str, path: &Path) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        operation,
        path,
        "its bytes are only in the remote store, so it can have no name outside of the db directory: take a snapshot, which names remote files, or wait until it was downloaded",
    )
}
