//! The bytes of a [`MemEnv`](super::MemEnv)'s files, and the handles through which they are read and written.
//!
//! A file is what a name stands for, as an inode is: handles keep it when its name is gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use crate::{
    Error, ErrorKind, FileKind, FileLock, RandomFile, ReadHint, Result, SequentialFile, SparseFile,
    Stat, WritableFile,
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

/// The block of this disk: what a hole frees, and what a power cut loses or keeps of overwritten bytes.
pub(super) const PAGE_BYTES: usize = 4096;

/// Invariants: `durable_prefix <= bytes.len()`; what is durable is [`durable`](State::durable), then `cut_tail`; the disk is
/// charged for `bytes` without `holes` while there is a link or a handle; the bytes of a hole are zero.
pub(super) struct State {
    pub(super) bytes: Vec<u8>,
    pub(super) durable_prefix: usize,
    /// Durable bytes that a truncation cut off, while it is not durable itself.
    pub(super) cut_tail: Vec<u8>,
    /// Pages below `durable_prefix` that were written over since the last sync, by number: what is durable of them.
    pub(super) overwritten: BTreeMap<usize, Vec<u8>>,
    /// Pages that take no space.
    pub(super) holes: BTreeSet<usize>,
    links: u64,
    handles: u64,
    locked: bool,
    /// Counts the changes other than appends: with the file's number it tells contents apart.
    generation: u64,
    modified: SystemTime,
    /// When a name came or went.
    named: SystemTime,
}

impl State {
    /// The durable bytes below `durable_prefix`.
    pub(super) fn durable(&self) -> Vec<u8> {
        let mut bytes = self.bytes[..self.durable_prefix].to_vec();
        for (page, old) in &self.overwritten {
            let begin = page * PAGE_BYTES;
            bytes[begin..begin + old.len()].copy_from_slice(old);
        }
        bytes
    }

    /// What the file takes of the disk.
    fn charge(&self) -> u64 {
        let len = self.bytes.len();
        let mut holes = self.holes.len() * PAGE_BYTES;
        let last = len / PAGE_BYTES;
        if !len.is_multiple_of(PAGE_BYTES) && self.holes.contains(&last) {
            holes -= (last + 1) * PAGE_BYTES - len;
        }
        (len - holes) as u64
    }

    /// Remembers what is durable of `page` before it is changed.
    fn overwrite(&mut self, page: usize) {
        let begin = page * PAGE_BYTES;
        let end = (begin + PAGE_BYTES).min(self.durable_prefix);
        if begin < end && !self.overwritten.contains_key(&page) {
            let old = self.bytes[begin..end].to_vec();
            self.overwritten.insert(page, old);
        }
    }

    /// Changes the length; what is new is zero, and its whole pages are holes where `sparse`.
    fn resize(&mut self, len: usize, sparse: bool) {
        if len < self.durable_prefix {
            let mut tail = self.durable().split_off(len);
            tail.append(&mut self.cut_tail);
            self.cut_tail = tail;
            self.durable_prefix = len;
            let first_cut = len.div_ceil(PAGE_BYTES);
            self.overwritten.split_off(&first_cut);
            if let Some(old) = self.overwritten.get_mut(&(len / PAGE_BYTES)) {
                old.truncate(len % PAGE_BYTES);
            }
        }
        let old_pages = self.bytes.len().div_ceil(PAGE_BYTES);
        let pages = len.div_ceil(PAGE_BYTES);
        self.bytes.resize(len, 0);
        self.holes.split_off(&pages);
        if sparse {
            self.holes.extend(old_pages..pages);
        }
    }
}

impl MemFile {
    /// An empty file with one name.
    pub(super) fn new(disk: &Arc<Disk>) -> Arc<Self> {
        Self::with_bytes(disk, Vec::new(), BTreeSet::new())
    }

