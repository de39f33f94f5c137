//! [`Hold`]: a file that is being completed. A download fills its missing pages, verifies the whole, and takes the data file
//! away under its own name.
//!
//! # Crash story
//! Stored pages stay stored when a hold ends, by whatever way, so the next one goes on from there. The bytes are synced
//! before the rename, and the map goes after it: a crash in between leaves a map without data, which the next open
//! removes.

use std::{
    ops::Range,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use lazurite_env::{Error, ErrorKind, Result};

use super::{
    Cache, Object,
    file::paths,
    fill::{Opened, Stored},
    geometry::{PAGE_BYTES, pages_in, runs, slices},
};
use crate::{ChecksumHasher, stats::Counters, sync::lock};

/// A file whose pages stay until this is dropped. One at a time for each object.
pub(crate) struct Hold {
    cache: Cache,
    opened: Opened,
    number: u64,
    /// What is reserved for the pages that are missing.
    reserved: AtomicU64,
    promoted: bool,
}

impl Cache {
    /// Holds an object and reserves room for all of it.
    ///
    /// # Errors
    /// `Unsupported` where the Env has no sparse files. `NoSpace` where the budget or the disk has not so much room.
    /// `Unavailable` where another hold has it.
    pub fn hold(&self, object: &Arc<Object>) -> Result<Hold> {
        let path = object.file.key.as_str();
        let number = {
            let mut state = self.state();
            let file = state.file(object);
            let number = file.number;
            if file.held {
                let why = "it is being downloaded under another name";
                return Err(Error::new(ErrorKind::Unavailable, "download", path, why));
            }
            state.set_held(object.id, number, true);
            // Nobody evicts of it from here on; who began to, ends.
            while state
                .life(object.id, number)
                .is_some_and(|file| file.chunks.values().any(|chunk| chunk.evicting))
            {
                state = self.wait(state);
            }
            number
        };
        let release = || {
            self.state().set_held(object.id, number, false);
            self.0.changed.notify_all();
        };
        let opened = self.open_file(object, number, false);
        let opened = match opened {
            Ok(Some(opened)) => opened,
            Ok(None) => {
                release();
                return Err(self.no_room(0));
            }
            Err(error) => {
                release();
                return Err(error);
            }
        };
        let needed = {
            let mut state = self.state();
            let life = state.life(object.id, number);
            life.map_or(0, |file| file.bytes_to_whole())
        };
        if !self.reserve(needed, self.0.options.min_free_bytes) {
            release();
            return Err(self.no_room(needed));
        }
        Ok(Hold {
            cache: self.clone(),
            opened,
            number,
            reserved: AtomicU64::new(needed),
            promoted: false,
        })
    }

    pub(super) fn no_room(&self, needed: u64) -> Error {
        let usage = self.usage();
        let free = self.0.base.free_space(&self.0.dir);
        let free = free.map_or_else(|_| "unknown".into(), |free| free.to_string());
        Error::new(
            ErrorKind::NoSpace,
            "download",
            &self.0.dir,
            format!(
                "{needed} bytes are needed; {} of the cache's budget of {} bytes are used, {free} bytes of the disk are free: \
                 free some, or go on reading remotely",
                usage.bytes, usage.budget
            ),
        )
    }
}

impl Hold {
    fn object(&self) -> &Arc<Object> {
        &self.opened.object
    }

    /// The byte ranges that are missing before `limit`, in order; each begins at a page.
    pub fn missing(&self, limit: u64) -> Vec<Range<u64>> {
        let mut state = self.cache.state();
        let Some(file) = state.life(self.object().id, self.number) else {
            return Vec::new();
        };
        let bytes = |run: Range<u64>| run.start * PAGE_BYTES..(run.end * PAGE_BYTES).min(limit);
        let runs = file.missing().into_iter().map(bytes);
        runs.filter(|run| run.start < run.end).collect()
    }

    /// True where every page is there.
    pub fn is_whole(&self) -> bool {
        let mut state = self.cache.state();
        let life = state.life(self.object().id, self.number);
        life.is_some_and(|file| file.missing().is_empty())
    }

    /// Bytes that are there.
    pub fn resident_bytes(&self) -> u64 {
        let mut state = self.cache.state();
        let life = state.life(self.object().id, self.number);
        life.map_or(0, |file| file.resident_bytes())
    }

    /// Stores the pages of `bytes`, which begin at `start`, at a page, and end at one or at the end of the file.
    ///
    /// # Errors
    /// `NoSpace`, and whatever the disk says. `NotFound` where the object was retired meanwhile.
    pub fn store(&self, start: u64, bytes: &Bytes) -> Result<()> {
        let gone = || {
            let path = self.object().file.key.as_str();
            Error::new(ErrorKind::NotFound, "download", path, "the file is gone")
        };
        if self
            .cache
            .state()
            .life(self.object().id, self.number)
            .is_none()
        {
            return Err(gone());
        }
        let mut reserved = self.reserved.swap(0, Relaxed);
        let stored = self.cache.store(
            &self.opened,
            self.number,
            start,
            bytes,
            &mut reserved,
            || true,
        );
        self.reserved.store(reserved, Relaxed);
        match stored? {
            Stored::All => Ok(()),
            Stored::NoRoom => Err(self.cache.no_room(bytes.len() as u64)),
        }
    }

    /// Lets nobody write the file any more and compares the whole, as it is on the disk, with the object's checksum; then
    /// makes it durable. `false`: some pages are not those that were stored, as after a power cut; they are missing now.
    ///
    /// # Errors
    /// `Corruption` where all pages are those that came, and the whole is not the object. After an error nothing of it is
    /// kept.
    pub fn seal(&self) -> Result<bool> {
        let object = self.object();
        {
            let mut state = self.cache.state();
            if let Some(file) = state.life(object.id, self.number) {
                file.sealed = true;
            }
            while let Some(file) = state.life(object.id, self.number)
                && file.changing > 0
            {
                state = self.cache.wait(state);
            }
        }
        let sealed = self.verify().and_then(|bad| {
            if bad.is_empty() {
                self.opened.file.sync()?;
                return Ok(true);
            }
            if let Some(file) = self.cache.state().life(object.id, self.number) {
                file.sealed = false;
            }
            Counters::add(&self.cache.0.counters.cache_mismatches, bad.len() as u64);
            for chunk in bad {
                self.cache.vacate(object.id, self.number, chunk);
            }
            Ok(false)
        });
        if sealed.is_err() {
            // A failed sync too may have lost pages without a trace.
            self.discard();
        }
        sealed
    }

    /// The chunks with a page that does not match its checksum.
    fn verify(&self) -> Result<Vec<u32>> {
        let file = &self.object().file;
        let (mut hasher, mut bad) = (ChecksumHasher::new(), Vec::new());
        for (chunk, bits) in slices(0..pages_in(file.len)) {
            for pages in runs(chunk, bits) {
                match self.opened.file.read(pages)? {
                    Some(bytes) => hasher.update(&bytes),
                    None => bad.push(chunk),
                }
            }
        }
        let actual = hasher.finish();
        if bad.is_empty() && actual != file.checksum {
            return Err(Error::new(
                ErrorKind::Corruption,
                "verify",
                file.key.as_str(),
                format!(
                    "the remote object does not match its checksum: {} bytes with {actual}, expected {}",
                    file.len, file.checksum
                ),
            ));
        }
        Ok(bad)
    }

    /// Where the data file is.
    pub fn data_path(&self) -> PathBuf {
        paths(&self.cache.0.dir, self.object().id).0
    }

    /// Tells that the data file, sealed, has got its own name.
    pub fn promoted(mut self) {
        self.promoted = true;
        let object = self.object().id;
        let _creating = lock(&self.cache.0.creating);
        if self.cache.state().life(object, self.number).is_some() {
            self.cache.state().retire(object);
        }
        self.cache.delete_files(object, false);
    }

    /// Drops all that was stored of the object.
    pub fn discard(&self) {
        let object = self.object().id;
        if self.cache.state().life(object, self.number).is_some() {
            self.cache.retire(object);
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let reserved = self.reserved.load(Relaxed);
        {
            let mut state = self.cache.state();
            state.used -= reserved;
            if !self.promoted {
                state.set_held(self.object().id, self.number, false);
            }
        }
        self.cache.0.changed.notify_all();
    }
}
