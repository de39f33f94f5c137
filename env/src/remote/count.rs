//! [`CountingStore`]: counts the requests that pass through it, and on demand records each.
//!
//! Counting costs a few relaxed atomic additions for each request. A request that was begun counts, however it ends; one
//! that failed, or whose future was dropped before its end, counts as an error too. [`RequestOutcome`] tells these apart.

use std::{
    fmt,
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{ErrorKind, Result};

use super::{Capabilities, Copied, Key, Listed, ObjectWriter, RemoteStore};

/// What kind of request was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RequestKind {
    /// `get`.
    Get,
    /// `get_range`; an empty range makes no request and is not counted.
    GetRange,
    /// `put`.
    Put,
    /// `put_if_absent`.
    PutIfAbsent,
    /// One `write` of a writer.
    Part,
    /// The `finish` or `abort` of a writer. Beginning one makes no request.
    Finish,
    /// `len`.
    Len,
    /// `list`.
    List,
    /// `delete`.
    Delete,
    /// `copy`: one, however many requests the store makes of it. What was streamed counts as received and as sent.
    Copy,
}

const KINDS: usize = 10;

impl RequestKind {
    /// Every kind.
    pub const ALL: [RequestKind; KINDS] = [
        RequestKind::Get,
        RequestKind::GetRange,
        RequestKind::Put,
        RequestKind::PutIfAbsent,
        RequestKind::Part,
        RequestKind::Finish,
        RequestKind::Len,
        RequestKind::List,
        RequestKind::Delete,
        RequestKind::Copy,
    ];

    /// The operation, as errors name it.
    pub fn name(self) -> &'static str {
        match self {
            RequestKind::Get => "get",
            RequestKind::GetRange => "get_range",
            RequestKind::Put => "put",
            RequestKind::PutIfAbsent => "put_if_absent",
            RequestKind::Part => "write",
            RequestKind::Finish => "finish",
            RequestKind::Len => "len",
            RequestKind::List => "list",
            RequestKind::Delete => "delete",
            RequestKind::Copy => "copy",
        }
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RequestOutcome {
    /// As asked.
    Ok,
    /// The object is not there, which is an answer.
    Missing,
    /// The object is there already, which is an answer.
    Exists,
    /// With any other error, retries included.
    Failed,
    /// Its caller gave it up: an abort, a deadline, the end of a download.
    Abandoned,
}

const OUTCOMES: usize = 5;

impl RequestOutcome {
    /// Every outcome.
    pub const ALL: [RequestOutcome; OUTCOMES] = [
        RequestOutcome::Ok,
        RequestOutcome::Missing,
        RequestOutcome::Exists,
        RequestOutcome::Failed,
        RequestOutcome::Abandoned,
    ];

    /// A word for it.
    pub fn name(self) -> &'static str {
        match self {
            RequestOutcome::Ok => "ok",
            RequestOutcome::Missing => "missing",
            RequestOutcome::Exists => "exists",
            RequestOutcome::Failed => "failed",
            RequestOutcome::Abandoned => "abandoned",
        }
    }

    fn of<T>(result: &Result<T>) -> Self {
        match result {
            Ok(_) => RequestOutcome::Ok,
            Err(error) => match error.kind() {
                ErrorKind::NotFound => RequestOutcome::Missing,
                ErrorKind::AlreadyExists => RequestOutcome::Exists,
                _ => RequestOutcome::Failed,
            },
        }
    }
}

/// Told of each request when it has ended, by the thread on which it did; must be quick.
pub type RequestObserver = Arc<dyn Fn(RequestKind, RequestOutcome, Duration) + Send + Sync>;

/// How often each kind of request was made, and what passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequestCounts {
    by_kind: [u64; KINDS],
    ended: [[u64; OUTCOMES]; KINDS],
    /// Requests that failed or were given up by their caller.
    pub errors: u64,
    /// Bytes of objects received.
    pub bytes_in: u64,
    /// Bytes of objects sent.
    pub bytes_out: u64,
}

impl RequestCounts {
    /// Requests of one kind.
    pub fn of(&self, kind: RequestKind) -> u64 {
        self.by_kind[kind as usize]
    }

    /// Requests of one kind that have ended so.
    pub fn ended(&self, kind: RequestKind, outcome: RequestOutcome) -> u64 {
        self.ended[kind as usize][outcome as usize]
    }

    /// Requests that read objects: whole, in part, or their length.
    pub fn reads(&self) -> u64 {
        self.of(RequestKind::Get) + self.of(RequestKind::GetRange) + self.of(RequestKind::Len)
    }

    /// All requests.
    pub fn total(&self) -> u64 {
        self.by_kind.iter().sum()
    }

