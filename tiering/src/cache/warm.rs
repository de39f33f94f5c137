//! Warming: pages that are said to be hot are stored before anybody reads them here; and who says so: what reads left in the
//! [heat](super::heat).
//!
//! Nothing goes to make room for them, and no byte is asked for that has none.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use lazurite_env::{Error, ErrorKind, Result};

use super::{
    Cache, MAX_FILE_BYTES, Object,
    fill::{Opened, Stored},
    geometry::{BLOCK_BYTES, PAGE_BYTES, disk_bytes, group_of, pages_of, slices},
    heat::ChunkId,
    room::Room,
    state::Source,
};

/// A range of an object that is being warmed, and the room for it.
pub(crate) struct Warm {
    cache: Cache,
    opened: Opened,
    number: u64,
    room: Room,
    /// What is to be asked for: byte ranges in order, each from the begin of a page.
    pub missing: Vec<Range<u64>>,
}

/// What may be warmed of a range.
pub(crate) enum Begin {
    /// This is missing and has room.
    Warm(Warm),
    /// All of it is here.
    Here,
    /// The object can have nothing here now.
    Refused,
    /// There is no room for it, nor for anything else.
    Full,
}

impl Cache {
    /// Begins to warm a range of an object: not empty, from the begin of a page to the end of one or to where a tail begins.
    /// The cache takes no more than `most` bytes with it, nor more than its budget, and leaves free what is to stay free.
    ///
    /// # Errors
    /// `Unsupported` where the Env has no sparse files; what the disk says.
    pub fn warm(&self, object: &Arc<Object>, range: &Range<u64>, most: u64) -> Result<Begin> {
        if !self.is_active() {
            return Ok(Begin::Full);
        }
        if object.file.len >= MAX_FILE_BYTES {
            return Ok(Begin::Refused);
        }
        let pages = pages_of(range);
        let (number, missing) = {
            let mut state = self.state();
            // Half of the places are for what is read here.
            let crowded = state.open_objects() >= self.0.options.open_objects / 2;
            let known = state.files.get(&object.id);
            let is_open = known.is_some_and(|file| file.file.is_some());
            if known.is_some_and(|file| file.held) || (crowded && !is_open) {
                return Ok(Begin::Refused);
            }
            // As good as a read: it does not go at once for being idle.
            state.touch(object);
            let file = state.file(object);
            let mut missing: Vec<Range<u64>> = Vec::new();
            for run in file.missing_of(pages.clone()) {
                match missing.last_mut() {
                    Some(last) if last.end == run.start => last.end = run.end,
                    _ => missing.push(run),
                }
            }
            (file.number, missing)
        };
        if missing.is_empty() {
            return Ok(Begin::Here);
        }
        // Nearly always less: what is resident, and map blocks that are charged already, need nothing.
        let mut needed = BLOCK_BYTES;
        let mut group = None;
        for (chunk, bits) in slices(pages) {
            let first = group.replace(group_of(chunk)) != Some(group_of(chunk));
            needed += disk_bytes(bits) + u64::from(first) * BLOCK_BYTES;
        }
        // The header's block is taken by `open_file`, from what is known to be free.
        let Some(room) = self.reserve_spare(needed + BLOCK_BYTES, most) else {
            return Ok(Begin::Full);
        };
        drop(room);
        let Some(opened) = self.open_file(object, number, false)? else {
            return Ok(Begin::Refused);
        };
        let Some(room) = self.reserve_spare(needed, most) else {
            return Ok(Begin::Full);
        };
        let bytes = |run: Range<u64>| run.start * PAGE_BYTES..(run.end * PAGE_BYTES).min(range.end);
        Ok(Begin::Warm(Warm {
            cache: self.clone(),
            opened,
            number,
            room,
            missing: missing.into_iter().map(bytes).collect(),
        }))
    }

    /// How hot the chunks of an object are that are here, from 1 to 3, in order; what is not hot is left out. Then they cool
    /// down by so many halvings.
    pub fn take_levels(&self, object: &Object, halvings: u32) -> Vec<(u32, u8)> {
        let mut guard = self.state();
        let state = &mut *guard;
        let Some(file) = state.files.get(&object.id) else {
            return Vec::new();
        };
        let object = object.id;
        let levels = file.chunks.keys().map(|&chunk| {
            let level = state.heat.take_level(&ChunkId { object, chunk }, halvings);
            (chunk, level)
        });
        levels.filter(|(_, level)| *level > 0).collect()
    }
}

impl Warm {
    /// Stores the pages of `bytes`, which begin at `start`, at a page, and end at one or at the end of the file; of so many
    /// points. Nothing where the object was retired meanwhile.
    ///
    /// # Errors
    /// What the disk says; `NoSpace` where others took what was reserved.
    pub fn store(&mut self, start: u64, bytes: &Bytes, points: u8) -> Result<()> {
        let source = Source::Warming(points);
        let (cache, room) = (&self.cache, &mut self.room);
        match cache.store(&self.opened, self.number, start, bytes, room, source)? {
            Stored::All => Ok(()),
            Stored::NoRoom => {
                let why = "others took the room that was reserved";
                Err(Error::new(ErrorKind::NoSpace, "warm", &cache.0.dir, why))
            }
        }
    }
}
