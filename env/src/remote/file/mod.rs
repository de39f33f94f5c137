//! `file://`: objects as files below one directory, on a local disk or a mounted one.
//!
//! Not through OpenDAL: its file service neither makes a directory entry durable nor creates a file exclusively once it
//! writes through temporary ones. This one works over an [`Env`], so the same power-cut tests reach it.
//!
//! * **Atomic.** Bytes go to a new file under `<root>/.lazurite-tmp/`, which is synced, then renamed (`put`) or linked
//!   (`put_if_absent`: the link fails where the name is taken) to the object's name.
//! * **Durable.** Then the object's directory is synced, and the parent of each directory that had to be created.
//! * **Crash.** What a crash leaves is a whole object, or a file under `.lazurite-tmp` that nothing lists or reads. Such
//!   files may be deleted by hand while no writer runs.
//! * A directory that a delete emptied is removed with it, so that `list` does not show it; a write that finds its
//!   directory gone makes it again.
//! * A `copy` is a hard link, given its name like any written file. No file is written to once it has an object's name, so
//!   what becomes of one name is nothing to the other.
//! * `x` and `x/y` cannot both be objects, as they can be elsewhere.

use std::{
    collections::HashSet,
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Env, Error, ErrorKind, FileKind, IoRuntime, RandomFile, ReadHint, Result};

use super::{
    Capabilities, CommitPrimitive, Copied, CopyKind, Key, Listed, ObjectWriter, RemoteStore,
    copy::{check_keys, check_len, streamed},
};

mod temp;
#[cfg(test)]
mod tests;

use temp::{FileWriter, Temp, link};

const TEMP_DIR: &str = ".lazurite-tmp";

/// How often a write makes its directory again when deletes keep removing it.
const REMADE_MAX: usize = 16;

/// Objects as files. See the [module](self).
#[derive(Debug, Clone)]
pub(super) struct FileStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    uri: String,
    root: PathBuf,
    env: Arc<dyn Env>,
    runtime: IoRuntime,
    /// Directories whose own names are known to be durable.
    durable_dirs: Mutex<HashSet<PathBuf>>,
    temp_token: u64,
    temp_next: AtomicU64,
}

impl FileStore {
    /// The store below `root`, which need not exist yet. `NotFound` or `InvalidInput` where it cannot be one. Blocks.
    pub(super) fn open(
        env: Arc<dyn Env>,
        root: PathBuf,
        uri: String,
        runtime: &IoRuntime,
    ) -> Result<Self> {
        match env.stat(&root) {
            Ok(stat) if stat.kind == FileKind::File => {
                return Err(Error::new(
                    ErrorKind::InvalidInput,
                    "open",
                    uri,
                    "this is a file, not a directory",
                ));
            }
            Ok(_) => {}
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(Error::with_source(e.kind(), "open", uri, e.to_string(), e)),
        }
        Ok(FileStore(Arc::new(Inner {
            uri,
            root,
            env,
            runtime: runtime.clone(),
            durable_dirs: Mutex::default(),
            temp_token: rand::random(),
            temp_next: AtomicU64::new(0),
        })))
    }

    /// Runs `work` on a thread that may block, and lets its error name the object.
    async fn blocking<T: Send + 'static>(
        &self,
        operation: &'static str,
        key: Option<&Key>,
        work: impl FnOnce(&Arc<Inner>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = self.0.clone();
        let path = match key {
            Some(key) => super::full_path(&inner.uri, key),
            None => inner.uri.clone(),
        };
        if key.is_some_and(|key| key.as_str().split('/').next() == Some(TEMP_DIR)) {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                operation,
                path,
                "the name .lazurite-tmp is kept for unfinished files",
            ));
        }
        let handle = inner.runtime.handle().clone();
        match handle.spawn_blocking(move || work(&inner)).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(e)) if e.operation() == operation && e.path() == path => Err(e),
            Ok(Err(e)) if is_absent(&e) => {
                Err(Error::new(ErrorKind::NotFound, operation, path, ""))
            }
            Ok(Err(e)) => Err(Error::with_source(
                e.kind(),
                operation,
                path,
                e.to_string(),
                e,
            )),
            Err(e) => Err(super::join_error(operation, path, &e)),
        }
    }
}

