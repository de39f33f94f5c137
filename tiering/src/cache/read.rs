//! Reading: what is resident from the disk, the rest in few requests that concurrent readers share.
//!
//! Under one short lock a read is cut into pieces: pages that are resident, pages that a request under way brings, and
//! pages to ask for; the last are merged where they lie near each other. Requests start at once, resident pages are read
//! meanwhile, and the reader then waits for what is missing.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use lazurite_env::{Activity, Error, ErrorKind, ReadHint, Result};

use super::{
    Cache, Object, ObjectId,
    file::CacheFile,
    fill::Job,
    flight::{Cell, get_exact},
    geometry::{PAGE_BYTES, pages_of, slices},
    heat::ChunkId,
    state::State,
};
use crate::stats::Counters;

/// Neighbouring ranges are read in one request where at most this many bytes between them are read for nothing: far
/// less time than a request takes.
pub(crate) const MERGE_GAP_BYTES: u64 = 4 << 10;

/// No merged request is longer: beyond this, two requests at once are faster than one.
pub(crate) const MERGE_MAX_BYTES: u64 = 4 << 20;

/// How often the bytes of a page that is being written are waited for before they are dropped.
const DROP_ATTEMPTS: u32 = 100;

/// What a read does to the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Uses it, fills it and heats it: a user's read.
    Use,
    /// Takes what is there and leaves no trace: compaction, verification, whole-file reads.
    Pass,
    /// Drops what it has of the range, asks the store, and keeps what comes.
    Reread,
}

impl Mode {
    pub fn of(hint: ReadHint) -> Self {
        match hint.activity {
            Activity::Compaction | Activity::Verify | Activity::Flush => Mode::Pass,
            Activity::Reread => Mode::Reread,
            Activity::Unknown
            | Activity::Get
            | Activity::MultiGet
            | Activity::Iterate
            | Activity::Open => Mode::Use,
        }
    }
}

/// The end of an object that is in memory: reads do not ask for it.
#[derive(Debug, Clone)]
pub(crate) struct Tail {
    pub offset: u64,
    pub bytes: Bytes,
}

/// What is read, and how.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub object: &'a Arc<Object>,
    pub tail: Option<Tail>,
    pub mode: Mode,
}

impl Request<'_> {
    /// The first byte that is never asked for.
    fn limit(&self) -> u64 {
        let len = self.object.file.len;
        self.tail.as_ref().map_or(len, |tail| tail.offset)
    }
}

/// A read that was begun: some bytes are here, others on their way.
#[derive(Debug)]
pub(crate) struct Begun {
    range: Range<u64>,
    ready: Vec<(u64, Bytes)>,
    flying: Vec<Piece>,
}

/// A range that a request brings.
#[derive(Debug)]
struct Piece {
    range: Range<u64>,
    /// Where the request's bytes begin.
    start: u64,
    cell: Arc<Cell>,
}

/// Resident pages of one chunk, to be read from the disk.
#[derive(Debug)]
struct Hit {
    want: usize,
    chunk: u32,
    /// The life of the chunk.
    born: u64,
    pages: Range<u64>,
}

/// A request to be sent.
struct Launch {
    range: Range<u64>,
    flight: u64,
    cell: Arc<Cell>,
}

#[derive(Default)]
struct Plan {
    number: u64,
    file: Option<Arc<CacheFile>>,
    hits: Vec<Hit>,
    /// By want.
    pieces: Vec<(usize, Piece)>,
    launches: Vec<Launch>,
}

impl Begun {
    /// True where no byte comes from a request.
    pub fn is_local(&self) -> bool {
        self.flying.is_empty()
    }

