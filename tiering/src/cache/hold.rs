//! [`Hold`]: a file that is being completed. A download fills its missing pages, verifies the whole, and takes the data file
//! away under its own name.
//!
//! # Crash story
//! Stored pages stay stored when a hold ends, by whatever way, so the next one goes on from there; those of an earlier
//! process are compared first. The bytes are synced before the rename, and the map goes after it: a crash in between leaves
//! a map without data, which the next open removes. The rename is made while nothing can be created or deleted, and only of the very file that was sealed: a
//! later life of the object has another one behind the same name, with holes.

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use lazurite_env::{EnvExt, Error, ErrorKind, Result};

use super::{
    Cache, MAX_FILE_BYTES, Object,
    file::paths,
    fill::{Opened, Stored},
    geometry::{PAGE_BYTES, pages_in, runs, slices},
    room::{Refusal, Room, guarded},
    state::Source,
};
use crate::{ChecksumHasher, stats::Counters, sync::lock};

/// A file whose pages stay until this is dropped. One at a time for each object.
pub(crate) struct Hold {
    mark: Mark,
    opened: Opened,
    /// For the pages that are missing.
    room: Room,
}

/// Keeps the pages of a life of an object.
struct Mark {
    cache: Cache,
    object: Arc<Object>,
    number: u64,
}

impl Drop for Mark {
    fn drop(&mut self) {
        let mut state = self.cache.state();
        state.set_held(self.object.id, self.number, false);
        drop(state);
        self.cache.0.changed.notify_all();
    }
}

impl Cache {
    /// Holds an object and reserves room for all of it. `None`: others, who are at work, have the room or the object now.
    ///
    /// # Errors
    /// `Unsupported` where the Env has no sparse files. `NoSpace` where the budget or the disk has not so much room, and
    /// nobody is at work who may give it back.
    pub fn hold(&self, object: &Arc<Object>) -> Result<Option<Hold>> {
        if object.file.len >= MAX_FILE_BYTES {
            let (path, why) = (object.file.key.as_str(), "too long for the cache");
            return Err(Error::new(ErrorKind::Unsupported, "download", path, why));
        }
        let _holding = lock(&self.0.holding);
        let mark = {
            let mut state = self.state();
            let file = state.file(object);
            let number = file.number;
            if file.held {
                return Ok(None);
            }
            state.set_held(object.id, number, true);
            // Nobody evicts of it from here on; who began to, ends.
            while state
                .life(object.id, number)
                .is_some_and(|file| file.chunks.values().any(|chunk| chunk.evicting))
            {
                state = self.wait(state);
            }
            Mark {
                cache: self.clone(),
                object: object.clone(),
                number,
            }
        };
        let Some(opened) = self.open_file(object, mark.number, false)? else {
            return self.refused(&mark, Refusal::Full);
        };
        let needed = {
            let mut state = self.state();
            let life = state.life(object.id, mark.number);
            life.map_or(0, |file| file.bytes_to_whole())
        };
        match self.reserve(needed, self.0.options.min_free_bytes) {
            Ok(room) => Ok(Some(Hold { mark, opened, room })),
            Err(refusal) => self.refused(&mark, refusal),
        }
    }

