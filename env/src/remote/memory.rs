//! `memory://`: objects in a map of this process, for tests and for trying things out.
//!
//! Every operation takes one lock for as long as it needs to look something up, so each is atomic. A store with a name
//! lives as long as the process, and every `open` of that name gives the same one.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use crate::{Error, ErrorKind, Result};

use super::{
    Capabilities, CommitPrimitive, Copied, CopyKind, Key, Listed, ObjectWriter, RemoteStore,
    copy::{check_keys, check_len},
};

/// Bytes, and when they were put.
type Object = (Bytes, SystemTime);
type Objects = Arc<RwLock<BTreeMap<String, Object>>>;

static NAMED: LazyLock<Mutex<HashMap<String, Objects>>> = LazyLock::new(Mutex::default);

/// Objects in memory, gone with the last clone: the store that `memory://` names. Clones share the objects,
/// [`fork`](MemoryStore::fork) does not. Nothing is durable, no call blocks, and any thread may make it.
#[derive(Clone)]
pub struct MemoryStore {
    uri: String,
    objects: Objects,
}

impl MemoryStore {
    /// An empty store that has no name.
    pub fn new() -> Self {
        Self::open("memory://".into(), None)
    }

    /// A store of its own, without a name, that holds what this one holds at this instant: what a test of a crash finds.
    pub fn fork(&self) -> Self {
        MemoryStore {
            uri: "memory://".into(),
            objects: Arc::new(RwLock::new(self.read().clone())),
        }
    }

    /// The keys of all objects, in order.
    pub fn keys(&self) -> Vec<String> {
        self.read().keys().cloned().collect()
    }

    /// Makes an object seem to have been put earlier than it was, for tests of what depends on ages. False where there is no
    /// such object.
    pub fn age(&self, key: &str, by: Duration) -> bool {
        let mut objects = self.objects.write().unwrap_or_else(PoisonError::into_inner);
        let Some((_, modified)) = objects.get_mut(key) else {
            return false;
        };
        *modified = modified.checked_sub(by).unwrap_or(SystemTime::UNIX_EPOCH);
        true
    }

    /// The store of that name, or a new one that has none.
    pub(super) fn open(uri: String, name: Option<&str>) -> Self {
        let objects = match name {
            None => Objects::default(),
            Some(name) => {
                let mut named: MutexGuard<'_, _> =
                    NAMED.lock().unwrap_or_else(PoisonError::into_inner);
                named.entry(name.to_owned()).or_default().clone()
            }
        };
        MemoryStore { uri, objects }
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<String, Object>> {
        // Nothing panics while it holds the lock.
        self.objects.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn object(&self, operation: &'static str, key: &Key) -> Result<Bytes> {
        let found = self.read().get(key.as_str()).map(|of| of.0.clone());
        found.ok_or_else(|| self.error(ErrorKind::NotFound, operation, key))
    }

    fn insert(&self, key: &Key, bytes: Bytes) {
        let mut objects = self.objects.write().unwrap_or_else(PoisonError::into_inner);
        objects.insert(key.as_str().to_owned(), (bytes, SystemTime::now()));
    }

    fn error(&self, kind: ErrorKind, operation: &'static str, key: &Key) -> Error {
        Error::new(kind, operation, super::full_path(&self.uri, key), "")
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("MemoryStore").field(&self.uri).finish()
    }
}

#[async_trait]
impl RemoteStore for MemoryStore {
    fn uri(&self) -> &str {
        &self.uri
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            copy: CopyKind::Linked,
            commit: CommitPrimitive::ConditionalPut,
        }
    }

    async fn get(&self, key: &Key) -> Result<Bytes> {
        self.object("get", key)
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let object = self.object("get_range", key)?;
        if range.end > object.len() as u64 {
            return Err(super::too_short(
                super::full_path(&self.uri, key),
                &range,
                object.len() as u64,
            ));
        }
        Ok(object.slice(range.start as usize..range.end as usize))
    }

    async fn put(&self, key: &Key, bytes: Bytes) -> Result<()> {
        self.insert(key, bytes);
        Ok(())
    }

    async fn put_if_absent(&self, key: &Key, bytes: Bytes) -> Result<()> {
        use std::collections::btree_map::Entry;
        let mut objects = self.objects.write().unwrap_or_else(PoisonError::into_inner);
        match objects.entry(key.as_str().to_owned()) {
            Entry::Vacant(entry) => {
                entry.insert((bytes, SystemTime::now()));
                Ok(())
            }
            Entry::Occupied(_) => Err(self.error(ErrorKind::AlreadyExists, "put_if_absent", key)),
        }
    }

    async fn writer(&self, key: &Key) -> Result<Box<dyn ObjectWriter>> {
        Ok(Box::new(MemoryWriter {
            store: self.clone(),
            key: key.clone(),
            bytes: BytesMut::new(),
        }))
    }

    async fn len(&self, key: &Key) -> Result<u64> {
        self.object("len", key).map(|object| object.len() as u64)
    }

    async fn list(&self, prefix: Option<&Key>) -> Result<Vec<Listed>> {
        let prefix = prefix.map_or(String::new(), |p| format!("{p}/"));
        let mut found: BTreeMap<(String, bool), Listed> = BTreeMap::new();
        for (key, (object, modified)) in self.read().range(prefix.clone()..) {
            let Some(rest) = key.strip_prefix(&prefix) else {
                break;
            };
            let listed = match rest.split_once('/') {
                Some((name, _)) => Listed::Prefix { name: name.into() },
                None => Listed::Object {
                    name: rest.into(),
                    len: object.len() as u64,
                    modified: Some(*modified),
                },
            };
            found.insert(super::sort_key(&listed), listed);
        }
        Ok(found.into_values().collect())
    }

    async fn copy(&self, from: &Key, to: &Key, len: u64) -> Result<Copied> {
        check_keys(&self.uri, from, to)?;
        let object = self.object("copy", from)?;
        let path = super::full_path(&self.uri, from);
        check_len(path, len, object.len() as u64)?;
        self.insert(to, object);
        Ok(Copied::without_bytes(CopyKind::Linked))
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let mut objects = self.objects.write().unwrap_or_else(PoisonError::into_inner);
        objects.remove(key.as_str());
        Ok(())
    }
}

struct MemoryWriter {
    store: MemoryStore,
    key: Key,
    bytes: BytesMut,
}

#[async_trait]
impl ObjectWriter for MemoryWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<()> {
        self.store.insert(&self.key, self.bytes.freeze());
        Ok(())
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
