//! [`FaultEnv`]: carries the decisions of a [`FaultPlan`] out on an Env and on the files opened through it.

use std::{
    fmt,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use super::plan::{Decision, FaultPlan, Share};
use crate::{
    DirEntry, Env, FileLock, Op, PendingRead, RandomFile, RangeRead, ReadHint, Result,
    SequentialFile, SparseFile, Stat, WritableFile,
};

/// An Env on which things go wrong as a [`FaultPlan`] says; with a plan that lets all pass, the Env that it wraps.
///
/// Each call of the Env, and of each file opened through it, asks the plan once; `read_many` once for each range. The
/// path is the one that the call was made with, or that the file was opened with. `len` of a file that is written,
/// unique ids and drops are never broken. A short read gives at least one byte, where more than none was asked for, as
/// that of a kernel does: less than the contract of [`RandomFile`] promises, so that its caller must take it for the
/// end of the file. A delay blocks the calling thread, or the one that waits for a read that was begun.
///
/// It answers no native path, so that no byte is read behind its back.
#[derive(Debug)]
pub struct FaultEnv {
    inner: Arc<dyn Env>,
    plan: Arc<FaultPlan>,
}

impl FaultEnv {
    /// Breaks `inner` as `plan` says.
    pub fn new(inner: Arc<dyn Env>, plan: Arc<FaultPlan>) -> Self {
        FaultEnv { inner, plan }
    }

    fn at(&self, path: &Path) -> Point {
        Point {
            plan: self.plan.clone(),
            path: path.display().to_string(),
        }
    }
}

/// Asks the plan about operations on one path.
#[derive(Clone)]
struct Point {
    plan: Arc<FaultPlan>,
    path: String,
}

impl fmt::Debug for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Point").field(&self.path).finish()
    }
}

impl Point {
    fn decide(&self, op: Op) -> Decision {
        self.plan.decide(op, &self.path)
    }

    /// Runs an operation that has no bytes to cut short.
    fn run<T>(&self, op: Op, operation: impl FnOnce() -> Result<T>) -> Result<T> {
        match self.decide(op) {
            Decision::Fail(kind) => Err(FaultPlan::error(kind, op, &self.path)),
            Decision::FailAfter(kind) => {
                // Whatever the answer was, it is lost.
                let _ = operation();
                Err(FaultPlan::error(kind, op, &self.path))
            }
            Decision::Delay(time) => {
                thread::sleep(time);
                operation()
            }
            // The plan tears and shortens nothing but appends and reads, and corrupts nothing but remote reads.
            Decision::Pass | Decision::Torn(..) | Decision::Short(_) | Decision::Corrupt(_) => {
                operation()
            }
        }
    }

    /// Runs a read of up to `len` bytes, which may be told to read less.
    fn read(&self, len: usize, read: impl FnOnce(usize) -> Result<usize>) -> Result<usize> {
        match self.decide(Op::Read) {
            Decision::Fail(kind) => Err(FaultPlan::error(kind, Op::Read, &self.path)),
            Decision::FailAfter(kind) => {
                let _ = read(len);
                Err(FaultPlan::error(kind, Op::Read, &self.path))
            }
            Decision::Short(share) => read(short(share, len)),
            Decision::Delay(time) => {
                thread::sleep(time);
                read(len)
            }
            Decision::Pass | Decision::Torn(..) | Decision::Corrupt(_) => read(len),
        }
    }

    /// Runs a write of `data`, of which a prefix may be all that is written.
    fn write(&self, op: Op, data: &[u8], mut write: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        match self.decide(op) {
            Decision::Fail(kind) => Err(FaultPlan::error(kind, op, &self.path)),
            Decision::FailAfter(kind) => {
                let _ = write(data);
                Err(FaultPlan::error(kind, op, &self.path))
            }
            Decision::Torn(kind, share) => {
                write(&data[..share.of(data.len())])?;
                Err(FaultPlan::error(kind, op, &self.path))
            }
            Decision::Delay(time) => {
                thread::sleep(time);
                write(data)
            }
            Decision::Pass | Decision::Short(_) | Decision::Corrupt(_) => write(data),
        }
    }
}

/// A kernel that reads anything reads at least a byte: none would be the end of the file.
fn short(share: Share, len: usize) -> usize {
    share.of(len).max(1).min(len)
}

