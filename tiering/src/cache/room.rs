//! Room on the local disk: reserving it, and punching cold chunks out to get it. May block on the disk.

use lazurite_env::{ErrorKind, Result};
use std::sync::{Arc, atomic::Ordering};

use super::{Cache, ObjectId, file::CacheFile, geometry::BLOCK_BYTES, heat::ChunkId};
use crate::{stats::Counters, sync::lock};

/// Room on the disk that is taken until this is dropped.
pub(crate) struct Room {
    cache: Cache,
    bytes: u64,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.cache.release(self.bytes);
    }
}

impl Cache {
    /// Takes `bytes` of the budget, and of the disk beyond `keep_free`; cold chunks go where they must. `false`: there is
    /// not so much room, and nothing was taken.
    pub(super) fn reserve(&self, bytes: u64, keep_free: u64) -> bool {
        loop {
            let short = self.short_of_space(bytes, keep_free);
            let mut state = self.state();
            let wanted = state.used.saturating_add(bytes);
            let over = wanted.saturating_sub(state.budget);
            if over == 0 && short == 0 {
                state.used = wanted;
                return true;
            }
            let victims = if bytes > state.budget {
                Vec::new()
            } else {
                state.pick(over.max(short))
            };
            if !victims.is_empty() {
                drop(state);
                self.evict(&victims);
            } else if state.evicting > 0 {
                // Others are making room.
                drop(self.wait(state));
            } else {
                let empty = state.empty_files();
                drop(state);
                if empty.is_empty() {
                    return false;
                }
                for object in empty {
                    self.retire(object);
                }
            }
        }
    }

    /// Room for a file of `bytes` that comes to the disk past the cache.
    ///
    /// # Errors
    /// `NoSpace` where the budget or the disk has not so much.
    pub fn room_for(&self, bytes: u64) -> Result<Room> {
        let bytes = bytes.next_multiple_of(BLOCK_BYTES);
        if self.reserve(bytes, self.0.options.min_free_bytes) {
            let cache = self.clone();
            Ok(Room { cache, bytes })
        } else {
            Err(self.no_room(bytes))
        }
    }

    /// By how much the disk has too little free space. 0 where the Env cannot tell.
    fn short_of_space(&self, bytes: u64, keep_free: u64) -> u64 {
        if bytes == 0 && keep_free == 0 {
            return 0;
        }
        match self.0.base.free_space(&self.0.dir) {
            Ok(free) => keep_free.saturating_add(bytes).saturating_sub(free),
            Err(_) => 0,
        }
    }

    /// Gives back what [`reserve`](Self::reserve) took.
    pub(super) fn release(&self, bytes: u64) {
        self.state().used -= bytes;
        self.0.changed.notify_all();
    }

    fn evict(&self, victims: &[(ChunkId, u64)]) {
        for &(id, number) in victims {
            match self.vacate_begun(id.object, number, id.chunk) {
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
    pub(super) fn switch_off(&self, error: &lazurite_env::Error) {
        if self.0.active.swap(false, Ordering::Relaxed) {
            tracing::warn!(%error, "the local disk has no sparse files: blocks are not cached there");
        }
    }

    /// Punches a chunk out that nobody writes; what it frees. A chunk that is busy stays, with `false`.
    pub(super) fn vacate(&self, object: ObjectId, number: u64, chunk: u32) -> bool {
        if !self.state().begin_vacate(object, number, chunk) {
            return false;
        }
        if let Err(error) = self.vacate_begun(object, number, chunk) {
            self.disk_failed(&error);
        }
        true
    }

    /// Does the work of `begin_vacate`. Where the disk fails, the whole file goes: what cannot be punched can be deleted.
    fn vacate_begun(&self, object: ObjectId, number: u64, chunk: u32) -> Result<u64> {
        let file = self
            .state()
            .life(object, number)
            .and_then(|state| state.file.clone());
        let result = match &file {
            Some(file) => self.punch(file, object, number, chunk),
            None => Ok(0),
        };
        self.state().end_vacate(object, number);
        if result.is_err() && self.state().life(object, number).is_some() {
            self.retire(object);
        }
        self.0.changed.notify_all();
        result
    }

    fn punch(
        &self,
        file: &Arc<CacheFile>,
        object: ObjectId,
        number: u64,
        chunk: u32,
    ) -> Result<u64> {
        file.punch(chunk)?;
        let _writing = lock(&file.map_writing);
        let last = self.state().is_last_of_group(object, number, chunk);
        file.clear_map(chunk, last)?;
        let mut state = self.state();
        let before = state.used;
        state.forget_chunk(object, number, chunk);
        Ok(before - state.used)
    }
}
