//! Storing pages: by the writer threads behind the reads, and by downloads.
//!
//! The queue of the writer threads is bounded in bytes. What does not fit is not stored; the read that brought it has its
//! bytes already. Nothing here runs on an I/O thread but [`Cache::enqueue`], which never blocks.

use std::{
    collections::VecDeque,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, PoisonError, atomic::Ordering::Relaxed},
    thread::JoinHandle,
};

use bytes::{Bytes, BytesMut};
use lazurite_env::{Error, ErrorKind, Result};

use super::{
    Cache, Object,
    file::CacheFile,
    geometry::{BLOCK_BYTES, PAGE_BYTES, pages_of, runs},
    state::Claim,
};
use crate::{stats::Counters, sync::lock};

/// Bytes that wait to be stored.
const MAX_QUEUED_BYTES: usize = 32 << 20;

/// Bytes of an object that came and are to be stored.
#[derive(Debug)]
pub(super) struct Job {
    pub object: Arc<Object>,
    pub number: u64,
    /// The request that brought them, on the list of flights.
    pub flight: u64,
    /// Where they begin; at a page.
    pub start: u64,
    pub bytes: Bytes,
    /// What follows `bytes` in their last page, where they do not fill it and the file goes on.
    pub rest: Bytes,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    bytes: usize,
    /// Jobs that a thread is at.
    active: usize,
    closed: bool,
}

impl Cache {
    pub(super) fn start_writers(&self) -> Result<()> {
        let mut threads = lock(&self.0.queue.threads);
        for _ in 0..self.0.options.writer_threads.max(1) {
            let cache = self.clone();
            let thread = std::thread::Builder::new()
                .name("lazurite-cache".into())
                .spawn(move || cache.write_jobs())
                .map_err(|e| Error::from_io("start", "cache thread", e))?;
            threads.push(thread);
        }
        Ok(())
    }

    /// Stores what waits, then ends the writer threads. Reads go on, and store nothing any more.
    pub fn close(&self) {
        self.0.active.store(false, Relaxed);
        lock(&self.0.queue.waiting).closed = true;
        self.0.queue.changed.notify_all();
        for thread in lock(&self.0.queue.threads).drain(..) {
            // Panics were caught.
            let _ = thread.join();
        }
    }

