//! [`PosixEnv`]: the files of the operating system, on a local disk.
//!
//! Nothing is buffered in this process: an append that returned is with the operating system, so that `flush` has
//! nothing to do and a crash of the process loses nothing. Bytes are written at the offset that the handle itself
//! keeps, so that a short or failed write never shifts what follows.
//!
//! A failed `sync` is final for its handle: the kernel may have dropped the bytes and forgotten the error, so that a
//! second sync would report bytes as durable that are lost.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io,
    ops::Range,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::{
    DirEntry, Env, Error, ErrorKind, FileKind, FileLock, RandomFile, ReadHint, Result,
    SequentialFile, SparseFile, Stat, WritableFile, ext::parent_dir,
};

/// Local files through the operating system. See the [module](self) for what it promises beyond [`Env`].
///
/// All values are the same Env: locks are exclusive among all of them. [`Env::list`] tells a symbolic link as a file,
/// never as the directory that it points to; all other operations follow links as the operating system does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PosixEnv;

impl Env for PosixEnv {
    fn open_sequential(&self, path: &Path) -> Result<Box<dyn SequentialFile>> {
        let file = PosixFile::open(path)?;
        Ok(Box::new(PosixSequential { file, offset: 0 }))
    }

    fn open_random(&self, path: &Path) -> Result<Box<dyn RandomFile>> {
        Ok(Box::new(PosixFile::open(path)?))
    }

    fn create(&self, path: &Path) -> Result<Box<dyn WritableFile>> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        let file = options.open(path).map_err(failed("create", path))?;
        Ok(Box::new(PosixWritable::new(file, path, 0)))
    }

    fn open_append(&self, path: &Path) -> Result<Box<dyn WritableFile>> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        let file = options.open(path).map_err(failed("open", path))?;
        let len = file.metadata().map_err(failed("open", path))?.len();
        Ok(Box::new(PosixWritable::new(file, path, len)))
    }

    fn open_sparse(&self, path: &Path) -> Result<Box<dyn SparseFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path).map_err(failed("open", path))?;
        let path = path.to_owned();
        Ok(Box::new(PosixFile { file, path }))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        fs::rename(from, to).map_err(|e| failed_pair("rename", from, to, e))
    }

    fn link(&self, from: &Path, to: &Path) -> Result<()> {
        fs::hard_link(from, to).map_err(|e| failed_pair("link", from, to, e))
    }

    fn delete(&self, path: &Path) -> Result<()> {
        fs::remove_file(path).map_err(failed("delete", path))
    }

    fn create_dir(&self, path: &Path) -> Result<()> {
        fs::create_dir(path).map_err(failed("create directory", path))
    }

    fn delete_dir(&self, path: &Path) -> Result<()> {
        fs::remove_dir(path).map_err(failed("delete directory", path))
    }

    fn list(&self, path: &Path) -> Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path).map_err(failed("list", path))? {
            let entry = entry.map_err(failed("list", path))?;
            let kind = match entry.file_type() {
                Ok(kind) if kind.is_dir() => FileKind::Directory,
                Ok(_) => FileKind::File,
                // Deleted since the directory was read.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(failed("list", &entry.path())(e)),
            };
            let name = entry.file_name().into_string().map_err(|_| {
                let message = "the name is not UTF-8: move this file elsewhere";
                Error::new(ErrorKind::InvalidInput, "list", entry.path(), message)
            })?;
            entries.push(DirEntry { name, kind });
        }
        Ok(entries)
    }

    fn stat(&self, path: &Path) -> Result<Stat> {
        let metadata = fs::metadata(path).map_err(failed("stat", path))?;
        let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        let changed = changed(&metadata).unwrap_or(modified);
        Ok(if metadata.is_dir() {
            Stat {
                kind: FileKind::Directory,
                len: 0,
                links: 1,
                modified,
                changed,
            }
        } else {
            Stat {
                kind: FileKind::File,
                len: metadata.len(),
                links: metadata.nlink(),
                modified,
                changed,
            }
        })
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn FileLock>> {
        PosixLock::take(path).map(|lock| Box::new(lock) as Box<dyn FileLock>)
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty())
            .and_then(rustix::fs::fsync)
            .map_err(|e| failed("sync directory", path)(e.into()))
    }

    fn free_space(&self, path: &Path) -> Result<u64> {
        let disk =
            rustix::fs::statvfs(path).map_err(|e| failed("ask free space", path)(e.into()))?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    fn native_path(&self, path: &Path) -> Option<PathBuf> {
        Some(path.to_owned())
    }
}

