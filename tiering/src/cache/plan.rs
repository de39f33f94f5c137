//! Cutting reads into pieces: what is resident, what a request under way brings, what to ask for.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use lazurite_env::Result;

use super::{
    Cache, MAX_FILE_BYTES, ObjectId,
    file::CacheFile,
    flight::{Cell, Covering},
    geometry::{PAGE_BYTES, pages_of, runs, slices},
    heat::ChunkId,
    read::{Mode, Request},
    state::State,
};

/// Neighbouring ranges are read in one request where at most this many bytes between them are read for nothing: far
/// less time than a request takes.
const MERGE_GAP_BYTES: u64 = 4 << 10;

/// No merged request is longer: beyond this, two requests at once are faster than one.
const MERGE_MAX_BYTES: u64 = 4 << 20;

/// A range that a request brings.
#[derive(Debug)]
pub(super) struct Piece {
    pub range: Range<u64>,
    /// Where the request's bytes begin.
    pub start: u64,
    pub flight: u64,
    pub cell: Arc<Cell>,
}

/// Resident pages of one chunk, to be read from the disk.
#[derive(Debug)]
pub(super) struct Hit {
    pub want: usize,
    pub chunk: u32,
    /// The life of the chunk.
    pub born: u64,
    pub pages: Range<u64>,
}

/// A request to be sent.
pub(super) struct Launch {
    pub range: Range<u64>,
    pub flight: u64,
    pub cell: Arc<Cell>,
}

#[derive(Default)]
pub(super) struct Plan {
    pub number: u64,
    pub file: Option<Arc<CacheFile>>,
    pub hits: Vec<Hit>,
    /// By want.
    pub pieces: Vec<(usize, Piece)>,
    pub launches: Vec<Launch>,
}

impl Piece {
    pub fn wait(&self) -> Result<Bytes> {
        let bytes = self.cell.wait()?;
        // The request covers the piece, and its length was checked.
        let begin = (self.range.start - self.start) as usize;
        let end = (self.range.end - self.start) as usize;
        Ok(bytes.slice(begin..end))
    }
}

impl Cache {
    /// Cuts `wants` into pieces and notes the requests that are needed. Where not `use_hits`, resident pages are absent.
    pub(super) fn plan(
        &self,
        request: &Request<'_>,
        wants: &[Range<u64>],
        use_hits: bool,
        plan: &mut Plan,
    ) {
        let fills = request.mode != Mode::Pass && self.is_active();
        let object = request.object;
        let mut guard = self.state();
        let state = &mut *guard;
        if fills && object.file.len < MAX_FILE_BYTES {
            plan.number = state.touch(object);
        }
        plan.file = state
            .files
            .get(&object.id)
            .and_then(|file| file.file.clone());
        let mut absent: Vec<(usize, Range<u64>)> = Vec::new();
        for (i, want) in wants.iter().enumerate() {
            for (chunk, mask) in slices(pages_of(want)) {
                let bytes = clip(&slice_pages(chunk, mask), want);
                // Here in memory, ahead of its reader: read for the first time, whatever is stored of it meanwhile.
                if let Some(kept) = state.flights.kept(object.id, &bytes) {
                    plan.add_piece(wants, i, bytes, kept);
                    continue;
                }
                let (born, resident) = state.resident(object.id, chunk);
                let hits = if use_hits { mask & resident } else { 0 };
                // Neighbours in one chunk that are read one after another are no second reading of it.
                if request.mode.is_use() && hits != 0 && hits == mask {
                    let (object, is_get) = (object.id, request.mode == Mode::Get);
                    state.heat.touch(&ChunkId { object, chunk }, is_get);
                }
                for pages in runs(chunk, hits) {
                    let want = i;
                    plan.hits.push(Hit {
                        want,
                        chunk,
                        born,
                        pages,
                    });
                }
                // What a request brings is whole pages where they are to be stored, else what was asked for.
                let within = if fills {
                    0..request.limit()
                } else {
                    want.clone()
                };
                for pages in runs(chunk, mask & !hits) {
                    absent.push((i, clip(&pages, &within)));
                }
            }
        }
        join_or_launch(state, object.id, wants, absent, plan);
    }
}

impl State {
    /// The life of a chunk and the pages that may be read of it.
    pub(super) fn resident(&mut self, object: ObjectId, chunk: u32) -> (u64, u64) {
        let chunk = self
            .files
            .get(&object)
            .and_then(|file| file.chunks.get(&chunk));
        match chunk {
            Some(chunk) if !chunk.evicting => (chunk.born, chunk.bits),
            _ => (0, 0),
        }
    }
}

