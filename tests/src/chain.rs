//! [`run`]: the life of a state over many processes, against a model, and what the store holds at its end.
//!
//! Write, take a snapshot, come back with another parallelism and another load policy, die at a random request, begin anew as another
//! job that copies or claims, from a snapshot or from a savepoint. All of it follows from a seed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use lazurite::{
    ClaimMode, Coordinator, Error, FsckOptions, GcOptions, KeyGroupRange, LoadPolicy,
    MapStateDescriptor, Restore, Result, RocksDbOptions, SnapshotOptions, SnapshotPath,
    SnapshotStore, StateBackend, Subtask, ValueStateDescriptor, key_groups::range_for_operator,
};
use lazurite_env::{
    Effect, ErrorKind, FaultPlan, Op,
    remote::{FaultStore, Key, Listed, RemoteStore},
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use tempfile::TempDir;

use crate::rig::{RUNTIME, fast_tempdir, tiny};

const GROUPS: u16 = 32;
const KEYS: u32 = 1_000;
const POLICIES: [LoadPolicy; 3] = [LoadPolicy::Eager, LoadPolicy::Lazy, LoadPolicy::OnDemand];

static COUNTS: ValueStateDescriptor<u32, String> = ValueStateDescriptor::new("counts");
static CLICKS: MapStateDescriptor<u32, u8, String> = MapStateDescriptor::new("clicks");

/// What both tables hold.
type Model = BTreeMap<u32, String>;

/// What a chain came to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Processes that came back with state.
    pub restores: u32,
    /// Complete snapshots, and savepoints.
    pub snapshots: u32,
    /// Processes that died at a request.
    pub crashes: u32,
    /// Jobs that began with another's snapshot, copied.
    pub copied: u32,
    /// Claimed.
    pub claimed: u32,
    /// Orphans that were found at the end.
    pub orphans: u64,
}

impl std::ops::AddAssign for Outcome {
    fn add_assign(&mut self, other: Self) {
        self.restores += other.restores;
        self.snapshots += other.snapshots;
        self.crashes += other.crashes;
        self.copied += other.copied;
        self.claimed += other.claimed;
        self.orphans += other.orphans;
    }
}

/// Lives a chain of `lives` processes in `store`, which nobody else uses.
///
/// # Panics
/// Where anything is not as it must be.
pub fn run(store: Arc<dyn RemoteStore>, seed: u64, lives: u32) -> Outcome {
    let plan = FaultPlan::new();
    plan.disable();
    plan.set_filter(|op: Op| op.is_remote(), "");
    let mut chain = Chain {
        snapshots: SnapshotStore::new(store.clone(), RUNTIME.clone()),
        broken: Arc::new(FaultStore::new(store.clone(), plan.clone())),
        store,
        plan,
        random: StdRng::seed_from_u64(seed),
        job: "job-0".into(),
        jobs: 0,
        initial: None,
        models: BTreeMap::from([(0, Model::new())]),
        acknowledged: 0,
        owned: BTreeMap::new(),
        savepoint: None,
        savepoints: 0,
        dirs: Vec::new(),
        outcome: Outcome::default(),
    };
    for life in 0..lives {
        chain.live(life);
        if life + 1 < lives && chain.random.random_ratio(1, 4) {
            chain.begin_anew();
        }
    }
    chain.settle();
    chain.account();
    chain.last_look();
    chain.outcome
}

struct Chain {
    /// Never broken.
    store: Arc<dyn RemoteStore>,
    snapshots: SnapshotStore,
    broken: Arc<FaultStore>,
    plan: Arc<FaultPlan>,
    random: StdRng,
    job: String,
    jobs: u32,
    initial: Option<(SnapshotPath, ClaimMode)>,
    /// What each snapshot of the job holds that was ever tried; 0: what it began with.
    models: BTreeMap<u64, Model>,
    /// The newest that was told to be complete.
    acknowledged: u64,
    /// The job that each has claimed.
    owned: BTreeMap<String, String>,
    /// The last savepoint, and what it holds.
    savepoint: Option<(String, Model)>,
    savepoints: u32,
    /// Local directories of the job's subtasks.
    dirs: Vec<TempDir>,
    outcome: Outcome,
}

/// A process: the subtasks of a job and who completes their snapshots.
struct Life {
    coordinator: Coordinator,
    backends: Vec<StateBackend>,
    model: Model,
}

