//! [`Rig`]: a tiny state whose store and disk break as one plan says, and what must hold after they did.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lazurite::{
    DownloadOptions, Durability, Restore, Result, RocksDbOptions, SnapshotOptions, SnapshotStore,
    StateBackend, StateBackendBuilder,
};
use lazurite_env::{
    Env, FaultEnv, FaultPlan, IoRuntime, PosixEnv,
    remote::{FaultStore, MemoryStore, RemoteStore},
};
use tempfile::TempDir;

use crate::model::{Model, check, write};

/// Bytes of a value.
pub const LEN: usize = 40;

/// The threads of all rigs: one set for the whole run.
pub static RUNTIME: LazyLock<IoRuntime> = LazyLock::new(|| IoRuntime::new(2).expect("I/O threads"));

/// Many background threads of RocksDB, which all databases of a process share and the most demanding one decides on: a job
/// that failed sleeps for a second before it gives its thread back.
static BACKGROUND_THREADS: LazyLock<()> = LazyLock::new(|| {
    let temp = fast_tempdir();
    let options = RocksDbOptions {
        background_jobs: 64,
        ..RocksDbOptions::default()
    };
    let backend = StateBackend::builder(temp.path())
        .io_runtime(RUNTIME.clone())
        .remote_store(Arc::new(MemoryStore::new()))
        .rocksdb(options)
        .open();
    backend.expect("an empty state");
});

/// A temporary directory in memory where the machine has one, since these tests sync thousands of files.
pub fn fast_tempdir() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    made.expect("a temporary directory")
}

/// Options for a tiny state: few threads, short waits.
pub fn tiny(dir: &Path) -> StateBackendBuilder {
    LazyLock::force(&BACKGROUND_THREADS);
    StateBackend::builder(dir)
        .job("job")
        .io_runtime(RUNTIME.clone())
        .snapshot_timeout(Duration::from_secs(30))
        .transfer_threads(2)
        .download(DownloadOptions {
            parallel_files: 2,
            first_backoff: Duration::from_millis(1),
            ..DownloadOptions::default()
        })
        .min_free_disk_bytes(0)
        .rocksdb(RocksDbOptions {
            block_cache_bytes: 1 << 20,
            write_buffer_bytes: 1 << 20,
            block_bytes: 1 << 10,
            background_jobs: 2,
            cold_read_threads: 4,
            ..RocksDbOptions::default()
        })
}

/// A store, a local directory, and one plan that breaks either.
pub struct Rig {
    /// Breaks operations. Disabled while a scenario is prepared and while its outcome is checked.
    pub plan: Arc<FaultPlan>,
    /// What lies in the store, never broken.
    pub store: MemoryStore,
    /// For all backends of this rig.
    pub durability: Durability,
    /// What each snapshot that was ever tried holds, complete or not.
    models: Mutex<BTreeMap<u64, Model>>,
    /// The newest snapshot that was acknowledged.
    acknowledged: Mutex<u64>,
    /// What the local directory must hold where it is more than the newest snapshot.
    kept: Mutex<Option<Model>>,
    temp: TempDir,
}

impl Rig {
    /// An empty store and no local directory.
    pub fn new(durability: Durability) -> Self {
        let plan = FaultPlan::new();
        plan.disable();
        Rig {
            plan,
            store: MemoryStore::new(),
            durability,
            models: Mutex::default(),
            acknowledged: Mutex::default(),
            kept: Mutex::default(),
            temp: fast_tempdir(),
        }
    }

    /// A rig of its own that holds what this one holds now, the local directory included. No backend may be open.
    pub fn fork(&self) -> Self {
        let fork = Rig {
            store: self.store.fork(),
            models: Mutex::new(lock(&self.models).clone()),
            acknowledged: Mutex::new(*lock(&self.acknowledged)),
            kept: Mutex::new(lock(&self.kept).clone()),
            ..Rig::new(self.durability)
        };
        if self.dir().exists() {
            copy_dir(&self.dir(), &fork.dir());
        }
        fork
    }

    /// The directory that the faults befall.
    pub fn dir(&self) -> PathBuf {
        self.temp.path().join("local")
    }