#[deny(clippy::missing_trait_methods)]
impl Env for FaultEnv {
    fn open_sequential(&self, path: &Path) -> Result<Box<dyn SequentialFile>> {
        let point = self.at(path);
        let file = point.run(Op::OpenSequential, || self.inner.open_sequential(path))?;
        Ok(Box::new(Faulty { point, file }))
    }

    fn open_random(&self, path: &Path) -> Result<Box<dyn RandomFile>> {
        let point = self.at(path);
        let file = point.run(Op::OpenRandom, || self.inner.open_random(path))?;
        Ok(Box::new(Faulty { point, file }))
    }

    fn create(&self, path: &Path) -> Result<Box<dyn WritableFile>> {
        let point = self.at(path);
        let file = point.run(Op::Create, || self.inner.create(path))?;
        Ok(Box::new(Faulty { point, file }))
    }

    fn open_append(&self, path: &Path) -> Result<Box<dyn WritableFile>> {
        let point = self.at(path);
        let file = point.run(Op::OpenAppend, || self.inner.open_append(path))?;
        Ok(Box::new(Faulty { point, file }))
    }

    fn open_sparse(&self, path: &Path) -> Result<Box<dyn SparseFile>> {
        let point = self.at(path);
        let file = point.run(Op::OpenSparse, || self.inner.open_sparse(path))?;
        Ok(Box::new(Faulty { point, file }))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.at(from)
            .run(Op::Rename, || self.inner.rename(from, to))
    }

    fn link(&self, from: &Path, to: &Path) -> Result<()> {
        self.at(from).run(Op::Link, || self.inner.link(from, to))
    }

    fn delete(&self, path: &Path) -> Result<()> {
        self.at(path).run(Op::Delete, || self.inner.delete(path))
    }

    fn create_dir(&self, path: &Path) -> Result<()> {
        self.at(path)
            .run(Op::CreateDir, || self.inner.create_dir(path))
    }

    fn delete_dir(&self, path: &Path) -> Result<()> {
        self.at(path)
            .run(Op::DeleteDir, || self.inner.delete_dir(path))
    }

    fn list(&self, path: &Path) -> Result<Vec<DirEntry>> {
        self.at(path).run(Op::List, || self.inner.list(path))
    }

    fn stat(&self, path: &Path) -> Result<Stat> {
        self.at(path).run(Op::Stat, || self.inner.stat(path))
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn FileLock>> {
        self.at(path).run(Op::Lock, || self.inner.lock(path))
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        self.at(path).run(Op::SyncDir, || self.inner.sync_dir(path))
    }

    fn free_space(&self, path: &Path) -> Result<u64> {
        self.at(path)
            .run(Op::FreeSpace, || self.inner.free_space(path))
    }

    fn native_path(&self, _path: &Path) -> Option<PathBuf> {
        None
    }
}

/// An open file and the point at which the plan is asked.
#[derive(Debug)]
struct Faulty<F: ?Sized> {
    point: Point,
    file: Box<F>,
}

#[deny(clippy::missing_trait_methods)]
impl SequentialFile for Faulty<dyn SequentialFile> {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        let Faulty { point, file } = self;
        point.read(buf.len(), |len| file.read(&mut buf[..len]))
    }

    fn skip(&mut self, n: u64) -> Result<()> {
        let Faulty { point, file } = self;
        point.run(Op::Skip, || file.skip(n))
    }
}

#[deny(clippy::missing_trait_methods)]
impl RandomFile for Faulty<dyn RandomFile> {
    fn read_at(&self, offset: u64, buf: &mut [u8], hint: ReadHint) -> Result<usize> {
        self.point.read(buf.len(), |len| {
            self.file.read_at(offset, &mut buf[..len], hint)
        })
    }