impl Chain {
    fn live(&mut self, life: u32) {
        let parallelism = self.random.random_range(1..=4);
        let policy = *POLICIES.choose(&mut self.random).expect("there are some");
        let mut running = self.start(parallelism, policy);
        let crash = self.random.random_ratio(1, 3);
        if crash {
            let after = self.random.random_range(0..60);
            self.plan
                .fail_from(after, Effect::Fail(ErrorKind::Unavailable));
            self.plan.enable();
        }
        for round in 0..self.random.random_range(1..4) {
            if self.work(&mut running, policy, life * 10 + round).is_err() {
                assert!(crash, "nothing was broken");
                self.outcome.crashes += 1;
                break;
            }
        }
        drop(running);
        self.plan.disable();
    }

    /// Opens the job as a new process, and compares.
    fn start(&mut self, parallelism: u16, policy: LoadPolicy) -> Life {
        if self.random.random_ratio(1, 2) {
            self.dirs.clear(); // on other machines
        }
        while self.dirs.len() < usize::from(parallelism) {
            self.dirs.push(fast_tempdir());
        }
        let store = SnapshotStore::new(self.broken.clone(), RUNTIME.clone());
        let mut coordinator = Coordinator::builder(store, &self.job).tolerable_failures(9);
        if let Some((path, mode)) = &self.initial {
            coordinator = coordinator.initial_state(path.clone(), *mode);
        }
        let coordinator = coordinator.open().expect("a coordinator");
        let latest = coordinator.latest().map_or(0, |latest| latest.id);
        assert!(latest >= self.acknowledged, "what was complete is gone");
        let model = self.models[&latest].clone();
        let backends = (0..parallelism).map(|index| {
            let range = range_for_operator(GROUPS, parallelism, index).expect("a range");
            self.open(usize::from(index), range, policy, latest)
        });
        let backends: Vec<StateBackend> = backends.collect();
        backends.iter().for_each(|backend| check(backend, &model));
        self.outcome.restores += 1;
        Life {
            coordinator,
            backends,
            model,
        }
    }

    fn open(
        &self,
        index: usize,
        range: KeyGroupRange,
        policy: LoadPolicy,
        latest: u64,
    ) -> StateBackend {
        let mut backend = tiny(self.dirs[index].path())
            .remote_store(self.broken.clone())
            .job(&self.job)
            .key_groups(GROUPS)
            .key_group_range(range)
            .load_policy(policy)
            .rocksdb(RocksDbOptions {
                write_buffer_bytes: 64 << 10,
                target_file_bytes: 64 << 10,
                level_base_bytes: 128 << 10,
                block_bytes: 1 << 10,
                ..RocksDbOptions::default()
            });
        if let Some((path, mode)) = &self.initial {
            let ahead = self.jobs.is_multiple_of(2);
            backend = backend.initial_state(path.clone(), *mode).copy_ahead(ahead);
        }
        if latest > 0 {
            backend = backend.restore(Restore::Snapshot(latest));
        }
        backend.open().expect("a backend")
    }

    /// Writes, and mostly takes a snapshot.
    fn work(&mut self, running: &mut Life, policy: LoadPolicy, version: u32) -> Result<()> {
        for backend in &running.backends {
            let from = self.random.random_range(0..KEYS);
            write(backend, &mut running.model, from, version)?;
            match self.random.random_range(0..4) {
                0 => backend.flush()?,
                1 if policy != LoadPolicy::OnDemand => backend.compact()?,
                _ => {}
            }
        }
        match self.random.random_range(0..6) {
            0 => Ok(()),
            1 => {
                self.savepoints += 1;
                let dir = format!("savepoints/{}", self.savepoints);
                running.snapshot(SnapshotOptions::new().savepoint(&dir), |_| ())?;
                self.savepoint = Some((dir, running.model.clone()));
                self.outcome.snapshots += 1;
                Ok(())
            }
            _ => {
                let models = &mut self.models;
                let model = running.model.clone();
                let begun = |id| _ = models.insert(id, model);
                let id = running.snapshot(SnapshotOptions::new(), begun)?;
                self.acknowledged = id;
                self.outcome.snapshots += 1;
                // Whoever began with another's does not need that any more.
                let gone = match self.initial.take() {
                    Some((path, ClaimMode::NoClaim)) => Some(path.to_string()),
                    _ => None,
                };
                if let Some((job, _)) = gone.as_deref().and_then(|path| path.split_once("/chk-")) {
                    self.delete(job);
                }
                Ok(())
            }
        }
    }

