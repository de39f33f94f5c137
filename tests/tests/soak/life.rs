//! The lives of a backend.

use std::{collections::BTreeMap, fs, sync::Arc, time::Duration};

use lazurite::{
    Error, LoadPolicy, PendingSnapshot, Result, RocksDbOptions, SnapshotOptions, StateBackend,
    ValueIter,
};
use lazurite_env::{FaultPlan, remote::FaultStore};
use lazurite_tests::{
    COUNTS, World,
    model::{self, MIRROR, Model},
};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::weather::Weather;

const KEYS: u64 = 6_000;
const VALUE_BYTES: usize = 400;

/// What was done, for the one who reads the output.
#[derive(Debug, Default)]
pub struct Done {
    writes: u64,
    reads: u64,
    iterated: u64,
    snapshots: u64,
    failed_snapshots: u64,
    compactions: u64,
    restores: u64,
    lost_disks: u64,
    temporary_errors: u64,
    refused_lies: u64,
    lives_cut_short: u64,
}

pub struct Soak {
    world: World,
    plan: Arc<FaultPlan>,
    rng: StdRng,
    runtime: tokio::runtime::Runtime,
    /// What each snapshot that may exist holds. A number whose snapshot failed in its commit may exist too.
    taken: BTreeMap<u64, Model>,
    version: u64,
    pub done: Done,
}

/// A backend that is open, and what it must hold.
struct Life {
    backend: StateBackend,
    model: Model,
    pending: Option<PendingSnapshot>,
    weather: Weather,
    /// An iterator that was begun a while ago, and what there was then.
    walk: Option<(ValueIter<u64, Vec<u8>>, Model)>,
}

impl Soak {
    pub fn new(seed: u64) -> Self {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        Soak {
            world: World::new(),
            plan: FaultPlan::new(),
            rng: StdRng::seed_from_u64(seed),
            runtime: runtime.build().expect("a runtime"),
            taken: BTreeMap::from([(0, Model::new())]),
            version: 0,
            done: Done::default(),
        }
    }

    /// Opens, does some hundred things, and drops the backend.
    pub fn live(&mut self) {
        let mut life = self.open();
        for _ in 0..self.rng.random_range(100..600) {
            if let Err(error) = self.step(&mut life) {
                // RocksDB takes no more writes after a compaction has failed for good.
                let lied = life.weather == Weather::Lying;
                assert!(
                    error.is_temporary() || lied,
                    "{:?}: {error:?}",
                    life.weather
                );
                self.done.lives_cut_short += 1;
                break;
            }
        }
        if let Some(pending) = life.pending.take()
            && self.rng.random()
        {
            self.finish(pending);
        }
        // A snapshot that is under way is aborted, and may exist all the same.
        drop(life);
        self.plan.pass();
        if self.rng.random_bool(0.4) {
            self.world.lose_disk();
            self.done.lost_disks += 1;
        }
    }

    fn open(&mut self) -> Life {
        let policy = [LoadPolicy::Lazy, LoadPolicy::Eager, LoadPolicy::OnDemand];
        let policy = policy[self.rng.random_range(0..3)];
        let store = FaultStore::new(Arc::new(self.world.store.clone()), self.plan.clone());
        let backend = self
            .world
            .builder_over(Arc::new(store))
            .load_policy(policy)
            .cache_bytes(self.rng.random_range(1..8) << 20)
            .cache_reads(self.rng.random_bool(0.8))
            .rocksdb(RocksDbOptions {
                block_cache_bytes: 256 << 10,
                write_buffer_bytes: 256 << 10,
                target_file_bytes: 128 << 10,
                level_base_bytes: 1 << 20,
                ..RocksDbOptions::default()
            })
            .open()
            .expect("nothing fails while it is opened");
        let id = backend.restored().map_or(0, |report| report.snapshot_id);
        let model = self.taken.get(&id);
        let model = model.unwrap_or_else(|| panic!("snapshot {id} was never taken"));
        let model = model.clone();
        model::check(&backend, &model).expect("nothing fails while it is checked");
        // Nobody can come back to an earlier one now.
        self.taken.retain(|taken, _| *taken >= id);
        self.done.restores += 1;
        Life {
            backend,
            model,
            pending: None,
            weather: Weather::Fair,
            walk: None,
        }
    }

    /// One thing. Gives an error that ends the life.
    fn step(&mut self, life: &mut Life) -> Result<()> {
        match self.rng.random_range(0..100) {
            0..35 => return self.write(life),
            35..70 => self.read(life),
            70..78 => self.walk(life),
            78..86 => self.snapshot(life)?,
            86..88 => {
                self.done.compactions += 1;
                life.backend.compact()?;
            }
            88..90 => life.backend.flush()?,
            90..94 => {
                let bytes = self.rng.random_range(1..8) << 20;
                life.backend.set_cache_bytes(bytes)?;
            }
            94..96 => life.backend.download().pause(),
            96..98 => life.backend.download().resume(),
            _ => life.weather = Weather::next(&self.plan, &mut self.rng),
        }
        Ok(())
    }