    /// Waits for everything and puts it into `buf`, which is as long as the range.
    pub fn copy_into(self, buf: &mut [u8]) -> Result<()> {
        let mut put = |at: u64, bytes: &[u8]| {
            let begin = (at - self.range.start) as usize;
            buf[begin..begin + bytes.len()].copy_from_slice(bytes);
        };
        for (at, bytes) in &self.ready {
            put(*at, bytes);
        }
        for piece in &self.flying {
            put(piece.range.start, &piece.wait()?);
        }
        Ok(())
    }

    /// Waits for everything.
    pub fn into_bytes(self) -> Result<Bytes> {
        match (&self.ready[..], &self.flying[..]) {
            ([], [piece]) if piece.range == self.range => return piece.wait(),
            ([(_, bytes)], []) if bytes.len() as u64 == self.range.end - self.range.start => {
                return Ok(bytes.clone());
            }
            _ => {}
        }
        let mut bytes = vec![0; (self.range.end - self.range.start) as usize];
        self.copy_into(&mut bytes)?;
        Ok(bytes.into())
    }
}

impl Piece {
    fn wait(&self) -> Result<Bytes> {
        let bytes = self.cell.wait()?;
        // The request covers the piece, and its length was checked.
        let begin = (self.range.start - self.start) as usize;
        let end = (self.range.end - self.start) as usize;
        Ok(bytes.slice(begin..end))
    }
}

impl Cache {
    /// Begins to read `wants`: not empty, sorted by their begin, before the tail. All requests are on their way when
    /// it returns. Blocks on the local disk only.
    pub fn begin(&self, request: &Request<'_>, wants: &[Range<u64>]) -> Vec<Begun> {
        let object = request.object;
        if request.mode == Mode::Reread {
            self.drop_pages(object.id, wants);
        }
        let mut plan = Plan::default();
        self.plan(request, wants, |_, _| true, &mut plan);
        self.launch(request, &mut plan);
        let mut begun: Vec<Begun> = wants
            .iter()
            .map(|range| Begun {
                range: range.clone(),
                ready: Vec::new(),
                flying: Vec::new(),
            })
            .collect();
        for hit in std::mem::take(&mut plan.hits) {
            let want = &wants[hit.want];
            let part = clip(&hit.pages, want);
            match self.read_hit(object.id, &plan, &hit) {
                Some(bytes) => {
                    let first = hit.pages.start * PAGE_BYTES;
                    let slice = (part.start - first) as usize..(part.end - first) as usize;
                    begun[hit.want].ready.push((part.start, bytes.slice(slice)));
                }
                // Gone or bad: these pages are asked for.
                None => self.fetch_instead(request, hit.want, part, &mut plan),
            }
        }
        for (want, piece) in plan.pieces {
            begun[want].flying.push(piece);
        }
        self.count(request.mode, &begun);
        begun
    }

    fn count(&self, mode: Mode, begun: &[Begun]) {
        let counters = &self.0.counters;
        for read in begun {
            if !read.is_local() {
                Counters::add(&counters.remote_reads, 1);
            }
            if mode == Mode::Use && self.is_active() {
                let hit = read.is_local();
                let counter = if hit {
                    &counters.cache_hits
                } else {
                    &counters.cache_misses
                };
                Counters::add(counter, 1);
            }
            let bytes: usize = read.ready.iter().map(|(_, bytes)| bytes.len()).sum();
            Counters::add(&counters.cache_hit_bytes, bytes as u64);
        }
    }

