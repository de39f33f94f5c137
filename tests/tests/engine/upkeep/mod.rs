//! What is found and removed, and what is found to be damaged, in stores of several jobs.

mod fsck;
mod gc;
mod life;
mod strangers;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use lazurite::{
    GcOptions, GcReport, KeyGroupRange, Restore, RocksDbOptions, SnapshotOptions, SnapshotStore,
    StateBackend, StateBackendBuilder,
    snapshot::SnapshotMetadata,
    upkeep::{Count, JobObjects, ObjectKind},
};
use lazurite_env::{
    Effect, ErrorKind, FaultPlan, Op,
    remote::{FaultStore, Key, MemoryStore, RemoteStore},
};
use lazurite_tests::{
    model::{Model, check, write},
    rig::{LEN, RUNTIME, fast_tempdir, tiny},
};

/// Longer than the guard.
const OLD: Duration = Duration::from_secs(25 * 3600);

/// A store in memory with jobs in it, and what each snapshot holds.
#[derive(Default)]
struct Stored {
    store: MemoryStore,
    snapshots: Vec<(&'static str, u64, Model)>,
}

impl Stored {
    /// `a` with three snapshots that share files, and `b` with one.
    fn new() -> Self {
        let mut stored = Stored::default();
        stored.job("a", 3);
        stored.job("b", 1);
        stored
    }

    /// Adds a job with so many snapshots. Its process has ended.
    fn job(&mut self, job: &'static str, snapshots: u64) {
        let dir = fast_tempdir();
        let backend = self.backend(dir.path(), job).open().unwrap();
        let mut model = Model::new();
        for version in 0..snapshots {
            write(&backend, &mut model, 0..60, [], version, LEN).unwrap();
            backend.flush().unwrap();
            write(&backend, &mut model, 50..90, [version], version, LEN).unwrap();
            let pending = backend.snapshot(SnapshotOptions::new()).unwrap();
            let id = pending.wait().unwrap().id;
            self.snapshots.push((job, id, model.clone()));
        }
    }

    fn backend(&self, dir: &std::path::Path, job: &str) -> StateBackendBuilder {
        tiny(dir)
            .job(job)
            .retained_snapshots(4)
            .rocksdb(RocksDbOptions {
                block_cache_bytes: 1 << 20,
                write_buffer_bytes: 1 << 20,
                block_bytes: 1 << 10,
                // One that is due would leave the snapshots without a file in common.
                auto_compactions: false,
                ..RocksDbOptions::default()
            })
            .remote_store(Arc::new(self.store.clone()))
    }

    /// A snapshot of `job` that fails at its last step, in a process that then dies.
    fn fail_a_snapshot(&self, job: &str) {
        let plan = FaultPlan::new();
        plan.set_filter(|op| op == Op::PutIfAbsent, "");
        plan.fail_from(0, Effect::Fail(ErrorKind::PermissionDenied));
        let store: Arc<dyn RemoteStore> = Arc::new(self.store.clone());
        let dir = fast_tempdir();
        let backend = self
            .backend(dir.path(), job)
            .remote_store(Arc::new(FaultStore::new(store, plan)))
            .open()
            .unwrap();
        write(&backend, &mut Model::new(), 0..90, [], 77, LEN).unwrap();
        let pending = backend.snapshot(SnapshotOptions::new()).unwrap();
        pending.wait().unwrap_err();
    }

    fn tools(&self) -> SnapshotStore {
        tools(&self.store)
    }

    fn age_all(&self) {
        for key in self.store.keys() {
            assert!(self.store.age(&key, OLD));
        }
    }

    fn put(&self, key: &str, bytes: &[u8]) {
        let (store, key) = (self.store.clone(), Key::new(key).unwrap());
        let bytes = Bytes::copy_from_slice(bytes);
        RUNTIME
            .wait(async move { store.put(&key, bytes).await })
            .unwrap();
    }

    fn get(&self, key: &str) -> Vec<u8> {
        let (store, key) = (self.store.clone(), Key::new(key).unwrap());
        let read = RUNTIME.wait(async move { store.get(&key).await });
        read.unwrap().to_vec()
    }

    fn delete(&self, key: &str) {
        let (store, key) = (self.store.clone(), Key::new(key).unwrap());
        RUNTIME
            .wait(async move { store.delete(&key).await })
            .unwrap();
    }

    fn keys(&self) -> BTreeSet<String> {
        self.store.keys().into_iter().collect()
    }

    fn metadata(&self, job: &str, id: u64) -> SnapshotMetadata {
        self.tools().load(job, id).unwrap()
    }

    /// All that the snapshots need.
    fn needed(&self) -> BTreeSet<String> {
        needed(&self.tools())
    }

    /// Every snapshot is whole, and comes back as it was.
    fn check(&self) {
        for (job, id, model) in &self.snapshots {
            let findings = self.tools().verify(&self.metadata(job, *id), &|_| ());
            assert!(findings.unwrap().is_empty(), "{job} {id}");
            let dir = fast_tempdir();
            let backend = self
                .backend(dir.path(), job)
                .restore(Restore::Snapshot(*id));
            check(&backend.open().unwrap(), model).unwrap();
        }
    }

    fn gc(&self, delete: bool) -> GcReport {
        let options = GcOptions {
            delete,
            ..GcOptions::default()
        };
        self.tools().gc(&options).unwrap()
    }
}

fn tools(store: &MemoryStore) -> SnapshotStore {
    SnapshotStore::new(Arc::new(store.clone()), RUNTIME.clone())
}

/// The objects that a snapshot names.
fn objects(metadata: &SnapshotMetadata) -> BTreeSet<String> {
    let objects = metadata.subtasks.iter().flat_map(|state| {
        let files = state.files.iter().map(|f| f.key.clone());
        let tails = state.tails.iter().map(|t| t.key.clone());
        files.chain(tails).chain([state.manifest.key.clone()])
    });
    objects.collect()
}

/// All that complete snapshots need, told in the plainest way.
fn needed(tools: &SnapshotStore) -> BTreeSet<String> {
    let mut needed = BTreeSet::new();
    for job in tools.jobs().unwrap() {
        for (id, metadata) in tools.list(&job).unwrap() {
            needed.insert(format!("{job}/chk-{id}/_metadata"));
            needed.extend(objects(&metadata.unwrap()));
        }
    }
    needed
}

fn orphans(report: &GcReport) -> BTreeSet<String> {
    let orphans = report.jobs.iter().flat_map(|job| &job.objects.orphans);
    orphans.map(|orphan| orphan.key.clone()).collect()
}

fn of<'a>(report: &'a GcReport, job: &str) -> &'a JobObjects {
    let found = report.jobs.iter().find(|of| of.objects.job == job);
    &found.unwrap().objects
}

fn minus(all: &BTreeSet<String>, some: &BTreeSet<String>) -> BTreeSet<String> {
    all.difference(some).cloned().collect()
}
