//! [`TraceEnv`]: watches an Env. Each operation, on the Env and on the files opened through it, becomes an event in a
//! bounded log that tests take and compare, a count per operation, and a `tracing` event at trace level.
//!
//! An operation is recorded when it has ended, on the thread that made it; a read that was begun with `start_read`,
//! when somebody waited for it. No bytes of any file are kept.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    DirEntry, Env, ErrorKind, FileLock, Op, PendingRead, RandomFile, RangeRead, ReadHint, Result,
    SequentialFile, SparseFile, Stat, WritableFile,
};

/// How many events [`TraceEnv::new`] keeps.
const EVENTS_MAX: usize = 65_536;

/// One operation that has ended. It prints on one line: `append /d/a 12 ok`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceEvent {
    /// The operation.
    pub op: Op,
    /// The path that it was called with, or that its file was opened with.
    pub path: PathBuf,
    /// The new name, for a rename or link.
    pub to: Option<PathBuf>,
    /// Where a read or write at an offset, or a hole, began.
    pub offset: Option<u64>,
    /// Bytes that were read, appended, written or punched; the length that a truncation was to give. Otherwise 0, also for a
    /// failed read.
    pub bytes: u64,
    /// The kind of the error, where there was one.
    pub error: Option<ErrorKind>,
}

impl fmt::Display for TraceEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.op, self.path.display())?;
        if let Some(to) = &self.to {
            write!(f, " {}", to.display())?;
        }
        if let Some(offset) = self.offset {
            write!(f, " @{offset}")?;
        }
        if matches!(
            self.op,
            Op::Read
                | Op::Skip
                | Op::Append
                | Op::Truncate
                | Op::Prefetch
                | Op::WriteAt
                | Op::PunchHole
        ) {
            write!(f, " {}", self.bytes)?;
        }
        match self.error {
            None => f.write_str(" ok"),
            Some(kind) => write!(f, " {kind}"),
        }
    }
}

/// How often an operation was called, since the [`TraceEnv`] was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpCount {
    /// Calls, failed ones included.
    pub calls: u64,
    /// Calls that failed.
    pub errors: u64,
    /// Bytes read, appended or written by those that did not.
    pub bytes: u64,
}

#[derive(Default)]
struct Log {
    events_max: usize,
    events: VecDeque<TraceEvent>,
    dropped: u64,
    counts: BTreeMap<Op, OpCount>,
}

/// Records every operation of the Env that it wraps, and changes none. See the [module](self).
///
/// It answers no native path, so that no byte is read behind its back.
pub struct TraceEnv {
    inner: Arc<dyn Env>,
    log: Arc<Mutex<Log>>,
}

impl TraceEnv {
    /// Watches `inner`, keeping the newest 65,536 events.
    pub fn new(inner: Arc<dyn Env>) -> Self {
        Self::with_events_max(inner, EVENTS_MAX)
    }

    /// Watches `inner`, keeping the newest `events_max` events. With 0 it only counts.
    pub fn with_events_max(inner: Arc<dyn Env>, events_max: usize) -> Self {
        let log = Log {
            events_max,
            ..Log::default()
        };
        TraceEnv {
            inner,
            log: Arc::new(Mutex::new(log)),
        }
    }

    /// The events since the last call, oldest first; the log is empty after it.
    pub fn take(&self) -> Vec<TraceEvent> {
        lock(&self.log).events.drain(..).collect()
    }

    /// Events that the log had no room for.
    pub fn dropped(&self) -> u64 {
        lock(&self.log).dropped
    }

    /// How often `op` was called.
    pub fn count(&self, op: Op) -> OpCount {
        lock(&self.log).counts.get(&op).copied().unwrap_or_default()
    }

    fn at(&self, path: &Path) -> Tracer {
        Tracer {
            log: self.log.clone(),
            path: path.to_owned(),
        }
    }
}

impl fmt::Debug for TraceEnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TraceEnv").field(&self.inner).finish()
    }
}

