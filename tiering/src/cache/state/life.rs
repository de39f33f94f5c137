//! What one life of an object in the cache tells of itself.

use std::ops::Range;

use super::FileState;
use crate::cache::geometry::{
    BLOCK_BYTES, PAGE_BYTES, chunks_in, disk_bytes, full, group_of, pages_in, runs, slices,
};

impl FileState {
    /// True where nobody writes, punches or downloads it.
    pub fn is_idle(&self) -> bool {
        self.changing == 0 && !self.held
    }

    /// True where only the files are left, and nobody is at them.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty() && self.charged > 0 && self.is_idle()
    }

    /// What the file takes now.
    pub fn charged(&self) -> u64 {
        self.charged
    }

    /// The pages that are absent from page `from` on, as runs in order.
    pub fn missing(&self, from: u64) -> impl Iterator<Item = Range<u64>> {
        self.missing_of(from..pages_in(self.object.file.len))
    }

    /// Those of `pages`, which are pages of the file, that are absent, as runs in order that end where their chunk does.
    pub fn missing_of(&self, pages: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        slices(pages).flat_map(|(at, wanted)| {
            let resident = self
                .chunks
                .get(&at)
                .map_or(0, |chunk| if chunk.evicting { 0 } else { chunk.bits });
            runs(at, wanted & !resident)
        })
    }

    /// What the file takes when it is whole, beyond what it is charged now.
    pub fn bytes_to_whole(&self) -> u64 {
        let len = self.object.file.len;
        let chunks = chunks_in(len) as u32;
        let groups = if chunks == 0 {
            0
        } else {
            u64::from(group_of(chunks - 1)) + 1
        };
        let whole: u64 = (0..chunks).map(|at| disk_bytes(full(at, len))).sum();
        (whole + groups * BLOCK_BYTES + BLOCK_BYTES).saturating_sub(self.charged)
    }

    /// Bytes of the resident pages.
    pub fn resident_bytes(&self) -> u64 {
        let len = self.object.file.len;
        let bytes = |run: Range<u64>| (run.end * PAGE_BYTES).min(len) - run.start * PAGE_BYTES;
        len - self.missing(0).map(bytes).sum::<u64>()
    }
}