    /// A file with one name whose bytes are all durable. They are charged also where they do not fit.
    pub(super) fn with_bytes(
        disk: &Arc<Disk>,
        bytes: Vec<u8>,
        holes: BTreeSet<usize>,
    ) -> Arc<Self> {
        let now = disk.tick();
        let state = State {
            durable_prefix: bytes.len(),
            bytes,
            cut_tail: Vec::new(),
            overwritten: BTreeMap::new(),
            holes,
            links: 1,
            handles: 0,
            locked: false,
            generation: 0,
            modified: now,
            named: now,
        };
        disk.used.fetch_add(state.charge(), Ordering::Relaxed);
        Arc::new(MemFile {
            number: NEXT_FILE.fetch_add(1, Ordering::Relaxed),
            disk: disk.clone(),
            state: RwLock::new(state),
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
            changed: state.modified.max(state.named),
        }
    }

    pub(super) fn link(&self) {
        let mut state = self.write();
        state.links += 1;
        state.named = self.disk.tick();
    }

    pub(super) fn renamed(&self) {
        self.write().named = self.disk.tick();
    }

    pub(super) fn unlink(&self) {
        let mut state = self.write();
        state.links -= 1;
        state.named = self.disk.tick();
        self.release(&state);
    }

    /// Gives the space back once neither a name nor a handle is left. An earlier state of some name may keep the bytes
    /// in memory for longer, for a power cut to bring them back.
    fn release(&self, state: &State) {
        if state.links == 0 && state.handles == 0 {
            self.disk.give_back(state.charge());
        }
    }

    /// Appends what fits and says how much that was.
    fn append(&self, data: &[u8]) -> usize {
        let mut state = self.write();
        if !state.holes.is_empty() {
            let end = state.bytes.len();
            return self.write_pages(&mut state, end, data);
        }
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
        state.overwritten.clear();
    }

    /// `false`: the disk has no room for the longer file.
    fn truncate(&self, len: usize, sparse: bool) -> bool {
        let mut state = self.write();
        self.resize(&mut state, len, sparse)
    }

    /// `false`, with the file as it was: the disk has no room for the longer one.
    fn resize(&self, state: &mut State, len: usize, sparse: bool) -> bool {
        let (old, before) = (state.bytes.len(), state.charge());
        state.resize(len, sparse);
        let after = state.charge();
        if after > before {
            let got = self.disk.take(after - before);
            if got < after - before {
                self.disk.give_back(got);
                state.resize(old, sparse);
                return false;
            }
        } else {
            self.disk.give_back(before - after);
        }
        state.generation += 1;
        state.modified = self.disk.tick();
        true
    }

    fn write_at(&self, offset: usize, data: &[u8]) -> usize {
        self.write_pages(&mut self.write(), offset, data)
    }

    /// Writes page by page what the disk has room for, and says how much that was.
    fn write_pages(&self, state: &mut State, offset: usize, data: &[u8]) -> usize {
        let end = offset + data.len();
        if end > state.bytes.len() && !self.resize(state, end, true) {
            return 0;
        }
        let mut at = offset;
        while at < end {
            let page = at / PAGE_BYTES;
            if state.holes.contains(&page) {
                let begin = page * PAGE_BYTES;
                let needed = (state.bytes.len() - begin).min(PAGE_BYTES) as u64;
                let got = self.disk.take(needed);
                if got < needed {
                    self.disk.give_back(got);
                    break;
                }
                state.holes.remove(&page);
            }
            state.overwrite(page);
            let to = end.min((page + 1) * PAGE_BYTES);
            state.bytes[at..to].copy_from_slice(&data[at - offset..to - offset]);
            at = to;
        }
        state.generation += 1;
        state.modified = self.disk.tick();
        at - offset
    }

    fn punch_hole(&self, range: Range<usize>) {
        let mut guard = self.write();
        let state = &mut *guard;
        let before = state.charge();
        let mut at = range.start;
        while at < range.end.min(state.bytes.len()) {
            let page = at / PAGE_BYTES;
            let (begin, end) = (page * PAGE_BYTES, (page + 1) * PAGE_BYTES);
            let to = end.min(range.end);
            state.overwrite(page);
            let zero = at..to.min(state.bytes.len());
            state.bytes[zero].fill(0);
            if at == begin && to == end {
                state.holes.insert(page);
            }
            at = to;
        }
        self.disk.give_back(before - state.charge());
        state.generation += 1;
        state.modified = self.disk.tick();
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
        if !file.truncate(bytes, false) {
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
pub(super) struct MemSparse {
    file: MemReader,
    path: PathBuf,
}

impl MemSparse {
    pub(super) fn new(file: Handle, path: &Path) -> Self {
        MemSparse {
            file: MemReader(file),
            path: path.to_owned(),
        }
    }

    fn file(&self) -> &MemFile {
        &self.file.0.0
    }

    fn no_space(&self, operation: &'static str) -> Error {
        let message = "the capacity of this memory Env is used up";
        Error::new(ErrorKind::NoSpace, operation, &self.path, message)
    }
}

impl SparseFile for MemSparse {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        Ok(self.file.read(offset, buf))
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        let end = usize::try_from(offset)
            .ok()
            .and_then(|begin| begin.checked_add(data.len()));
        match end {
            Some(end) if self.file().write_at(end - data.len(), data) == data.len() => Ok(()),
            _ => Err(self.no_space("write")),
        }
    }

    fn punch_hole(&self, range: Range<u64>) -> Result<()> {
        let clamp = |at| usize::try_from(at).unwrap_or(usize::MAX - PAGE_BYTES);
        self.file().punch_hole(clamp(range.start)..clamp(range.end));
        Ok(())
    }

    fn truncate(&self, len: u64) -> Result<()> {
        match usize::try_from(len) {
            Ok(len) if self.file().truncate(len, true) => Ok(()),
            _ => Err(self.no_space("truncate")),
        }
    }

    fn sync(&self) -> Result<()> {
        self.file().sync();
        Ok(())
    }

    fn len(&self) -> Result<u64> {
        RandomFile::len(&self.file)
    }

    fn allocated(&self) -> Result<u64> {
        Ok(self.file().read().charge())
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
