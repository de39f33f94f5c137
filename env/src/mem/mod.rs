//! [`MemEnv`]: files in memory, with an honest model of what a power cut leaves of them.
//!
//! # What is modelled
//! * **Bytes.** A file remembers which prefix of it [`WritableFile::sync`] made durable, and the durable bytes that were
//!   cut off since. What was appended after it may be lost, kept whole, cut anywhere, or, sector by sector of 512 bytes,
//!   be kept, zero or garbage. A file that was cut since its last sync may also come back as it was at that sync. Of synced
//!   bytes that a [`SparseFile`] wrote over or punched since, each page of 4 KiB is, on its own, the old one, the new one, or
//!   sector by sector either.
//! * **Names.** A directory remembers for each name every state it had since the last [`Env::sync_dir`]: missing, or a
//!   certain file or directory. A power cut leaves one of these states, for each name on its own: un-synced operations
//!   on different names are in no order, so that a renamed file may be found under both names, or under none.
//! * What lies in a directory is lost with the directory's own name, also where it was synced itself.
//! * **Not modelled:** bytes of a *synced* range that nobody wrote over never change, neither when the sector that they share
//!   with un-synced ones is torn, nor by rot. A sync never fails. Of more than eight un-synced states of one name, the oldest but the
//!   durable one are forgotten. A directory that could be found in two places is kept in one of them.
//!
//! Paths are resolved lexically from one root; a relative one starts there too. There are no symbolic links. Times are
//! those of a logical clock that advances by a microsecond with each change, so that runs can be compared.

mod crash;
mod file;
#[cfg(test)]
mod tests;
mod tree;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use file::{Disk, Handle, MemFile, MemLock, MemReader, MemSequential, MemSparse, MemWriter};
use tree::{Node, Tree};

use crate::{
    DirEntry, Env, Error, ErrorKind, FileKind, FileLock, RandomFile, Result, SequentialFile,
    SparseFile, Stat, WritableFile,
};

/// What [`Env::free_space`] tells of a [`MemEnv`] without a capacity: 1 PiB.
const FREE_UNLIMITED: u64 = 1 << 50;

/// Files in memory. Clones share them; [`crash_clone`](MemEnv::crash_clone) does not. See the [module](self).
#[derive(Clone)]
pub struct MemEnv(Arc<Shared>);

struct Shared {
    disk: Arc<Disk>,
    tree: Mutex<Tree>,
}

impl MemEnv {
    /// An Env that holds nothing but its root directory, and as many bytes as there is memory.
    pub fn new() -> Self {
        Self::on(Disk::new(None), Tree::new())
    }

    /// An Env whose files hold at most `capacity` bytes together. On a full disk an append writes what still fits and
    /// fails with [`ErrorKind::NoSpace`]. A deleted file gives its space back when its last handle is dropped; names
    /// and directories take none.
    pub fn with_capacity(capacity: u64) -> Self {
        Self::on(Disk::new(Some(capacity)), Tree::new())
    }

    /// What a power cut at this moment leaves: an Env of its own, with all of it durable and no lock held.
    ///
    /// Everything that was synced is there. Of the rest, seed 0 loses everything, seed 1 keeps everything, and each
    /// other seed decides by chance, file by file and name by name; the same seed decides the same. This Env goes on
    /// unharmed. Other threads may write meanwhile: each file and the names are then those of some moment of the call.
    pub fn crash_clone(&self, seed: u64) -> MemEnv {
        let disk = Disk::new(self.0.disk.capacity());
        let tree = crash::after_power_cut(&self.tree(), &disk, seed);
        Self::on(disk, tree)
    }

    fn on(disk: Arc<Disk>, tree: Tree) -> Self {
        let tree = Mutex::new(tree);
        MemEnv(Arc::new(Shared { disk, tree }))
    }

    fn tree(&self) -> MutexGuard<'_, Tree> {
        // No code that holds it panics half way through a change.
        self.0.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self, path: &Path) -> Result<Handle> {
        // The tree stays locked until the handle is there, so that no other thread deletes the file in between.
        let tree = self.tree();
        tree.file("open", path).map(Handle::new)
    }

    /// The file at `path`, created where it is missing.
    fn open_or_create(&self, operation: &'static str, path: &Path) -> Result<Handle> {
        let mut tree = self.tree();
        match tree.file(operation, path) {
            Err(e) if e.is_not_found() => {
                let place = tree.place(operation, path)?;
                let file = MemFile::new(&self.0.disk);
                tree.set(&place, Some(Node::File(file.clone())));
                Ok(Handle::new(file))
            }
            found => found.map(Handle::new),
        }
    }
}

impl Default for MemEnv {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemEnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemEnv").finish_non_exhaustive()
    }
}

impl Env for MemEnv {
    fn open_sequential(&self, path: &Path) -> Result<Box<dyn SequentialFile>> {
        let file = MemReader(self.open(path)?);
        Ok(Box::new(MemSequential::new(file)))
    }

    fn open_random(&self, path: &Path) -> Result<Box<dyn RandomFile>> {
        Ok(Box::new(MemReader(self.open(path)?)))
    }

    fn create(&self, path: &Path) -> Result<Box<dyn WritableFile>> {
        let mut writer = MemWriter::new(self.open_or_create("create", path)?, path);
        writer.truncate(0)?;
        Ok(Box::new(writer))
    }

    fn open_append(&self, path: &Path) -> Result<Box<dyn WritableFile>> {
        let file = self.open_or_create("open", path)?;
        Ok(Box::new(MemWriter::new(file, path)))
    }

    fn open_sparse(&self, path: &Path) -> Result<Box<dyn SparseFile>> {
        let file = self.open_or_create("open sparse", path)?;
        Ok(Box::new(MemSparse::new(file, path)))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.tree().rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> Result<()> {
        self.tree().link(from, to)
    }

    fn delete(&self, path: &Path) -> Result<()> {
        self.tree().delete(path)
    }

    fn create_dir(&self, path: &Path) -> Result<()> {
        self.tree().create_dir(path)
    }

    fn delete_dir(&self, path: &Path) -> Result<()> {
        self.tree().delete_dir(path)
    }

    fn list(&self, path: &Path) -> Result<Vec<DirEntry>> {
        self.tree().list(path)
    }

    fn stat(&self, path: &Path) -> Result<Stat> {
        Ok(match self.tree().node("stat", path)? {
            Node::File(file) => file.stat(),
            Node::Dir(_) => Stat {
                kind: FileKind::Directory,
                len: 0,
                links: 1,
                modified: SystemTime::UNIX_EPOCH,
                changed: SystemTime::UNIX_EPOCH,
            },
        })
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn FileLock>> {
        let file = self.open_or_create("lock", path)?;
        match MemLock::take(file) {
            Some(lock) => Ok(Box::new(lock)),
            None => {
                let message = "another handle of this Env holds it";
                Err(Error::new(ErrorKind::Locked, "lock", path, message))
            }
        }
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        self.tree().sync_dir(path)
    }

    fn free_space(&self, path: &Path) -> Result<u64> {
        self.tree().node("ask free space", path)?;
        Ok(self.0.disk.free().unwrap_or(FREE_UNLIMITED))
    }

    fn native_path(&self, _path: &Path) -> Option<PathBuf> {
        None
    }
}