fn lock(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Records operations on one path.
#[derive(Clone)]
struct Tracer {
    log: Arc<Mutex<Log>>,
    path: PathBuf,
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tracer").field(&self.path).finish()
    }
}

impl Tracer {
    fn record<T>(&self, op: Op, result: Result<T>) -> Result<T> {
        self.push(op, None, None, 0, result.as_ref().err());
        result
    }

    fn record_pair<T>(&self, op: Op, to: &Path, result: Result<T>) -> Result<T> {
        self.push(op, Some(to), None, 0, result.as_ref().err());
        result
    }

    fn record_bytes<T>(
        &self,
        op: Op,
        offset: Option<u64>,
        bytes: u64,
        result: Result<T>,
    ) -> Result<T> {
        self.push(op, None, offset, bytes, result.as_ref().err());
        result
    }

    fn push(
        &self,
        op: Op,
        to: Option<&Path>,
        offset: Option<u64>,
        bytes: u64,
        error: Option<&crate::Error>,
    ) {
        let event = TraceEvent {
            op,
            path: self.path.clone(),
            to: to.map(Path::to_owned),
            offset,
            bytes,
            error: error.map(crate::Error::kind),
        };
        tracing::trace!(target: "lazurite::env", %event);
        let mut log = lock(&self.log);
        let count = log.counts.entry(op).or_default();
        count.calls += 1;
        match error {
            Some(_) => count.errors += 1,
            None if matches!(op, Op::Read | Op::Append | Op::WriteAt) => count.bytes += bytes,
            None => {}
        }
        log.events.push_back(event);
        if log.events.len() > log.events_max {
            log.events.pop_front();
            log.dropped += 1;
        }
    }
}

#[deny(clippy::missing_trait_methods)]
impl Env for TraceEnv {
    fn open_sequential(&self, path: &Path) -> Result<Box<dyn SequentialFile>> {
        let tracer = self.at(path);
        let file = tracer.record(Op::OpenSequential, self.inner.open_sequential(path))?;
        Ok(Box::new(Traced { file, tracer }))
    }

    fn open_random(&self, path: &Path) -> Result<Box<dyn RandomFile>> {
        let tracer = self.at(path);
        let file = tracer.record(Op::OpenRandom, self.inner.open_random(path))?;
        Ok(Box::new(Traced { file, tracer }))
    }

    fn create(&self, path: &Path) -> Result<Box<dyn WritableFile>> {
        let tracer = self.at(path);
        let file = tracer.record(Op::Create, self.inner.create(path))?;
        Ok(Box::new(Traced { file, tracer }))
    }

    fn open_append(&self, path: &Path) -> Result<Box<dyn WritableFile>> {
        let tracer = self.at(path);
        let file = tracer.record(Op::OpenAppend, self.inner.open_append(path))?;
        Ok(Box::new(Traced { file, tracer }))
    }

    fn open_sparse(&self, path: &Path) -> Result<Box<dyn SparseFile>> {
        let tracer = self.at(path);
        let file = tracer.record(Op::OpenSparse, self.inner.open_sparse(path))?;
        Ok(Box::new(Traced { file, tracer }))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let renamed = self.inner.rename(from, to);
        self.at(from).record_pair(Op::Rename, to, renamed)
    }

    fn link(&self, from: &Path, to: &Path) -> Result<()> {
        let linked = self.inner.link(from, to);
        self.at(from).record_pair(Op::Link, to, linked)
    }

    fn delete(&self, path: &Path) -> Result<()> {
        self.at(path).record(Op::Delete, self.inner.delete(path))
    }

    fn create_dir(&self, path: &Path) -> Result<()> {
        self.at(path)
            .record(Op::CreateDir, self.inner.create_dir(path))
    }

    fn delete_dir(&self, path: &Path) -> Result<()> {
        self.at(path)
            .record(Op::DeleteDir, self.inner.delete_dir(path))
    }

