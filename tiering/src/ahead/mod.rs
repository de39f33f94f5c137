//! Reading ahead of iterators: who knows which files an iterator will read says so in a [`ScanPlan`], and while the
//! returned [`ReadAhead`] lives, remote bytes are asked for before the iterator reads them.
//!
//! A plan has one [lane] for each sequence of files that is read in order: a sorted run of an LSM tree. Nothing is asked
//! for until a read of an iterator shows where its lane is. From there on [twice](GROWTH) as much is kept on its way before
//! the reader as the reader has read already, up to [`MAX_WINDOW_BYTES`], and never beyond the plan's end. So a walk that is
//! given up has cost at most three times what it read, and one that goes to its end no more than its range.
//!
//! What was asked for stays in the cache's [list of requests](crate::cache::flight) until the reader has passed it, whether
//! or not it can be stored; that is memory, and all scans of a union together have at most [`MAX_KEPT_BYTES`] of it. It is
//! verified by whoever reads it, as any remote bytes are.
//!
//! # Invariants
//! * A plan is a hint. Files that are not there, are local, or are not read as it says cost nothing but the readahead.
//! * A read of a file is never waited for here, and a request that fails is forgotten: the reader asks again.
//! * What is kept is let go when the reader has passed it or its scan ends.

mod lane;

use std::{
    cell::RefCell,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use lane::{Lane, Next, Piece};

use crate::{
    cache::{Mode, Object, Request, Tail},
    catalog::Residency,
    sync::lock,
    union::Core,
};

/// Bytes that may be on their way or in memory before the reader of one scan: so much fills a link of 1 Gbit/s up to a
/// round trip of 60 ms, and one of 10 Gbit/s up to 6 ms.
const MAX_WINDOW_BYTES: u64 = 8 << 20;

/// How many times what the reader has read the window is. Each round trip makes it three times as long.
const GROWTH: u64 = 2;

/// The same of all scans of a union together; beyond it, further ones are read as they go.
const MAX_KEPT_BYTES: u64 = 64 << 20;

/// What an iterator is going to read.
#[derive(Debug, Clone, Default)]
pub struct ScanPlan {
    /// Sequences of files, each read in its order: a sorted run, or one file.
    pub lanes: Vec<Vec<ScanFile>>,
    /// Bytes that the iterator has read already: how far ahead of it to begin with.
    pub read_bytes: u64,
    /// Where it read last.
    pub at: Option<ScanPlace>,
}

/// A table file that an iterator is going to read, from its front.
#[derive(Debug, Clone)]
pub struct ScanFile {
    /// Its name in the db directory.
    pub name: String,
    /// Its length in bytes.
    pub len: u64,
    /// Where the iterator ends in it; `None`: it reads the file to its end.
    pub until: Option<ScanEnd>,
}

/// Up to where an iterator has read a table file.
#[derive(Debug, Clone)]
pub struct ScanPlace {
    name: String,
    offset: u64,
}

thread_local! {
    static LAST: RefCell<Option<ScanPlace>> = const { RefCell::new(None) };
}

impl ScanPlace {
    /// Where an iterator last read a remote file on this thread, of whichever union. Forgotten by this.
    pub fn take_last() -> Option<ScanPlace> {
        LAST.take()
    }
}

/// About where in a table file an iterator ends, as RocksDB estimates it.
#[derive(Debug, Clone, Copy)]
pub struct ScanEnd {
    /// The part of the file before the end: of so many bytes where the whole file is [`ScanFile::len`] of them, also if its
    /// data are not all of it.
    pub bytes: u64,
    /// Bytes that the iterator may read beyond: a block.
    pub slack: u64,
}

/// The scans that are under way.
#[derive(Debug, Default)]
pub(crate) struct Scans {
    scans: Mutex<Vec<Arc<Scan>>>,
    /// Their number: looked at without the lock by every read of an iterator.
    active: AtomicUsize,
    kept_bytes: AtomicU64,
}

struct Scan {
    state: Mutex<State>,
}

impl fmt::Debug for Scan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scan")
    }
}

struct State {
    lanes: Vec<Lane>,
    ended: bool,
}

/// While it lives, remote bytes are fetched ahead of one iterator. Dropping it lets go of what is kept; requests that are
/// under way end by themselves, and what they bring may be stored in the chunk cache.
pub struct ReadAhead {
    core: Arc<Core>,
    scan: Arc<Scan>,
}

impl fmt::Debug for ReadAhead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReadAhead")
    }
}