/// True where no object is at a path: nothing is, or a directory is, or a part of the path is a file.
fn is_absent(error: &Error) -> bool {
    error.is_not_found()
        || matches!(
            io_kind(error),
            Some(io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory)
        )
}

/// What the system called it.
fn io_kind(error: &Error) -> Option<io::ErrorKind> {
    let source = std::error::Error::source(error)?;
    source.downcast_ref().map(io::Error::kind)
}

#[async_trait]
impl RemoteStore for FileStore {
    fn uri(&self) -> &str {
        &self.0.uri
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            copy: CopyKind::Linked,
            commit: CommitPrimitive::ExclusiveRename,
        }
    }

    async fn get(&self, key: &Key) -> Result<Bytes> {
        let path = self.0.path(key);
        self.blocking("get", Some(key), move |inner| {
            let file = inner.open(&path)?;
            let len = file.len()?;
            inner.read(&*file, &path, 0..len)
        })
        .await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let path = self.0.path(key);
        let full = super::full_path(&self.0.uri, key);
        self.blocking("get_range", Some(key), move |inner| {
            let file = inner.open(&path)?;
            let len = file.len()?;
            if range.end > len {
                return Err(super::too_short(full, &range, len));
            }
            inner.read(&*file, &path, range)
        })
        .await
    }

    async fn put(&self, key: &Key, bytes: Bytes) -> Result<()> {
        let path = self.0.path(key);
        self.blocking("put", Some(key), move |inner| {
            Temp::write_whole(inner, &bytes)?.publish(&path, false)
        })
        .await
    }

    async fn put_if_absent(&self, key: &Key, bytes: Bytes) -> Result<()> {
        let path = self.0.path(key);
        self.blocking("put_if_absent", Some(key), move |inner| {
            Temp::write_whole(inner, &bytes)?.publish(&path, true)
        })
        .await
    }

    async fn writer(&self, key: &Key) -> Result<Box<dyn ObjectWriter>> {
        let temp = self.blocking("writer", Some(key), Temp::create).await?;
        Ok(Box::new(FileWriter::new(self.clone(), key.clone(), temp)))
    }

    async fn len(&self, key: &Key) -> Result<u64> {
        let path = self.0.path(key);
        let full = super::full_path(&self.0.uri, key);
        self.blocking("len", Some(key), move |inner| {
            let stat = inner.env.stat(&path)?;
            match stat.kind {
                FileKind::File => Ok(stat.len),
                FileKind::Directory => Err(Error::new(ErrorKind::NotFound, "len", full, "")),
            }
        })
        .await
    }

    async fn list(&self, prefix: Option<&Key>) -> Result<Vec<Listed>> {
        let dir = prefix.map_or(self.0.root.clone(), |prefix| self.0.path(prefix));
        let at_root = prefix.is_none();
        let listed = self
            .blocking("list", prefix, move |inner| inner.list(&dir, at_root))
            .await;
        match listed {
            Err(e) if e.is_not_found() => Ok(Vec::new()),
            listed => listed,
        }
    }

    async fn copy(&self, from: &Key, to: &Key, len: u64) -> Result<Copied> {
        check_keys(&self.0.uri, from, to)?;
        let (source, target) = (self.0.path(from), self.0.path(to));
        let (path, full) = (source.clone(), super::full_path(&self.0.uri, from));
        // By itself, so that what is missing afterwards is not the object.
        self.blocking("copy", Some(from), move |inner| {
            let stat = inner.env.stat(&path)?;
            match stat.kind {
                FileKind::File => check_len(full, len, stat.len),
                FileKind::Directory => Err(Error::new(ErrorKind::NotFound, "copy", full, "")),
            }
        })
        .await?;
        let linked = self
            .blocking("copy", Some(to), move |inner| link(inner, &source, &target))
            .await?;
        match linked {
            true => Ok(Copied::without_bytes(CopyKind::Linked)),
            false => streamed(self, from, to, len).await,
        }
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let path = self.0.path(key);
        self.blocking("delete", Some(key), move |inner| inner.delete(&path))
            .await
    }
}

impl Inner {
    /// Opens an object; systems differ in what they answer for a directory, and where.
    fn open(&self, path: &Path) -> Result<Box<dyn RandomFile>> {
        match self.env.stat(path)?.kind {
            FileKind::File => self.env.open_random(path),
            FileKind::Directory => Err(Error::new(ErrorKind::NotFound, "open", path, "")),
        }
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.root.join(key.as_str())
    }