    fn write(&mut self, life: &mut Life) -> Result<()> {
        self.version += 1;
        let first = self.rng.random_range(0..KEYS);
        let keys = first..(first + self.rng.random_range(1..200)).min(KEYS);
        let gone = self.rng.random_range(0..KEYS);
        let gone = gone..gone + self.rng.random_range(0..40);
        self.done.writes += 1;
        let (version, len) = (self.version, VALUE_BYTES);
        model::write(&life.backend, &mut life.model, keys, gone, version, len)
    }

    /// Reads some keys in one of the ways there are.
    fn read(&mut self, life: &Life) {
        let keys: Vec<u64> = (0..self.rng.random_range(1..20))
            .map(|_| self.rng.random_range(0..KEYS + 10))
            .collect();
        let table = life.backend.value_state(&COUNTS).expect("the table");
        let way = self.rng.random_range(0..3);
        let found = match way {
            0 => keys.iter().map(|key| table.get(key)).collect(),
            1 => table.multi_get(&keys),
            _ => self.runtime.block_on(table.multi_get_async(&keys)),
        };
        self.done.reads += keys.len() as u64;
        match found {
            Ok(values) => {
                for (key, value) in keys.iter().zip(values) {
                    assert!(
                        value.as_ref() == life.model.get(key),
                        "key {key}, read in way {way}, is not what was written"
                    );
                }
            }
            Err(error) => self.forgive(life.weather, &error),
        }
    }

    /// Goes on with an iterator of a while ago, or begins one.
    fn walk(&mut self, life: &mut Life) {
        let Some((mut iter, then)) = life.walk.take() else {
            let table = life.backend.value_state(&MIRROR).expect("the table");
            life.walk = Some((table.iter().expect("an iterator"), life.model.clone()));
            return;
        };
        let mut seen = 0;
        while let Some(entry) = iter.next_entry() {
            let entry = entry.and_then(|entry| Ok((entry.key()?, entry.value()?)));
            match entry {
                Ok((key, value)) => {
                    assert!(then.get(&key) == Some(&value), "key {key} of an iterator");
                    seen += 1;
                }
                Err(error) => return self.forgive(life.weather, &error),
            }
        }
        assert_eq!(seen, then.len(), "an iterator ended early");
        self.done.iterated += seen as u64;
    }

    fn snapshot(&mut self, life: &mut Life) -> Result<()> {
        match life.pending.take() {
            Some(pending) if pending.is_finished() || self.rng.random_bool(0.3) => {
                if self.rng.random_bool(0.1) {
                    pending.abort();
                }
                self.finish(pending);
            }
            Some(pending) => life.pending = Some(pending),
            None => {
                let options = SnapshotOptions::new().timeout(Duration::from_secs(5));
                let pending = life.backend.snapshot(options)?;
                self.taken.insert(pending.id(), life.model.clone());
                life.pending = Some(pending);
            }
        }
        Ok(())
    }

    fn finish(&mut self, pending: PendingSnapshot) {
        match pending.wait() {
            Ok(_) => self.done.snapshots += 1,
            Err(Error::SnapshotConflict { id }) => panic!("nobody else takes snapshot {id}"),
            Err(_) => self.done.failed_snapshots += 1,
        }
    }

    /// An error is right while the store fails.
    fn forgive(&mut self, weather: Weather, error: &Error) {
        match weather {
            // What failed a moment ago may be told now: a block that RocksDB tried in vain to read ahead, say.
            _ if error.is_temporary() => self.done.temporary_errors += 1,
            Weather::Lying => self.done.refused_lies += 1,
            _ => panic!("{weather:?}: {error:?}"),
        }
    }

    /// In fair weather all is there, becomes local, and leaves no file behind that nobody needs.
    pub fn end(&mut self) {
        let mut life = self.open();
        life.weather = Weather::clear(&self.plan);
        life.backend.download().resume();
        life.backend.set_cache_bytes(1 << 30).expect("more room");
        life.backend.wait_until_local().expect("a whole download");
        let options = SnapshotOptions::new();
        let report = life.backend.snapshot(options).expect("a snapshot").wait();
        let id = report.expect("a snapshot").id;
        model::check(&life.backend, &life.model).expect("all of it");
        drop(life);
        assert_eq!(self.world.ids(), [id]);
        assert!(self.world.verify(id).is_empty());
        let metadata = self.world.metadata(id);
        let dir = self.world.dir();
        let files = |name: &str| match fs::read_dir(dir.join(name)) {
            Ok(entries) => entries
                .map(|entry| entry.expect("an entry").file_name())
                .map(|name| name.to_string_lossy().into_owned())
                .collect(),
            Err(_) => Vec::new(),
        };
        let mut tables = files("db");
        tables.retain(|name| name.ends_with(".sst"));
        tables.sort();
        let mut named: Vec<_> = metadata.subtasks[0]
            .files
            .iter()
            .map(|f| f.name.clone())
            .collect();
        named.sort();
        assert_eq!(tables, named, "table files");
        for name in ["cache", "download", "staging"] {
            assert_eq!(files(name), [""; 0], "{name}");
        }
    }
}
