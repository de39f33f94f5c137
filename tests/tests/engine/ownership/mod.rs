//! Jobs that begin with what others wrote: whose it is, what is copied, and who deletes what.

mod claim;
mod no_claim;
mod savepoints;
mod subtasks;

use std::{collections::BTreeMap, path::Path, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use lazurite::{
    ClaimMode, Durability, Error, FsckOptions, GcOptions, LoadPolicy, Restore, SnapshotOptions,
    SnapshotPath, SnapshotReport, SnapshotStore, StateBackend, StateBackendBuilder,
};
use lazurite_env::{
    Result as EnvResult,
    remote::{
        Capabilities, CommitPrimitive, CopyKind, CountingStore, Key, Listed, MemoryStore,
        ObjectWriter, RemoteStore, RequestKind,
    },
};
use lazurite_tests::rig::{RUNTIME, fast_tempdir};

use crate::rescale::{Model, all, builder, check, options, write};

/// A store that several jobs use.
struct World {
    inner: MemoryStore,
    store: CountingStore,
}

impl World {
    fn new() -> Self {
        Self::of(MemoryStore::new())
    }

    fn of(inner: MemoryStore) -> Self {
        let store = CountingStore::new(Arc::new(inner.clone()));
        World { inner, store }
    }

    fn snapshots(&self) -> SnapshotStore {
        SnapshotStore::new(Arc::new(self.inner.clone()), RUNTIME.clone())
    }

    /// A backend of `job`; it compacts when it is asked to.
    fn builder(&self, dir: &Path, job: &str) -> StateBackendBuilder {
        builder(dir, &self.store, all())
            .job(job)
            .copy_ahead(false)
            .rocksdb(options(false))
    }

    /// The objects below `dir`, with their bytes.
    fn below(&self, dir: &str) -> BTreeMap<String, Bytes> {
        let keys = self.inner.keys().into_iter();
        keys.filter(|key| key.starts_with(&format!("{dir}/")))
            .map(|key| {
                let (store, of) = (self.inner.clone(), Key::new(key.clone()).unwrap());
                let bytes = RUNTIME.wait(async move { store.get(&of).await });
                (key, bytes.unwrap())
            })
            .collect()
    }

    fn put(&self, key: &str, bytes: Bytes) {
        let (store, key) = (self.inner.clone(), Key::new(key).unwrap());
        let put = async move { store.put(&key, bytes).await };
        RUNTIME.wait(put).unwrap();
    }

    /// Deletes all below `dir`.
    fn delete(&self, dir: &str) {
        for key in self.below(dir).into_keys() {
            let (store, key) = (self.inner.clone(), Key::new(key).unwrap());
            let delete = async move { store.delete(&key).await };
            RUNTIME.wait(delete).unwrap();
        }
    }

    fn remove(&self, key: &str) {
        let (store, key) = (self.inner.clone(), Key::new(key).unwrap());
        let delete = async move { store.delete(&key).await };
        RUNTIME.wait(delete).unwrap();
    }

    /// Two snapshots of the job `old`, both retained; what each holds, and the backend, which still runs.
    fn old(&self) -> (Vec<Model>, StateBackend, tempfile::TempDir) {
        self.old_of(4_000)
    }

    fn old_of(&self, keys: u32) -> (Vec<Model>, StateBackend, tempfile::TempDir) {
        let dir = fast_tempdir();
        let backend = self.builder(dir.path(), "old").retained_snapshots(2);
        let backend = backend.open().unwrap();
        let (mut model, mut models) = (Model::new(), Vec::new());
        for version in 0..6 {
            write(&backend, &mut model, 0..keys, version);
            backend.flush().unwrap();
            if version > 3 {
                snapshot(&backend);
                models.push(model.clone());
            }
        }
        (models, backend, dir)
    }

    /// Removes what no snapshot needs, however young; how many objects that were. Nothing is found wrong, before or after.
    fn gc(&self) -> u64 {
        let options = GcOptions {
            min_age: std::time::Duration::ZERO,
            delete: true,
            ..GcOptions::default()
        };
        let found = self.snapshots().gc(&options).unwrap();
        assert!(found.is_ok(), "{found:?}");
        let report = self.snapshots().fsck(&FsckOptions::default(), &|_| ());
        let report = report.unwrap();
        assert!(report.is_ok(), "{:?}", report.damages);
        found.jobs.iter().map(|job| job.deleted.objects).sum()
    }

    /// The complete snapshots of `job` are whole.
    fn check_snapshots(&self, job: &str) -> Vec<u64> {
        let snapshots = self.snapshots();
        let listed = snapshots.list(job).unwrap().into_iter();
        listed
            .map(|(id, metadata)| {
                let found = snapshots.verify(&metadata.unwrap(), &|_| ()).unwrap();
                assert!(found.is_empty(), "{job}/chk-{id}: {found:?}");
                id
            })
            .collect()
    }
}

fn snapshot(backend: &StateBackend) -> SnapshotReport {
    let pending = backend.snapshot(SnapshotOptions::new()).unwrap();
    pending.wait().unwrap()
}

fn path(text: &str) -> SnapshotPath {
    text.parse().unwrap()
}

/// A store that cannot copy by itself.
#[derive(Debug, Clone)]
struct Streaming(MemoryStore);

#[async_trait]
impl RemoteStore for Streaming {
    fn uri(&self) -> &str {
        self.0.uri()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            copy: CopyKind::Streamed,
            commit: CommitPrimitive::ConditionalPut,
        }
    }

    async fn get(&self, key: &Key) -> EnvResult<Bytes> {
        self.0.get(key).await
    }

    async fn get_range(&self, key: &Key, range: std::ops::Range<u64>) -> EnvResult<Bytes> {
        self.0.get_range(key, range).await
    }

    async fn put(&self, key: &Key, bytes: Bytes) -> EnvResult<()> {
        self.0.put(key, bytes).await
    }

    async fn put_if_absent(&self, key: &Key, bytes: Bytes) -> EnvResult<()> {
        self.0.put_if_absent(key, bytes).await
    }

    async fn writer(&self, key: &Key) -> EnvResult<Box<dyn ObjectWriter>> {
        self.0.writer(key).await
    }

    async fn len(&self, key: &Key) -> EnvResult<u64> {
        self.0.len(key).await
    }

    async fn list(&self, prefix: Option<&Key>) -> EnvResult<Vec<Listed>> {
        self.0.list(prefix).await
    }

    async fn delete(&self, key: &Key) -> EnvResult<()> {
        self.0.delete(key).await
    }
}
