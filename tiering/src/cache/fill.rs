//! Storing pages: by the writer threads behind the reads, and by downloads.
//!
//! The queue of the writer threads is bounded in bytes. What does not fit is not stored; the read that brought it has its
//! bytes already. Nothing here runs on an I/O thread but [`Cache::enqueue`], which never blocks.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{Arc, Condvar, Mutex, PoisonError, atomic::Ordering::Relaxed},
    thread::JoinHandle,
};

use bytes::{Bytes, BytesMut};
use lazurite_env::{Error, ErrorKind, Result};

use super::{
    Cache, Object,
    file::CacheFile,
    geometry::{BLOCK_BYTES, PAGE_BYTES, pages_of, runs},
    room::{Room, guarded},
    state::{Claim, FileState, Source},
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
    /// It was a get's.
    pub is_get: bool,
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
    /// With the number of each, as they came.
    jobs: VecDeque<(u64, Job)>,
    bytes: usize,
    /// The number of the next one.
    next: u64,
    /// Jobs that a thread is at.
    active: Vec<u64>,
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
        // Another cache may be opened here: what the readers find from now on is not theirs to change.
        let mut state = self.state();
        state.closed = true;
        while state.evicting > 0 {
            state = self.wait(state);
        }
        drop(state);
        // Who deletes now, ends.
        drop(lock(&self.0.creating));
    }

    /// Blocks until everything that reads brought before is stored or dropped.
    pub fn flush(&self) {
        let mut waiting = lock(&self.0.queue.waiting);
        let end = waiting.next;
        let before = |number: &u64| *number < end;
        while waiting.jobs.front().is_some_and(|(n, _)| before(n))
            || waiting.active.iter().any(before)
        {
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
            let number = waiting.next;
            waiting.next += 1;
            waiting.jobs.push_back((number, job));
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
            if let Some((number, job)) = waiting.jobs.pop_front() {
                waiting.active.push(number);
                drop(waiting);
                self.store_job(&job);
                self.state().flights.remove(job.object.id, job.flight);
                waiting = lock(&queue.waiting);
                waiting.active.retain(|active| *active != number);
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
                    let mut room = Room::none(self);
                    let (flight, is_get) = (job.flight, job.is_get);
                    let source = Source::Read { flight, is_get };
                    self.store(&file, job.number, job.start, &bytes, &mut room, source)
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
        if with_room && !self.make_way() {
            return Ok(None);
        }
        let keep_free = if with_room {
            self.0.options.min_free_bytes
        } else {
            0
        };
        let Ok(mut room) = self.reserve(BLOCK_BYTES, keep_free) else {
            return Ok(None);
        };
        let _creating = lock(&self.0.creating);
        match known(self) {
            Some(None) => {}
            other => return other.flatten().map_or(Ok(None), opened),
        }
        match guarded(|| CacheFile::create(&*self.0.base, &self.0.dir, object)) {
            Ok(file) => {
                // `creating` is held, so this life has not ended.
                let mut state = self.state();
                room.spend(state.charge_header(object.id, number, file.clone()));
                drop(state);
                opened(file)
            }
            Err(error) => {
                self.delete_files(object.id, true);
                Err(error)
            }
        }
    }

    /// True where one more object may be open. One that was not read for long goes for it.
    fn make_way(&self) -> bool {
        let most = self.0.options.open_objects;
        let idle = {
            let state = self.state();
            if state.open_objects() < most {
                return true;
            }
            state.long_idle(most)
        };
        idle.map(|object| self.retire_if(object, FileState::is_idle))
            .is_some()
    }

    /// Stores those pages of `bytes`, which begin at `start`, that are absent. All pages are whole, but for the last one
    /// of the file. `room` is used up first; what is left of it is the caller's. Where somebody distrusts the request of a
    /// read meanwhile, they are not kept.
    pub(super) fn store(
        &self,
        opened: &Opened,
        number: u64,
        start: u64,
        bytes: &Bytes,
        room: &mut Room,
        source: Source,
    ) -> Result<Stored> {
        let pages = pages_of(&(start..start + bytes.len() as u64));
        let object = opened.object.id;
        let Some(claim) = self.state().claim(object, number, pages.clone()) else {
            return Ok(Stored::All);
        };
        let more = claim.needed.saturating_sub(room.bytes());
        let mut enough = || {
            let more = self.reserve(more, self.0.options.min_free_bytes);
            more.map(|more| room.add(more)).is_ok()
        };
        let stored = if more == 0 || enough() {
            guarded(|| write(&opened.file, &claim, pages.start, bytes)).map(|()| Stored::All)
        } else {
            Ok(Stored::NoRoom)
        };
        let dirty = {
            let mut state = self.state();
            if matches!(stored, Ok(Stored::NoRoom)) {
                state.abandon(&claim)
            } else {
                let good = match source {
                    Source::Read { flight, .. } => state.flights.is_good(object, flight),
                    Source::Download | Source::Warming(_) => true,
                };
                let (charged, dirty) = state.settle(&claim, stored.is_ok() && good, source);
                room.spend(charged);
                dirty
            }
        };
        self.0.changed.notify_all();
        for chunk in dirty {
            self.vacate(object, number, chunk);
        }
        stored
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