    /// What it means that there is no room.
    fn refused(&self, mark: &Mark, refusal: Refusal) -> Result<Option<Hold>> {
        let needed = {
            let mut state = self.state();
            let crowded =
                refusal == Refusal::Busy || state.reserved > 0 || state.others_held(mark.object.id);
            let budget = state.budget;
            let Some(file) = state.life(mark.object.id, mark.number) else {
                // Retired meanwhile.
                return Ok(None);
            };
            let needed = file.bytes_to_whole();
            if crowded && file.charged() + needed <= budget {
                return Ok(None);
            }
            needed
        };
        Err(self.no_room(needed))
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
    fn cache(&self) -> &Cache {
        &self.mark.cache
    }

    fn object(&self) -> &Arc<Object> {
        &self.opened.object
    }

    /// An error where the object was retired meanwhile: what is stored of it, nobody will find.
    ///
    /// # Errors
    /// `Unavailable`.
    pub fn check(&self) -> Result<()> {
        let mut state = self.cache().state();
        if state.life(self.object().id, self.mark.number).is_some() {
            return Ok(());
        }
        let path = self.object().file.key.as_str();
        let why = "its local file was given up meanwhile";
        Err(Error::new(ErrorKind::Unavailable, "download", path, why))
    }

    /// The first range that is missing in `within`, which begins at a page: at most `most` bytes, and with what is missing
    /// right behind it, where no more than `gap` bytes that are there lie between. What reads bring meanwhile is left out, so
    /// this is asked for each request anew.
    pub fn next_missing(&self, within: Range<u64>, most: u64, gap: u64) -> Option<Range<u64>> {
        if within.is_empty() {
            return None; // the end may lie inside of a page
        }
        let mut state = self.cache().state();
        let file = state.life(self.object().id, self.mark.number)?;
        let bytes =
            |run: Range<u64>| run.start * PAGE_BYTES..(run.end * PAGE_BYTES).min(within.end);
        let mut runs = file.missing(within.start / PAGE_BYTES).map(bytes);
        let mut range = runs.next().filter(|run| run.start < run.end)?;
        let last = range.start + most;
        for run in runs {
            let end = within.end.min(last);
            if run.start >= end || run.start - range.end > gap {
                break;
            }
            range.end = run.end;
        }
        range.end = range.end.min(last);
        Some(range)
    }

    /// True where every page is there.
    pub fn is_whole(&self) -> bool {
        let mut state = self.cache().state();
        let life = state.life(self.object().id, self.mark.number);
        life.is_some_and(|file| file.missing(0).next().is_none())
    }

    /// Bytes that are there.
    pub fn resident_bytes(&self) -> u64 {
        let mut state = self.cache().state();
        let life = state.life(self.object().id, self.mark.number);
        life.map_or(0, |file| file.resident_bytes())
    }

    /// Makes chunks missing of which a page is not the one that an earlier process stored, as a power cut or a kill in the
    /// middle of an eviction leaves it. [`seal`](Self::seal) finds them too, but then what came for their other pages
    /// meanwhile would go with them, and come twice.
    ///
    /// # Errors
    /// What the disk says.
    pub fn drop_bad(&self) -> Result<()> {
        let (cache, object) = (self.cache(), self.object().id);
        let old: Vec<(u32, u64)> = {
            let mut state = cache.state();
            match state.life(object, self.mark.number) {
                Some(file) if file.is_old => {
                    file.is_old = false;
                    let chunks = file.chunks.iter();
                    chunks.map(|(at, chunk)| (*at, chunk.bits)).collect()
                }
                _ => return Ok(()),
            }
        };
        for (chunk, bits) in old {
            for pages in runs(chunk, bits) {
                if self.opened.file.read(pages)?.is_none() {
                    Counters::add(&cache.0.counters.cache_mismatches, 1);
                    cache.vacate(object, self.mark.number, chunk);
                    break;
                }
            }
        }
        Ok(())
    }

    /// Stores the pages of `bytes`, which begin at `start`, at a page, and end at one or at the end of the file.
    ///
    /// # Errors
    /// `NoSpace`, and whatever the disk says. `Unavailable` where the object was retired meanwhile.
    pub fn store(&mut self, start: u64, bytes: &Bytes) -> Result<()> {
        self.check()?;
        let (cache, number) = (self.mark.cache.clone(), self.mark.number);
        let (room, source) = (&mut self.room, Source::Download);
        match cache.store(&self.opened, number, start, bytes, room, source)? {
            Stored::All => Ok(()),
            Stored::NoRoom => Err(cache.no_room(bytes.len() as u64)),
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
            let mut state = self.cache().state();
            if let Some(file) = state.life(object.id, self.mark.number) {
                file.sealed = true;
            }
            while let Some(file) = state.life(object.id, self.mark.number)
                && file.changing > 0
            {
                state = self.cache().wait(state);
            }
        }
        let sealed = self.verify().and_then(|bad| {
            if bad.is_empty() {
                self.opened.file.sync()?;
                return Ok(true);
            }
            if let Some(file) = self.cache().state().life(object.id, self.mark.number) {
                file.sealed = false;
            }
            Counters::add(&self.cache().0.counters.cache_mismatches, bad.len() as u64);
            for chunk in bad {
                self.cache().vacate(object.id, self.mark.number, chunk);
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
        paths(&self.cache().0.dir, self.object().id).0
    }

    /// Renames the data file, sealed, to `to`, and forgets the object.
    ///
    /// # Errors
    /// `Unavailable` where the object was retired meanwhile: nothing was renamed. What the disk says: the rename may have been
    /// carried out all the same.
    pub fn promote(&self, to: &Path) -> Result<()> {
        let (cache, object) = (self.cache(), self.object().id);
        let data = self.data_path();
        // Whoever retires a life or begins to store one waits.
        let _creating = lock(&cache.0.creating);
        self.check()?;
        let renamed = guarded(|| cache.0.base.rename(&data, to));
        if renamed.is_err() && matches!(guarded(|| cache.0.base.exists(&data)), Ok(true)) {
            return renamed;
        }
        cache.state().retire(object);
        cache.delete_files(object, false);
        renamed
    }

    /// Drops all that was stored of the object.
    pub fn discard(&self) {
        self.cache().retire_life(self.object().id, self.mark.number);
    }
}
