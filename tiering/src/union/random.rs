//! A table file that was remote when it was opened: [`TableFile`].
//!
//! It follows its entry: before promotion it reads the tail from memory and the rest through the cache; after promotion it
//! reads the local file, which all handles of the entry share, until a demotion takes that away. Where that fails (deleted meanwhile, too many open files) it reads
//! remotely on: the object is immutable and [referenced](crate::UnionEnv::referenced_keys) while this handle lives, so
//! both ways give the same bytes.

use std::{ops::Range, path::PathBuf, sync::Arc};

use bytes::Bytes;
use lazurite_env::{Activity, PendingRead, RandomFile, RangeRead, ReadHint, Result};

use super::Core;
use crate::{
    cache::{Begun, Mode, Object, Request, Tail},
    catalog::{Entry, Residency},
    reads::ReadTier,
    stats::Counters,
};

/// A handle to a table file of either residency.
#[derive(Debug)]
pub(super) struct TableFile {
    core: Arc<Core>,
    entry: Arc<Entry>,
    object: Arc<Object>,
    path: PathBuf,
}

fn not_empty(range: Range<u64>) -> Vec<Range<u64>> {
    let mut wants = vec![range];
    wants.retain(|want| !want.is_empty());
    wants
}

/// A range of a remote file, cut where the tail begins.
struct Parts {
    /// To be read from the store; may be empty.
    remote: Range<u64>,
    /// The bytes after it, already here; may be empty.
    tail: Bytes,
}

impl TableFile {
    pub fn new(core: Arc<Core>, entry: Arc<Entry>, path: PathBuf) -> Self {
        TableFile {
            core,
            object: Object::new(entry.file()),
            entry,
            path,
        }
    }

    /// The local file, while there is one.
    fn local(&self) -> Option<Arc<dyn RandomFile>> {
        match self
            .entry
            .local_file(|| self.core.base.open_random(&self.path))
        {
            Ok(file) => {
                let file = file?;
                Counters::add(&self.core.counters.promoted_reads, 1);
                Some(file)
            }
            Err(error) => {
                tracing::debug!(path = %self.path.display(), %error, "promoted file is read remotely");
                None
            }
        }
    }

    /// The end of the file, where it is in memory. It comes and goes: whoever cuts a read by it asks once.
    fn tail(&self) -> Option<Tail> {
        let tail = self.entry.tail();
        tail.map(|(offset, bytes)| Tail { offset, bytes })
    }

    /// What `len` bytes from `offset` consist of, cut at the end of the file.
    fn parts(&self, offset: u64, len: usize, tail: Option<&Tail>) -> Parts {
        let end = offset.saturating_add(len as u64).min(self.entry.file().len);
        let start = offset.min(end);
        match tail {
            Some(tail) if end > tail.offset => {
                // Both are inside the tail, which is in memory.
                let from = start.max(tail.offset);
                let within = (from - tail.offset) as usize..(end - tail.offset) as usize;
                let tail = tail.bytes.slice(within);
                Parts {
                    remote: start..from,
                    tail,
                }
            }
            _ => Parts {
                remote: start..end,
                tail: Bytes::new(),
            },
        }
    }

    /// Begins to read ranges before `tail`, sorted by their begin and not empty.
    fn begin(&self, wants: &[Range<u64>], tail: Option<Tail>, hint: ReadHint) -> Vec<Begun> {
        let mut mode = Mode::of(hint);
        if self.entry.residency() != Residency::Remote {
            // Deleted, or just promoted: nothing of it is to be kept.
            mode = Mode::Pass;
        }
        let request = Request {
            object: &self.object,
            tail,
            mode,
        };
        let begun = self.core.cache.begin(&request, wants);
        if mode != Mode::Pass && self.entry.residency() != Residency::Remote {
            // It went while the cache took it in again.
            self.core.uncache(self.entry.file());
        }
        if hint.activity == Activity::Iterate
            && let (Some(first), Some(last)) = (wants.first(), wants.last())
        {
            let name = self.entry.name();
            let bytes = last.end - first.start;
            self.core.iterator_read(name, last.end, bytes);
        }
        begun
    }

    fn count_tail_read(&self, bytes: usize, activity: Activity) {
        let counters = &self.core.counters;
        Counters::add(&counters.tail_reads, 1);
        counters.reads.count(ReadTier::Tail, activity, bytes as u64);
    }

    fn count_local(&self, bytes: usize, activity: Activity) {
        let reads = &self.core.counters.reads;
        reads.count(ReadTier::Local, activity, bytes as u64);
    }

