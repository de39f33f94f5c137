//! A table file that was remote when it was opened: [`TableFile`].
//!
//! It follows its entry: before promotion it reads the tail from memory and the rest from the store; after promotion it
//! reads the local file, which it opens once. Where that fails (deleted meanwhile, too many open files) it reads
//! remotely on: the object is immutable and [referenced](crate::UnionEnv::referenced_keys) while this handle lives, so
//! both ways give the same bytes.

use std::{
    ops::Range,
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use lazurite_env::{Activity, PendingRead, RandomFile, RangeRead, ReadHint, Result};

use super::Core;
use crate::{
    catalog::{Entry, Residency},
    fetch::merge,
    reads::ReadTier,
    stats::Counters,
};

/// A handle to a table file of either residency.
#[derive(Debug)]
pub(super) struct TableFile {
    core: Arc<Core>,
    entry: Arc<Entry>,
    path: PathBuf,
    local: OnceLock<Box<dyn RandomFile>>,
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
            entry,
            path,
            local: OnceLock::new(),
        }
    }

    /// The local file, once there is one.
    fn local(&self) -> Option<&dyn RandomFile> {
        if self.local.get().is_none() {
            if self.entry.residency() != Residency::Local {
                return None;
            }
            match self.core.base.open_random(&self.path) {
                // Another thread may have been faster: its handle is as good.
                Ok(file) => {
                    let _ = self.local.set(file);
                }
                Err(error) => {
                    tracing::debug!(path = %self.path.display(), %error, "promoted file is read remotely");
                    return None;
                }
            }
        }
        Counters::add(&self.core.counters.promoted_reads, 1);
        self.local.get().map(|file| &**file)
    }

    /// What `len` bytes from `offset` consist of, cut at the end of the file.
    fn parts(&self, offset: u64, len: usize) -> Parts {
        let end = offset.saturating_add(len as u64).min(self.entry.file().len);
        let start = offset.min(end);
        match self.entry.tail() {
            Some((tail_at, bytes)) if end > tail_at => {
                // Both are inside the tail, which is in memory.
                let from = start.max(tail_at);
                let tail = bytes.slice((from - tail_at) as usize..(end - tail_at) as usize);
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

    fn fetch(&self, range: Range<u64>) -> PendingRead {
        self.core.fetcher.start(&self.entry.file().key, range)
    }

    /// Counts a read by what serves it.
    fn count(&self, Parts { remote, tail }: &Parts, activity: Activity) {
        let counters = &self.core.counters;
        let bytes = remote.end - remote.start + tail.len() as u64;
        if remote.is_empty() {
            Counters::add(&counters.tail_reads, 1);
            counters.reads.count(ReadTier::Tail, activity, bytes);
        } else {
            Counters::add(&counters.remote_reads, 1);
            counters.reads.count(ReadTier::Remote, activity, bytes);
        }
    }

    fn count_local(&self, bytes: usize, activity: Activity) {
        let reads = &self.core.counters.reads;
        reads.count(ReadTier::Local, activity, bytes as u64);
    }

    /// Waits for a request.
    fn wait(&self, request: PendingRead, activity: Activity) -> Result<Bytes> {
        let reads = &self.core.counters.reads;
        reads.waiting(ReadTier::Remote, activity, || request.wait())
    }
}

impl RandomFile for TableFile {
    fn read_at(&self, offset: u64, buf: &mut [u8], hint: ReadHint) -> Result<usize> {
        if let Some(local) = self.local() {
            self.count_local(buf.len(), hint.activity);
            return local.read_at(offset, buf, hint);
        }
        let parts = self.parts(offset, buf.len());
        self.count(&parts, hint.activity);
        let Parts { remote, tail } = parts;
        let mut filled = 0;
        if !remote.is_empty() {
            let bytes = self.wait(self.fetch(remote), hint.activity)?;
            filled = bytes.len();
            buf[..filled].copy_from_slice(&bytes);
        }
        buf[filled..filled + tail.len()].copy_from_slice(&tail);
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
        let mut wanted = Vec::new();
        for (i, read) in reads.iter_mut().enumerate() {
            let parts = self.parts(read.offset, read.buf.len());
            self.count(&parts, hint.activity);
            let Parts { remote, tail } = parts;
            let at = (remote.end - remote.start) as usize;
            read.buf[at..at + tail.len()].copy_from_slice(&tail);
            // Where a request is needed too, this is what comes of it if it succeeds.
            read.result = Ok(at + tail.len());
            if !remote.is_empty() {
                wanted.push((remote, i));
            }
        }
        wanted.sort_by_key(|(range, _)| range.start);
        let (ranges, indices): (Vec<_>, Vec<_>) = wanted.into_iter().unzip();
        let requests: Vec<_> = merge(&ranges)
            .into_iter()
            .map(|(merged, served)| (merged.start, served, self.fetch(merged)))
            .collect();
        for (start, served, request) in requests {
            let outcome = self.wait(request, hint.activity);
            for (range, &i) in ranges[served.clone()].iter().zip(&indices[served]) {
                match &outcome {
                    Ok(bytes) => {
                        let bytes =
                            &bytes[(range.start - start) as usize..(range.end - start) as usize];
                        reads[i].buf[..bytes.len()].copy_from_slice(bytes);
                    }
                    Err(error) => reads[i].result = Err(error.clone()),
                }
            }
        }
    }

    fn start_read(&self, offset: u64, len: usize, hint: ReadHint) -> PendingRead {
        if let Some(local) = self.local() {
            self.count_local(len, hint.activity);
            return local.start_read(offset, len, hint);
        }
        let parts = self.parts(offset, len);
        self.count(&parts, hint.activity);
        let Parts { remote, tail } = parts;
        if remote.is_empty() {
            return PendingRead::ready(Ok(tail));
        }
        // A pending read is one request, so what it holds of the tail is read again.
        let request = self.fetch(remote.start..remote.end + tail.len() as u64);
        let core = self.core.clone();
        // Only what the reader waits counts: it asks before it needs the bytes.
        let wait = move |_| {
            let reads = &core.counters.reads;
            reads.waiting(ReadTier::Remote, hint.activity, || request.wait())
        };
        PendingRead::ready(Ok(Bytes::new())).map(wait)
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
