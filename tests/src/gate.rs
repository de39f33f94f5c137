//! [`GateStore`]: a store that a test can shut, for all requests or for some.

use std::{
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use lazurite_env::{
    Error, ErrorKind, Result,
    remote::{Capabilities, Copied, Key, Listed, ObjectWriter, RemoteStore},
};
use tokio::sync::watch;

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Open,
    /// Requests that write an object whose key contains this wait until the gate opens.
    HoldWrites(String),
    /// Whole objects whose key contains this are not read until the gate opens.
    HoldReads(String),
    /// Every request fails, as one to a store that is away.
    Down,
}

/// Passes requests on to `inner`, unless it is told otherwise. Clones share the gate.
#[derive(Debug, Clone)]
pub struct GateStore {
    inner: Arc<dyn RemoteStore>,
    state: Arc<watch::Sender<State>>,
    held: Arc<AtomicU64>,
    refused: Arc<Mutex<Option<String>>>,
}

impl GateStore {
    /// An open gate before `inner`.
    pub fn new(inner: Arc<dyn RemoteStore>) -> Self {
        GateStore {
            inner,
            state: Arc::new(watch::Sender::new(State::Open)),
            held: Arc::default(),
            refused: Arc::default(),
        }
    }

    /// Lets everything pass, also what waits.
    pub fn open(&self) {
        self.state.send_replace(State::Open);
    }

    /// Makes requests that write an object whose key contains `part` wait for [`open`](Self::open).
    pub fn hold_writes(&self, part: &str) {
        self.state.send_replace(State::HoldWrites(part.to_owned()));
    }

    /// Makes reads of a whole object whose key contains `part` wait for [`open`](Self::open).
    pub fn hold_reads(&self, part: &str) {
        self.state.send_replace(State::HoldReads(part.to_owned()));
    }

    /// Fails every request as temporary.
    pub fn shut(&self) {
        self.state.send_replace(State::Down);
    }

    /// Fails every request for a key that contains `part` with an error that is not temporary; `None`: no request.
    pub fn refuse(&self, part: Option<&str>) {
        *self.refused.lock().unwrap() = part.map(str::to_owned);
    }

    /// Waits until a request waits at the gate.
    pub fn wait_until_held(&self) {
        while self.held.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
    }

    fn read(&self, key: &str) -> Result<()> {
        let refused = self.refused.lock().unwrap().clone();
        if refused.is_some_and(|part| key.contains(&part)) {
            return Err(Error::new(
                ErrorKind::PermissionDenied,
                "gate",
                key,
                "refused by the test",
            ));
        }
        match &*self.state.borrow() {
            State::Down => Err(Error::new(
                ErrorKind::Unavailable,
                "gate",
                key,
                "the store is down",
            )),
            _ => Ok(()),
        }
    }

    async fn write(&self, key: &str) -> Result<()> {
        self.pass(
            key,
            |state| matches!(state, State::HoldWrites(part) if key.contains(part.as_str())),
        )
        .await
    }

    async fn pass(&self, key: &str, holds: impl Fn(&State) -> bool) -> Result<()> {
        let mut state = self.state.subscribe();
        if holds(&state.borrow()) {
            self.held.fetch_add(1, Ordering::SeqCst);
            let held = Held(&self.held);
            let _ = state.wait_for(|state| !holds(state)).await;
            drop(held);
        }
        self.read(key)
    }
}

struct Held<'a>(&'a AtomicU64);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait::async_trait]
impl RemoteStore for GateStore {
    fn uri(&self) -> &str {
        self.inner.uri()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn get(&self, key: &Key) -> Result<Bytes> {
        self.pass(
            key.as_str(),
            |state| matches!(state, State::HoldReads(part) if key.as_str().contains(part.as_str())),
        )
        .await?;
        self.inner.get(key).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.read(key.as_str())?;
        self.inner.get_range(key, range).await
    }

    async fn put(&self, key: &Key, bytes: Bytes) -> Result<()> {
        self.write(key.as_str()).await?;
        self.inner.put(key, bytes).await
    }

    async fn put_if_absent(&self, key: &Key, bytes: Bytes) -> Result<()> {
        self.write(key.as_str()).await?;
        self.inner.put_if_absent(key, bytes).await
    }

    async fn writer(&self, key: &Key) -> Result<Box<dyn ObjectWriter>> {
        self.write(key.as_str()).await?;
        self.inner.writer(key).await
    }

    async fn len(&self, key: &Key) -> Result<u64> {
        self.read(key.as_str())?;
        self.inner.len(key).await
    }

    async fn list(&self, prefix: Option<&Key>) -> Result<Vec<Listed>> {
        self.read(prefix.map_or("", Key::as_str))?;
        self.inner.list(prefix).await
    }

    async fn list_likely(&self, prefix: &Key, likely: &[&str]) -> Result<Vec<Listed>> {
        self.read(prefix.as_str())?;
        self.inner.list_likely(prefix, likely).await
    }

    async fn copy(&self, from: &Key, to: &Key, len: u64) -> Result<Copied> {
        self.write(to.as_str()).await?;
        self.inner.copy(from, to, len).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.read(key.as_str())?;
        self.inner.delete(key).await
    }
}
