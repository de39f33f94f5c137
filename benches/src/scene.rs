//! The databases that are compared: one is written, the others are opened on copies of its files.
//!
//! The plain sides take their options from the file in which RocksDB recorded those of the engine's database. So they
//! are the engine's options whatever those become, and [`Scene::build`] fails where a side ran with others. Two things are
//! not in that file, and each side is given the same ones: the block cache, and the bits per key of the Bloom filter, of
//! which RocksDB's C API records the name alone.

use std::{
    fs,
    hint::black_box,
    path::{Path, PathBuf},
    sync::Arc,
};

use lazurite::{
    DownloadOptions, Durability, RocksDbOptions, StateBackend, ValueState, ValueStateDescriptor,
};
use lazurite_env::{
    IoRuntime, PosixEnv,
    remote::{self, RemoteOptions},
};
use lazurite_env_rocksdb::rocksdb_env;
use lazurite_tiering::{CacheOptions, UnionEnv, UnionOptions};
use rocksdb::{Cache, DB, Env, Options, ReadOptions, WriteOptions};
use tempfile::TempDir;

use crate::{
    Result,
    side::{Data, KEY_GROUPS, Side, SideKind, Store, TABLE, Value, column},
};

static RECORDS: ValueStateDescriptor<String, Value> = ValueStateDescriptor::new(TABLE);

/// What to build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SceneOptions {
    /// How many entries: about 120 bytes each.
    pub entries: usize,
    /// Bytes of each side's block cache.
    pub block_cache_bytes: usize,
    /// Whether puts write a write-ahead log, which is not synced.
    pub wal: bool,
    /// Whether Lazurite's sides have a disk budget, so that their local files can be let go.
    pub disk_budget: bool,
    /// Whether RocksDB counts what it does, below [`SideKind::Typed`] alone.
    pub statistics: bool,
}

/// Databases with the same content, files and options. Its directory goes with it.
#[derive(Debug)]
pub struct Scene {
    /// One of each kind, in the order of [`SideKind::ALL`].
    pub sides: Vec<Side>,
    /// What is in each of them.
    pub data: Data,
    // Dropped last.
    _dir: TempDir,
}

impl Scene {
    /// Writes and opens the databases, in a new directory below that of temporary files.
    ///
    /// # Errors
    /// What the disk or RocksDB answers; options that turned out different.
    pub fn build(options: SceneOptions) -> Result<Scene> {
        let dir = TempDir::new()?;
        let typed_root = dir.path().join(SideKind::Typed.name());
        let (backend, table) = open_typed(&typed_root, options)?;
        for i in 0..options.entries as u64 {
            table.put(&format!("key-{i:08}"), &value(i))?;
        }
        // One sorted run, so that nothing is left to compact behind the measurement.
        backend.flush()?;
        backend.compact()?;

        let files = typed_root.join("db");
        let mut sides = Vec::new();
        for kind in SideKind::ALL
            .into_iter()
            .filter(|&kind| kind != SideKind::Typed)
        {
            let root = dir.path().join(kind.name());
            copy_database(&files, &root.join("db"))?;
            let env = match kind {
                SideKind::Env => union_env(&root, options.disk_budget)?,
                _ => Env::new()?,
            };
            sides.push(open_raw(kind, &root.join("db"), env, options)?);
            same_options(&files, &root.join("db"))?;
        }
        // The blocks come into all caches in the same order, and nothing else is allocated meanwhile: where a block lies among
        // what a program keeps would else tell one side from another by more than the ways that are compared.
        for side in &sides {
            fill_cache(side)?;
        }
        let mut iter = table.iter()?;
        while let Some(entry) = iter.next_entry() {
            black_box(entry?.encoded_value());
        }
        drop(iter);
        let typed = table.iter()?.collect::<lazurite::Result<Vec<_>>>()?;
        let mut raw = Vec::new();
        for side in &sides {
            let entries = raw_entries(side)?;
            if entries.len() != options.entries || !(raw.is_empty() || raw == entries) {
                return Err("the sides do not hold the entries that were written".into());
            }
            raw = entries;
        }
        let data = Data { typed, raw };
        sides.push(Side {
            kind: SideKind::Typed,
            store: Store::Typed {
                backend: Box::new(backend),
                table,
            },
        });
        Ok(Scene {
            sides,
            data,
            _dir: dir,
        })
    }
}

fn value(i: u64) -> Value {
    (i, format!("{i:0100}"))
}

