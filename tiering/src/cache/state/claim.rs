//! Writing pages: who is about to, what it may take, and what became of it.

use std::ops::Range;

use super::{Chunk, State};
use crate::cache::{
    ObjectId,
    geometry::{BLOCK_BYTES, disk_bytes, group_of, slices},
    heat::ChunkId,
};

/// Why pages are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// A request of a read, which may be a get, brought them, of this number on the list of flights.
    Read { flight: u64, is_get: bool },
    /// They complete a file.
    Download,
    /// They are said to be hot: of how many points.
    Warming(u8),
}

/// Pages that somebody is about to write, and what they may take.
#[derive(Debug)]
pub(crate) struct Claim {
    pub object: ObjectId,
    pub number: u64,
    pub slices: Vec<(u32, u64)>,
    pub needed: u64,
}

impl State {
    /// Takes those of `pages` to write that are absent and that nobody punches. `None` where there are none, or the file
    /// is gone or sealed.
    pub fn claim(&mut self, object: ObjectId, number: u64, pages: Range<u64>) -> Option<Claim> {
        self.next_number += 1;
        let born = self.next_number;
        let file = self.life(object, number).filter(|file| !file.sealed)?;
        let mut claim = Claim {
            object,
            number,
            slices: Vec::new(),
            needed: 0,
        };
        let mut counted = None;
        for (at, wanted) in slices(pages) {
            let chunk = file.chunks.entry(at).or_insert_with(|| {
                file.groups.entry(group_of(at)).or_default().chunks += 1;
                Chunk {
                    born,
                    ..Chunk::default()
                }
            });
            let absent = wanted & !chunk.bits;
            let spoilt = chunk.dirty && chunk.writers > 0;
            if chunk.evicting || spoilt || absent == 0 {
                continue;
            }
            chunk.writers += 1;
            claim.needed += disk_bytes(chunk.bits | absent) - disk_bytes(chunk.bits);
            let group = group_of(at);
            // One block, of however many of its chunks.
            if counted.replace(group) != Some(group)
                && !file.groups.entry(group).or_default().charged
            {
                claim.needed += BLOCK_BYTES;
            }
            claim.slices.push((at, absent));
        }
        if claim.slices.is_empty() {
            return None;
        }
        file.changing += 1;
        Some(claim)
    }

    /// Ends a claim. `written`: its pages are on the disk and become resident. Gives what of `claim.needed` was turned
    /// into charges, and the chunks that must be vacated: something may be on the disk that is not resident.
    pub fn settle(&mut self, claim: &Claim, written: bool, source: Source) -> (u64, Vec<u32>) {
        let (heat, files) = (&mut self.heat, &mut self.files);
        let Some(file) = files
            .get_mut(&claim.object)
            .filter(|file| file.number == claim.number)
        else {
            return (0, Vec::new());
        };
        let (before, mut dirty) = (file.charged, Vec::new());
        for &(at, mask) in &claim.slices {
            let Some(chunk) = file.chunks.get_mut(&at) else {
                continue;
            };
            chunk.writers -= 1;
            chunk.dirty |= !written;
            if chunk.dirty {
                if chunk.writers == 0 {
                    dirty.push(at);
                }
                continue;
            }
            let old = disk_bytes(chunk.bits);
            chunk.bits |= mask;
            file.charged += disk_bytes(chunk.bits) - old;
            let group = file.groups.entry(group_of(at)).or_default();
            if !group.charged {
                group.charged = true;
                file.charged += BLOCK_BYTES;
            }
            if !file.held {
                let object = claim.object;
                let (id, weight) = (ChunkId { object, chunk: at }, disk_bytes(chunk.bits));
                match source {
                    Source::Warming(points) => heat.insert_hot(id, weight, points),
                    Source::Read { is_get: true, .. } => heat.insert_got(id, weight),
                    Source::Read { .. } | Source::Download => heat.insert(id, weight, false),
                }
            }
        }
        file.changing -= 1;
        let charged = file.charged - before;
        self.charge(charged);
        (charged, dirty)
    }

    /// Gives a claim back of which nothing was written. Gives the chunks that must be vacated: the dirty ones, and those that
    /// are empty now and the last ones of a map block that is on the disk.
    pub fn abandon(&mut self, claim: &Claim) -> Vec<u32> {
        let mut last = Vec::new();
        if let Some(file) = self.life(claim.object, claim.number) {
            file.changing -= 1;
        }
        for &(at, _) in &claim.slices {
            let Some(file) = self.life(claim.object, claim.number) else {
                break;
            };
            let Some(chunk) = file.chunks.get_mut(&at) else {
                continue;
            };
            chunk.writers -= 1;
            if chunk.writers > 0 || (chunk.bits != 0 && !chunk.dirty) {
                continue;
            }
            let group = file.groups.get(&group_of(at));
            if chunk.dirty || group.is_some_and(|group| group.charged && group.chunks == 1) {
                last.push(at);
            } else {
                self.forget_chunk(claim.object, claim.number, at);
            }
        }
        last
    }
}
