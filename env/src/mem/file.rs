//! The bytes of a [`MemEnv`](super::MemEnv)'s files, and the handles through which they are read and written.
//!
//! A file is what a name stands for, as an inode is: handles keep it when its name is gone.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use crate::{
    Error, ErrorKind, FileKind, FileLock, RandomFile, ReadHint, Result, SequentialFile, Stat,
    WritableFile,
};

/// What the files of one Env share: the space they take, and the time.
pub(super) struct Disk {
    capacity: Option<u64>,
    used: AtomicU64,
    clock: AtomicU64,
}

impl Disk {
    pub(super) fn new(capacity: Option<u64>) -> Arc<Self> {
        Arc::new(Disk {
            capacity,
            used: AtomicU64::new(0),
            clock: AtomicU64::new(0),
        })
    }

    pub(super) fn capacity(&self) -> Option<u64> {
        self.capacity
    }

    /// Bytes left; `None` without a capacity.
    pub(super) fn free(&self) -> Option<u64> {
        self.capacity
            .map(|c| c.saturating_sub(self.used.load(Ordering::Relaxed)))
    }

    /// Takes up to `bytes` and says how many it got.
    fn take(&self, bytes: u64) -> u64 {
        let capacity = self.capacity.unwrap_or(u64::MAX);
        let mut got = 0;
        // The closure always gives `Some`, so that the update cannot fail.
        let _ = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                got = bytes.min(capacity.saturating_sub(used));
                Some(used + got)
            });
        got
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn tick(&self) -> SystemTime {
        let tick = self.clock.fetch_add(1, Ordering::Relaxed) + 1;
        SystemTime::UNIX_EPOCH + Duration::from_micros(tick)
    }
}

/// Numbers files in the whole process, so that a number never means two files.
static NEXT_FILE: AtomicU64 = AtomicU64::new(1);

pub(super) struct MemFile {
    number: u64,
    disk: Arc<Disk>,
    state: RwLock<State>,
}

/// Invariants: `durable_prefix <= bytes.len()`; what is durable is `bytes[..durable_prefix]`, then `cut_tail`; the disk
/// is charged for `bytes` while there is a link or a handle.
pub(super) struct State {
    pub(super) bytes: Vec<u8>,
    pub(super) durable_prefix: usize,
    /// Durable bytes that a truncation cut off, while it is not durable itself.
    pub(super) cut_tail: Vec<u8>,
    links: u64,
    handles: u64,
    locked: bool,
    /// Counts truncations: with the file's number it tells contents apart.
    generation: u64,
    modified: SystemTime,
}

impl MemFile {
    /// An empty file with one name.
    pub(super) fn new(disk: &Arc<Disk>) -> Arc<Self> {
        Self::with_bytes(disk, Vec::new(), 1)
    }

    /// A file whose bytes are all durable. They are charged also where they do not fit.
    pub(super) fn with_bytes(disk: &Arc<Disk>, bytes: Vec<u8>, links: u64) -> Arc<Self> {
        disk.used.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Arc::new(MemFile {
            number: NEXT_FILE.fetch_add(1, Ordering::Relaxed),
            disk: disk.clone(),
            state: RwLock::new(State {
                durable_prefix: bytes.len(),
                bytes,
                cut_tail: Vec::new(),
                links,
                handles: 0,
                locked: false,
                generation: 0,
                modified: disk.tick(),
            }),
        })
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stat(&self) -> Stat {
        let state = self.read();
        Stat {
            kind: FileKind::File,
            len: state.bytes.len() as u64,
            links: state.links,
            modified: state.modified,
        }
    }

    pub(super) fn link(&self) {
        self.write().links += 1;
    }

    pub(super) fn unlink(&self) {
        let mut state = self.write();
        state.links -= 1;
        self.release(&state);
    }

    /// Gives the space back once neither a name nor a handle is left. An earlier state of some name may keep the bytes
    /// in memory for longer, for a power cut to bring them back.
    fn release(&self, state: &State) {
        if state.links == 0 && state.handles == 0 {
            self.disk.give_back(state.bytes.len() as u64);
        }
    }

    /// Appends what fits and says how much that was.
    fn append(&self, data: &[u8]) -> usize {
        let mut state = self.write();
        // No more than `data.len()`, so it fits.
        let fits = self.disk.take(data.len() as u64) as usize;
        state.bytes.extend_from_slice(&data[..fits]);
        state.modified = self.disk.tick();
        fits
    }

    fn sync(&self) {
        let mut state = self.write();
        state.durable_prefix = state.bytes.len();
        state.cut_tail = Vec::new();
    }

    /// `false`: the disk has no room for the longer file.
    fn truncate(&self, len: usize) -> bool {
        let mut state = self.write();
        let old = state.bytes.len();
        if len > old {
            let more = (len - old) as u64;
            let got = self.disk.take(more);
            if got < more {
                self.disk.give_back(got);
                return false;
            }
        } else {
            self.disk.give_back((old - len) as u64);
        }
        if len < state.durable_prefix {
            let mut tail = state.bytes[len..state.durable_prefix].to_vec();
            tail.append(&mut state.cut_tail);
            state.cut_tail = tail;
            state.durable_prefix = len;
        }
        state.bytes.resize(len, 0);
        state.generation += 1;
        state.modified = self.disk.tick();
        true
    }
}

/// Keeps a file, and the space that it takes, while it is open.
pub(super) struct Handle(Arc<MemFile>);

impl Handle {
    /// To be called while the file's name is sure to be there: a file without name and handle is gone.
    pub(super) fn new(file: Arc<MemFile>) -> Self {
        file.write().handles += 1;
        Handle(file)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut state = self.0.write();
        state.handles -= 1;
        self.0.release(&state);
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Handle").field(&self.0.number).finish()
    }
}

#[derive(Debug)]
pub(super) struct MemReader(pub(super) Handle);

impl MemReader {
    fn read(&self, offset: u64, buf: &mut [u8]) -> usize {
        let state = self.0.0.read();
        let begin = usize::try_from(offset).map_or(state.bytes.len(), |o| o.min(state.bytes.len()));
        let n = buf.len().min(state.bytes.len() - begin);
        buf[..n].copy_from_slice(&state.bytes[begin..begin + n]);
        n
    }
}

impl RandomFile for MemReader {
    fn read_at(&self, offset: u64, buf: &mut [u8], _hint: ReadHint) -> Result<usize> {
        Ok(self.read(offset, buf))
    }