    /// What was added since `earlier`, a snapshot of the same store.
    pub fn since(&self, earlier: &RequestCounts) -> RequestCounts {
        RequestCounts {
            by_kind: std::array::from_fn(|kind| self.by_kind[kind] - earlier.by_kind[kind]),
            ended: std::array::from_fn(|kind| {
                std::array::from_fn(|how| self.ended[kind][how] - earlier.ended[kind][how])
            }),
            errors: self.errors - earlier.errors,
            bytes_in: self.bytes_in - earlier.bytes_in,
            bytes_out: self.bytes_out - earlier.bytes_out,
        }
    }
}

/// One request, as the recording mode keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestRecord {
    /// What kind it was.
    pub op: RequestKind,
    /// The object's key; for `list` the prefix, empty for the store's own; for `copy` the copy's.
    pub key: String,
    /// When it began, since the recording was started.
    pub start: Duration,
    /// When it ended, since the recording was started.
    pub end: Duration,
    /// Bytes of the object that passed, either way.
    pub bytes: u64,
}

/// The longest chain of requests each of which began when the one before it had ended: how many times a link's latency
/// is paid one after another.
pub fn sequential_round_trips(records: &[RequestRecord]) -> usize {
    let mut by_end: Vec<_> = records.iter().map(|r| (r.end, r.start)).collect();
    by_end.sort_unstable();
    let mut chain = 0;
    let mut last_end = None;
    for (end, start) in by_end {
        if last_end.is_none_or(|last| start >= last) {
            chain += 1;
            last_end = Some(end);
        }
    }
    chain
}

/// Counts the requests to `inner`. Cloning gives a second handle to the same counters.
#[derive(Debug, Clone)]
pub struct CountingStore {
    inner: Arc<dyn RemoteStore>,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    by_kind: [AtomicU64; KINDS],
    ended: [[AtomicU64; OUTCOMES]; KINDS],
    errors: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    recording: AtomicBool,
    record: Mutex<Option<Recording>>,
    observer: Option<Observer>,
}

struct Observer(RequestObserver);

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}

#[derive(Debug)]
struct Recording {
    began: Instant,
    records: Vec<RequestRecord>,
}

impl CountingStore {
    /// Wraps `inner`, with all counters at 0.
    pub fn new(inner: Arc<dyn RemoteStore>) -> Self {
        CountingStore {
            inner,
            counters: Arc::default(),
        }
    }

    /// The same, and tells `observer` of each request.
    pub fn observed(inner: Arc<dyn RemoteStore>, observer: RequestObserver) -> Self {
        CountingStore {
            inner,
            counters: Arc::new(Counters {
                observer: Some(Observer(observer)),
                ..Counters::default()
            }),
        }
    }

    /// The counters now. Requests under way are counted, their bytes not yet.
    pub fn snapshot(&self) -> RequestCounts {
        let c = &*self.counters;
        RequestCounts {
            by_kind: std::array::from_fn(|kind| c.by_kind[kind].load(Relaxed)),
            ended: std::array::from_fn(|kind| {
                std::array::from_fn(|how| c.ended[kind][how].load(Relaxed))
            }),
            errors: c.errors.load(Relaxed),
            bytes_in: c.bytes_in.load(Relaxed),
            bytes_out: c.bytes_out.load(Relaxed),
        }
    }

    /// Begins to keep a record of each request that begins from now on, throwing away what was recorded before.
    pub fn start_recording(&self) {
        *self.lock() = Some(Recording {
            began: Instant::now(),
            records: Vec::new(),
        });
        self.counters.recording.store(true, Relaxed);
    }

