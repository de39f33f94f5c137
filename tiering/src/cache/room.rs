//! Room on the local disk: reserving it, and punching cold chunks out to get it. May block on the disk.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering},
};

use lazurite_env::{Error, ErrorKind, Result};

use super::{
    Cache, ObjectId,
    file::CacheFile,
    geometry::BLOCK_BYTES,
    state::{FileState, Vacating},
};
use crate::{stats::Counters, sync::lock};

/// Bytes of the budget and of the disk that nobody else may take. What was not spent is given back when this is dropped:
/// never while the state is locked.
#[derive(Debug)]
pub(crate) struct Room {
    cache: Cache,
    bytes: u64,
}

impl Room {
    pub fn none(cache: &Cache) -> Self {
        Room {
            cache: cache.clone(),
            bytes: 0,
        }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes in another one.
    pub fn add(&mut self, mut more: Room) {
        self.bytes += std::mem::take(&mut more.bytes);
    }

    /// So much of it is charged now.
    pub fn spend(&mut self, charged: u64) {
        self.bytes -= charged;
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.cache.state().reserved -= self.bytes;
            self.cache.0.changed.notify_all();
        }
    }
}

/// Why there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// What can be given up is not enough.
    Full,
    /// It would be enough, but somebody is writing there.
    Busy,
}

/// Runs what asks the disk. An Env of the user's may panic, and whoever is counted as being at work must end it.
pub(super) fn guarded<T>(operation: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(operation)).unwrap_or_else(|_| {
        let error = Error::new(ErrorKind::Panicked, "cache", "the local disk", "");
        Err(error)
    })
}

impl Cache {
    /// Takes `bytes` of the budget, and of the disk beyond `keep_free` and what others have reserved; cold chunks go where
    /// they must. Where that is not enough nothing goes for it, only what was over the budget or in `keep_free` before.
    pub(super) fn reserve(&self, bytes: u64, keep_free: u64) -> std::result::Result<Room, Refusal> {
        loop {
            let before = self.state().written;
            // Where the Env cannot tell, there is enough.
            let free = guarded(|| self.0.base.free_space(&self.0.dir)).unwrap_or(u64::MAX);
            let mut state = self.state();
            // What was written since may be missing in `free`.
            let promised = state.reserved + (state.written - before);
            let over = |bytes: u64| {
                state
                    .used()
                    .saturating_add(bytes)
                    .saturating_sub(state.budget)
            };
            let short = |bytes: u64| keep_free.saturating_add(bytes).saturating_sub(free);
            let mut need = over(bytes).max(short(bytes.saturating_add(promised)));
            if need == 0 {
                state.reserved += bytes;
                return Ok(Room {
                    cache: self.clone(),
                    bytes,
                });
            }
            let mut refusal = Refusal::Busy;
            if !state.can_free(need) {
                refusal = Refusal::Full;
                need = over(0).max(short(0));
                if need == 0 {
                    return Err(refusal);
                }
            }
            let need = need.saturating_sub(state.freeing);
            let victims = state.pick(need);
            if !victims.is_empty() {
                drop(state);
                self.evict(&victims);
            } else if state.evicting > 0 {
                // Others are making room.
                drop(self.wait(state));
            } else {
                let empty = state.empty_file();
                drop(state);
                // Somebody may have come to it since.
                self.retire_if(empty.ok_or(refusal)?, FileState::is_empty);
            }
        }
    }

    /// As [`reserve`](Self::reserve), where nothing has to go for it, and the cache takes no more than `most` with it.
    pub(super) fn reserve_spare(&self, bytes: u64, most: u64) -> Option<Room> {
        let before = self.state().written;
        let free = guarded(|| self.0.base.free_space(&self.0.dir)).unwrap_or(u64::MAX);
        let mut state = self.state();
        let promised = state.reserved + (state.written - before);
        let keep_free = self.0.options.min_free_bytes;
        let taken = state.used().saturating_add(bytes);
        let wanted = keep_free.saturating_add(bytes).saturating_add(promised);
        if taken > state.budget.min(most) || wanted > free {
            return None;
        }
        state.reserved += bytes;
        Some(Room {
            cache: self.clone(),
            bytes,
        })
    }

    /// Room for a file of `bytes` that comes to the disk past the cache. `None`: others, who are at work, have it now.
    ///
    /// # Errors
    /// `NoSpace` where the budget or the disk has not so much, and nobody is at work who may give it back.
    pub fn room_for(&self, bytes: u64) -> Result<Option<Room>> {
        let bytes = bytes.next_multiple_of(BLOCK_BYTES);
        let refusal = match self.reserve(bytes, self.0.options.min_free_bytes) {
            Ok(room) => return Ok(Some(room)),
            Err(refusal) => refusal,
        };
        let state = self.state();
        let crowded = refusal == Refusal::Busy || state.reserved > 0 || state.any_held();
        if crowded && bytes <= state.budget {
            return Ok(None);
        }
        drop(state);
        Err(self.no_room(bytes))
    }

    fn evict(&self, victims: &[Vacating]) {
        for victim in victims {
            match self.vacate_begun(victim) {
                // Its file went with a chunk before it.
                Ok(0) => {}
                Ok(freed) => {
                    let counters = &self.0.counters;
                    Counters::add(&counters.cache_evictions, 1);
                    Counters::add(&counters.cache_evicted_bytes, freed);
                }
                Err(error) => {
                    if error.kind() == ErrorKind::Unsupported {
                        self.switch_off(&error);
                    }
                    self.disk_failed(&error);
                }
            }
        }
    }

    /// An Env without sparse files cannot cache blocks, and a file system without holes cannot keep a budget by chunks.
    pub(super) fn switch_off(&self, error: &Error) {
        if self.0.active.swap(false, Ordering::Relaxed) {
            tracing::warn!(%error, "the local disk has no sparse files: blocks are not cached there");
        }
    }

    /// Punches a chunk out that nobody writes; what it frees. A chunk that is busy stays, with `false`.
    pub(super) fn vacate(&self, object: ObjectId, number: u64, chunk: u32) -> bool {
        let Some(vacating) = self.state().begin_vacate(object, number, chunk) else {
            return false;
        };
        if let Err(error) = self.vacate_begun(&vacating) {
            self.disk_failed(&error);
        }
        true
    }

    /// Does the work of `begin_vacate`. Where the disk fails, the whole file goes: what cannot be punched can be deleted.
    fn vacate_begun(&self, vacating: &Vacating) -> Result<u64> {
        let file = self
            .state()
            .life(vacating.object, vacating.number)
            .and_then(|state| state.file.clone());
        let result = match &file {
            Some(file) => guarded(|| self.punch(file, vacating)),
            None => Ok(0),
        };
        if result.is_err() {
            self.retire_life(vacating.object, vacating.number);
        }
        self.state().end_vacate(vacating);
        self.0.changed.notify_all();
        result
    }

    fn punch(&self, file: &Arc<CacheFile>, vacating: &Vacating) -> Result<u64> {
        let &Vacating {
            object,
            number,
            chunk,
            ..
        } = vacating;
        file.punch(chunk)?;
        let _writing = lock(&file.map_writing);
        let last = self.state().is_last_of_group(object, number, chunk);
        file.clear_map(chunk, last)?;
        let mut state = self.state();
        let before = state.used();
        state.forget_chunk(object, number, chunk);
        Ok(before - state.used())
    }
}