    fn len(&self) -> Result<u64> {
        Ok(self.0.0.read().bytes.len() as u64)
    }

    fn unique_id(&self) -> Option<[u8; 16]> {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.0.0.number.to_le_bytes());
        id[8..].copy_from_slice(&self.0.0.read().generation.to_le_bytes());
        Some(id)
    }
}

#[derive(Debug)]
pub(super) struct MemSequential {
    file: MemReader,
    offset: u64,
}

impl MemSequential {
    pub(super) fn new(file: MemReader) -> Self {
        MemSequential { file, offset: 0 }
    }
}

impl SequentialFile for MemSequential {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        let n = self.file.read(self.offset, buf);
        self.offset += n as u64;
        Ok(n)
    }

    fn skip(&mut self, n: u64) -> Result<()> {
        self.offset = self.offset.saturating_add(n);
        Ok(())
    }
}

#[derive(Debug)]
pub(super) struct MemWriter {
    /// `None` once closed.
    file: Option<Handle>,
    path: PathBuf,
    len: u64,
}

impl MemWriter {
    pub(super) fn new(file: Handle, path: &Path) -> Self {
        let len = file.0.read().bytes.len() as u64;
        MemWriter {
            file: Some(file),
            path: path.to_owned(),
            len,
        }
    }

    fn file(&self, operation: &'static str) -> Result<&MemFile> {
        match &self.file {
            Some(handle) => Ok(&handle.0),
            None => Err(self.error(ErrorKind::InvalidInput, operation, "the file is closed")),
        }
    }

    fn error(&self, kind: ErrorKind, operation: &'static str, message: &str) -> Error {
        Error::new(kind, operation, &self.path, message)
    }
}

impl WritableFile for MemWriter {
    fn append(&mut self, data: &[u8]) -> Result<()> {
        let written = self.file("append")?.append(data);
        self.len += written as u64;
        if written < data.len() {
            let message = "the capacity of this memory Env is used up";
            return Err(self.error(ErrorKind::NoSpace, "append", message));
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.file("flush").map(|_| ())
    }

    fn sync(&mut self) -> Result<()> {
        self.file("sync")?.sync();
        Ok(())
    }

    fn truncate(&mut self, len: u64) -> Result<()> {
        let file = self.file("truncate")?;
        let Ok(bytes) = usize::try_from(len) else {
            let message = "longer than memory can be";
            return Err(self.error(ErrorKind::NoSpace, "truncate", message));
        };
        if !file.truncate(bytes) {
            let message = "the capacity of this memory Env is used up";
            return Err(self.error(ErrorKind::NoSpace, "truncate", message));
        }
        self.len = len;
        Ok(())
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn close(&mut self) -> Result<()> {
        self.file("close")?;
        self.file = None;
        Ok(())
    }
}

#[derive(Debug)]
pub(super) struct MemLock(Handle);

impl MemLock {
    /// `None` where the file is locked.
    pub(super) fn take(file: Handle) -> Option<Self> {
        let locked_before = std::mem::replace(&mut file.0.write().locked, true);
        // Not `then_some`: that would make, and drop, a lock also where another holds it.
        (!locked_before).then(|| MemLock(file))
    }
}

impl Drop for MemLock {
    fn drop(&mut self) {
        self.0.0.write().locked = false;
    }
}

impl FileLock for MemLock {}
