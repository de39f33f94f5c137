//! Fail the i-th operation, for every i: the loop, and what must hold after each fault.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use lazurite::{
    DownloadOptions, Durability, Error, Restore, Result, RocksDbOptions, SnapshotOptions,
    SnapshotStore, StateBackend, StateBackendBuilder,
};
use lazurite_env::{
    Effect, Env, ErrorKind, FaultEnv, FaultPlan, IoRuntime, Op, PosixEnv,
    remote::{FaultStore, MemoryStore, RemoteStore},
};
use tempfile::TempDir;

use crate::{
    model::{Model, check, write},
    watchdog::within,
};

/// The longest that one scenario, with one fault in it, may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Scenarios of one sweep that run at once.
const WORKERS: usize = 8;

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
            keep_free_bytes: 0,
            first_backoff: Duration::from_millis(1),
            ..DownloadOptions::default()
        })
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
    /// Whether scenarios begin with table files, which RocksDB then opens in the background.
    opens_files: bool,
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
            opens_files: false,
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
            opens_files: true,
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
    fn check_after(&self) {
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Which operations a sweep breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ops {
    /// Those of the store.
    Remote,
    /// Those by which the store is asked for one object.
    Lookups,
    /// Those of the local disk.
    Local,
}

impl Ops {
    fn accepts(self, op: Op) -> bool {
        match self {
            Ops::Remote => op.is_remote(),
            Ops::Lookups => matches!(op, Op::Get | Op::GetRange | Op::ObjectLen),
            Ops::Local => !op.is_remote(),
        }
    }
}

/// One way to break operations.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// The i-th alone.
    Once(Effect),
    /// The i-th and all after it, until the scenario ended.
    From(Effect),
}

/// What a sweep did.
#[derive(Debug, Clone, Copy, Default)]
pub struct Swept {
    /// Scenarios in which a fault was injected: one for each operation.
    pub injected: u64,
    /// Those of them that ended in an error.
    pub errors: u64,
}

/// Prepares a scenario without faults, runs it with the i-th operation that `ops` accepts broken, and checks all that must
/// hold after; for every i from 0 until the scenario has no i-th operation. Several i at once, each with a rig of its own:
/// most of the time is spent where RocksDB sleeps after an error.
///
/// `run` gives `Err` for an error that the engine showed, and panics where an answer was wrong.
pub fn sweep<S>(
    name: &str,
    ops: Ops,
    fault: Fault,
    prepare: impl Fn() -> (Rig, S) + Sync,
    run: impl Fn(&Rig, S) -> Result<()> + Sync,
) -> Swept {
    let (next, ended) = (AtomicU64::new(0), AtomicBool::new(false));
    let swept = Mutex::new(Swept::default());
    let work = || {
        let _end = EndOnPanic(&ended);
        while !ended.load(Ordering::SeqCst) {
            let i = next.fetch_add(1, Ordering::SeqCst);
            let what = format!("{name}: {fault:?} at operation {i} of {ops:?}");
            let (injected, error) = hit(&what, ops, fault, i, &prepare, &run);
            let mut swept = lock(&swept);
            swept.injected += u64::from(injected);
            swept.errors += u64::from(error);
            if !injected {
                ended.store(true, Ordering::SeqCst);
            }
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            if let Err(panic) = worker.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
    let swept = *lock(&swept);
    println!("{name}, {ops:?}, {fault:?}: {swept:?}");
    swept
}

/// One scenario with one fault. Says whether the fault was injected, and whether an error showed.
fn hit<S>(
    what: &str,
    ops: Ops,
    fault: Fault,
    i: u64,
    prepare: &impl Fn() -> (Rig, S),
    run: &impl Fn(&Rig, S) -> Result<()>,
) -> (bool, bool) {
    let (rig, state) = prepare();
    let opens_files = rig.opens_files;
    rig.plan.set_filter(
        move |op: Op| ops.accepts(op) && !(opens_files && is_background_open(op)),
        "",
    );
    match fault {
        Fault::Once(effect) => rig.plan.fail_nth(i, effect),
        Fault::From(effect) => rig.plan.fail_from(i, effect),
    }
    let report = Report {
        what: what.to_owned(),
        plan: rig.plan.clone(),
    };
    rig.plan.enable();
    let outcome = within(LIMIT, what, || run(&rig, state));
    rig.plan.disable();
    let injected = rig.plan.injected() > 0;
    if let Err(error) = &outcome {
        assert!(injected, "an error without a fault: {error}");
        check_error(error, fault);
    }
    within(LIMIT, &format!("after {what}"), || rig.check_after());
    drop(report);
    (injected, outcome.is_err())
}

struct EndOnPanic<'a>(&'a AtomicBool);

impl Drop for EndOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::SeqCst);
        }
    }
}

/// True for what RocksDB's thread does that opens the table files behind an open. An error there that is not temporary
/// makes RocksDB 11.8.1 hang when it closes: a test of its own says so, `a_failed_background_open_does_not_hang`.
fn is_background_open(op: Op) -> bool {
    matches!(op, Op::OpenRandom | Op::Read | Op::FileLen | Op::Prefetch)
        && std::fs::read_to_string("/proc/thread-self/comm")
            .is_ok_and(|name| name.starts_with("rocksdb:high"))
}

/// An error must say what went wrong, and whether to try again.
fn check_error(error: &Error, fault: Fault) {
    let (Fault::Once(effect) | Fault::From(effect)) = fault;
    let text = error.to_string();
    let kind = match effect {
        Effect::Fail(ErrorKind::NotFound) => {
            let denied =
                text.contains("the store lists this object, but says that it is not there");
            assert!(text.contains("job/"), "it names no object: {text}");
            assert_eq!(error.is_temporary(), denied, "{text}");
            return;
        }
        Effect::Fail(kind) | Effect::FailAfter(kind) | Effect::Torn(kind) => kind,
        // What was read is wrong.
        Effect::Short | Effect::Corrupt => {
            let damage = match error {
                Error::SnapshotCorrupt { .. } | Error::LocalDirectory { .. } => true,
                Error::Env(error) => error.kind() == ErrorKind::Corruption,
                Error::RocksDb { kind, .. } => *kind == ErrorKind::Corruption,
                _ => false,
            };
            assert!(damage && !error.is_temporary(), "{error:?}");
            return;
        }
        Effect::Delay(_) => panic!("a delay is no error: {text}"),
    };
    if text.contains("CURRENT could not be opened, and could a moment later") {
        return; // RocksDB keeps no more of it than that.
    }
    assert!(
        text.contains("injected by a fault plan"),
        "the cause is lost: {text}"
    );
    assert_eq!(
        error.is_temporary(),
        kind == ErrorKind::Unavailable,
        "{text}"
    );
}

/// Says which fault it was when a check fails.
struct Report {
    what: String,
    plan: Arc<FaultPlan>,
}

impl Drop for Report {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("*** {}: {:?}", self.what, self.plan.injections().first());
        }
    }
}