    /// Blocks until everything that reads brought before is stored or dropped.
    pub fn flush(&self) {
        let mut waiting = lock(&self.0.queue.waiting);
        while !waiting.jobs.is_empty() || waiting.active > 0 {
            waiting = self
                .0
                .queue
                .changed
                .wait(waiting)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Hands bytes to the writer threads, or drops them where those are behind. Never blocks.
    pub(super) fn enqueue(&self, job: Job) {
        let mut waiting = lock(&self.0.queue.waiting);
        let fits = waiting.bytes + job.bytes.len() <= MAX_QUEUED_BYTES;
        if fits && !waiting.closed && self.is_active() {
            waiting.bytes += job.bytes.len();
            waiting.jobs.push_back(job);
            drop(waiting);
            self.0.queue.changed.notify_all();
        } else {
            drop(waiting);
            Counters::add(&self.0.counters.cache_dropped, 1);
            self.state().flights.remove(job.object.id, job.flight);
        }
    }

    fn write_jobs(&self) {
        let queue = &self.0.queue;
        let mut waiting = lock(&queue.waiting);
        loop {
            if let Some(job) = waiting.jobs.pop_front() {
                waiting.active += 1;
                drop(waiting);
                // An Env of the user's may panic.
                let store = AssertUnwindSafe(|| self.store_job(&job));
                if catch_unwind(store).is_err() {
                    let path = job.object.file.key.as_str();
                    self.disk_failed(&Error::new(ErrorKind::Panicked, "cache", path, ""));
                    self.retire(job.object.id);
                }
                self.state().flights.remove(job.object.id, job.flight);
                waiting = lock(&queue.waiting);
                waiting.active -= 1;
                waiting.bytes -= job.bytes.len();
                queue.changed.notify_all();
            } else if waiting.closed {
                return;
            } else {
                waiting = queue
                    .changed
                    .wait(waiting)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    fn store_job(&self, job: &Job) {
        let bytes = if job.rest.is_empty() {
            job.bytes.clone()
        } else {
            let mut whole = BytesMut::with_capacity(job.bytes.len() + job.rest.len());
            whole.extend_from_slice(&job.bytes);
            whole.extend_from_slice(&job.rest);
            whole.freeze()
        };
        let stored = self
            .open_file(&job.object, job.number, true)
            .and_then(|file| match file {
                Some(file) => {
                    let still_good = || self.state().flights.is_good(job.object.id, job.flight);
                    let mut reserved = 0;
                    self.store(
                        &file,
                        job.number,
                        job.start,
                        &bytes,
                        &mut reserved,
                        still_good,
                    )
                }
                None => Ok(Stored::NoRoom),
            });
        match stored {
            Ok(Stored::All) => {}
            Ok(Stored::NoRoom) => Counters::add(&self.0.counters.cache_dropped, 1),
            Err(error) if error.kind() == ErrorKind::Unsupported => self.switch_off(&error),
            Err(error) => self.disk_failed(&error),
        }
    }

    /// The files of this life of the object, created where they are missing. `None`: it has ended, or there is no room.
    pub(super) fn open_file(
        &self,
        object: &Arc<Object>,
        number: u64,
        with_room: bool,
    ) -> Result<Option<Opened>> {
        let known = |cache: &Cache| {
            let mut state = cache.state();
            let life = state.life(object.id, number);
            life.map(|state| state.file.clone())
        };
        let opened = |file| {
            Ok(Some(Opened {
                object: object.clone(),
                file,
            }))
        };
        match known(self) {
            None => return Ok(None),
            Some(Some(file)) => return opened(file),
            Some(None) => {}
        }
        let keep_free = if with_room {
            self.0.options.min_free_bytes
        } else {
            0
        };
        if !self.reserve(BLOCK_BYTES, keep_free) {
            return Ok(None);
        }
        let _creating = lock(&self.0.creating);
        match known(self) {
            Some(None) => {}
            other => {
                self.release(BLOCK_BYTES);
                return other.flatten().map_or(Ok(None), opened);
            }
        }
        match CacheFile::create(&*self.0.base, &self.0.dir, object) {
            Ok(file) => {
                // `creating` is held, so this life has not ended.
                self.state().charge_header(object.id, number, file.clone());
                opened(file)
            }
            Err(error) => {
                self.release(BLOCK_BYTES);
                self.delete_files(object.id, true);
                Err(error)
            }
        }
    }

    /// Stores those pages of `bytes`, which begin at `start`, that are absent. All pages are whole, but for the last one
    /// of the file. `reserved` is used up first; what is left of it is the caller's.
    pub(super) fn store(
        &self,
        opened: &Opened,
        number: u64,
        start: u64,
        bytes: &Bytes,
        reserved: &mut u64,
        still_good: impl Fn() -> bool,
    ) -> Result<Stored> {
        let pages = pages_of(&(start..start + bytes.len() as u64));
        let object = opened.object.id;
        let Some(claim) = self.state().claim(object, number, pages.clone()) else {
            return Ok(Stored::All);
        };
        let more = claim.needed.saturating_sub(*reserved);
        if more > 0 && !self.reserve(more, self.0.options.min_free_bytes) {
            let dirty = self.state().abandon(&claim);
            self.0.changed.notify_all();
            for chunk in dirty {
                self.vacate(object, number, chunk);
            }
            return Ok(Stored::NoRoom);
        }
        *reserved += more;
        let written = write(&opened.file, &claim, pages.start, bytes);
        let good = written.is_ok() && still_good();
        let (charged, dirty) = self.state().settle(&claim, good);
        *reserved -= charged;
        self.0.changed.notify_all();
        for chunk in dirty {
            self.vacate(object, number, chunk);
        }
        if more > 0 {
            let left = more.min(*reserved);
            *reserved -= left;
            self.release(left);
        }
        written.map(|()| Stored::All)
    }
}

/// The open files of an object.
pub(super) struct Opened {
    pub object: Arc<Object>,
    pub file: Arc<CacheFile>,
}

/// What became of pages that were to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    /// They are resident, or somebody else is at them.
    All,
    /// There was no room.
    NoRoom,
}

/// All bytes first, then their checksums.
fn write(file: &CacheFile, claim: &Claim, first: u64, bytes: &[u8]) -> Result<()> {
    let mut joined: Vec<Range<u64>> = Vec::new();
    for run in claim
        .slices
        .iter()
        .flat_map(|&(chunk, bits)| runs(chunk, bits))
    {
        match joined.last_mut() {
            Some(last) if last.end == run.start => last.end = run.end,
            _ => joined.push(run),
        }
    }
    debug_assert!(
        bytes.len() as u64 > (joined.last().map_or(0, |run| run.end - first - 1)) * PAGE_BYTES
    );
    for pages in &joined {
        file.write_data(first, bytes, pages)?;
    }
    for pages in &joined {
        file.write_map(first, bytes, pages)?;
    }
    Ok(())
}
