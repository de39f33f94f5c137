//! MANIFESTs that RocksDB wrote are read here, and those that are written here are opened by RocksDB, with the options of
//! production and small files.

mod clipped;
mod composed;
mod damage;
mod numbers;
mod round_trip;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use rocksdb::Env;
use tempfile::TempDir;

use super::*;
use crate::{
    RocksDbOptions,
    rocks::{Columns, Db, DbConfig, LiveFileKind, column::Column, tests::config},
};

/// What a column family must hold.
type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// An open database, and what it must hold of its key groups. What it holds of others is nobody's business.
struct Store {
    dir: TempDir,
    db: Arc<Db>,
    models: BTreeMap<String, Model>,
    range: (u16, u16),
    wal: bool,
}

/// The files of a database at one moment, hard-linked.
struct Snapshot {
    dir: TempDir,
    bytes: Vec<u8>,
    manifest: Manifest,
    models: BTreeMap<String, Model>,
}

/// Names of files of which no two sources have the same.
fn own(source: usize, number: u64) -> (usize, u64) {
    (source, number)
}

/// True where a file of the groups `keep` may hold others.
fn straddles(manifest: &Manifest, column: &str, keep: (u16, u16)) -> bool {
    let part = Part {
        source: 0,
        column,
        into: 0,
        keep,
    };
    let composed = compose(
        std::slice::from_ref(manifest),
        &["a".into()],
        &[part],
        own,
        |_, _| None,
    );
    composed.unwrap().files.iter().any(|file| file.straddles)
}

fn key(group: u16, n: u32) -> Vec<u8> {
    [&group.to_be_bytes()[..], &n.to_be_bytes()].concat()
}

/// The first key of a group, and the end of the one before.
fn begin(group: u16) -> Vec<u8> {
    group.to_be_bytes().to_vec()
}

fn open(path: &Path, wal: bool, columns: &[&str]) -> Arc<Db> {
    open_with(path, wal, columns, false)
}

fn open_with(path: &Path, wal: bool, columns: &[&str], auto_compactions: bool) -> Arc<Db> {
    let env = Env::new().unwrap();
    let stored = match path.join("CURRENT").exists() {
        true => Db::stored_columns(&env, path).unwrap(),
        false => Vec::new(),
    };
    let columns: Vec<&str> = columns
        .iter()
        .copied()
        .chain(stored.iter().map(String::as_str))
        .collect();
    let options = RocksDbOptions {
        block_bytes: 1 << 10,
        write_buffer_bytes: 64 << 10,
        target_file_bytes: 64 << 10,
        level_base_bytes: 128 << 10,
        auto_compactions,
        ..Default::default()
    };
    Db::open(DbConfig {
        options,
        ..config(path, wal, &columns)
    })
    .unwrap()
}

fn dump(column: &Column, (first, last): (u16, u16)) -> Model {
    let mut cursor = Columns::one(column.clone())
        .cursor(begin(first), begin(last + 1))
        .unwrap();
    let mut entries = Model::new();
    while let Some((key, value)) = cursor.next_where(|_| true).unwrap() {
        entries.insert(key.to_vec(), value.to_vec());
    }
    entries
}

