//! A request of a read, from its start until its bytes are handed on.

use std::sync::Arc;

use bytes::Bytes;
use lazurite_env::{Error, ErrorKind};

use super::{Cache, Object, fill::Job, flight::get_exact, geometry::PAGE_BYTES, plan::Launch};
use crate::stats::Counters;

/// A request under way. It ends exactly once, also where its task panics or the runtime ends: who waits gets an error.
pub(super) struct Landing {
    pub cache: Cache,
    pub object: Arc<Object>,
    /// The life of the object in the cache that is to have the bytes.
    pub number: Option<u64>,
    /// A get asked for it.
    pub is_get: bool,
    pub launch: Launch,
    pub rest: Bytes,
    pub done: bool,
}

impl Landing {
    pub async fn fly(mut self) {
        let inner = self.cache.0.clone();
        Counters::add(&inner.counters.remote_requests, 1);
        let range = self.launch.range.clone();
        let result = get_exact(&*inner.store, &inner.moves, &self.object, range).await;
        self.done = true;
        let Ok(bytes) = &result else {
            self.fail();
            self.launch.cell.set(result);
            return;
        };
        Counters::add(&inner.counters.remote_bytes, bytes.len() as u64);
        inner.budget.spend(bytes.len() as u64);
        let bytes = bytes.clone();
        match self.number {
            None => {
                let mut state = self.cache.state();
                state.flights.remove(self.object.id, self.launch.flight);
            }
            // This takes no longer than a push: the bytes are written by others, after the readers have them.
            Some(number) => {
                let range = &self.launch.range;
                let fills_page = range.end.is_multiple_of(PAGE_BYTES);
                self.cache.enqueue(Job {
                    object: self.object.clone(),
                    number,
                    flight: self.launch.flight,
                    is_get: self.is_get,
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

    /// Nobody joins a request that failed.
    fn fail(&self) {
        let mut state = self.cache.state();
        state.flights.failed(self.object.id, self.launch.flight);
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        if !self.done {
            self.fail();
            let why =
                "the request ended without a result: it panicked, or the I/O threads were stopped";
            let key = self.object.file.key.as_str();
            let error = Error::new(ErrorKind::Panicked, "read", key, why);
            self.launch.cell.set(Err(error));
        }
    }
}
