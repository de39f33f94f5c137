//! A remote store in memory, for the tests of this crate: it counts requests, can hold them back, and can lie.

use std::{
    collections::{BTreeMap, HashSet},
    ops::Range,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use lazurite_env::{
    Error, ErrorKind, Result,
    remote::{Capabilities, CommitPrimitive, CopyKind, Key, Listed, ObjectWriter, RemoteStore},
};
use tokio::sync::Semaphore;

use crate::sync::lock;

#[derive(Debug)]
pub struct TestStore {
    objects: Mutex<BTreeMap<Key, Bytes>>,
    /// Every ranged GET.
    requests: Mutex<Vec<(Key, Range<u64>)>>,
    /// A GET takes a permit and gives it back: with none, all wait.
    gate: Semaphore,
    /// Keys whose GETs panic.
    pub poisoned: Mutex<HashSet<Key>>,
    /// Keys whose GETs fail, temporarily.
    pub away: Mutex<HashSet<Key>>,
    /// So many GETs fail, temporarily.
    pub outage: AtomicU64,
    /// GETs bring one byte less than asked for.
    pub short: AtomicU64,
}

const OPEN: usize = Semaphore::MAX_PERMITS;

impl TestStore {
    pub fn new() -> Self {
        TestStore {
            objects: Mutex::default(),
            requests: Mutex::default(),
            gate: Semaphore::new(OPEN),
            poisoned: Mutex::default(),
            away: Mutex::default(),
            outage: AtomicU64::new(0),
            short: AtomicU64::new(0),
        }
    }

    pub fn insert(&self, key: &Key, bytes: Bytes) {
        lock(&self.objects).insert(key.clone(), bytes);
    }

    /// Flips one bit of an object.
    pub fn damage(&self, key: &Key, at: usize) {
        let mut objects = lock(&self.objects);
        let mut bytes = objects[key].to_vec();
        bytes[at] ^= 1;
        objects.insert(key.clone(), bytes.into());
    }

    /// The ranged GETs since the last call.
    pub fn take_requests(&self) -> Vec<(Key, Range<u64>)> {
        std::mem::take(&mut lock(&self.requests))
    }

    pub fn close_gate(&self) {
        self.gate.forget_permits(OPEN);
    }

    pub fn open_gate(&self) {
        self.gate.add_permits(OPEN - self.gate.available_permits());
    }
}

fn refuse<T>(operation: &'static str) -> Result<T> {
    Err(Error::new(
        ErrorKind::Unsupported,
        operation,
        "test store",
        "",
    ))
}

#[async_trait]
impl RemoteStore for TestStore {
    fn uri(&self) -> &str {
        "test://"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            copy: CopyKind::Streamed,
            commit: CommitPrimitive::ConditionalPut,
        }
    }

    async fn get(&self, _: &Key) -> Result<Bytes> {
        refuse("get")
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        lock(&self.requests).push((key.clone(), range.clone()));
        let _permit = self
            .gate
            .acquire()
            .await
            .expect("the gate is never closed for good");
        assert!(!lock(&self.poisoned).contains(key), "poisoned");
        let spend = |n: u64| n.checked_sub(1);
        let away = lock(&self.away).contains(key);
        if away || self.outage.fetch_update(SeqCst, SeqCst, spend).is_ok() {
            return Err(Error::new(
                ErrorKind::Unavailable,
                "get",
                key.as_str(),
                "outage",
            ));
        }
        let object = lock(&self.objects).get(key).cloned();
        let object =
            object.ok_or_else(|| Error::new(ErrorKind::NotFound, "get", key.as_str(), ""))?;
        if range.end > object.len() as u64 {
            return Err(Error::new(
                ErrorKind::Corruption,
                "get",
                key.as_str(),
                "past its end",
            ));
        }
        let short = self.short.load(SeqCst) as usize;
        Ok(object.slice(range.start as usize..range.end as usize - short))
    }

    async fn put(&self, key: &Key, bytes: Bytes) -> Result<()> {
        self.insert(key, bytes);
        Ok(())
    }

    async fn put_if_absent(&self, _: &Key, _: Bytes) -> Result<()> {
        refuse("put if absent")
    }

    async fn writer(&self, _: &Key) -> Result<Box<dyn ObjectWriter>> {
        refuse("write")
    }

    async fn len(&self, _: &Key) -> Result<u64> {
        refuse("length")
    }

    async fn list(&self, _: Option<&Key>) -> Result<Vec<Listed>> {
        refuse("list")
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        lock(&self.objects).remove(key);
        Ok(())
    }
}