fn open_typed(
    root: &Path,
    options: SceneOptions,
) -> Result<(StateBackend, ValueState<String, Value>)> {
    let durability = match options.wal {
        true => Durability::Wal,
        false => Durability::Snapshot,
    };
    let mut builder = StateBackend::builder(root);
    if options.disk_budget {
        builder = builder.disk_budget_bytes(1 << 50);
    }
    let backend = builder
        .remote("memory://")
        .key_groups(KEY_GROUPS)
        .durability(durability)
        .rocksdb(RocksDbOptions {
            block_cache_bytes: options.block_cache_bytes,
            // Room for all that is put: a flush in a slice of one side would fall on that of another.
            write_buffer_bytes: 256 << 20,
            statistics: options.statistics,
            ..RocksDbOptions::default()
        })
        .open()?;
    let table = backend.value_state(&RECORDS)?;
    Ok((backend, table))
}

fn union_env(root: &Path, disk_budget: bool) -> Result<Env> {
    let runtime = IoRuntime::new(1)?;
    let union = UnionEnv::open(UnionOptions {
        base: Arc::new(PosixEnv),
        root: root.to_owned(),
        store: remote::open("memory://", &RemoteOptions::default(), &runtime)?,
        runtime,
        download: DownloadOptions::default(),
        cache: CacheOptions::default(),
        transfer_bytes_per_second: None,
    })?;
    let env = rocksdb_env(union)?;
    if disk_budget {
        env.local_files().keep_releasable();
    }
    Ok(env.env().clone())
}

fn open_raw(kind: SideKind, path: &Path, env: Env, options: SceneOptions) -> Result<Side> {
    complete_filter(path)?;
    // The engine's kind of cache: `Db::open` there.
    let cache = Cache::new_hyper_clock_cache(options.block_cache_bytes, 0);
    let (mut db_options, columns): (Options, _) =
        Options::load_latest(path, env.clone(), false, cache)?;
    db_options.set_env(&env);
    let db = DB::open_cf_descriptors(&db_options, path, columns)?;
    let mut write = WriteOptions::default();
    write.disable_wal(!options.wal);
    Ok(Side {
        kind,
        store: Store::Raw {
            db,
            read: ReadOptions::default(),
            write,
        },
    })
}

/// Reads every block of a raw side.
fn fill_cache(side: &Side) -> Result<()> {
    if let Store::Raw { db, .. } = &side.store {
        let mut iter = db.raw_iterator_cf(&column(db)?);
        iter.seek_to_first();
        while let Some(entry) = iter.item() {
            black_box(entry);
            iter.next();
        }
        iter.status()?;
    }
    Ok(())
}

fn raw_entries(side: &Side) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut entries = Vec::new();
    if let Store::Raw { db, .. } = &side.store {
        let mut iter = db.raw_iterator_cf(&column(db)?);
        iter.seek_to_first();
        while let Some((key, value)) = iter.item() {
            entries.push((key.to_vec(), value.to_vec()));
            iter.next();
        }
        iter.status()?;
    }
    Ok(entries)
}

/// Copies what a database needs, which is still open but has nothing to write.
fn copy_database(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let name = entry?.file_name();
        let text = name.to_string_lossy();
        let needed = text.ends_with(".sst")
            || ["CURRENT", "IDENTITY", "MANIFEST-", "OPTIONS-"]
                .iter()
                .any(|start| text.starts_with(start));
        if needed {
            fs::copy(from.join(&name), to.join(&name))?;
        }
    }
    Ok(())
}

const FILTER: &str = "filter_policy=bloomfilter";

fn filter_with_bits() -> String {
    let bits = RocksDbOptions::default().bloom_bits_per_key;
    format!("{FILTER}:{bits}:false")
}

/// Adds the filter's bits per key to the recorded options of a database.
fn complete_filter(db: &Path) -> Result<()> {
    let file = newest_options(db)?;
    let text = fs::read_to_string(&file)?.replace(FILTER, &filter_with_bits());
    Ok(fs::write(file, text)?)
}

/// Fails where the options that RocksDB recorded of an engine's database and of a plain one differ.
fn same_options(engine: &Path, plain: &Path) -> Result<()> {
    let a = fs::read_to_string(newest_options(engine)?)?.replace(FILTER, &filter_with_bits());
    let b = fs::read_to_string(newest_options(plain)?)?;
    if a == b {
        return Ok(());
    }
    let differ = a.lines().zip(b.lines()).find(|(a, b)| a != b);
    Err(format!("the options of two sides differ, first at {differ:?}").into())
}

fn newest_options(db: &Path) -> Result<PathBuf> {
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(db)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("OPTIONS-") {
            files.push(path);
        }
    }
    // Their numbers have leading zeros.
    files
        .into_iter()
        .max()
        .ok_or_else(|| "no OPTIONS file".into())
}