    fn list(&self, path: &Path) -> Result<Vec<DirEntry>> {
        self.at(path).record(Op::List, self.inner.list(path))
    }

    fn stat(&self, path: &Path) -> Result<Stat> {
        self.at(path).record(Op::Stat, self.inner.stat(path))
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn FileLock>> {
        self.at(path).record(Op::Lock, self.inner.lock(path))
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        self.at(path).record(Op::SyncDir, self.inner.sync_dir(path))
    }

    fn free_space(&self, path: &Path) -> Result<u64> {
        self.at(path)
            .record(Op::FreeSpace, self.inner.free_space(path))
    }

    fn native_path(&self, _path: &Path) -> Option<PathBuf> {
        None
    }
}

/// An open file and who records what is done with it.
#[derive(Debug)]
struct Traced<F: ?Sized> {
    tracer: Tracer,
    file: Box<F>,
}

#[deny(clippy::missing_trait_methods)]
impl SequentialFile for Traced<dyn SequentialFile> {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        let read = self.file.read(buf);
        let bytes = read.as_ref().map_or(0, |n| *n as u64);
        self.tracer.record_bytes(Op::Read, None, bytes, read)
    }

    fn skip(&mut self, n: u64) -> Result<()> {
        let skipped = self.file.skip(n);
        self.tracer.record_bytes(Op::Skip, None, n, skipped)
    }
}

#[deny(clippy::missing_trait_methods)]
impl RandomFile for Traced<dyn RandomFile> {
    fn read_at(&self, offset: u64, buf: &mut [u8], hint: ReadHint) -> Result<usize> {
        let read = self.file.read_at(offset, buf, hint);
        let bytes = read.as_ref().map_or(0, |n| *n as u64);
        self.tracer
            .record_bytes(Op::Read, Some(offset), bytes, read)
    }

    fn read_many(&self, reads: &mut [RangeRead<'_>], hint: ReadHint) {
        self.file.read_many(reads, hint);
        for read in reads {
            let bytes = read.result.as_ref().map_or(0, |n| *n as u64);
            let error = read.result.as_ref().err();
            self.tracer
                .push(Op::Read, None, Some(read.offset), bytes, error);
        }
    }

    fn start_read(&self, offset: u64, len: usize, hint: ReadHint) -> PendingRead {
        let tracer = self.tracer.clone();
        self.file.start_read(offset, len, hint).map(move |read| {
            let bytes = read.as_ref().map_or(0, |b| b.len() as u64);
            tracer.record_bytes(Op::Read, Some(offset), bytes, read)
        })
    }

    fn prefetch(&self, offset: u64, len: usize, hint: ReadHint) -> Result<bool> {
        let asked = self.file.prefetch(offset, len, hint);
        self.tracer
            .record_bytes(Op::Prefetch, Some(offset), len as u64, asked)
    }

    fn len(&self) -> Result<u64> {
        self.tracer.record(Op::FileLen, self.file.len())
    }

    fn is_empty(&self) -> Result<bool> {
        self.tracer.record(Op::FileLen, self.file.is_empty())
    }

    fn unique_id(&self) -> Option<[u8; 16]> {
        self.file.unique_id()
    }

    fn native_path(&self) -> Option<PathBuf> {
        None
    }
}

#[deny(clippy::missing_trait_methods)]
impl WritableFile for Traced<dyn WritableFile> {
    fn append(&mut self, data: &[u8]) -> Result<()> {
        let appended = self.file.append(data);
        self.tracer
            .record_bytes(Op::Append, None, data.len() as u64, appended)
    }

    fn flush(&mut self) -> Result<()> {
        self.tracer.record(Op::Flush, self.file.flush())
    }

    fn sync(&mut self) -> Result<()> {
        self.tracer.record(Op::Sync, self.file.sync())
    }

    fn truncate(&mut self, len: u64) -> Result<()> {
        let truncated = self.file.truncate(len);
        self.tracer.record_bytes(Op::Truncate, None, len, truncated)
    }