    /// A builder over the store and the disk that break.
    pub fn builder(&self) -> StateBackendBuilder {
        let env: Arc<dyn Env> = Arc::new(PosixEnv);
        let store: Arc<dyn RemoteStore> = Arc::new(self.store.clone());
        tiny(&self.dir())
            .durability(self.durability)
            .env(Arc::new(FaultEnv::new(env, self.plan.clone())))
            .remote_store(Arc::new(FaultStore::new(store, self.plan.clone())))
    }

    /// Takes a snapshot that must hold `model` if it comes to exist.
    pub fn snapshot(&self, backend: &StateBackend, model: &Model) -> Result<u64> {
        let pending = backend.snapshot(SnapshotOptions::new())?;
        let id = pending.id();
        lock(&self.models).insert(id, model.clone());
        let report = pending.wait()?;
        assert_eq!(report.id, id);
        *lock(&self.acknowledged) = id;
        Ok(id)
    }

    /// From now on the directory itself must hold `model`, whatever the snapshots hold.
    pub fn keep(&self, model: &Model) {
        *lock(&self.kept) = Some(model.clone());
    }

    /// What must hold after any fault, now that there are none any more. Panics where it does not.
    pub(crate) fn check_after(&self) {
        let before = self.store.keys();
        let newest = self.check_store();
        let expected = match lock(&self.kept).clone() {
            Some(model) => model,
            None => newest,
        };
        let backend = self
            .builder()
            .open()
            .expect("the same directory opens again");
        check(&backend, &expected).expect("the directory that saw the fault can be read");
        backend
            .wait_until_local()
            .expect("everything comes to the disk");
        check(&backend, &expected).expect("the directory that saw the fault can be read");
        let mut model = expected;
        write(&backend, &mut model, 30..35, [36], 99, LEN).expect("writes go on");
        self.snapshot(&backend, &model).expect("snapshots go on");
        check(&backend, &model).expect("reads go on");
        drop(backend);
        let listed = self.listed();
        assert_eq!(listed.len(), 1, "one snapshot is retained: {listed:?}");
        assert_eq!(self.models_of(&listed), [model]);
        assert_ne!(self.store.keys(), before);
    }

    fn models_of(&self, ids: &[u64]) -> Vec<Model> {
        let models = lock(&self.models);
        ids.iter().map(|id| models[id].clone()).collect()
    }

    fn listed(&self) -> Vec<u64> {
        let snapshots = SnapshotStore::new(Arc::new(self.store.clone()), RUNTIME.clone());
        let listed = snapshots.list("job").expect("the store can be listed");
        listed.into_iter().map(|(id, _)| id).collect()
    }

    /// Each listed snapshot is whole and holds what it should. Gives what the newest holds.
    fn check_store(&self) -> Model {
        let store: Arc<dyn RemoteStore> = Arc::new(self.store.clone());
        let snapshots = SnapshotStore::new(store.clone(), RUNTIME.clone());
        let mut newest = (0, Model::new());
        for (id, metadata) in snapshots.list("job").expect("the store can be listed") {
            let metadata = metadata.expect("a listed snapshot can be read");
            let findings = snapshots.verify(&metadata, &|_| {}).expect("verify");
            assert!(findings.is_empty(), "snapshot {id}: {findings:?}");
            let model = lock(&self.models).get(&id).cloned();
            let model = model.expect("a snapshot that somebody asked for");
            let dir = fast_tempdir();
            let backend = tiny(dir.path())
                .remote_store(store.clone())
                .restore(Restore::Snapshot(id))
                .open()
                .expect("a listed snapshot can be restored");
            check(&backend, &model).expect("a restored snapshot can be read");
            newest = (id, model);
        }
        let acknowledged = *lock(&self.acknowledged);
        assert!(
            newest.0 >= acknowledged,
            "snapshot {acknowledged} is gone, {} is the newest",
            newest.0
        );
        newest.1
    }
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("a new directory");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("its entry");
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_dir(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).expect("a copy");
        }
    }
}

/// Nothing panics half-way through a change of what these guard.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