impl ReadAhead {
    pub(crate) fn begin(core: Arc<Core>, plan: ScanPlan) -> Self {
        let share = plan.read_bytes / plan.lanes.len().max(1) as u64;
        let lanes = plan.lanes.into_iter().map(|files| Lane::new(files, share));
        let scan = Arc::new(Scan {
            state: Mutex::new(State {
                lanes: lanes.collect(),
                ended: false,
            }),
        });
        let mut scans = lock(&core.scans.scans);
        scans.push(scan.clone());
        core.scans.active.store(scans.len(), Ordering::Release);
        drop(scans);
        if let Some(ScanPlace { name, offset }) = plan.at {
            core.advance(&mut lock(&scan.state).lanes, &name, offset, 0);
        }
        ReadAhead { core, scan }
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        let mut scans = lock(&self.core.scans.scans);
        scans.retain(|scan| !Arc::ptr_eq(scan, &self.scan));
        self.core.scans.active.store(scans.len(), Ordering::Release);
        drop(scans);
        let mut state = lock(&self.scan.state);
        state.ended = true;
        for lane in &mut state.lanes {
            self.core.let_go(lane.end());
        }
    }
}

impl Core {
    /// Tells that an iterator read `file` up to `offset`, `bytes` of it with this read, which may still be under way.
    /// Does not block.
    pub fn iterator_read(self: &Arc<Self>, file: &str, offset: u64, bytes: u64) {
        LAST.set(Some(ScanPlace {
            name: file.to_owned(),
            offset,
        }));
        if self.scans.active.load(Ordering::Acquire) == 0 {
            return;
        }
        let scans = lock(&self.scans.scans).clone();
        for scan in scans {
            let mut state = lock(&scan.state);
            if !state.ended {
                self.advance(&mut state.lanes, file, offset, bytes);
            }
        }
    }

    fn advance(&self, lanes: &mut [Lane], file: &str, offset: u64, bytes: u64) {
        let Some((at, index)) = lanes
            .iter()
            .enumerate()
            .find_map(|(at, lane)| lane.index(file).map(|index| (at, index)))
        else {
            return;
        };
        self.let_go(lanes[at].read_to(index, offset, bytes));
        let all: u64 = lanes.iter().map(Lane::read_bytes).sum();
        let read = lanes[at].read_bytes();
        // Lanes share the window as they share the reads.
        let share = u128::from(MAX_WINDOW_BYTES) * u128::from(read) / u128::from(all.max(1));
        let window = (GROWTH * read).min(share as u64);
        self.fill(&mut lanes[at], window);
    }

    /// Asks for what fits into the window.
    fn fill(&self, lane: &mut Lane, window: u64) {
        while let Some(Next { index, start, room }) = lane.next(window) {
            let file = lane.file(index);
            let entry = self.catalog.lookup(&file.name);
            let Some(entry) = entry.filter(|entry| entry.residency() == Residency::Remote) else {
                if !lane.pass_over(index, room) {
                    return;
                }
                continue;
            };
            let tail = entry.tail().map(|(offset, bytes)| Tail { offset, bytes });
            let len = entry.file().len;
            let limit = tail.as_ref().map_or(len, |tail| tail.offset);
            let Some(range) = lane.cut(index, start, limit, len, window, room) else {
                return;
            };
            let bytes = range.end - range.start;
            let mut flights = Vec::new();
            let object = Object::new(entry.file());
            if bytes > 0 {
                if !self.reserve_kept(bytes) {
                    return;
                }
                let request = Request {
                    object: &object,
                    tail,
                    mode: Mode::Ahead,
                };
                flights = self.cache.fetch_ahead(&request, range.clone());
                if entry.residency() != Residency::Remote {
                    // It went while the cache took it in again.
                    self.uncache(entry.file());
                }
            }
            let whole = range.end >= lane.file_end(index, limit, len);
            lane.push(Piece {
                index,
                end: range.end,
                whole,
                bytes,
                object: Some(object.id),
                flights,
            });
        }
    }

    fn reserve_kept(&self, bytes: u64) -> bool {
        let more = |kept: u64| {
            let kept = kept + bytes;
            (kept <= MAX_KEPT_BYTES).then_some(kept)
        };
        let kept = &self.scans.kept_bytes;
        kept.fetch_update(Ordering::AcqRel, Ordering::Acquire, more)
            .is_ok()
    }

    fn let_go(&self, pieces: Vec<Piece>) {
        for piece in pieces {
            if let Some(object) = piece.object {
                self.cache.let_go(object, &piece.flights);
                self.scans
                    .kept_bytes
                    .fetch_sub(piece.bytes, Ordering::AcqRel);
            }
        }
    }

    /// Bytes asked for ahead of readers that have not passed them.
    #[cfg(test)]
    pub fn kept_bytes(&self) -> u64 {
        self.scans.kept_bytes.load(Ordering::Acquire)
    }
}
