//! [`Env`] for [`UnionEnv`]: each path goes to the catalog or to the base Env.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use lazurite_env::{
    DirEntry, Env, Error, ErrorKind, FileKind, FileLock, RandomFile, Result, SequentialFile,
    SparseFile, Stat, WritableFile,
};

use super::{Core, UnionEnv, random::TableFile, sequential::Sequential};
use crate::catalog::{Entry, Residency};

impl Core {
    /// The entry at `path` where its bytes are only remote.
    fn remote(&self, path: &Path) -> Option<Arc<Entry>> {
        let entry = self.catalog.lookup(self.layout.table(path)?)?;
        (entry.residency() == Residency::Remote).then_some(entry)
    }

    /// Does what is asked of the file at `path` where its bytes are. A file that leaves the local disk between the look and
    /// the use is looked at again.
    fn wherever<T>(
        &self,
        path: &Path,
        remote: impl FnOnce(Arc<Entry>) -> Result<T>,
        local: impl Fn() -> Result<T>,
    ) -> Result<T> {
        if let Some(entry) = self.remote(path) {
            return remote(entry);
        }
        match local() {
            Err(error) if error.is_not_found() => match self.remote(path) {
                Some(entry) => remote(entry),
                // It may have come back meanwhile.
                None if self.names_a_table(path) => local(),
                None => Err(error),
            },
            result => result,
        }
    }

    fn names_a_table(&self, path: &Path) -> bool {
        self.layout.table(path).is_some()
    }
}

impl UnionEnv {
    fn table_file(&self, entry: Arc<Entry>, path: &Path) -> TableFile {
        TableFile::new(self.core.clone(), entry, path.to_owned())
    }
}

impl Env for UnionEnv {
    fn open_sequential(&self, path: &Path) -> Result<Box<dyn SequentialFile>> {
        self.core.wherever(
            path,
            |entry| {
                let len = entry.file().len;
                Ok(Box::new(Sequential::new(self.table_file(entry, path), len)) as _)
            },
            || self.core.base.open_sequential(path),
        )
    }

    fn open_random(&self, path: &Path) -> Result<Box<dyn RandomFile>> {
        self.core.wherever(
            path,
            |entry| Ok(Box::new(self.table_file(entry, path)) as _),
            || self.core.base.open_random(path),
        )
    }

    fn create(&self, path: &Path) -> Result<Box<dyn WritableFile>> {
        if let Some(name) = self.core.layout.table(path) {
            self.core.make_room(name)?;
        }
        self.core.base.create(path)
    }

    fn open_append(&self, path: &Path) -> Result<Box<dyn WritableFile>> {
        if let Some(name) = self.core.layout.table(path) {
            if self.core.catalog.contains(name) {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "open for append",
                    path,
                    "a table file that is in the remote store does not change",
                ));
            }
            self.core.catalog.settle()?;
        }
        self.core.base.open_append(path)
    }

    /// Table files are written from front to back, and do not change.
    fn open_sparse(&self, path: &Path) -> Result<Box<dyn SparseFile>> {
        if self.core.names_a_table(path) {
            let why = "a table file is not written in parts";
            return Err(Error::new(ErrorKind::Unsupported, "open sparse", path, why));
        }
        self.core.base.open_sparse(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        if self.core.names_a_table(from) || self.core.names_a_table(to) {
            return self.core.rename_table(from, to);
        }
        if *to == self.core.layout.db.join("CURRENT") {
            // RocksDB syncs the bytes of the MANIFEST that CURRENT is to point at, but not its name.
            self.core.base.sync_dir(&self.core.layout.db)?;
        }
        self.core.base.rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> Result<()> {
        if self.core.names_a_table(from) || self.core.names_a_table(to) {
            self.core.link_table(from, to)
        } else {
            self.core.base.link(from, to)
        }
    }

    fn delete(&self, path: &Path) -> Result<()> {
        match self.core.layout.table(path) {
            Some(name) => self.core.delete_table(path, name),
            None => self.core.base.delete(path),
        }
    }

    fn create_dir(&self, path: &Path) -> Result<()> {
        self.core.base.create_dir(path)
    }

    fn delete_dir(&self, path: &Path) -> Result<()> {
        self.core.base.delete_dir(path)
    }

    /// The db directory shows every catalogued table, wherever its bytes are.
    fn list(&self, path: &Path) -> Result<Vec<DirEntry>> {
        // The disk is looked at first: a table that is promoted or deleted meanwhile is then shown once or not at all.
        let mut entries = self.core.base.list(path)?;
        if path == self.core.layout.db {
            let seen: BTreeSet<_> = entries.iter().map(|entry| entry.name.clone()).collect();
            let mut names = self.core.catalog.names();
            names.retain(|name| !seen.contains(name));
            entries.extend(names.into_iter().map(|name| DirEntry {
                name,
                kind: FileKind::File,
            }));
        }
        Ok(entries)
    }

    /// A remote table has one link and was changed when the catalog was loaded.
    fn stat(&self, path: &Path) -> Result<Stat> {
        let remote = |entry: Arc<Entry>| {
            Ok(Stat {
                kind: FileKind::File,
                len: entry.file().len,
                links: 1,
                modified: self.core.loaded,
                changed: self.core.loaded,
            })
        };
        self.core
            .wherever(path, remote, || self.core.base.stat(path))
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn FileLock>> {
        self.core.base.lock(path)
    }

    /// For the db directory this also makes deletions from the catalog durable.
    fn sync_dir(&self, path: &Path) -> Result<()> {
        self.core.base.sync_dir(path)?;
        if path == self.core.layout.db {
            self.core.catalog.save()?;
            self.core.disk.prod();
        }
        Ok(())
    }

    fn free_space(&self, path: &Path) -> Result<u64> {
        self.core.base.free_space(path)
    }

    /// `None` for a remote table. Also for a table that is not catalogued while the catalog on disk must be written
    /// again: whoever creates it must then come here.
    fn native_path(&self, path: &Path) -> Option<PathBuf> {
        if let Some(name) = self.core.layout.table(path) {
            match self.core.catalog.lookup(name) {
                Some(entry) if !entry.is_local() => return None,
                None if self.core.catalog.is_unsettled() => return None,
                // Perhaps a new one is about to be written.
                None => self.core.disk.prod(),
                _ => {}
            }
        }
        self.core.base.native_path(path)
    }
}
