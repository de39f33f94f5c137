//! Ranged GETs that readers share: [`Fetcher`].
//!
//! * A range that lies inside one that is already on its way waits for that one: one request serves all.
//! * The request runs on the [`IoRuntime`]; the reader waits on a channel. No lock is held across I/O.
//! * A reader gets exactly the bytes that it asked for, or an error. There is no short read.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{
        Arc, Mutex,
        mpsc::{self, SyncSender},
    },
};

use bytes::Bytes;
use lazurite_env::{
    Error, ErrorKind, IoRuntime, PendingRead, Result,
    remote::{Key, RemoteStore},
};

use crate::{stats::Counters, sync::lock};

/// Neighbouring ranges are read in one request where at most this many bytes between them are read for nothing: far
/// less time than a request takes.
pub(crate) const MERGE_GAP_BYTES: u64 = 4 << 10;

/// No merged request is longer: beyond this, two requests at once are faster than one.
pub(crate) const MERGE_MAX_BYTES: u64 = 4 << 20;

#[derive(Debug, Clone)]
pub(crate) struct Fetcher {
    store: Arc<dyn RemoteStore>,
    runtime: IoRuntime,
    flights: Arc<Mutex<Flights>>,
    counters: Arc<Counters>,
}

/// The requests that are on their way.
#[derive(Debug, Default)]
struct Flights {
    next_id: u64,
    by_key: HashMap<Key, Vec<Flight>>,
}

#[derive(Debug)]
struct Flight {
    id: u64,
    range: Range<u64>,
    waiters: Vec<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    /// Inside the flight's range.
    range: Range<u64>,
    sender: SyncSender<Result<Bytes>>,
}

impl Fetcher {
    pub fn new(store: Arc<dyn RemoteStore>, runtime: IoRuntime, counters: Arc<Counters>) -> Self {
        Fetcher {
            store,
            runtime,
            flights: Arc::default(),
            counters,
        }
    }

    /// Begins to read `range` of `key`, or joins a request that will bring it. Returns at once. `range` is not empty.
    pub fn start(&self, key: &Key, range: Range<u64>) -> PendingRead {
        // One message is ever sent, so sending never blocks an I/O thread.
        let (sender, receiver) = mpsc::sync_channel(1);
        let waiter = Waiter {
            range: range.clone(),
            sender,
        };
        if let Some(landing) = self.board(key, waiter) {
            let (store, counters, key) = (self.store.clone(), self.counters.clone(), key.clone());
            self.runtime.spawn(async move {
                Counters::add(&counters.remote_requests, 1);
                let result = get_exact(&*store, &key, range).await;
                if let Ok(bytes) = &result {
                    Counters::add(&counters.remote_bytes, bytes.len() as u64);
                }
                landing.land(result);
            });
        }
        PendingRead::waiting(receiver)
    }

    /// Adds `waiter` to a flight that covers it; else begins a flight, whose landing is returned.
    fn board(&self, key: &Key, waiter: Waiter) -> Option<Landing> {
        let mut guard = lock(&self.flights);
        let flights = &mut *guard;
        let same_key = flights.by_key.entry(key.clone()).or_default();
        let covers = |flight: &&mut Flight| {
            flight.range.start <= waiter.range.start && waiter.range.end <= flight.range.end
        };
        if let Some(flight) = same_key.iter_mut().find(covers) {
            flight.waiters.push(waiter);
            return None;
        }
        let id = flights.next_id;
        flights.next_id += 1;
        same_key.push(Flight {
            id,
            range: waiter.range.clone(),
            waiters: vec![waiter],
        });
        Some(Landing {
            flights: self.flights.clone(),
            key: key.clone(),
            id,
        })
    }
}

/// Exactly the bytes of `range`, whatever the store does.
pub(crate) async fn get_exact(
    store: &dyn RemoteStore,
    key: &Key,
    range: Range<u64>,
) -> Result<Bytes> {
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

/// Ends a flight exactly once: also where its task panics or the runtime ends, its waiters then get an error.
struct Landing {
    flights: Arc<Mutex<Flights>>,
    key: Key,
    id: u64,
}

impl Landing {
    fn land(self, result: Result<Bytes>) {
        let Some(flight) = self.take() else { return };
        for waiter in flight.waiters {
            // Inside the flight, whose length was checked; a flight is held in memory, so it fits a usize.
            let begin = (waiter.range.start - flight.range.start) as usize;
            let end = (waiter.range.end - flight.range.start) as usize;
            // A waiter that has gone does not want it any more.
            let _ = waiter
                .sender
                .send(result.clone().map(|bytes| bytes.slice(begin..end)));
        }
    }

    /// Takes the flight off the list: from here on nobody can join it.
    fn take(&self) -> Option<Flight> {
        let mut flights = lock(&self.flights);
        let same_key = flights.by_key.get_mut(&self.key)?;
        let at = same_key.iter().position(|flight| flight.id == self.id)?;
        let flight = same_key.swap_remove(at);
        if same_key.is_empty() {
            flights.by_key.remove(&self.key);
        }
        Some(flight)
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        let Some(flight) = self.take() else { return };
        for waiter in flight.waiters {
            let why =
                "the request ended without a result: it panicked, or the I/O threads were stopped";
            let error = Error::new(ErrorKind::Panicked, "read", self.key.as_str(), why);
            let _ = waiter.sender.send(Err(error));
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