    fn read(&self, file: &dyn RandomFile, path: &Path, range: Range<u64>) -> Result<Bytes> {
        let len = usize::try_from(range.end - range.start).map_err(|_| {
            Error::new(
                ErrorKind::InvalidInput,
                "read",
                path,
                "more bytes than this machine can address",
            )
        })?;
        let mut bytes = vec![0; len];
        let read = file.read_at(range.start, &mut bytes, ReadHint::default())?;
        if read == len {
            Ok(bytes.into())
        } else {
            Err(super::too_short(
                path.display().to_string(),
                &range,
                range.start + read as u64,
            ))
        }
    }

    fn list(&self, dir: &Path, at_root: bool) -> Result<Vec<Listed>> {
        let mut listed = Vec::new();
        let entries = match self.env.list(dir) {
            // An object, which has nothing below it; systems differ in what they answer.
            Err(_) if matches!(self.env.stat(dir), Ok(s) if s.kind == FileKind::File) => {
                return Ok(listed);
            }
            entries => entries?,
        };
        for entry in entries {
            match entry.kind {
                FileKind::Directory if at_root && entry.name == TEMP_DIR => {}
                FileKind::Directory => listed.push(Listed::Prefix { name: entry.name }),
                FileKind::File => match self.env.stat(&dir.join(&entry.name)) {
                    Ok(stat) => listed.push(Listed::Object {
                        name: entry.name,
                        len: stat.len,
                        // Of a copy, which is a link, the bytes are as old as the original's.
                        modified: Some(stat.modified.max(stat.changed)),
                    }),
                    // Deleted since the directory was read.
                    Err(e) if e.is_not_found() => {}
                    Err(e) => return Err(e),
                },
            }
        }
        listed.sort_by_cached_key(super::sort_key);
        Ok(listed)
    }

    fn delete(&self, path: &Path) -> Result<()> {
        match self.env.delete(path) {
            Ok(()) => {}
            Err(e) if is_absent(&e) => return Ok(()),
            // A prefix of that name, where the system does not say so by its error.
            Err(_) if matches!(self.env.stat(path), Ok(s) if s.kind == FileKind::Directory) => {
                return Ok(());
            }
            Err(e) => return Err(e),
        }
        let mut dir = path.parent();
        while let Some(this) = dir.filter(|dir| *dir != self.root) {
            // Forgotten first: a write that trusts the memory must not do so while the directory goes.
            self.durable_dirs().remove(this);
            if self.env.delete_dir(this).is_err() {
                break; // not empty, or gone already
            }
            dir = this.parent();
        }
        match dir {
            Some(dir) => match self.env.sync_dir(dir) {
                // Somebody else's delete took the directory too.
                Err(e) if e.is_not_found() => Ok(()),
                result => result,
            },
            None => Ok(()),
        }
    }

    /// Makes a directory below the root, and the root itself, durably.
    fn make_dir(&self, dir: &Path) -> Result<()> {
        if self.durable_dirs().contains(dir) {
            return Ok(());
        }
        let parent = dir.parent().unwrap_or(dir);
        let made = match self.env.create_dir(dir) {
            Err(e) if e.is_not_found() && parent != dir => {
                self.make_dir(parent)?;
                self.env.create_dir(dir)
            }
            made => made,
        };
        match made {
            Ok(()) => self.env.sync_dir(parent)?,
            // Whoever made it may not have synced it yet. The root and what is above it is not ours to sync.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                if dir != self.root && dir.starts_with(&self.root) {
                    self.env.sync_dir(parent)?;
                }
            }
            Err(e) => return Err(e),
        }
        self.durable_dirs().insert(dir.to_owned());
        Ok(())
    }

    fn durable_dirs(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        // A set of paths is never left half changed.
        self.durable_dirs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work`, which needs `dir`, again where a delete removed the directory in between.
    fn in_dir<T>(&self, dir: &Path, mut work: impl FnMut() -> Result<T>) -> Result<T> {
        for _ in 0..REMADE_MAX {
            match self.make_dir(dir).and_then(|()| work()) {
                Err(e) if e.is_not_found() => {
                    let mut durable = self.durable_dirs();
                    durable.retain(|known| !dir.starts_with(known));
                }
                result => return result,
            }
        }
        self.make_dir(dir).and_then(|()| work())
    }
}