    /// Ends the recording and gives what it holds, in the order in which requests ended. Empty where none was started.
    pub fn take_recording(&self) -> Vec<RequestRecord> {
        self.counters.recording.store(false, Relaxed);
        self.lock().take().map_or(Vec::new(), |r| r.records)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Recording>> {
        self.counters.lock()
    }

    async fn count<T>(
        &self,
        op: RequestKind,
        key: &str,
        request: impl Future<Output = Result<T>>,
        bytes: impl Fn(&T) -> u64,
    ) -> Result<T> {
        self.counters.count(op, key, request, bytes).await
    }
}

impl Counters {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Recording>> {
        // A vector that is only pushed to is never left half changed.
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn count<T>(
        &self,
        op: RequestKind,
        key: &str,
        request: impl Future<Output = Result<T>>,
        bytes: impl Fn(&T) -> u64,
    ) -> Result<T> {
        self.by_kind[op as usize].fetch_add(1, Relaxed);
        let mut underway = Underway {
            counters: self,
            op,
            key,
            start: Instant::now(),
            recorded: self.recording.load(Relaxed),
            outcome: RequestOutcome::Abandoned,
            bytes: None,
        };
        let result = request.await;
        underway.outcome = RequestOutcome::of(&result);
        underway.bytes = result.as_ref().ok().map(bytes);
        result
    }
}

/// One request; dropping it, at its end or before, settles the account.
struct Underway<'a> {
    counters: &'a Counters,
    op: RequestKind,
    key: &'a str,
    start: Instant,
    recorded: bool,
    outcome: RequestOutcome,
    bytes: Option<u64>,
}

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        match self.bytes {
            None => _ = self.counters.errors.fetch_add(1, Relaxed),
            Some(0) => {}
            Some(bytes) => {
                let (bytes_in, bytes_out) = match self.op {
                    RequestKind::Get | RequestKind::GetRange => (bytes, 0),
                    RequestKind::Copy => (bytes, bytes),
                    _ => (0, bytes),
                };
                self.counters.bytes_in.fetch_add(bytes_in, Relaxed);
                self.counters.bytes_out.fetch_add(bytes_out, Relaxed);
            }
        }
        let counters = self.counters;
        counters.ended[self.op as usize][self.outcome as usize].fetch_add(1, Relaxed);
        if let Some(Observer(observer)) = &counters.observer {
            observer(self.op, self.outcome, self.start.elapsed());
        }
        if !self.recorded {
            return;
        }
        let end = Instant::now();
        if let Some(recording) = &mut *self.counters.lock() {
            // One that began before this recording did is not part of it.
            if let Some(since) = self.start.checked_duration_since(recording.began) {
                recording.records.push(RequestRecord {
                    op: self.op,
                    key: self.key.to_owned(),
                    start: since,
                    end: end.duration_since(recording.began),
                    bytes: self.bytes.unwrap_or(0),
                });
            }
        }
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl RemoteStore for CountingStore {
    fn uri(&self) -> &str {
        self.inner.uri()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn get(&self, key: &Key) -> Result<Bytes> {
        let request = self.inner.get(key);
        self.count(RequestKind::Get, key.as_str(), request, |b| b.len() as u64)
            .await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        if range.is_empty() {
            return self.inner.get_range(key, range).await;
        }
        let request = self.inner.get_range(key, range);
        self.count(RequestKind::GetRange, key.as_str(), request, |b| {
            b.len() as u64
        })
        .await
    }

    async fn put(&self, key: &Key, bytes: Bytes) -> Result<()> {
        let len = bytes.len() as u64;
        let request = self.inner.put(key, bytes);
        self.count(RequestKind::Put, key.as_str(), request, |()| len)
            .await
    }

    async fn put_if_absent(&self, key: &Key, bytes: Bytes) -> Result<()> {
        let len = bytes.len() as u64;
        let request = self.inner.put_if_absent(key, bytes);
        self.count(RequestKind::PutIfAbsent, key.as_str(), request, |()| len)
            .await
    }

    async fn writer(&self, key: &Key) -> Result<Box<dyn ObjectWriter>> {
        Ok(Box::new(CountingWriter {
            inner: self.inner.writer(key).await?,
            key: key.clone(),
            counters: self.counters.clone(),
        }))
    }

    async fn len(&self, key: &Key) -> Result<u64> {
        let request = self.inner.len(key);
        self.count(RequestKind::Len, key.as_str(), request, |_| 0)
            .await
    }

    async fn list(&self, prefix: Option<&Key>) -> Result<Vec<Listed>> {
        let shown = prefix.map_or("", Key::as_str);
        let request = self.inner.list(prefix);
        self.count(RequestKind::List, shown, request, |_| 0).await
    }

    async fn list_likely(&self, prefix: &Key, likely: &[&str]) -> Result<Vec<Listed>> {
        let request = self.inner.list_likely(prefix, likely);
        self.count(RequestKind::List, prefix.as_str(), request, |_| 0)
            .await
    }

    async fn copy(&self, from: &Key, to: &Key, len: u64) -> Result<Copied> {
        let request = self.inner.copy(from, to, len);
        self.count(RequestKind::Copy, to.as_str(), request, |copied| {
            copied.streamed_bytes
        })
        .await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let request = self.inner.delete(key);
        self.count(RequestKind::Delete, key.as_str(), request, |()| 0)
            .await
    }
}

struct CountingWriter {
    inner: Box<dyn ObjectWriter>,
    key: Key,
    counters: Arc<Counters>,
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl ObjectWriter for CountingWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let len = bytes.len() as u64;
        let request = self.inner.write(bytes);
        let key = self.key.as_str();
        self.counters
            .count(RequestKind::Part, key, request, |()| len)
            .await
    }

    async fn finish(self: Box<Self>) -> Result<()> {
        let request = self.inner.finish();
        let key = self.key.as_str();
        self.counters
            .count(RequestKind::Finish, key, request, |()| 0)
            .await
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        let request = self.inner.abort();
        let key = self.key.as_str();
        self.counters
            .count(RequestKind::Finish, key, request, |()| 0)
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::{memory::MemoryStore, tests::Streaming};

    fn record(start: u64, end: u64) -> RequestRecord {
        RequestRecord {
            op: RequestKind::Get,
            key: String::new(),
            start: Duration::from_millis(start),
            end: Duration::from_millis(end),
            bytes: 0,
        }
    }

    #[test]
    fn chains_are_the_longest_ones() {
        assert_eq!(sequential_round_trips(&[]), 0);
        let parallel = [record(0, 10), record(1, 11), record(2, 12)];
        assert_eq!(sequential_round_trips(&parallel), 1);
        let mixed = [
            record(0, 100), // one long request beside three short ones
            record(0, 10),
            record(10, 20),
            record(30, 40),
            record(35, 45),
        ];
        assert_eq!(sequential_round_trips(&mixed), 3);
    }

    #[tokio::test]
    async fn every_end_of_a_request_is_counted_as_what_it_is_and_told() {
        let told: Arc<Mutex<Vec<_>>> = Arc::default();
        let listener = told.clone();
        let observer: RequestObserver = Arc::new(move |kind, outcome, _| {
            listener.lock().unwrap().push((kind, outcome));
        });
        let store = CountingStore::observed(Arc::new(MemoryStore::new()), observer);
        let key = Key::new("a").unwrap();
        store.get(&key).await.unwrap_err();
        store.put_if_absent(&key, Bytes::new()).await.unwrap();
        store.put_if_absent(&key, Bytes::new()).await.unwrap_err();
        store.get_range(&key, 0..1).await.unwrap_err();
        let waits = store.counters.count(
            RequestKind::List,
            "",
            std::future::pending::<Result<()>>(),
            |()| 0,
        );
        assert!(futures::poll!(Box::pin(waits)).is_pending());
        let ends = [
            (RequestKind::Get, RequestOutcome::Missing),
            (RequestKind::PutIfAbsent, RequestOutcome::Ok),
            (RequestKind::PutIfAbsent, RequestOutcome::Exists),
            (RequestKind::GetRange, RequestOutcome::Failed),
            (RequestKind::List, RequestOutcome::Abandoned),
        ];
        assert_eq!(*told.lock().unwrap(), ends);
        let counts = store.snapshot();
        for kind in RequestKind::ALL {
            for outcome in RequestOutcome::ALL {
                let expected = u64::from(ends.contains(&(kind, outcome)));
                assert_eq!(
                    counts.ended(kind, outcome),
                    expected,
                    "{kind:?} {outcome:?}"
                );
            }
        }
    }

    #[tokio::test]
    async fn counts_requests_bytes_and_errors() {
        let store = CountingStore::new(Arc::new(MemoryStore::new()));
        let key = Key::new("a").unwrap();
        store.get(&key).await.unwrap_err();
        store.put(&key, Bytes::from_static(b"12345")).await.unwrap();
        let before = store.snapshot();
        store.start_recording();
        store.get(&key).await.unwrap();
        store.get_range(&key, 1..3).await.unwrap();
        store.get_range(&key, 3..3).await.unwrap();
        let mut writer = store.writer(&key).await.unwrap();
        writer.write(Bytes::from_static(b"123")).await.unwrap();
        writer.finish().await.unwrap();
        let records = store.take_recording();
        let counts = store.snapshot().since(&before);
        assert_eq!(before.errors, 1);
        assert_eq!((counts.total(), counts.errors), (4, 0));
        assert_eq!((counts.bytes_in, counts.bytes_out), (7, 3));
        assert_eq!(records.len(), 4);
        assert_eq!(sequential_round_trips(&records), 4);
        assert!(store.take_recording().is_empty());
    }

    #[tokio::test]
    async fn a_copy_is_one_request_and_what_it_streamed() {
        let memory = MemoryStore::new();
        let (a, b) = (Key::new("a").unwrap(), Key::new("b").unwrap());
        memory.put(&a, Bytes::from_static(b"12345")).await.unwrap();
        let stores: [(Arc<dyn RemoteStore>, u64); 2] = [
            (Arc::new(memory.clone()), 0),
            (Arc::new(Streaming(Arc::new(memory))), 5),
        ];
        for (inner, bytes) in stores {
            let store = CountingStore::new(inner);
            store.start_recording();
            store.copy(&a, &b, 5).await.unwrap();
            let counts = store.snapshot();
            assert_eq!((counts.total(), counts.of(RequestKind::Copy)), (1, 1));
            assert_eq!((counts.bytes_in, counts.bytes_out), (bytes, bytes));
            let records = store.take_recording();
            assert_eq!((&*records[0].key, records[0].bytes), ("b", bytes));
            store.copy(&a, &b, 4).await.unwrap_err();
            let failed = (RequestKind::Copy, RequestOutcome::Failed);
            assert_eq!(store.snapshot().ended(failed.0, failed.1), 1);
        }
    }
}
