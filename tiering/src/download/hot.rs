//! What is to be warmed: runs of hot chunks, the hottest first, and who is at them.
//!
//! What is told comes from a snapshot's metadata, whatever that says: levels beyond 3 are 3, chunks beyond the file are not
//! there, and a file that is not remote has none.

use std::{
    cmp::Reverse,
    collections::{HashMap, VecDeque},
    ops::Range,
    sync::Arc,
};

use super::{
    DownloadOptions,
    state::{Shared, State},
};
use crate::{
    cache::{CHUNK_BYTES, POINTS_MAX},
    catalog::{Entry, Residency},
    sync::lock,
    union::Core,
};

/// One part of so many of what is remote is warmed at most. Beyond that, whole files come about as soon, in fewer requests.
const SHARE: u64 = 4;

/// Hot chunks, before a start and after it.
#[derive(Debug, Default)]
pub(super) struct Hot {
    told: HashMap<String, Vec<u8>>,
    queue: VecDeque<HotRange>,
    /// Ranges that threads are at.
    active: usize,
}

/// Neighbouring chunks of a file that are equally hot.
#[derive(Debug, Clone)]
pub(super) struct HotRange {
    pub entry: Arc<Entry>,
    pub bytes: Range<u64>,
    /// From 1 to 3.
    pub level: u8,
    /// How often the store was away for it.
    pub failures: u32,
}

impl HotRange {
    pub fn len(&self) -> u64 {
        self.bytes.end - self.bytes.start
    }

    pub fn chunks(&self) -> u64 {
        self.len().div_ceil(CHUNK_BYTES)
    }
}

/// A range that a thread is at. Dropping it ends it: it is not wanted any more. Nothing stays in the cache of a file that went
/// meanwhile, whatever became of the range.
pub(super) struct Taken<'a> {
    core: &'a Core,
    shared: &'a Shared,
    pub range: HotRange,
    end: End,
}

enum End {
    Dropped,
    Done,
    Back,
}

impl Taken<'_> {
    /// All of it is here.
    pub fn done(mut self) {
        self.end = End::Done;
    }

    /// It is the next one.
    pub fn put_back(mut self) {
        self.end = End::Back;
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let entry = &self.range.entry;
        if entry.residency() != Residency::Remote {
            // It went while the cache took it in. While this counts as active nobody downloads another of its names.
            self.core.uncache(entry.file());
        }
        let (end, len) = (&self.end, self.range.len());
        self.shared.change(|state| {
            state.hot.active -= 1;
            match end {
                End::Done => state.progress.hot_bytes_done += len,
                End::Dropped => state.progress.hot_bytes_total -= len,
                End::Back => state.hot.queue.push_front(self.range.clone()),
            }
        });
    }
}

impl Shared {
    pub fn set_chunk_heat(&self, heat: HashMap<String, Vec<u8>>) {
        let mut state = lock(&self.state);
        state.forget_hot();
        state.hot.told = heat;
    }

    /// Queues what was told of these files.
    pub fn plan_warming(&self, remote: &[Arc<Entry>], options: &DownloadOptions) {
        let mut state = lock(&self.state);
        let told = std::mem::take(&mut state.hot.told);
        if told.is_empty() {
            return;
        }
        let mut ranges = Vec::new();
        for entry in remote {
            if let Some(levels) = told.get(entry.name()) {
                let heat = state.heat.get(entry.name()).copied().unwrap_or_default();
                let runs = runs(entry, levels, options.request_bytes());
                ranges.extend(runs.into_iter().map(|range| (heat, range)));
            }
        }
        // Stable: in the order of the files, and of their bytes.
        ranges.sort_by_key(|(heat, range)| Reverse((range.level, *heat)));
        let mut left = remote.iter().map(|e| e.file().len).sum::<u64>() / SHARE;
        for (_, range) in ranges {
            let Some(rest) = left.checked_sub(range.len()) else {
                break;
            };
            left = rest;
            state.progress.hot_bytes_total += range.len();
            state.hot.queue.push_back(range);
        }
    }

    /// The next range; `None` where there is none. With `wait`, blocks while paused and while there may be one again: until
    /// then nothing has ended that others are at. Without, gives none instead.
    pub fn next_hot<'a>(&'a self, core: &'a Core, wait: bool) -> Option<Taken<'a>> {
        let mut state = lock(&self.state);
        loop {
            if state.stopped {
                return None;
            }
            if !state.progress.paused
                && let Some(range) = state.hot.queue.pop_front()
            {
                state.hot.active += 1;
                let end = End::Dropped;
                return Some(Taken {
                    core,
                    shared: self,
                    range,
                    end,
                });
            }
            let ended = state.hot.queue.is_empty() && state.hot.active == 0;
            if ended || !wait {
                return None;
            }
            state = self.wait(state);
        }
    }

    /// There is no room for what is left.
    pub fn forget_hot(&self) {
        self.change(State::forget_hot);
    }
}

impl State {
    fn forget_hot(&mut self) {
        let queue = std::mem::take(&mut self.hot.queue);
        self.progress.hot_bytes_total -= queue.iter().map(HotRange::len).sum::<u64>();
    }
}

/// The hot chunks of a file, as ranges in order, none longer than a request, or a chunk where that is longer. None of a file
/// that one request brings.
fn runs(entry: &Arc<Entry>, levels: &[u8], request_bytes: u64) -> Vec<HotRange> {
    let mut runs: Vec<HotRange> = Vec::new();
    let end = entry.tail().map_or(entry.file().len, |(offset, _)| offset);
    if end <= request_bytes {
        return runs;
    }
    let most = (request_bytes / CHUNK_BYTES).max(1) * CHUNK_BYTES;
    for (chunk, level) in levels.iter().enumerate() {
        let start = chunk as u64 * CHUNK_BYTES;
        if start >= end {
            break;
        }
        let (level, bytes) = (
            (*level).min(POINTS_MAX),
            start..end.min(start + CHUNK_BYTES),
        );
        match runs.last_mut() {
            _ if level == 0 => {}
            Some(last)
                if last.level == level
                    && last.bytes.end == start
                    && bytes.end - last.bytes.start <= most =>
            {
                last.bytes.end = bytes.end;
            }
            _ => runs.push(HotRange {
                entry: entry.clone(),
                bytes,
                level,
                failures: 0,
            }),
        }
    }
    runs
}