    /// Cuts `wants` into pieces and notes the requests that are needed. `use_hit` may refuse resident pages.
    fn plan(
        &self,
        request: &Request<'_>,
        wants: &[Range<u64>],
        use_hit: impl Fn(u32, u64) -> bool,
        plan: &mut Plan,
    ) {
        let fills = request.mode != Mode::Pass && self.is_active();
        let object = request.object;
        let mut guard = self.state();
        let state = &mut *guard;
        if fills && object.file.len < super::MAX_FILE_BYTES {
            plan.number = state.file(object).number;
        }
        plan.file = state
            .files
            .get(&object.id)
            .and_then(|file| file.file.clone());
        let mut absent: Vec<(usize, Range<u64>)> = Vec::new();
        for (i, want) in wants.iter().enumerate() {
            for (chunk, mask) in slices(pages_of(want)) {
                let (born, resident) = state.resident(object.id, chunk);
                let hits = if use_hit(chunk, born) {
                    mask & resident
                } else {
                    0
                };
                // Neighbours in one chunk that are read one after another are no second reading of it.
                if request.mode == Mode::Use && hits != 0 && hits == mask {
                    let object = object.id;
                    state.heat.touch(&ChunkId { object, chunk });
                }
                for pages in super::geometry::runs(chunk, hits) {
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
                for pages in super::geometry::runs(chunk, mask & !hits) {
                    absent.push((i, clip(&pages, &within)));
                }
            }
        }
        join_or_launch(state, object.id, wants, absent, fills, plan);
    }

    /// Asks the store for `part` of a want whose resident pages turned out not to be there.
    fn fetch_instead(&self, request: &Request<'_>, want: usize, part: Range<u64>, plan: &mut Plan) {
        let mut again = Plan::default();
        self.plan(request, &[part], |_, _| false, &mut again);
        self.launch(request, &mut again);
        let pieces = again.pieces.into_iter();
        plan.pieces.extend(pieces.map(|(_, piece)| (want, piece)));
    }

    /// The verified bytes of resident pages; `None` where they are not there any more, or not right.
    fn read_hit(&self, object: ObjectId, plan: &Plan, hit: &Hit) -> Option<Bytes> {
        let file = plan.file.as_ref()?;
        match file.read(hit.pages.clone()) {
            Ok(Some(bytes)) => return Some(bytes.into()),
            Ok(None) => {}
            Err(error) => {
                self.disk_failed(&error);
                return None;
            }
        }
        // A chunk that was punched meanwhile does not match either, and that is no damage.
        let number = {
            let mut state = self.state();
            let (born, resident) = state.resident(object, hit.chunk);
            let there = slices(hit.pages.clone()).all(|(_, mask)| mask & !resident == 0);
            if born != hit.born || !there {
                return None;
            }
            state.files.get(&object)?.number
        };
        Counters::add(&self.0.counters.cache_mismatches, 1);
        tracing::debug!(%object, pages = ?hit.pages, "pages on the local disk do not match their checksums");
        self.vacate(object, number, hit.chunk);
        None
    }

    /// Makes the pages of `wants` absent, and has no request that brings them stored.
    fn drop_pages(&self, object: ObjectId, wants: &[Range<u64>]) {
        for want in wants {
            let pages = pages_of(want);
            self.state()
                .flights
                .distrust(object, &(pages.start * PAGE_BYTES..pages.end * PAGE_BYTES));
            for (chunk, mask) in slices(pages) {
                for _ in 0..DROP_ATTEMPTS {
                    let mut state = self.state();
                    let number = state.files.get(&object).map(|file| file.number);
                    let (_, resident) = state.resident(object, chunk);
                    let Some(number) = number.filter(|_| resident & mask != 0) else {
                        break;
                    };
                    drop(state);
                    if self.vacate(object, number, chunk) {
                        break;
                    }
                    // Somebody writes other pages of this chunk.
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
            }
        }
    }

    /// Sends the requests of a plan.
    fn launch(&self, request: &Request<'_>, plan: &mut Plan) {
        for launch in plan.launches.drain(..) {
            let landing = Landing {
                cache: self.clone(),
                object: request.object.clone(),
                number: (request.mode != Mode::Pass && self.is_active()).then_some(plan.number),
                launch,
                rest: self.rest(request),
                done: false,
            };
            self.0.runtime.spawn(landing.fly());
        }
    }

    /// The bytes of the tail that share a page with bytes before it.
    fn rest(&self, request: &Request<'_>) -> Bytes {
        match &request.tail {
            Some(tail) if !tail.offset.is_multiple_of(PAGE_BYTES) => {
                let to_page = (PAGE_BYTES - tail.offset % PAGE_BYTES) as usize;
                tail.bytes.slice(..to_page.min(tail.bytes.len()))
            }
            _ => Bytes::new(),
        }
    }
}

impl State {
    /// The life of a chunk and the pages that may be read of it.
    fn resident(&mut self, object: ObjectId, chunk: u32) -> (u64, u64) {
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
    fills: bool,
    plan: &mut Plan,
) {
    let mut to_ask: Vec<(usize, Range<u64>)> = Vec::new();
    for (want, range) in absent {
        let parts = if fills && state.flights.any(object) {
            by_page(range)
        } else {
            vec![range]
        };
        for part in parts {
            match state.flights.covering(object, &part) {
                Some((start, cell)) => plan.add_piece(wants, want, part, start, cell),
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
            plan.add_piece(wants, *want, range.clone(), merged.start, cell.clone());
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
    fn add_piece(
        &mut self,
        wants: &[Range<u64>],
        want: usize,
        range: Range<u64>,
        start: u64,
        cell: Arc<Cell>,
    ) {
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
        self.pieces.push((want, Piece { range, start, cell }));
    }
}

/// The bytes of `pages` that lie in `within`.
fn clip(pages: &Range<u64>, within: &Range<u64>) -> Range<u64> {
    (pages.start * PAGE_BYTES).max(within.start)..(pages.end * PAGE_BYTES).min(within.end)
}

/// Cuts a range of whole pages, of which the last may be cut, into single ones.
fn by_page(range: Range<u64>) -> Vec<Range<u64>> {
    pages_of(&range)
        .map(|page| clip(&(page..page + 1), &range))
        .collect()
}

/// A request under way. It ends exactly once, also where its task panics or the runtime ends: who waits gets an error.
struct Landing {
    cache: Cache,
    object: Arc<Object>,
    /// The life of the object in the cache that is to have the bytes.
    number: Option<u64>,
    launch: Launch,
    rest: Bytes,
    done: bool,
}

impl Landing {
    async fn fly(mut self) {
        let inner = self.cache.0.clone();
        Counters::add(&inner.counters.remote_requests, 1);
        let range = self.launch.range.clone();
        let result = get_exact(&*inner.store, &self.object, range).await;
        self.done = true;
        let Ok(bytes) = &result else {
            // Nobody joins a request that failed.
            self.forget();
            self.launch.cell.set(result);
            return;
        };
        Counters::add(&inner.counters.remote_bytes, bytes.len() as u64);
        let bytes = bytes.clone();
        match self.number {
            None => self.forget(),
            // This takes no longer than a push: the bytes are written by others, after the readers have them.
            Some(number) => {
                let range = &self.launch.range;
                let fills_page = range.end.is_multiple_of(PAGE_BYTES);
                self.cache.enqueue(Job {
                    object: self.object.clone(),
                    number,
                    flight: self.launch.flight,
                    start: range.start,
                    bytes,
                    rest: if fills_page {
                        Bytes::new()
                    } else {
                        self.rest.clone()
                    },
                });
            }
        }
        self.launch.cell.set(result);
    }

    fn forget(&self) {
        let mut state = self.cache.state();
        state.flights.remove(self.object.id, self.launch.flight);
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        if !self.done {
            self.forget();
            let why =
                "the request ended without a result: it panicked, or the I/O threads were stopped";
            let key = self.object.file.key.as_str();
            let error = Error::new(ErrorKind::Panicked, "read", key, why);
            self.launch.cell.set(Err(error));
        }
    }
}

/// Joins ranges, sorted by their begin, into few requests: each with the ranges (by index) that it serves.
pub(crate) fn merge(sorted: &[Range<u64>]) -> Vec<(Range<u64>, Range<usize>)> {
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
mod merge_tests {
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
