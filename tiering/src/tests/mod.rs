//! Tests of the whole crate on a local Env and a store in memory.

mod ahead;
mod beside;
mod cache;
mod cache_crash;
mod cache_disk;
mod cache_limits;
mod cache_measure;
mod cache_model;
mod cache_stress;
mod crash;
mod demote;
mod disk;
mod download;
mod moves;
mod names;
mod observed;
mod reads;
mod restore;
mod steps;
mod warm;

use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use lazurite_env::{Env, IoRuntime, MemEnv, RandomFile, ReadHint, Result, remote::Key};

use crate::{
    CacheOptions, CatalogEntry, Checksum, DownloadOptions, RemoteFile, TailSpec, UnionEnv,
    UnionOptions, test_store::TestStore,
};

const ROOT: &str = "/state";
/// How many bytes of each file the tail bundle holds.
const TAIL: u64 = 100;
const HINT: ReadHint = ReadHint {
    activity: lazurite_env::Activity::Unknown,
    block: lazurite_env::BlockKind::Unknown,
};

/// A store that outlives the machines that use it.
struct World {
    store: Arc<TestStore>,
    runtime: IoRuntime,
}

/// What a restore is given, and what the files hold.
#[derive(Clone, Default)]
struct Snapshot {
    entries: Vec<CatalogEntry>,
    tails: Vec<u8>,
    contents: BTreeMap<String, Bytes>,
}

/// Bytes that differ from those of any other seed, of the same length or not.
fn content(seed: u64, len: usize) -> Bytes {
    let mut bytes = Vec::with_capacity(len + 8);
    let mut at = 0u64;
    while bytes.len() < len {
        let word = xxhash_rust::xxh3::xxh3_64_with_seed(&at.to_le_bytes(), seed);
        bytes.extend_from_slice(&word.to_le_bytes());
        at += 1;
    }
    bytes.truncate(len);
    bytes.into()
}

fn name(number: u64) -> String {
    format!("{number:06}.sst")
}

fn db(name: &str) -> PathBuf {
    Path::new(ROOT).join("db").join(name)
}

fn key(seed: u64) -> Key {
    Key::new(format!("job/shared/{seed}.sst")).unwrap()
}

fn remote_file(seed: u64, bytes: &[u8]) -> RemoteFile {
    RemoteFile {
        key: key(seed),
        len: bytes.len() as u64,
        checksum: Checksum::of(bytes),
    }
}

/// What an upload of `bytes` as the table `name` is recorded as.
fn uploaded(name: &str, seed: u64, bytes: &[u8]) -> CatalogEntry {
    let tail = TAIL.min(bytes.len() as u64);
    let offset = bytes.len() as u64 - tail;
    CatalogEntry {
        name: name.to_owned(),
        level: 1,
        file: remote_file(seed, bytes),
        tail: Some(TailSpec {
            offset,
            bundle_offset: None,
            checksum: Checksum::of(&bytes[offset as usize..]),
        }),
    }
}

impl World {
    fn new() -> Self {
        World {
            store: Arc::new(TestStore::new()),
            runtime: IoRuntime::new(2).unwrap(),
        }
    }

    fn options(&self, base: Arc<dyn Env>) -> UnionOptions {
        UnionOptions {
            base,
            root: ROOT.into(),
            store: self.store.clone(),
            runtime: self.runtime.clone(),
            download: DownloadOptions {
                parallel_files: 2,
                chunk_bytes: 300,
                parallel_chunks: 2,
                first_backoff: Duration::from_millis(1),
            },
            // The tests of the cache switch it on.
            cache: CacheOptions {
                block_reads: false,
                min_free_bytes: 0,
                ..CacheOptions::default()
            },
            transfer_bytes_per_second: None,
        }
    }

    fn open(&self, base: &MemEnv) -> Arc<UnionEnv> {
        self.try_open(Arc::new(base.clone())).unwrap()
    }

    fn try_open(&self, base: Arc<dyn Env>) -> Result<Arc<UnionEnv>> {
        UnionEnv::open(self.options(base))
    }

    /// A snapshot of files given as (file number, content's seed, length), its objects in the store.
    fn snapshot(&self, files: &[(u64, u64, usize)]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for &(number, seed, len) in files {
            let bytes = content(seed, len);
            self.store.insert(&key(seed), bytes.clone());
            let tail_len = TAIL.min(len as u64);
            snapshot.entries.push(CatalogEntry {
                name: name(number),
                level: (number % 3) as u8,
                file: remote_file(seed, &bytes),
                tail: Some(TailSpec {
                    offset: len as u64 - tail_len,
                    bundle_offset: Some(snapshot.tails.len() as u64),
                    checksum: Checksum::of(&bytes[len - tail_len as usize..]),
                }),
            });
            snapshot
                .tails
                .extend_from_slice(&bytes[len - tail_len as usize..]);
            snapshot.contents.insert(name(number), bytes);
        }
        snapshot
    }
}

impl Snapshot {
    fn restore(&self, union: &UnionEnv) -> Result<crate::Reuse> {
        union.restore(self.entries.clone(), self.tails.clone().into(), "bundle-1")
    }
}

/// A union in which the files 12 to 15 are remote: 1000 to 1003 bytes each, seeds 1 to 4.
fn four_remote() -> (World, MemEnv, Arc<UnionEnv>, Snapshot) {
    let world = World::new();
    let base = MemEnv::new();
    let union = world.open(&base);
    let snapshot = world.snapshot(&[(12, 1, 1000), (13, 2, 1001), (14, 3, 1002), (15, 4, 1003)]);
    snapshot.restore(&union).unwrap();
    (world, base, union, snapshot)
}

fn read_at(file: &dyn RandomFile, offset: u64, len: usize) -> Result<Vec<u8>> {
    let mut buf = vec![0; len];
    let n = file.read_at(offset, &mut buf, HINT)?;
    buf.truncate(n);
    Ok(buf)
}

fn read_file(env: &dyn Env, path: &Path) -> Result<Vec<u8>> {
    let file = env.open_random(path)?;
    let len = file.len()? as usize;
    read_at(&*file, 0, len + 10)
}

fn write_file(env: &dyn Env, path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = env.create(path)?;
    file.append(bytes)?;
    file.sync()?;
    file.close()
}

/// The table files that the db directory shows, sorted.
fn listed(union: &UnionEnv) -> Vec<String> {
    let mut names: Vec<_> = union
        .list(union.db_dir())
        .unwrap()
        .into_iter()
        .map(|entry| entry.name)
        .filter(|name| name.ends_with(".sst"))
        .collect();
    names.sort();
    names
}