/// The part of `models` that lies in `range`.
fn within(models: &BTreeMap<String, Model>, (first, last): (u16, u16)) -> BTreeMap<String, Model> {
    let cut = |model: &Model| {
        let entries = model.range(begin(first)..begin(last + 1));
        entries.map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    models.iter().map(|(n, m)| (n.clone(), cut(m))).collect()
}

/// A directory with these files, and a MANIFEST of `bytes`.
fn place(bytes: &[u8], number: u64, files: &[(PathBuf, u64)]) -> TempDir {
    let dir = TempDir::new().unwrap();
    for (path, number) in files {
        fs::hard_link(path, dir.path().join(format!("{number:06}.sst"))).unwrap();
    }
    let name = format!("MANIFEST-{number:06}");
    fs::write(dir.path().join(&name), bytes).unwrap();
    fs::write(dir.path().join("CURRENT"), format!("{name}\n")).unwrap();
    dir
}

/// Composes `parts` of `sources` into `targets`, and lays the result out in a directory.
fn build(sources: &[&Snapshot], targets: &[&str], parts: &[Part]) -> Result<(TempDir, Composed)> {
    let manifests: Vec<Manifest> = sources.iter().map(|s| s.manifest.clone()).collect();
    let targets: Vec<String> = targets.iter().map(|t| t.to_string()).collect();
    // Files that are links to one are one.
    let content = |source: usize, number| {
        let file = fs::metadata(sources[source].path(number)).unwrap();
        std::os::unix::fs::MetadataExt::ino(&file)
    };
    let composed = compose(&manifests, &targets, parts, content, |_, _| None)?;
    let bytes = composed.manifest.encode()?;
    assert_eq!(Manifest::decode("m", &bytes).unwrap(), composed.manifest);
    let files: Vec<(PathBuf, u64)> = composed
        .files
        .iter()
        .map(|file| (sources[file.source].path(file.number), file.new_number))
        .collect();
    Ok((place(&bytes, composed.manifest_number, &files), composed))
}

impl Store {
    fn create(columns: &[&str], range: (u16, u16)) -> Store {
        let dir = TempDir::new().unwrap();
        let models = columns
            .iter()
            .map(|c| (c.to_string(), Model::new()))
            .collect();
        let db = open(dir.path(), false, columns);
        Store {
            dir,
            db,
            models,
            range,
            wal: false,
        }
    }

    fn open(dir: TempDir, models: BTreeMap<String, Model>, range: (u16, u16), wal: bool) -> Store {
        let db = open(dir.path(), wal, &[]);
        Store {
            dir,
            db,
            models,
            range,
            wal,
        }
    }

    fn column(&self, name: &str) -> Column {
        self.db.column(name).unwrap()
    }

    fn put(&mut self, name: &str, key: Vec<u8>, value: &[u8]) {
        self.column(name).put(&key, value).unwrap();
        self.models
            .get_mut(name)
            .unwrap()
            .insert(key, value.to_vec());
    }

    fn delete(&mut self, name: &str, key: &[u8]) {
        self.column(name).delete(key).unwrap();
        self.models.get_mut(name).unwrap().remove(key);
    }

    fn delete_range(&mut self, name: &str, from: &[u8], to: &[u8]) {
        self.column(name).delete_range(from, to).unwrap();
        let model = self.models.get_mut(name).unwrap();
        model.retain(|key, _| !(from..to).contains(&&key[..]));
    }

    /// Random writes to all columns, some flushes, few compactions. Ends flushed.
    fn churn(&mut self, seed: u64, steps: usize) {
        self.change(seed, steps, 100);
    }

    /// Writes, deletions and flushes; beyond 99, compactions too.
    fn change(&mut self, seed: u64, steps: usize, of: u32) {
        let mut rng = StdRng::seed_from_u64(seed);
        let names: Vec<String> = self.models.keys().cloned().collect();
        for step in 0..steps {
            let name = &names[rng.random_range(0..names.len())];
            let group = rng.random_range(self.range.0..=self.range.1);
            let n = rng.random_range(0..40);
            match rng.random_range(0..of) {
                0..70 => {
                    let value = format!("{seed}-{step}-").repeat(rng.random_range(1..40));
                    self.put(name, key(group, n), value.as_bytes());
                }
                70..90 => self.delete(name, &key(group, n)),
                90..93 => self.delete_range(name, &key(group, n), &key(group, n + 5)),
                93..95 => self.delete_range(name, &key(group, n), &begin(group + 1)),
                95..99 => self.db.flush_all().unwrap(),
                _ => self.column(name).compact().unwrap(),
            }
        }
        self.db.flush_all().unwrap();
    }

    fn verify(&self) {
        for (name, model) in within(&self.models, self.range) {
            let column = self.column(&name);
            assert!(
                dump(&column, self.range) == model,
                "{name} does not hold what it must"
            );
            for group in self.range.0..=self.range.1 {
                let key = key(group, 7);
                let found = column.get(&key).unwrap().map(|value| value.to_vec());
                assert_eq!(found.as_ref(), model.get(&key), "{key:?}");
            }
        }
    }

    fn reopen(self) -> Store {
        let Store {
            dir,
            db,
            models,
            range,
            wal,
        } = self;
        drop(db);
        Store::open(dir, models, range, wal)
    }

    /// Reads, writes more, compacts all, opens again: everything as it must be at each step.
    fn exercise(mut self, seed: u64) -> Store {
        self.verify();
        self.churn(seed, 300);
        self.verify();
        for name in self.models.keys() {
            self.column(name).compact().unwrap();
        }
        self.verify();
        let Store { dir, db, .. } = self;
        drop(db);
        let db = open_with(dir.path(), self.wal, &[], true);
        let mut store = Store { dir, db, ..self };
        store.verify();
        store.churn(seed + 1, 300);
        store.verify();
        store
    }

    /// Removes what does not belong to its key groups, so that no file straddles.
    fn clean(&self) {
        for name in self.models.keys() {
            let column = self.column(name);
            column.delete_range(&[], &begin(self.range.0)).unwrap();
            column
                .delete_range(&begin(self.range.1 + 1), &[0xff; 3])
                .unwrap();
            self.db.flush_all().unwrap();
            column.compact().unwrap();
        }
    }

    fn snapshot(&self) -> Snapshot {
        self.db.flush_all().unwrap();
        let _paused = self.db.pause_file_deletions().unwrap();
        let dir = TempDir::new().unwrap();
        let mut bytes = Vec::new();
        for file in self.db.live_files().unwrap() {
            let path = self.dir.path().join(&file.name);
            match file.kind {
                LiveFileKind::Table => fs::hard_link(path, dir.path().join(&file.name)).unwrap(),
                LiveFileKind::Manifest => {
                    bytes = fs::read(path).unwrap();
                    bytes.truncate(file.len as usize);
                }
                _ => {}
            }
        }
        Snapshot {
            manifest: Manifest::decode("m", &bytes).unwrap(),
            dir,
            bytes,
            models: self.models.clone(),
        }
    }
}

impl Snapshot {
    fn path(&self, number: u64) -> PathBuf {
        self.dir.path().join(format!("{number:06}.sst"))
    }

    /// A directory with its tables, and `bytes` for a MANIFEST.
    fn place(&self, bytes: &[u8]) -> TempDir {
        let numbers = self
            .manifest
            .columns
            .iter()
            .flat_map(|column| &column.files)
            .map(|file| file.number);
        let files: Vec<_> = numbers.map(|number| (self.path(number), number)).collect();
        place(bytes, self.manifest.next_file_number - 1, &files)
    }
}
