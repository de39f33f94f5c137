//! Reading: what is resident from the disk, the rest in few requests that concurrent readers share.
//!
//! Under one short lock a read is cut into pieces: pages that are resident, pages that a request under way brings, and
//! pages to ask for; the last are merged where they lie near each other. Requests start at once, resident pages are read
//! meanwhile, and the reader then waits for what is missing.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use lazurite_env::{Activity, ReadHint, Result};

use super::{
    Cache, Object, ObjectId,
    geometry::{PAGE_BYTES, pages_of, slices},
    landing::Landing,
    plan::{Hit, Piece, Plan, clip},
};
use crate::stats::Counters;

/// How often the bytes of a page that is being written are waited for before they are dropped.
const DROP_ATTEMPTS: u32 = 100;

/// What a read does to the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Uses it, fills it and keeps it: a user's read.
    Use,
    /// The same, and heats it.
    Get,
    /// Fills it for a read that is to come.
    Ahead,
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
            Activity::Get | Activity::MultiGet => Mode::Get,
            Activity::Unknown | Activity::Iterate | Activity::Open => Mode::Use,
        }
    }

    /// A user's read.
    pub fn is_use(self) -> bool {
        matches!(self, Mode::Use | Mode::Get)
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
    pub(super) fn limit(&self) -> u64 {
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

impl Cache {
    /// Begins to read `wants`: not empty, sorted by their begin, before the tail. All requests are on their way when
    /// it returns. Blocks on the local disk only.
    pub fn begin(&self, request: &Request<'_>, wants: &[Range<u64>]) -> Vec<Begun> {
        let object = request.object;
        if request.mode == Mode::Reread {
            self.drop_pages(object.id, wants);
        }
        let mut plan = Plan::default();
        // What could not be dropped is not believed all the same.
        let believed = request.mode != Mode::Reread;
        self.plan(request, wants, believed, &mut plan);
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

    /// Asks the store for what is absent of `range`, before anybody reads it. What comes is kept in memory until
    /// [`let_go`](Self::let_go) is called for each of the requests that this gives, also where it cannot be stored.
    /// Does not block.
    pub fn fetch_ahead(&self, request: &Request<'_>, range: Range<u64>) -> Vec<u64> {
        let object = request.object.id;
        let mut plan = Plan::default();
        self.plan(request, &[range], true, &mut plan);
        let mut flights: Vec<u64> = plan.pieces.iter().map(|(_, piece)| piece.flight).collect();
        flights.sort_unstable();
        flights.dedup();
        {
            // Before the requests begin, so that none of them ends before.
            let mut state = self.state();
            for flight in &flights {
                state.flights.keep(object, *flight);
            }
        }
        self.launch(request, &mut plan);
        flights
    }

    /// Tells that nobody waits for a request of [`fetch_ahead`](Self::fetch_ahead) any more.
    pub fn let_go(&self, object: ObjectId, flights: &[u64]) {
        let mut state = self.state();
        for flight in flights {
            state.flights.let_go(object, *flight);
        }
    }

    fn count(&self, mode: Mode, begun: &[Begun]) {
        let counters = &self.0.counters;
        for read in begun {
            if !read.is_local() {
                Counters::add(&counters.remote_reads, 1);
            }
            if mode.is_use() && self.is_active() {
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

    /// Asks the store for `part` of a want whose resident pages turned out not to be there.
    fn fetch_instead(&self, request: &Request<'_>, want: usize, part: Range<u64>, plan: &mut Plan) {
        let mut again = Plan::default();
        self.plan(request, &[part], false, &mut again);
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
                    let (_, resident) = state.resident(object, chunk);
                    // Of a sealed file nothing goes: it is about to be compared with the object's checksum.
                    let file = state.files.get(&object).filter(|file| !file.sealed);
                    let Some(file) = file.filter(|_| resident & mask != 0) else {
                        break;
                    };
                    let number = file.number;
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
                is_get: request.mode == Mode::Get,
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