    /// Counts a read of `bytes` that was begun, and says what serves it.
    fn count_begun(&self, begun: &Begun, bytes: usize, activity: Activity) -> ReadTier {
        let tier = match begun.is_local() {
            true => ReadTier::Chunk,
            false => ReadTier::Remote,
        };
        let reads = &self.core.counters.reads;
        reads.count(tier, activity, bytes as u64);
        tier
    }
}

impl RandomFile for TableFile {
    fn read_at(&self, offset: u64, buf: &mut [u8], hint: ReadHint) -> Result<usize> {
        if let Some(local) = self.local() {
            self.count_local(buf.len(), hint.activity);
            return local.read_at(offset, buf, hint);
        }
        let end = self.tail();
        let Parts { remote, tail } = self.parts(offset, buf.len(), end.as_ref());
        let filled = (remote.end - remote.start) as usize;
        buf[filled..filled + tail.len()].copy_from_slice(&tail);
        if remote.is_empty() {
            self.count_tail_read(tail.len(), hint.activity);
        }
        for begun in self.begin(&not_empty(remote), end, hint) {
            let tier = self.count_begun(&begun, filled + tail.len(), hint.activity);
            let reads = &self.core.counters.reads;
            reads.waiting(tier, hint.activity, || begun.copy_into(&mut buf[..filled]))?;
        }
        Ok(filled + tail.len())
    }

    /// All requests are under way at once; near ranges share one.
    fn read_many(&self, reads: &mut [RangeRead<'_>], hint: ReadHint) {
        if let Some(local) = self.local() {
            for read in &*reads {
                self.count_local(read.buf.len(), hint.activity);
            }
            return local.read_many(reads, hint);
        }
        let (end, mut wanted) = (self.tail(), Vec::new());
        for (i, read) in reads.iter_mut().enumerate() {
            let Parts { remote, tail } = self.parts(read.offset, read.buf.len(), end.as_ref());
            let at = (remote.end - remote.start) as usize;
            read.buf[at..at + tail.len()].copy_from_slice(&tail);
            // Where a request is needed too, this is what comes of it if it succeeds.
            read.result = Ok(at + tail.len());
            if remote.is_empty() {
                self.count_tail_read(tail.len(), hint.activity);
            } else {
                wanted.push((remote, i));
            }
        }
        wanted.sort_by_key(|(range, _)| range.start);
        let (ranges, indices): (Vec<_>, Vec<_>) = wanted.into_iter().unzip();
        let begun = self.begin(&ranges, end, hint).into_iter();
        for ((begun, range), i) in begun.zip(&ranges).zip(indices) {
            let len = (range.end - range.start) as usize;
            let asked = *reads[i].result.as_ref().unwrap_or(&len);
            let tier = self.count_begun(&begun, asked, hint.activity);
            let read = &self.core.counters.reads;
            let wait = || begun.copy_into(&mut reads[i].buf[..len]);
            if let Err(error) = read.waiting(tier, hint.activity, wait) {
                reads[i].result = Err(error);
            }
        }
    }

    fn start_read(&self, offset: u64, len: usize, hint: ReadHint) -> PendingRead {
        if let Some(local) = self.local() {
            self.count_local(len, hint.activity);
            return local.start_read(offset, len, hint);
        }
        let end = self.tail();
        let Parts { remote, tail } = self.parts(offset, len, end.as_ref());
        if remote.is_empty() {
            self.count_tail_read(tail.len(), hint.activity);
        }
        let asked = (remote.end - remote.start) as usize + tail.len();
        let Some(begun) = self.begin(&not_empty(remote), end, hint).pop() else {
            return PendingRead::ready(Ok(tail));
        };
        let tier = self.count_begun(&begun, asked, hint.activity);
        let core = self.core.clone();
        let finish = move || {
            let reads = &core.counters.reads;
            // Only what the reader waits counts: it asks before it needs the bytes.
            let bytes = reads.waiting(tier, hint.activity, || begun.into_bytes())?;
            if tail.is_empty() {
                return Ok(bytes);
            }
            Ok([&bytes[..], &tail[..]].concat().into())
        };
        PendingRead::ready(Ok(Bytes::new())).map(move |_| finish())
    }

    fn len(&self) -> Result<u64> {
        Ok(self.entry.file().len)
    }

    /// The checksum of the content: the same for all handles of it, whatever its name.
    fn unique_id(&self) -> Option<[u8; 16]> {
        Some(self.entry.file().checksum.to_bytes())
    }

    fn native_path(&self) -> Option<PathBuf> {
        if self.entry.residency() == Residency::Local {
            self.core.base.native_path(&self.path)
        } else {
            None
        }
    }
}
