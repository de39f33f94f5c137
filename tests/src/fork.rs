//! [`ForkStore`]: objects in memory that can be copied as of one instant, which is what a test of a crash needs to find in
//! the store what was there when the machine died.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use lazurite_env::{
    Error, ErrorKind, Result,
    remote::{Capabilities, CommitPrimitive, Key, Listed, ObjectWriter, RemoteStore},
};

type Objects = BTreeMap<String, Bytes>;

/// Objects in memory. Clones share them; [`fork`](ForkStore::fork) does not.
#[derive(Clone, Default)]
pub struct ForkStore(Arc<Mutex<Objects>>);

impl ForkStore {
    /// A store of its own that holds what this one holds now.
    pub fn fork(&self) -> ForkStore {
        ForkStore(Arc::new(Mutex::new(self.objects().clone())))
    }

    /// The keys of all objects.
    pub fn keys(&self) -> Vec<String> {
        self.objects().keys().cloned().collect()
    }

    fn objects(&self) -> MutexGuard<'_, Objects> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn object(&self, operation: &'static str, key: &Key) -> Result<Bytes> {
        let found = self.objects().get(key.as_str()).cloned();
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, operation, key.as_str(), ""))
    }
}

impl std::fmt::Debug for ForkStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ForkStore({} objects)", self.objects().len())
    }
}

#[async_trait]
impl RemoteStore for ForkStore {
    fn uri(&self) -> &str {
        "fork://"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            server_side_copy: false,
            commit: CommitPrimitive::ConditionalPut,
        }
    }

    async fn get(&self, key: &Key) -> Result<Bytes> {
        self.object("get", key)
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        let object = self.object("get_range", key)?;
        if range.end > object.len() as u64 {
            return Err(Error::new(
                ErrorKind::Corruption,
                "get_range",
                key.as_str(),
                "the object ends before the range does",
            ));
        }
        Ok(object.slice(range.start as usize..range.end as usize))
    }

    async fn put(&self, key: &Key, bytes: Bytes) -> Result<()> {
        self.objects().insert(key.to_string(), bytes);
        Ok(())
    }

    async fn put_if_absent(&self, key: &Key, bytes: Bytes) -> Result<()> {
        let mut objects = self.objects();
        if objects.contains_key(key.as_str()) {
            let kind = ErrorKind::AlreadyExists;
            return Err(Error::new(kind, "put_if_absent", key.as_str(), ""));
        }
        objects.insert(key.to_string(), bytes);
        Ok(())
    }

    async fn writer(&self, key: &Key) -> Result<Box<dyn ObjectWriter>> {
        Ok(Box::new(Writer {
            store: self.clone(),
            key: key.clone(),
            bytes: BytesMut::new(),
        }))
    }

    async fn len(&self, key: &Key) -> Result<u64> {
        self.object("len", key).map(|object| object.len() as u64)
    }

    async fn list(&self, prefix: Option<&Key>) -> Result<Vec<Listed>> {
        let prefix = prefix.map_or(String::new(), |prefix| format!("{prefix}/"));
        let mut listed = BTreeMap::new();
        for (key, object) in self.objects().iter() {
            let Some(rest) = key.strip_prefix(&prefix) else {
                continue;
            };
            let entry = match rest.split_once('/') {
                Some((name, _)) => Listed::Prefix { name: name.into() },
                None => Listed::Object {
                    name: rest.into(),
                    len: object.len() as u64,
                },
            };
            let name = rest.split('/').next().unwrap_or_default().to_owned();
            listed.insert(name, entry);
        }
        Ok(listed.into_values().collect())
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.objects().remove(key.as_str());
        Ok(())
    }
}

struct Writer {
    store: ForkStore,
    key: Key,
    bytes: BytesMut,
}

#[async_trait]
impl ObjectWriter for Writer {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<()> {
        let Writer { store, key, bytes } = *self;
        store.put(&key, bytes.freeze()).await
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