    /// The ranges that are not failed go down in one call, so that the file below still sees them together.
    fn read_many(&self, reads: &mut [RangeRead<'_>], hint: ReadHint) {
        let mut delay = Duration::ZERO;
        let mut decisions = Vec::with_capacity(reads.len());
        let mut below = Vec::with_capacity(reads.len());
        for read in reads.iter_mut() {
            let decision = self.point.decide(Op::Read);
            decisions.push(decision);
            let len = match decision {
                Decision::Fail(_) => continue,
                Decision::Short(share) => short(share, read.buf.len()),
                Decision::Delay(time) => {
                    delay = delay.max(time);
                    read.buf.len()
                }
                Decision::Pass
                | Decision::FailAfter(_)
                | Decision::Torn(..)
                | Decision::Corrupt(_) => read.buf.len(),
            };
            below.push(RangeRead {
                offset: read.offset,
                buf: &mut read.buf[..len],
                result: Ok(0),
            });
        }
        thread::sleep(delay);
        self.file.read_many(&mut below, hint);
        let results: Vec<_> = below.into_iter().map(|read| read.result).collect();
        let mut results = results.into_iter();
        for (read, decision) in reads.iter_mut().zip(decisions) {
            let error = |kind| FaultPlan::error(kind, Op::Read, &self.point.path);
            read.result = match decision {
                Decision::Fail(kind) => Err(error(kind)),
                _ => {
                    let result = results.next().unwrap_or(Ok(0));
                    match decision {
                        Decision::FailAfter(kind) => Err(error(kind)),
                        _ => result,
                    }
                }
            };
        }
    }

    fn start_read(&self, offset: u64, len: usize, hint: ReadHint) -> PendingRead {
        let error = |kind| FaultPlan::error(kind, Op::Read, &self.point.path);
        let start = |len| self.file.start_read(offset, len, hint);
        match self.point.decide(Op::Read) {
            Decision::Fail(kind) => PendingRead::ready(Err(error(kind))),
            Decision::FailAfter(kind) => {
                let error = error(kind);
                start(len).map(|_| Err(error))
            }
            Decision::Short(share) => start(short(share, len)),
            Decision::Delay(time) => start(len).map(move |read| {
                thread::sleep(time);
                read
            }),
            Decision::Pass | Decision::Torn(..) | Decision::Corrupt(_) => start(len),
        }
    }

    fn prefetch(&self, offset: u64, len: usize, hint: ReadHint) -> Result<bool> {
        self.point
            .run(Op::Prefetch, || self.file.prefetch(offset, len, hint))
    }

    fn len(&self) -> Result<u64> {
        self.point.run(Op::FileLen, || self.file.len())
    }

    fn is_empty(&self) -> Result<bool> {
        self.point.run(Op::FileLen, || self.file.is_empty())
    }

    fn unique_id(&self) -> Option<[u8; 16]> {
        self.file.unique_id()
    }

    fn native_path(&self) -> Option<PathBuf> {
        None
    }
}

#[deny(clippy::missing_trait_methods)]
impl WritableFile for Faulty<dyn WritableFile> {
    fn append(&mut self, data: &[u8]) -> Result<()> {
        let Faulty { point, file } = self;
        point.write(Op::Append, data, |part| file.append(part))
    }

    fn flush(&mut self) -> Result<()> {
        let Faulty { point, file } = self;
        point.run(Op::Flush, || file.flush())
    }

    fn sync(&mut self) -> Result<()> {
        let Faulty { point, file } = self;
        point.run(Op::Sync, || file.sync())
    }

    fn truncate(&mut self, len: u64) -> Result<()> {
        let Faulty { point, file } = self;
        point.run(Op::Truncate, || file.truncate(len))
    }

    fn len(&self) -> u64 {
        self.file.len()
    }

    fn is_empty(&self) -> bool {
        self.file.is_empty()
    }

    fn close(&mut self) -> Result<()> {
        let Faulty { point, file } = self;
        point.run(Op::Close, || file.close())
    }
}

#[deny(clippy::missing_trait_methods)]
impl SparseFile for Faulty<dyn SparseFile> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.point
            .read(buf.len(), |len| self.file.read_at(offset, &mut buf[..len]))
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.point
            .write(Op::WriteAt, data, |part| self.file.write_at(offset, part))
    }

    fn punch_hole(&self, range: Range<u64>) -> Result<()> {
        self.point
            .run(Op::PunchHole, || self.file.punch_hole(range))
    }

    fn truncate(&self, len: u64) -> Result<()> {
        self.point.run(Op::Truncate, || self.file.truncate(len))
    }

    fn sync(&self) -> Result<()> {
        self.point.run(Op::Sync, || self.file.sync())
    }

    fn len(&self) -> Result<u64> {
        self.point.run(Op::FileLen, || self.file.len())
    }

    fn is_empty(&self) -> Result<bool> {
        self.point.run(Op::FileLen, || self.file.is_empty())
    }

    fn allocated(&self) -> Result<u64> {
        self.point.run(Op::Allocated, || self.file.allocated())
    }
}
