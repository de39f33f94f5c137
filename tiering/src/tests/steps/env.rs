//! [`StepEnv`]: tells of each change that is asked of the disk, before it is made and in the middle of each write, and lets
//! nothing else happen to the disk meanwhile.

use std::{
    fmt,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use lazurite_env::{
    DirEntry, Env, Error, ErrorKind, FileLock, Op, RandomFile, Result, SequentialFile, SparseFile,
    Stat, WritableFile,
};

use crate::sync::lock;

/// A moment at which the machine may die.
pub struct Moment<'a> {
    pub op: Op,
    pub path: &'a Path,
    /// Half of the bytes are written.
    pub middle: bool,
}

type Watcher = Box<dyn FnMut(&Moment<'_>) + Send>;

/// Who is told. The lock is held while a change is made, so that they come one at a time, in order.
#[derive(Default)]
pub struct Steps(Mutex<Option<Watcher>>);

impl fmt::Debug for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Steps")
    }
}

impl Steps {
    pub fn watch(&self, watcher: impl FnMut(&Moment<'_>) + Send + 'static) {
        *lock(&self.0) = Some(Box::new(watcher));
    }

    pub fn unwatch(&self) {
        *lock(&self.0) = None;
    }

    fn step<T>(&self, op: Op, path: &Path, change: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut watcher = lock(&self.0);
        let middle = false;
        if let Some(watcher) = &mut *watcher {
            watcher(&Moment { op, path, middle });
        }
        change()
    }

    /// Writes in two halves. The kernel copies whole pages, so that none ends inside of a checksum of 8 bytes.
    fn write(
        &self,
        op: Op,
        path: &Path,
        len: usize,
        mut write: impl FnMut(Range<usize>) -> Result<()>,
    ) -> Result<()> {
        let mut watcher = lock(&self.0);
        let Some(watcher) = &mut *watcher else {
            return write(0..len);
        };
        let mut tell = |middle| watcher(&Moment { op, path, middle });
        tell(false);
        let half = len / 2 / 8 * 8;
        if half > 0 {
            write(0..half)?;
            tell(true);
        }
        write(half..len)
    }
}

/// What of an Env's operations changes the disk, or what of it a power cut leaves.
pub const CHANGES: [Op; 16] = [
    Op::Create,
    Op::OpenAppend,
    Op::OpenSparse,
    Op::Rename,
    Op::Link,
    Op::Delete,
    Op::CreateDir,
    Op::DeleteDir,
    Op::SyncDir,
    Op::Append,
    Op::Flush,
    Op::Sync,
    Op::Truncate,
    Op::Close,
    Op::WriteAt,
    Op::PunchHole,
];

/// `base`, with the root of all paths at `below`.
#[derive(Debug)]
pub struct StepEnv {
    pub base: Arc<dyn Env>,
    pub below: PathBuf,
    pub steps: Arc<Steps>,
    pub has_sparse_files: bool,
}

impl StepEnv {
    fn at(&self, path: &Path) -> PathBuf {
        self.below.join(path.strip_prefix("/").unwrap_or(path))
    }

    fn step<T>(&self, op: Op, path: &Path, change: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        self.steps.step(op, path, || change(&self.at(path)))
    }

    fn file<F: ?Sized>(&self, path: &Path, file: Box<F>) -> Stepped<F> {
        let (path, steps) = (path.to_owned(), self.steps.clone());
        Stepped { file, path, steps }
    }
}

#[deny(clippy::missing_trait_methods)]
impl Env for StepEnv {
    fn open_sequential(&self, path: &Path) -> Result<Box<dyn SequentialFile>> {
        self.base.open_sequential(&self.at(path))
    }

    fn open_random(&self, path: &Path) -> Result<Box<dyn RandomFile>> {
        self.base.open_random(&self.at(path))
    }

    fn create(&self, path: &Path) -> Result<Box<dyn WritableFile>> {
        let file = self.step(Op::Create, path, |at| self.base.create(at))?;
        Ok(Box::new(self.file(path, file)))
    }

    fn open_append(&self, path: &Path) -> Result<Box<dyn WritableFile>> {
        let file = self.step(Op::OpenAppend, path, |at| self.base.open_append(at))?;
        Ok(Box::new(self.file(path, file)))
    }