/// The time of the inode's last change.
fn changed(metadata: &fs::Metadata) -> Option<SystemTime> {
    let seconds = Duration::from_secs(u64::try_from(metadata.ctime()).ok()?);
    let nanos = Duration::from_nanos(u64::try_from(metadata.ctime_nsec()).ok()?);
    SystemTime::UNIX_EPOCH.checked_add(seconds.checked_add(nanos)?)
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |e| Error::from_io(operation, path, e)
}

/// Both names are needed to understand why a rename or link failed.
fn failed_pair(operation: &'static str, from: &Path, to: &Path, e: io::Error) -> Error {
    let kind = Error::from_io(operation, from, io::Error::from(e.kind())).kind();
    Error::with_source(kind, operation, from, format!("to {}", to.display()), e)
}

#[derive(Debug)]
struct PosixFile {
    file: File,
    path: PathBuf,
}

impl PosixFile {
    fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(failed("open", path))?;
        let path = path.to_owned();
        Ok(PosixFile { file, path })
    }

    /// Reads until `buf` is full or the file ends; one call of the kernel may give less.
    fn read_full(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let mut read = 0;
        while read < buf.len() {
            let at = offset.saturating_add(read as u64);
            if i64::try_from(at.saturating_add((buf.len() - read) as u64)).is_err() {
                // Past the largest file that there can be: the kernel would call this invalid, not the end.
                break;
            }
            match self.file.read_at(&mut buf[read..], at) {
                Ok(0) => break,
                Ok(n) => read += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(failed("read", &self.path)(e)),
            }
        }
        Ok(read)
    }
}

impl RandomFile for PosixFile {
    fn read_at(&self, offset: u64, buf: &mut [u8], _hint: ReadHint) -> Result<usize> {
        self.read_full(offset, buf)
    }

    fn len(&self) -> Result<u64> {
        let metadata = self.file.metadata().map_err(failed("stat", &self.path))?;
        Ok(metadata.len())
    }

    // No native path: this handle is the local file already, and stays so when its name changes. No unique id: the
    // numbers of the file system are used again for other content.
}

impl SparseFile for PosixFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.read_full(offset, buf)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        write_full(&self.file, offset, data).map_err(failed("write", &self.path))
    }

    fn punch_hole(&self, range: Range<u64>) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        punch_hole(&self.file, range.start, range.end - range.start)
            .map_err(failed("punch hole", &self.path))
    }

    fn truncate(&self, len: u64) -> Result<()> {
        self.file
            .set_len(len)
            .map_err(failed("truncate", &self.path))
    }

    fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(failed("sync", &self.path))
    }

    fn len(&self) -> Result<u64> {
        RandomFile::len(self)
    }

    fn allocated(&self) -> Result<u64> {
        let metadata = self.file.metadata().map_err(failed("stat", &self.path))?;
        // The unit of this number is 512 bytes on every file system.
        Ok(metadata.blocks().saturating_mul(512))
    }
}

