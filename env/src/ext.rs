//! [`EnvExt`]: what is built from the operations of an [`Env`], the same for each of them.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use crate::{Env, Error, ErrorKind, FileKind, Result};

/// How much [`EnvExt::read_to_vec`] asks for at a time.
const READ_BYTES: usize = 64 * 1024;

/// Sugar over [`Env`], implemented for every one of them. All of it may block on the disk.
pub trait EnvExt: Env {
    /// Creates a directory and its missing parents. Each name that it creates is durable on return; directories that
    /// were there are left alone. `AlreadyExists` where a file is in the way.
    fn create_dir_all(&self, path: &Path) -> Result<()> {
        let parent = parent_dir(path);
        let mut created = self.create_dir(path);
        if parent != path && matches!(&created, Err(e) if e.is_not_found()) {
            self.create_dir_all(parent)?;
            created = self.create_dir(path);
        }
        match created {
            Ok(()) => self.sync_dir(parent),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => match self.stat(path)?.kind {
                FileKind::Directory => Ok(()),
                FileKind::File => Err(e),
            },
            Err(e) => Err(e),
        }
    }

    /// True where `path` is a file or a directory; an error where that cannot be told.
    fn exists(&self, path: &Path) -> Result<bool> {
        match self.stat(path) {
            Ok(_) => Ok(true),
            Err(e) if e.is_not_found() => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// All bytes of a file of at most `max_len` bytes; `Corruption` where it holds more.
    fn read_to_vec(&self, path: &Path, max_len: u64) -> Result<Vec<u8>> {
        let mut file = self.open_sequential(path)?;
        let mut bytes = Vec::new();
        loop {
            let begin = bytes.len();
            // One byte past the limit, to see that there is more.
            let left = (max_len - begin as u64).saturating_add(1);
            let ask = usize::try_from(left).map_or(READ_BYTES, |n| n.min(READ_BYTES));
            bytes.resize(begin + ask, 0);
            let read = file.read(&mut bytes[begin..])?.min(ask);
            bytes.truncate(begin + read);
            if bytes.len() as u64 > max_len {
                let message = format!("the file is longer than {max_len} bytes");
                return Err(Error::new(ErrorKind::Corruption, "read", path, message));
            }
            if read == 0 {
                return Ok(bytes);
            }
        }
    }

    /// Replaces the file at `path`, or creates it: after a crash at any moment, and after an error, it holds either the
    /// old bytes or the new ones. On success the new ones are durable.
    ///
    /// The bytes go first into `<path>.tmp` (`<path>.1.tmp` and so on while other threads write the same path), which
    /// is removed if anything fails. One that a crash left behind is replaced by the next write.
    fn write_atomic(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let temp = TempName::reserve(address_of(self), path)?;
        let written =
            write_new(self, &temp.path, bytes).and_then(|()| self.rename(&temp.path, path));
        if let Err(e) = written {
            // The write's own error says more than that of the clean-up.
            let _ = self.delete(&temp.path);
            return Err(e);
        }
        self.sync_dir(parent_dir(path))
    }

    /// Removes a directory and everything below it; not an error where it is not there. Durable once the directory
    /// above was synced. After an error a part may be gone. Links below it are removed and not followed; `path` itself must be none, for what
    /// it leads to would be emptied.
    fn remove_dir_all(&self, path: &Path) -> Result<()> {
        let entries = match self.list(path) {
            Err(e) if e.is_not_found() => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let below = path.join(&entry.name);
            match entry.kind {
                FileKind::Directory => self.remove_dir_all(&below)?,
                FileKind::File => absent_is_fine(self.delete(&below))?,
            }
        }
        absent_is_fine(self.delete_dir(path))
    }
}

impl<T: Env + ?Sized> EnvExt for T {}

/// The directory that holds `path`: `.` for a bare name, the root for the root.
pub(crate) fn parent_dir(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

fn absent_is_fine(result: Result<()>) -> Result<()> {
    match result {
        Err(e) if e.is_not_found() => Ok(()),
        result => result,
    }
}

/// Writes and syncs a file that has no other name. A file that is already there is deleted, not emptied: after a crash
/// in the middle of a rename it may also be the file that the rename was for.
fn write_new<T: Env + ?Sized>(env: &T, path: &Path, bytes: &[u8]) -> Result<()> {
    absent_is_fine(env.delete(path))?;
    let mut file = env.create(path)?;
    file.append(bytes)?;
    file.sync()?;
    file.close()
}

/// Tells Envs apart, so that the name of a temporary file does not depend on what other Envs do. 0 for one without
/// fields, of which all values are the same.
fn address_of<T: Env + ?Sized>(env: &T) -> usize {
    match size_of_val(env) {
        0 => 0,
        _ => std::ptr::from_ref(env).cast::<()>().addr(),
    }
}

/// The temporary names that are in use in this process.
static TEMP_NAMES: Mutex<BTreeSet<(usize, PathBuf)>> = Mutex::new(BTreeSet::new());

/// A temporary name that no other thread uses until this is dropped.
struct TempName {
    env: usize,
    path: PathBuf,
}

impl TempName {
    fn reserve(env: usize, path: &Path) -> Result<Self> {
        let Some(name) = path.file_name() else {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "write",
                path,
                "the path names no file",
            ));
        };
        let mut used = TEMP_NAMES.lock().unwrap_or_else(PoisonError::into_inner);
        let mut attempt = 0u64;
        loop {
            let mut temp = name.to_owned();
            match attempt {
                0 => temp.push(".tmp"),
                n => temp.push(format!(".{n}.tmp")),
            }
            let path = path.with_file_name(temp);
            if used.insert((env, path.clone())) {
                return Ok(TempName { env, path });
            }
            attempt += 1;
        }
    }
}

impl Drop for TempName {
    fn drop(&mut self) {
        let mut used = TEMP_NAMES.lock().unwrap_or_else(PoisonError::into_inner);
        used.remove(&(self.env, std::mem::take(&mut self.path)));
    }
}