    fn open_sparse(&self, path: &Path) -> Result<Box<dyn SparseFile>> {
        let file = self.step(Op::OpenSparse, path, |at| {
            if self.has_sparse_files {
                return self.base.open_sparse(at);
            }
            Err(Error::new(ErrorKind::Unsupported, "open sparse", at, ""))
        })?;
        Ok(Box::new(self.file(path, file)))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.step(Op::Rename, from, |at| self.base.rename(at, &self.at(to)))
    }

    fn link(&self, from: &Path, to: &Path) -> Result<()> {
        self.step(Op::Link, from, |at| self.base.link(at, &self.at(to)))
    }

    fn delete(&self, path: &Path) -> Result<()> {
        self.step(Op::Delete, path, |at| self.base.delete(at))
    }

    fn create_dir(&self, path: &Path) -> Result<()> {
        self.step(Op::CreateDir, path, |at| self.base.create_dir(at))
    }

    fn delete_dir(&self, path: &Path) -> Result<()> {
        self.step(Op::DeleteDir, path, |at| self.base.delete_dir(at))
    }

    fn list(&self, path: &Path) -> Result<Vec<DirEntry>> {
        self.base.list(&self.at(path))
    }

    fn stat(&self, path: &Path) -> Result<Stat> {
        self.base.stat(&self.at(path))
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn FileLock>> {
        self.base.lock(&self.at(path))
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        self.step(Op::SyncDir, path, |at| self.base.sync_dir(at))
    }

    fn free_space(&self, path: &Path) -> Result<u64> {
        self.base.free_space(&self.at(path))
    }

    fn native_path(&self, _: &Path) -> Option<PathBuf> {
        None
    }
}

#[derive(Debug)]
struct Stepped<F: ?Sized> {
    path: PathBuf,
    steps: Arc<Steps>,
    file: Box<F>,
}

#[deny(clippy::missing_trait_methods)]
impl WritableFile for Stepped<dyn WritableFile> {
    fn append(&mut self, data: &[u8]) -> Result<()> {
        let Stepped { path, steps, file } = self;
        let write = |part: Range<usize>| file.append(&data[part]);
        steps.write(Op::Append, path, data.len(), write)
    }

    fn flush(&mut self) -> Result<()> {
        let Stepped { path, steps, file } = self;
        steps.step(Op::Flush, path, || file.flush())
    }

    fn sync(&mut self) -> Result<()> {
        let Stepped { path, steps, file } = self;
        steps.step(Op::Sync, path, || file.sync())
    }

    fn truncate(&mut self, len: u64) -> Result<()> {
        let Stepped { path, steps, file } = self;
        steps.step(Op::Truncate, path, || file.truncate(len))
    }

    fn len(&self) -> u64 {
        self.file.len()
    }

    fn is_empty(&self) -> bool {
        self.file.is_empty()
    }

    fn close(&mut self) -> Result<()> {
        let Stepped { path, steps, file } = self;
        steps.step(Op::Close, path, || file.close())
    }
}

#[deny(clippy::missing_trait_methods)]
impl SparseFile for Stepped<dyn SparseFile> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.file.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        let write = |part: Range<usize>| {
            let at = offset + part.start as u64;
            self.file.write_at(at, &data[part])
        };
        self.steps.write(Op::WriteAt, &self.path, data.len(), write)
    }

    fn punch_hole(&self, range: Range<u64>) -> Result<()> {
        self.steps
            .step(Op::PunchHole, &self.path, || self.file.punch_hole(range))
    }

    fn truncate(&self, len: u64) -> Result<()> {
        self.steps
            .step(Op::Truncate, &self.path, || self.file.truncate(len))
    }

    fn sync(&self) -> Result<()> {
        self.steps.step(Op::Sync, &self.path, || self.file.sync())
    }

    fn len(&self) -> Result<u64> {
        self.file.len()
    }

    fn is_empty(&self) -> Result<bool> {
        self.file.is_empty()
    }

    fn allocated(&self) -> Result<u64> {
        self.file.allocated()
    }
}