#[cfg(target_os = "linux")]
fn punch_hole(file: &File, offset: u64, len: u64) -> io::Result<()> {
    use rustix::fs::FallocateFlags;
    let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    loop {
        match rustix::fs::fallocate(file, mode, offset, len) {
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::NOTSUP | rustix::io::Errno::NOSYS) => {
                return Err(io::ErrorKind::Unsupported.into());
            }
            punched => return Ok(punched?),
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn punch_hole(_file: &File, _offset: u64, _len: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Writes all of `data`; one call of the kernel may write less.
fn write_full(file: &File, mut offset: u64, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        match file.write_at(data, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                offset += n as u64;
                data = &data[n..];
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[derive(Debug)]
struct PosixSequential {
    file: PosixFile,
    offset: u64,
}

impl SequentialFile for PosixSequential {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        let read = self.file.read_full(self.offset, buf)?;
        self.offset += read as u64;
        Ok(read)
    }

    fn skip(&mut self, n: u64) -> Result<()> {
        self.offset = self.offset.saturating_add(n);
        Ok(())
    }
}

#[derive(Debug)]
struct PosixWritable {
    /// `None` once closed.
    file: Option<File>,
    path: PathBuf,
    len: u64,
    sync_failed: bool,
}

impl PosixWritable {
    fn new(file: File, path: &Path, len: u64) -> Self {
        PosixWritable {
            file: Some(file),
            path: path.to_owned(),
            len,
            sync_failed: false,
        }
    }

    fn open_file(&self, operation: &'static str) -> Result<&File> {
        self.file.as_ref().ok_or_else(|| {
            let message = "the file is closed";
            Error::new(ErrorKind::InvalidInput, operation, &self.path, message)
        })
    }
}

impl WritableFile for PosixWritable {
    fn append(&mut self, mut data: &[u8]) -> Result<()> {
        while !data.is_empty() {
            match self.open_file("append")?.write_at(data, self.len) {
                Ok(0) => {
                    let e = io::Error::from(io::ErrorKind::WriteZero);
                    return Err(failed("append", &self.path)(e));
                }
                Ok(n) => {
                    self.len += n as u64;
                    data = &data[n..];
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(failed("append", &self.path)(e)),
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.open_file("flush").map(|_| ())
    }

    fn sync(&mut self) -> Result<()> {
        let file = self.open_file("sync")?;
        if self.sync_failed {
            let message =
                "an earlier sync of this handle failed: its bytes may be lost, write the file anew";
            return Err(Error::new(ErrorKind::Io, "sync", &self.path, message));
        }
        let synced = file.sync_data().map_err(failed("sync", &self.path));
        self.sync_failed = synced.is_err();
        synced
    }

    fn truncate(&mut self, len: u64) -> Result<()> {
        let file = self.open_file("truncate")?;
        file.set_len(len).map_err(failed("truncate", &self.path))?;
        self.len = len;
        Ok(())
    }

    fn len(&self) -> u64 {
        self.len
    }

    /// All bytes are with the operating system already; what it cannot write later, only a sync tells.
    fn close(&mut self) -> Result<()> {
        self.open_file("close")?;
        self.file = None;
        Ok(())
    }
}

/// The locks of this process by canonical path. A network file system may carry `flock` out per process, where a
/// second lock would be granted, and where opening and closing the file again would even release the first.
static LOCKED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// The order of the fields matters: the kernel's lock goes first, so that whoever finds the path free can lock it. The
/// file stays: deleting it would let two others lock two files of one name.
#[derive(Debug)]
struct PosixLock {
    file: File,
    _path: LockedPath,
}

#[derive(Debug)]
struct LockedPath(PathBuf);

impl LockedPath {
    /// `None` where this process holds it.
    fn take(path: PathBuf) -> Option<Self> {
        let mut locked = LOCKED.lock().unwrap_or_else(PoisonError::into_inner);
        // Not `then_some`: that would make, and drop, a guard also where the path is held by another.
        locked.insert(path.clone()).then(|| LockedPath(path))
    }
}

impl Drop for LockedPath {
    fn drop(&mut self) {
        let mut locked = LOCKED.lock().unwrap_or_else(PoisonError::into_inner);
        locked.remove(&self.0);
    }
}

impl PosixLock {
    fn take(path: &Path) -> Result<Self> {
        let parent = parent_dir(path)
            .canonicalize()
            .map_err(failed("lock", path))?;
        let Some(name) = path.file_name() else {
            let message = "the path names no file";
            return Err(Error::new(ErrorKind::InvalidInput, "lock", path, message));
        };
        let Some(locked) = LockedPath::take(parent.join(name)) else {
            let message = "this process holds it already";
            return Err(Error::new(ErrorKind::Locked, "lock", path, message));
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path).map_err(failed("lock", path))?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|e| failed("lock", path)(e.into()))?;
        Ok(PosixLock {
            file,
            _path: locked,
        })
    }
}

impl FileLock for PosixLock {}

impl Drop for PosixLock {
    /// Closing the file would do, were it not for processes that are being started just now: each has a copy of the
    /// descriptor between its fork and its exec, and the lock would stay until the last copy is closed.
    fn drop(&mut self) {
        // An error leaves what closing does.
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::{ffi::OsStrExt, fs::symlink};

    use super::*;
    use crate::EnvExt;

    #[test]
    fn a_lock_is_seen_by_whoever_else_asks_the_kernel() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("LOCK");
        let rival = File::create(&path).unwrap();
        let take = FlockOperation::NonBlockingLockExclusive;
        let lock = PosixEnv.lock(&path).unwrap();
        assert!(rustix::fs::flock(&rival, take).is_err());
        drop(lock);
        rustix::fs::flock(&rival, take).unwrap();
        let refused = PosixEnv.lock(&path).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Locked);
        drop(rival);
        drop(PosixEnv.lock(&path).unwrap());
    }

    #[test]
    fn a_released_lock_is_free_while_another_process_still_has_a_copy_of_its_descriptor() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("LOCK");
        let lock = PosixLock::take(&path).unwrap();
        let copy = lock.file.try_clone().unwrap();
        drop(lock);
        drop(PosixEnv.lock(&path).unwrap());
        drop(copy);
    }

    #[test]
    fn a_lock_is_one_under_all_paths_of_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let (real, other) = (dir.path().join("real"), dir.path().join("other"));
        PosixEnv.create_dir(&real).unwrap();
        symlink(&real, &other).unwrap();
        let lock = PosixEnv.lock(&real.join("LOCK")).unwrap();
        for path in [other.join("LOCK"), real.join("../real/./LOCK")] {
            let refused = PosixEnv.lock(&path).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Locked);
        }
        drop(lock);
        PosixEnv.lock(&other.join("LOCK")).unwrap();
    }

    #[test]
    fn removing_a_tree_does_not_follow_symbolic_links() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, kept) = (dir.path().join("tree"), dir.path().join("kept"));
        PosixEnv.create_dir_all(&tree).unwrap();
        PosixEnv.create_dir_all(&kept).unwrap();
        PosixEnv.write_atomic(&kept.join("f"), b"kept").unwrap();
        symlink(&kept, tree.join("link")).unwrap();
        symlink("nowhere", tree.join("broken")).unwrap();
        PosixEnv.remove_dir_all(&tree).unwrap();
        assert!(!PosixEnv.exists(&tree).unwrap());
        assert!(PosixEnv.exists(&kept.join("f")).unwrap());
    }

    #[test]
    fn a_name_that_is_not_utf8_is_an_error_and_not_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let name = std::ffi::OsStr::from_bytes(b"bad-\xff");
        // Some file systems refuse such a name themselves.
        if File::create(dir.path().join(name)).is_ok() {
            let e = PosixEnv.list(dir.path()).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn errors_name_both_paths_and_keep_their_source() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let e = PosixEnv.rename(&a, &b).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::NotFound);
        assert!(e.path().ends_with("/a") && e.message().ends_with("/b"));
        assert!(std::error::Error::source(&e).is_some());
    }
}