    fn len(&self) -> u64 {
        self.file.len()
    }

    fn is_empty(&self) -> bool {
        self.file.is_empty()
    }

    fn close(&mut self) -> Result<()> {
        self.tracer.record(Op::Close, self.file.close())
    }
}

#[deny(clippy::missing_trait_methods)]
impl SparseFile for Traced<dyn SparseFile> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let read = self.file.read_at(offset, buf);
        let bytes = read.as_ref().map_or(0, |n| *n as u64);
        self.tracer
            .record_bytes(Op::Read, Some(offset), bytes, read)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        let written = self.file.write_at(offset, data);
        self.tracer
            .record_bytes(Op::WriteAt, Some(offset), data.len() as u64, written)
    }

    fn punch_hole(&self, range: Range<u64>) -> Result<()> {
        let (begin, len) = (range.start, range.end.saturating_sub(range.start));
        let punched = self.file.punch_hole(range);
        self.tracer
            .record_bytes(Op::PunchHole, Some(begin), len, punched)
    }

    fn truncate(&self, len: u64) -> Result<()> {
        let truncated = self.file.truncate(len);
        self.tracer.record_bytes(Op::Truncate, None, len, truncated)
    }

    fn sync(&self) -> Result<()> {
        self.tracer.record(Op::Sync, self.file.sync())
    }

    fn len(&self) -> Result<u64> {
        self.tracer.record(Op::FileLen, self.file.len())
    }

    fn is_empty(&self) -> Result<bool> {
        self.tracer.record(Op::FileLen, self.file.is_empty())
    }

    fn allocated(&self) -> Result<u64> {
        self.tracer.record(Op::Allocated, self.file.allocated())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EnvExt, MemEnv};

    fn lines(env: &TraceEnv) -> Vec<String> {
        env.take().iter().map(TraceEvent::to_string).collect()
    }

    #[test]
    fn an_atomic_write_and_its_reads_in_full() {
        let env = TraceEnv::new(Arc::new(MemEnv::new()));
        let path = Path::new("/f");
        env.write_atomic(path, b"0123456789").unwrap();
        assert_eq!(
            lines(&env),
            [
                "delete /f.tmp not found",
                "create /f.tmp ok",
                "append /f.tmp 10 ok",
                "sync /f.tmp ok",
                "close /f.tmp ok",
                "rename /f.tmp /f ok",
                "sync_dir / ok",
            ]
        );
        let file = env.open_random(path).unwrap();
        let hint = ReadHint::default();
        let pending = file.start_read(8, 10, hint);
        file.read_at(2, &mut [0; 4], hint).unwrap();
        pending.wait().unwrap();
        let [mut a, mut b] = [[0; 2]; 2];
        let range = |offset, buf| RangeRead {
            offset,
            buf,
            result: Ok(0),
        };
        file.read_many(&mut [range(0, &mut a), range(9, &mut b)], hint);
        drop(file.start_read(0, 1, hint));
        assert_eq!(
            lines(&env),
            [
                "open_random /f ok",
                "read /f @2 4 ok",
                "read /f @8 2 ok",
                "read /f @0 2 ok",
                "read /f @9 1 ok",
            ]
        );
        let reads = OpCount {
            calls: 4,
            errors: 0,
            bytes: 9,
        };
        assert_eq!(env.count(Op::Read), reads);
        assert_eq!(env.count(Op::Delete).errors, 1);
        assert_eq!(env.count(Op::Link), OpCount::default());
    }

    #[test]
    fn a_full_log_drops_the_oldest() {
        let env = TraceEnv::with_events_max(Arc::new(MemEnv::new()), 2);
        for name in ["/a", "/b", "/c"] {
            assert!(!env.exists(Path::new(name)).unwrap());
        }
        assert_eq!(lines(&env), ["stat /b not found", "stat /c not found"]);
        assert_eq!((env.dropped(), env.count(Op::Stat).calls), (1, 3));
    }
}