    /// Another job takes the state over.
    fn begin_anew(&mut self) {
        if self.acknowledged == 0 {
            return;
        }
        let mode = match self.random.random_ratio(1, 2) {
            true => ClaimMode::Claim,
            false => ClaimMode::NoClaim,
        };
        let savepoint = self
            .savepoint
            .take()
            .filter(|_| self.random.random_ratio(1, 2));
        let (path, model) = match savepoint {
            Some((dir, model)) => (SnapshotPath::savepoint(&dir), model),
            None => {
                let newest = self.snapshots.list(&self.job).expect("a list").pop();
                let (id, _) = newest.expect("one was complete");
                let path = SnapshotPath::snapshot(&self.job, id);
                (path, self.models[&id].clone())
            }
        };
        match mode {
            ClaimMode::Claim => self.outcome.claimed += 1,
            ClaimMode::NoClaim => self.outcome.copied += 1,
        }
        let path = path.expect("a path");
        self.jobs += 1;
        self.job = format!("job-{}", self.jobs);
        if let (ClaimMode::Claim, Some((of, _))) = (mode, path.to_string().split_once("/chk-")) {
            self.owned.insert(self.job.clone(), of.to_owned());
        }
        self.initial = Some((path, mode));
        self.models = BTreeMap::from([(0, model)]);
        self.acknowledged = 0;
        self.dirs.clear();
    }

    /// One more snapshot: whoever has claimed a job and has none yet keeps gc from that job.
    fn settle(&mut self) {
        let running = self.start(2, LoadPolicy::OnDemand);
        let (models, model) = (&mut self.models, running.model.clone());
        let begun = |id| _ = models.insert(id, model);
        let id = running.snapshot(SnapshotOptions::new(), begun);
        self.acknowledged = id.expect("a snapshot");
        self.initial = None;
    }

    /// Every object is one that a snapshot names, or that gc finds; of what gc leaves nothing is damaged.
    fn account(&mut self) {
        let everything = GcOptions {
            min_age: std::time::Duration::ZERO,
            delete: true,
            ..GcOptions::default()
        };
        let found = self.snapshots.gc(&everything).expect("gc");
        assert!(found.is_ok(), "{found:?}");
        let orphans = found
            .jobs
            .iter()
            .map(|job| job.objects.orphan_count().objects);
        self.outcome.orphans = orphans.sum();
        // Where copies are links, what is left when one of them has gone looks as if it had been put at that moment: another run takes it.
        let mut again = self.snapshots.gc(&everything).expect("gc");
        while again.jobs.iter().any(|job| job.deleted.objects > 0) {
            again = self.snapshots.gc(&everything).expect("gc");
        }
        for job in &again.jobs {
            assert!(job.objects.orphans.is_empty(), "{:?}", job.objects.orphans);
            let left = (job.objects.undecided, job.objects.young);
            assert_eq!(
                (left.0.objects, left.1.objects),
                (0, 0),
                "{}",
                job.objects.job
            );
        }
        let report = self
            .snapshots
            .fsck(&FsckOptions::default(), &|_| ())
            .expect("fsck");
        assert!(report.is_ok(), "{:?}", report.damages);
        let mut named = BTreeSet::new();
        for job in self.snapshots.jobs().expect("a list") {
            for (id, metadata) in self.snapshots.list(&job).expect("a list") {
                let metadata = metadata.expect("sound metadata");
                named.insert(format!("{job}/chk-{id}/_metadata"));
                named.extend(metadata.in_use.iter().cloned());
                for state in &metadata.subtasks {
                    named.insert(state.manifest.key.clone());
                    named.extend(state.tails.iter().map(|tails| tails.key.clone()));
                    named.extend(state.files.iter().map(|file| file.key.clone()));
                }
            }
        }
        for key in self.keys("") {
            // Fences and claims stand for themselves; savepoints are the user's.
            let other = key.ends_with("/_metadata") || key.ends_with("/_claimed");
            assert!(
                named.contains(&key) || other || key.starts_with("savepoints/"),
                "nobody accounts for {key}"
            );
        }
    }

