//! Demotion: a local table file that the store holds becomes remote again, under its readers.
//!
//! # Order and crash story
//! 1. The catalog on the disk names the object; it is written where it does not. A local file that is not in it is never demoted.
//! 2. The end of the file is kept: in memory and, where the tail bundle does not hold it, in a small file.
//! 3. The entry is remote: what is opened from here on reads the store.
//! 4. The local file is unlinked. Handles that are open read the same bytes, here, on.
//! 5. They are told to let go, and the space is free.
//!
//! A crash before 4 is durable finds the file local, whole, and counted; after it, remote: nothing says which but the
//! disk. From a last look at the entry, which is before 2, to 5 `moving` is held, so no promotion comes in between; and to 4
//! `naming`: a restore, link, rename or deletion comes before that look or after 4. One that comes before it, behind 1, costs
//! nothing: the entry that it leaves is not local, or another one.

use std::{fmt, path::Path, sync::Arc};

use bytes::Bytes;
use lazurite_env::{ReadHint, Result};

use super::Core;
use crate::{
    Checksum,
    catalog::{Entry, Residency},
    stats::Counters,
    sync::lock,
    tails,
};

/// Whoever has files of the db directory open natively, by itself: the [`UnionEnv`](crate::UnionEnv) asks it which are
/// used, and where, and to let go of those that it unlinked. Called from a thread of the union's, with no reader waiting for it.
pub trait OpenFiles: fmt::Debug + Send + Sync {
    /// Closes what is open at `path`, whose file was unlinked; reads of it go through the union from now on. Waits for reads
    /// that are under way. `false`: some of the file's space is not free yet; a later [tick](Self::tick) sees to it.
    fn release(&self, path: &Path) -> bool;

    /// For how many [ticks](Self::tick) no user has read `path`; `None` where it is not open.
    fn idle(&self, path: &Path) -> Option<u32>;

    /// Moves the clock of [`idle`](Self::idle) on, and closes what could not be closed before: called a few times a second.
    fn tick(&self);

    /// How often users were seen to look into each chunk of 64 KiB of `path` on the local disk, from its begin: samples, of
    /// gets and not of scans. Afterwards each count is halved so many times. Empty where none were seen.
    fn take_chunk_reads(&self, path: &Path, halvings: u32) -> Vec<u8>;
}

impl Core {
    /// Demotes `entry`. `false` where it cannot be: it is not local, or the store is not known to hold it.
    ///
    /// # Errors
    /// What the local disk says. The file is local then or, where it may be gone, remote.
    pub fn demote(&self, entry: &Arc<Entry>) -> Result<bool> {
        if !entry.is_local() || !entry.is_stored() {
            return Ok(false);
        }
        // On a full disk nothing can be written, and what is in the catalog already can go all the same.
        if !entry.is_durable() {
            self.catalog.save()?;
        }
        let path = self.layout.db.join(entry.name());
        let tail = self.tail_of(entry, &path);
        let naming = lock(&self.naming);
        let _moving = lock(&entry.moving);
        if !entry.is_local() {
            return Ok(false);
        }
        if let Some(tail) = tail {
            if let Err(error) =
                tails::store_own(&*self.base, &self.layout.tails, &entry.facts, &tail)
            {
                tracing::debug!(%error, "the tail of a demoted file is only kept in memory");
            }
            entry.set_tail(tail);
        }
        self.catalog.set_residency(entry, Residency::Remote);
        match self.base.delete(&path) {
            Err(error) if !error.is_not_found() => {
                // Where nobody can tell, the object is right in any case.
                if matches!(self.base.stat(&path), Ok(stat) if stat.len == entry.file().len) {
                    self.catalog.set_residency(entry, Residency::Local);
                    entry.drop_tail();
                    tails::remove_own(&*self.base, &self.layout.tails, &entry.facts);
                }
                return Err(error);
            }
            _ => {}
        }
        drop(naming);
        entry.close_local_file();
        if let Some(open) = self.open_files.get()
            && !open.release(&path)
        {
            Counters::add(&self.counters.demotion_failures, 1);
            tracing::warn!(path = %path.display(), "a demoted file is still open: its space is not free yet");
        }
        Counters::add(&self.counters.demotions, 1);
        Counters::add(&self.counters.demoted_bytes, entry.file().len);
        tracing::debug!(name = entry.name(), len = entry.file().len, "demoted");
        Ok(true)
    }

    /// The end of the local file, where the catalog says where that begins; `None` where it is not what it should be.
    fn tail_of(&self, entry: &Entry, path: &Path) -> Option<Bytes> {
        let spec = entry.facts.tail?;
        let len = usize::try_from(entry.file().len.checked_sub(spec.offset)?).ok()?;
        let read = || -> Result<Vec<u8>> {
            let file = self.base.open_random(path)?;
            let mut bytes = vec![0; len];
            let n = file.read_at(spec.offset, &mut bytes, ReadHint::default())?;
            bytes.truncate(n);
            Ok(bytes)
        };
        match read() {
            Ok(bytes) if Checksum::of(&bytes) == spec.checksum => Some(bytes.into()),
            Ok(_) => {
                tracing::warn!(path = %path.display(), "the end of a local table file is damaged; its object is used from now on");
                None
            }
            Err(error) => {
                tracing::debug!(%error, "the tail of a demoted file is not kept");
                None
            }
        }
    }
}