/// Finds a request under way for each absent range, or notes a new one; near ones are merged.
fn join_or_launch(
    state: &mut State,
    object: ObjectId,
    wants: &[Range<u64>],
    absent: Vec<(usize, Range<u64>)>,
    plan: &mut Plan,
) {
    let mut to_ask: Vec<(usize, Range<u64>)> = Vec::new();
    for (want, range) in absent {
        let parts = if state.flights.any(object) {
            by_page(range)
        } else {
            vec![range]
        };
        for part in parts {
            match state.flights.covering(object, &part) {
                Some(flight) => plan.add_piece(wants, want, part, flight),
                None => match to_ask.last_mut() {
                    Some((last, asked)) if *last == want && asked.end == part.start => {
                        asked.end = part.end;
                    }
                    _ => to_ask.push((want, part)),
                },
            }
        }
    }
    to_ask.sort_by_key(|(_, range)| range.start);
    let ranges: Vec<_> = to_ask.iter().map(|(_, range)| range.clone()).collect();
    for (merged, served) in merge(&ranges) {
        let (flight, cell) = state.flights.add(object, merged.clone());
        for (want, range) in &to_ask[served] {
            let covering = Covering {
                id: flight,
                start: merged.start,
                cell: cell.clone(),
            };
            plan.add_piece(wants, *want, range.clone(), covering);
        }
        plan.launches.push(Launch {
            range: merged,
            flight,
            cell,
        });
    }
}

impl Plan {
    /// Notes that a request brings `range`, of which the want may need only a part.
    fn add_piece(&mut self, wants: &[Range<u64>], want: usize, range: Range<u64>, from: Covering) {
        let Covering { id, start, cell } = from;
        let needed = &wants[want];
        let range = range.start.max(needed.start)..range.end.min(needed.end);
        if let Some((last, piece)) = self.pieces.last_mut()
            && *last == want
            && Arc::ptr_eq(&piece.cell, &cell)
            && piece.range.end == range.start
        {
            piece.range.end = range.end;
            return;
        }
        let piece = Piece {
            range,
            start,
            flight: id,
            cell,
        };
        self.pieces.push((want, piece));
    }
}

/// The bytes of `pages` that lie in `within`.
pub(super) fn clip(pages: &Range<u64>, within: &Range<u64>) -> Range<u64> {
    (pages.start * PAGE_BYTES).max(within.start)..(pages.end * PAGE_BYTES).min(within.end)
}

/// The pages from the first to the last bit of `mask`, which has no holes.
fn slice_pages(chunk: u32, mask: u64) -> Range<u64> {
    runs(chunk, mask).next().unwrap_or_default()
}

/// Cuts a range of whole pages, of which the last may be cut, into single ones.
fn by_page(range: Range<u64>) -> Vec<Range<u64>> {
    pages_of(&range)
        .map(|page| clip(&(page..page + 1), &range))
        .collect()
}

/// Joins ranges, sorted by their begin, into few requests: each with the ranges (by index) that it serves.
fn merge(sorted: &[Range<u64>]) -> Vec<(Range<u64>, Range<usize>)> {
    let mut merged: Vec<(Range<u64>, Range<usize>)> = Vec::new();
    for (i, range) in sorted.iter().enumerate() {
        if let Some((last, served)) = merged.last_mut() {
            let end = last.end.max(range.end);
            let near = range.start <= last.end.saturating_add(MERGE_GAP_BYTES);
            if near && end - last.start <= MERGE_MAX_BYTES {
                last.end = end;
                served.end = i + 1;
                continue;
            }
        }
        merged.push((range.clone(), i..i + 1));
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_ranges_merge_and_far_or_long_ones_do_not() {
        const GAP: u64 = MERGE_GAP_BYTES;
        let ranges = [
            0..100,
            50..60,
            100..200,
            200 + GAP..300 + GAP,
            301 + 2 * GAP..302 + 2 * GAP,
        ];
        assert_eq!(
            merge(&ranges),
            vec![(0..300 + GAP, 0..4), (301 + 2 * GAP..302 + 2 * GAP, 4..5)]
        );
        let long = [0..MERGE_MAX_BYTES, MERGE_MAX_BYTES..MERGE_MAX_BYTES + 1];
        assert_eq!(merge(&long).len(), 2);
        assert!(merge(&[]).is_empty());
    }
}