    /// The newest snapshot holds what it held.
    fn last_look(&mut self) {
        drop(self.start(1, LoadPolicy::Eager));
    }

    /// The objects below `prefix`.
    fn keys(&self, prefix: &str) -> Vec<String> {
        let store = self.store.clone();
        let prefix = prefix.to_owned();
        let list = async move {
            let (mut keys, mut prefixes) = (Vec::new(), vec![prefix]);
            while let Some(prefix) = prefixes.pop() {
                let key = (!prefix.is_empty())
                    .then(|| Key::new(prefix.clone()))
                    .transpose()?;
                for listed in store.list(key.as_ref()).await? {
                    let (Listed::Object { name, .. } | Listed::Prefix { name }) = &listed;
                    let at = match prefix.as_str() {
                        "" => name.clone(),
                        prefix => format!("{prefix}/{name}"),
                    };
                    match listed {
                        Listed::Object { .. } => keys.push(at),
                        Listed::Prefix { .. } => prefixes.push(at),
                    }
                }
            }
            Ok(keys)
        };
        RUNTIME.wait(list).expect("a list")
    }

    /// Deletes a job with all that is its own, as its user would.
    fn delete(&self, job: &str) {
        if let Some(claimed) = self.owned.get(job) {
            self.delete(claimed);
        }
        for key in self.keys(job) {
            let (store, key) = (self.store.clone(), Key::new(key).expect("a key"));
            let delete = async move { store.delete(&key).await };
            RUNTIME.wait(delete).expect("a deletion");
        }
    }
}

impl Life {
    /// One snapshot of all; its number, which `begun` is told first.
    fn snapshot(&self, options: SnapshotOptions, begun: impl FnOnce(u64)) -> Result<u64> {
        let subtasks = self.backends.iter().map(|backend| Subtask {
            operator: "state".into(),
            key_group_range: backend.key_group_range(),
        });
        let subtasks: Vec<Subtask> = subtasks.collect();
        let id = self.coordinator.begin(&subtasks, options.clone())?;
        begun(id);
        let mut done = None;
        for backend in &self.backends {
            let part = backend.snapshot_part(id, options.clone())?.wait()?;
            done = self.coordinator.acknowledge(part)?;
        }
        let Some(done) = done else {
            return Err(Error::SnapshotAborted);
        };
        for backend in &self.backends {
            backend.confirm_part(id)?;
        }
        Ok(done.id)
    }
}

fn text(key: u32, version: u32) -> String {
    format!("{version}-{key:-<60}")
}

/// Writes the keys of the backend's range from `from` on to both tables, and removes every seventh.
fn write(backend: &StateBackend, model: &mut Model, from: u32, version: u32) -> Result<()> {
    let counts = backend.value_state(&COUNTS)?;
    let clicks = backend.map_state(&CLICKS)?;
    for key in from..KEYS {
        let value = text(key, version);
        match counts.put(&key, &value) {
            Err(Error::KeyGroupOutOfRange { .. }) => continue,
            result => result?,
        }
        clicks.put(&key, &1, &value)?;
        model.insert(key, value);
        if key % 7 == version % 7 {
            counts.remove(&key)?;
            clicks.clear(&key)?;
            model.remove(&key);
        }
    }
    Ok(())
}

/// The backend holds what the model has of its range, in both tables.
fn check(backend: &StateBackend, model: &Model) {
    let counts = backend.value_state(&COUNTS).expect("a table");
    let clicks = backend.map_state(&CLICKS).expect("a table");
    let mut expected = Model::new();
    for key in 0..KEYS {
        match counts.get(&key) {
            Err(Error::KeyGroupOutOfRange { .. }) => continue,
            found => assert_eq!(found.expect("a read").as_ref(), model.get(&key), "{key}"),
        }
        expected.extend(model.get(&key).map(|value| (key, value.clone())));
    }
    let found = counts.iter().expect("an iterator");
    let found: Model = found.map(|entry| entry.expect("an entry")).collect();
    assert_eq!(found, expected);
    let found = clicks.iter().expect("an iterator");
    let found = found.map(|entry| entry.expect("an entry"));
    let found: Model = found.map(|(key, _, value)| (key, value)).collect();
    assert_eq!(found, expected);
}
