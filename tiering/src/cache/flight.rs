//! Requests on their way, and readers that share them.
//!
//! A request that fills the cache stays here after its bytes came, until they are stored: who asks meanwhile gets them from
//! memory. One that was made ahead of its reader stays until it is let go, stored or not: this list is the memory of the
//! [readahead](crate::ahead), which bounds it. Waiting is on a plain condition variable, so any thread may wait.

use std::{
    collections::HashMap,
    fmt,
    ops::Range,
    sync::{Arc, Condvar, Mutex, PoisonError},
};

use bytes::Bytes;
use lazurite_env::{Error, ErrorKind, Result, remote::RemoteStore};

use super::{Object, ObjectId};
use crate::{catalog::Moves, sync::lock};

/// The result of a request, once it is there.
#[derive(Default)]
pub(crate) struct Cell {
    result: Mutex<Option<Result<Bytes>>>,
    changed: Condvar,
}

impl fmt::Debug for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cell")
    }
}

impl Cell {
    /// Blocks until the request has ended.
    pub fn wait(&self) -> Result<Bytes> {
        let mut result = lock(&self.result);
        loop {
            if let Some(result) = &*result {
                return result.clone();
            }
            result = self
                .changed
                .wait(result)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The first result counts.
    pub fn set(&self, result: Result<Bytes>) {
        lock(&self.result).get_or_insert(result);
        self.changed.notify_all();
    }
}

#[derive(Debug)]
struct Flight {
    id: u64,
    range: Range<u64>,
    cell: Arc<Cell>,
    /// Somebody found its bytes, or some that may be of it, to be wrong: nobody joins it, and it is not stored.
    stale: bool,
    /// How many keep it here until they have read it.
    keepers: u32,
    /// Nobody but its keepers needs it here any more.
    ended: bool,
}

impl Flight {
    fn covers(&self, range: &Range<u64>) -> bool {
        !self.stale && self.range.start <= range.start && range.end <= self.range.end
    }

    fn touches(&self, range: &Range<u64>) -> bool {
        self.range.start < range.end && range.start < self.range.end
    }

    fn covering(&self) -> Covering {
        Covering {
            id: self.id,
            start: self.range.start,
            cell: self.cell.clone(),
        }
    }
}

/// A request that a range is part of.
pub(super) struct Covering {
    pub id: u64,
    pub start: u64,
    pub cell: Arc<Cell>,
}

#[derive(Debug, Default)]
pub(crate) struct Flights {
    next_id: u64,
    by_object: HashMap<ObjectId, Vec<Flight>>,
}

impl Flights {
    /// A request whose range covers `range`.
    pub(super) fn covering(&self, object: ObjectId, range: &Range<u64>) -> Option<Covering> {
        let flight = self.of(object).find(|flight| flight.covers(range))?;
        Some(flight.covering())
    }

    /// As [`covering`](Self::covering), of those that are kept.
    pub(super) fn kept(&self, object: ObjectId, range: &Range<u64>) -> Option<Covering> {
        let kept = |flight: &&Flight| flight.keepers > 0 && flight.covers(range);
        self.of(object).find(kept).map(Flight::covering)
    }

    fn of(&self, object: ObjectId) -> impl Iterator<Item = &Flight> {
        self.by_object.get(&object).into_iter().flatten()
    }

    /// Keeps a request here, also when it has ended, until [`let_go`](Self::let_go). Nothing where it is not here.
    pub fn keep(&mut self, object: ObjectId, id: u64) {
        let flights = self.by_object.get_mut(&object).into_iter().flatten();
        for flight in flights.filter(|flight| flight.id == id) {
            flight.keepers += 1;
        }
    }

    /// Ends one [`keep`](Self::keep). Nothing where the request is not here any more: it has failed.
    pub fn let_go(&mut self, object: ObjectId, id: u64) {
        let flights = self.by_object.get_mut(&object).into_iter().flatten();
        for flight in flights.filter(|flight| flight.id == id) {
            flight.keepers = flight.keepers.saturating_sub(1);
        }
        self.sweep(object);
    }

    /// Takes off the list what ended and nobody keeps.
    fn sweep(&mut self, object: ObjectId) {
        if let Some(flights) = self.by_object.get_mut(&object) {
            flights.retain(|flight| !flight.ended || flight.keepers > 0);
            if flights.is_empty() {
                self.by_object.remove(&object);
            }
        }
    }

    /// True where a request for the object is under way.
    pub fn any(&self, object: ObjectId) -> bool {
        self.by_object.contains_key(&object)
    }

    /// Notes a new request.
    pub fn add(&mut self, object: ObjectId, range: Range<u64>) -> (u64, Arc<Cell>) {
        self.next_id += 1;
        let cell = Arc::new(Cell::default());
        self.by_object.entry(object).or_default().push(Flight {
            id: self.next_id,
            range,
            cell: cell.clone(),
            stale: false,
            keepers: 0,
            ended: false,
        });
        (self.next_id, cell)
    }

    /// Takes a request off the list whose bytes are stored or never will be, once nobody keeps it.
    pub fn remove(&mut self, object: ObjectId, id: u64) {
        let flights = self.by_object.get_mut(&object).into_iter().flatten();
        for flight in flights.filter(|flight| flight.id == id) {
            flight.ended = true;
        }
        self.sweep(object);
    }

    /// Takes a request off the list that failed, whoever keeps it: nobody joins it.
    pub fn failed(&mut self, object: ObjectId, id: u64) {
        let flights = self.by_object.get_mut(&object).into_iter().flatten();
        for flight in flights.filter(|flight| flight.id == id) {
            (flight.ended, flight.keepers) = (true, 0);
        }
        self.sweep(object);
    }

    /// True where the request is on the list and not stale.
    pub fn is_good(&self, object: ObjectId, id: u64) -> bool {
        self.of(object)
            .any(|flight| flight.id == id && !flight.stale)
    }

    /// Marks every request that touches `range`.
    pub fn distrust(&mut self, object: ObjectId, range: &Range<u64>) {
        for flight in self.by_object.get_mut(&object).into_iter().flatten() {
            flight.stale |= flight.touches(range);
        }
    }

    /// Lets nobody join the requests for an object any more; who waits for one still gets its bytes.
    pub fn forget(&mut self, object: ObjectId) {
        self.distrust(object, &(0..u64::MAX));
    }
}

/// Exactly the bytes of `range`, whatever the store does.
pub(crate) async fn get_exact(
    store: &dyn RemoteStore,
    moves: &Moves,
    object: &Object,
    range: Range<u64>,
) -> Result<Bytes> {
    let mut key = moves.now(&object.file.key);
    let expected = range.end - range.start;
    let bytes = loop {
        match store.get_range(&key, range.clone()).await {
            // Its original may go as soon as it has moved: between the look and the request, too.
            Err(e) if e.is_not_found() && moves.now(&object.file.key) != key => {
                key = moves.now(&object.file.key);
            }
            result => break result?,
        }
    };
    if bytes.len() as u64 == expected {
        return Ok(bytes);
    }
    Err(Error::new(
        ErrorKind::Corruption,
        "read",
        key.as_str(),
        format!(
            "{} bytes came for the {expected} at offset {}",
            bytes.len(),
            range.start
        ),
    ))
}
