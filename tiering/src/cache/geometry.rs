//! The three sizes of the chunk cache, and the arithmetic between them.
//!
//! * A *page* is the unit of residency and of checksums. It is small, because a miss is rounded up to pages: at 1 KiB a
//!   cold read of a block brings half a kilobyte more at either end, on average.
//! * A *block* is what a file system allocates: the unit of the budget.
//! * A *chunk* is the unit of heat, of eviction and of holes.

use std::ops::Range;

/// Unit of residency and checksums.
pub(crate) const PAGE_BYTES: u64 = 1 << 10;

/// Unit in which disk space is counted: what file systems allocate.
pub(crate) const BLOCK_BYTES: u64 = 4 << 10;

/// Unit of heat and eviction. The residency of a chunk is one `u64`, so it has 64 pages.
pub(crate) const CHUNK_BYTES: u64 = PAGE_BYTES * PAGES_PER_CHUNK;

pub(crate) const PAGES_PER_CHUNK: u64 = u64::BITS as u64;

const PAGES_PER_BLOCK: u64 = BLOCK_BYTES / PAGE_BYTES;

/// Bytes of a page's checksum in the map file.
pub(crate) const ENTRY_BYTES: u64 = 8;

/// Chunks whose checksums share one block of the map file: a *group*.
pub(crate) const CHUNKS_PER_GROUP: u64 = BLOCK_BYTES / ENTRY_BYTES / PAGES_PER_CHUNK;

/// Number of pages in `len` bytes.
pub(crate) fn pages_in(len: u64) -> u64 {
    len.div_ceil(PAGE_BYTES)
}

/// Number of chunks in `len` bytes.
pub(crate) fn chunks_in(len: u64) -> u64 {
    len.div_ceil(CHUNK_BYTES)
}

/// The pages that hold a byte of `range`.
pub(crate) fn pages_of(range: &Range<u64>) -> Range<u64> {
    range.start / PAGE_BYTES..pages_in(range.end)
}

pub(crate) fn chunk_of(page: u64) -> u32 {
    // Files are shorter than 2^48 bytes, which is checked where they are taken into the cache.
    (page / PAGES_PER_CHUNK) as u32
}

pub(crate) fn group_of(chunk: u32) -> u32 {
    chunk / CHUNKS_PER_GROUP as u32
}

/// Cuts a range of pages at chunk borders: each chunk with the bits of its pages.
pub(crate) fn slices(pages: Range<u64>) -> impl Iterator<Item = (u32, u64)> {
    let mut at = pages.start;
    std::iter::from_fn(move || {
        if at >= pages.end {
            return None;
        }
        let chunk = at / PAGES_PER_CHUNK;
        let begin = at % PAGES_PER_CHUNK;
        let end = (pages.end - chunk * PAGES_PER_CHUNK).min(PAGES_PER_CHUNK);
        at = chunk * PAGES_PER_CHUNK + end;
        Some((chunk_of(chunk * PAGES_PER_CHUNK), bits(begin..end)))
    })
}

/// The bits of the pages `range` of a chunk.
fn bits(range: Range<u64>) -> u64 {
    let below = |n: u64| if n >= 64 { u64::MAX } else { (1 << n) - 1 };
    below(range.end) & !below(range.start)
}

/// The bits of all pages of `chunk` in a file of `len` bytes.
pub(crate) fn full(chunk: u32, len: u64) -> u64 {
    let first = u64::from(chunk) * PAGES_PER_CHUNK;
    bits(0..pages_in(len).saturating_sub(first).min(PAGES_PER_CHUNK))
}

/// What the resident pages `bits` of a chunk take on the disk.
pub(crate) fn disk_bytes(bits: u64) -> u64 {
    let mut any = 0u64;
    for page in 0..PAGES_PER_BLOCK {
        any |= bits >> page;
    }
    // One bit for each block, at the place of its first page.
    let firsts = u64::MAX / ((1 << PAGES_PER_BLOCK) - 1);
    u64::from((any & firsts).count_ones()) * BLOCK_BYTES
}

/// Runs of set bits of a chunk, as ranges of pages of the file.
pub(crate) fn runs(chunk: u32, mut bits: u64) -> impl Iterator<Item = Range<u64>> {
    let first = u64::from(chunk) * PAGES_PER_CHUNK;
    std::iter::from_fn(move || {
        if bits == 0 {
            return None;
        }
        let begin = u64::from(bits.trailing_zeros());
        let len = u64::from((bits >> begin).trailing_ones());
        bits &= !self::bits(begin..begin + len);
        Some(first + begin..first + begin + len)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cut_at_chunks_and_back() {
        let cut: Vec<_> = slices(62..130).collect();
        assert_eq!(cut, [(0, 0b11 << 62), (1, u64::MAX), (2, 0b11)]);
        assert_eq!(slices(5..5).count(), 0);
        assert_eq!(runs(1, 0b1011).collect::<Vec<_>>(), [64..66, 67..68]);
        assert!(runs(0, u64::MAX).eq(std::iter::once(0..64)));
        assert_eq!(full(1, CHUNK_BYTES + 1), 1);
        assert_eq!((full(0, 1 << 30), full(9, 1)), (u64::MAX, 0));
    }

    #[test]
    fn a_page_takes_its_whole_block() {
        let blocks = [(0, 0), (1, 1), (0b1111, 1), (0b10001, 2), (1 << 63, 1)];
        for (bits, blocks) in blocks {
            assert_eq!(disk_bytes(bits), blocks * BLOCK_BYTES, "{bits:b}");
        }
        assert_eq!(disk_bytes(u64::MAX), CHUNK_BYTES);
    }
}
