//! Requests on their way, and readers that share them.
//!
//! A request that fills the cache stays here after its bytes came, until they are stored: who asks meanwhile gets them from
//! memory. Waiting is on a plain condition variable, so any thread may wait.

use std::{
    collections::HashMap,
    fmt,
    ops::Range,
    sync::{Arc, Condvar, Mutex, PoisonError},
};

use bytes::Bytes;
use lazurite_env::{Error, ErrorKind, Result, remote::RemoteStore};

use super::{Object, ObjectId};
use crate::sync::lock;

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
}

#[derive(Debug, Default)]
pub(crate) struct Flights {
    next_id: u64,
    by_object: HashMap<ObjectId, Vec<Flight>>,
}

impl Flights {
    /// A request under way whose range covers `range`: where it begins, and its result.
    pub fn covering(&self, object: ObjectId, range: &Range<u64>) -> Option<(u64, Arc<Cell>)> {
        let covers = |flight: &&Flight| {
            !flight.stale && flight.range.start <= range.start && range.end <= flight.range.end
        };
        let flight = self.by_object.get(&object)?.iter().find(covers)?;
        Some((flight.range.start, flight.cell.clone()))
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
        });
        (self.next_id, cell)
    }

    /// Takes a request off the list; true where it was there and not stale.
    pub fn remove(&mut self, object: ObjectId, id: u64) -> bool {
        let Some(flights) = self.by_object.get_mut(&object) else {
            return false;
        };
        let Some(at) = flights.iter().position(|flight| flight.id == id) else {
            return false;
        };
        let flight = flights.swap_remove(at);
        if flights.is_empty() {
            self.by_object.remove(&object);
        }
        !flight.stale
    }

    /// True where the request is on the list and not stale.
    pub fn is_good(&self, object: ObjectId, id: u64) -> bool {
        self.by_object
            .get(&object)
            .into_iter()
            .flatten()
            .any(|flight| flight.id == id && !flight.stale)
    }

    /// Marks every request that touches `range`.
    pub fn distrust(&mut self, object: ObjectId, range: &Range<u64>) {
        for flight in self.by_object.get_mut(&object).into_iter().flatten() {
            flight.stale |= flight.range.start < range.end && range.start < flight.range.end;
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
    object: &Object,
    range: Range<u64>,
) -> Result<Bytes> {
    let key = &object.file.key;
    let expected = range.end - range.start;
    let bytes = store.get_range(key, range.clone()).await?;
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
