//! Fail the i-th operation, for every i: the loop, and what must hold after each fault.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lazurite::{
    DownloadOptions, Durability, Error, Restore, Result, RocksDbOptions, SnapshotOptions,
    SnapshotStore, StateBackend, StateBackendBuilder,
};
use lazurite_env::{
    Effect, Env, ErrorKind, FaultEnv, FaultPlan, IoRuntime, Op, PosixEnv,
    remote::{FaultStore, RemoteStore},
};
use tempfile::TempDir;

use crate::{
    fork::ForkStore,
    model::{Model, check, write},
    watchdog::within,
};

/// The longest that one scenario, with one fault in it, may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Bytes of a value.
pub const LEN: usize = 40;

/// The threads of all rigs: one set for the whole run.
pub static RUNTIME: LazyLock<IoRuntime> = LazyLock::new(|| IoRuntime::new(2).expect("I/O threads"));

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
    pub store: ForkStore,
    /// For all backends of this rig.
    pub durability: Durability,
    /// What each snapshot that was ever tried holds, complete or not.
    models: Mutex<BTreeMap<u64, Model>>,
    /// The newest snapshot that was acknowledged.
    acknowledged: Mutex<u64>,
    /// What the local directory must hold where it is more than the newest snapshot.
    kept: Mutex<Option<Model>>,
    /// Whether scenarios write to the store, which then has to be looked through after each.
    writes: bool,
    temp: TempDir,
}

impl Rig {
    /// An empty store and no local directory.
    pub fn new(durability: Durability) -> Self {
        let plan = FaultPlan::new();
        plan.disable();
        Rig {
            plan,
            store: ForkStore::default(),
            durability,
            models: Mutex::default(),
            acknowledged: Mutex::default(),
            kept: Mutex::default(),
            writes: true,
            temp: fast_tempdir(),
        }
    }

    /// A rig of its own that holds what this one holds now, the local directory included; for scenarios that write nothing
    /// to the store. No backend may be open.
    pub fn fork_to_read(&self) -> Self {
        let fork = Rig {
            store: self.store.fork(),
            models: Mutex::new(lock(&self.models).clone()),
            acknowledged: Mutex::new(*lock(&self.acknowledged)),
            kept: Mutex::new(lock(&self.kept).clone()),
            writes: false,
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

    /// What the newest snapshot that was acknowledged holds.
    pub fn newest(&self) -> Model {
        let models = lock(&self.models);
        models
            .get(&lock(&self.acknowledged))
            .cloned()
            .unwrap_or_default()
    }

    /// What must hold after any fault, now that there are none any more. Panics where it does not.
    fn check_after(&self) {
        let before = self.store.keys();
        let newest = if self.writes {
            self.check_store()
        } else {
            self.newest()
        };
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
pub enum Tier {
    /// Those of the store.
    Remote,
    /// Those of the local disk.
    Local,
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
#[derive(Debug, Clone, Copy)]
pub struct Swept {
    /// Scenarios in which a fault was injected: one for each operation.
    pub injected: u64,
    /// Those of them that ended in an error.
    pub errors: u64,
}

/// Prepares a scenario without faults, runs it with the i-th operation of `tier` broken, and checks all that must hold
/// after; for every `step`-th i from 0 until the scenario has no i-th operation.
///
/// `run` gives `Err` for an error that the engine showed, and panics where an answer was wrong.
pub fn sweep<S>(
    name: &str,
    tier: Tier,
    fault: Fault,
    step: usize,
    prepare: impl Fn() -> (Rig, S),
    run: impl Fn(&Rig, S) -> Result<()>,
) -> Swept {
    let mut swept = Swept {
        injected: 0,
        errors: 0,
    };
    for i in (0..).step_by(step) {
        let (rig, state) = prepare();
        let opens_files = !rig.writes;
        rig.plan.set_filter(
            move |op: Op| {
                op.is_remote() == (tier == Tier::Remote) && !(opens_files && is_background_open(op))
            },
            "",
        );
        match fault {
            Fault::Once(effect) => rig.plan.fail_nth(i, effect),
            Fault::From(effect) => rig.plan.fail_from(i, effect),
        }
        let what = format!("{name}: {fault:?} at operation {i} of the {tier:?} tier");
        let report = Report {
            what: what.clone(),
            plan: rig.plan.clone(),
        };
        rig.plan.enable();
        let outcome = within(LIMIT, &what, || run(&rig, state));
        rig.plan.disable();
        let injected = rig.plan.injected();
        if let Err(error) = &outcome {
            assert!(injected > 0, "an error without a fault: {error}");
            check_error(error, fault);
            swept.errors += 1;
        }
        within(LIMIT, &format!("after {what}"), || rig.check_after());
        drop(report);
        if injected == 0 {
            break;
        }
        swept.injected += 1;
    }
    println!("{name}, {fault:?}: {swept:?}");
    swept
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
    let kind = match effect {
        Effect::Fail(kind) | Effect::FailAfter(kind) | Effect::Torn(kind) => kind,
        // What was read is wrong, and trying again is the only thing that could help: nothing to be said by the kind.
        Effect::Short | Effect::Corrupt | Effect::Delay(_) => return,
    };
    let text = error.to_string();
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
