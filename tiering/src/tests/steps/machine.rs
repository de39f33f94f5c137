//! What the script is made of: objects, machines, and what is done to them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use lazurite_env::{ErrorKind, FaultEnv, FaultPlan};

use super::{super::*, Names};
use crate::tests::cache::{CHUNK, cached_options, kept};

/// Bytes of a request of the download.
const REQUEST: usize = 4096;
/// What may be on its way, or here and not yet stored: two requests of the one file that is downloaded at a time, or one
/// read's.
pub const IN_FLIGHT: u64 = 2 * REQUEST as u64;

/// The objects by seed, and their lengths. 20 to 22 are as long as files that are here under the names that they get.
pub const OBJECTS: [(u64, usize); 13] = [
    (1, 9000),
    (2, 3000),
    (3, 10_500),
    (4, 12_001),
    (5, 2500),
    (6, 5000),
    (8, 700),
    (9, 1000),
    (20, 9000),
    (21, 3000),
    (22, 1000),
    (30, 3 * CHUNK as usize + 777),
    (31, CHUNK as usize + HOT),
];

/// What of the object 31 is hot and not in the tails: its second chunk, in three requests that are on their way at once.
pub const HOT: usize = 9000;

/// Tables that RocksDB wrote and no snapshot holds yet: files 98 and 99 of the contents 8 and 9.
pub const OWN: [(u64, u64); 2] = [(98, 8), (99, 9)];

/// How far a case is: changes begun, and how many of them are durable; whether all files are local, durably.
#[derive(Debug, Default)]
pub struct Progress {
    pub begun: AtomicUsize,
    pub durable: AtomicUsize,
    pub is_local: AtomicBool,
}

/// A case at work.
pub struct Run<'a> {
    pub world: &'a World,
    pub env: Arc<dyn Env>,
    pub union: Option<Arc<UnionEnv>>,
    pub progress: Arc<Progress>,
    /// It was done before, as a whole or in part.
    pub again: bool,
}

impl Run<'_> {
    pub fn union(&self) -> &UnionEnv {
        self.union.as_ref().unwrap()
    }

    /// A change of the catalog.
    pub fn change<T>(&self, change: impl FnOnce(&UnionEnv) -> Result<T>) {
        self.changes(1, || change(self.union()));
    }

    /// Several of them in one call.
    pub fn changes<T>(&self, n: usize, change: impl FnOnce() -> Result<T>) {
        self.progress.begun.fetch_add(n, SeqCst);
        match change() {
            Err(e) if self.again => {
                let kinds = [ErrorKind::NotFound, ErrorKind::AlreadyExists];
                assert!(kinds.contains(&e.kind()), "{e}");
            }
            result => drop(result.unwrap()),
        }
    }

    /// All changes so far are promised.
    pub fn done(&self) {
        let begun = self.progress.begun.load(SeqCst);
        self.progress.durable.store(begun, SeqCst);
    }

    /// The second chunks of these are hot.
    pub fn heat(&self, numbers: &[u64]) {
        let heat = numbers.iter().map(|number| (name(*number), vec![0, 3]));
        self.union().download().set_chunk_heat(heat.collect());
    }

    /// All files come.
    pub fn download(&self) {
        download(self.union());
        self.progress.is_local.store(true, SeqCst);
    }

    pub fn sync(&self) {
        self.union().sync_dir(self.union().db_dir()).unwrap();
        self.done();
    }

    pub fn delete(&self, number: u64) {
        self.change(|union| union.delete(&db(&name(number))));
    }

    pub fn rename(&self, from: u64, to: u64) {
        self.change(|union| union.rename(&db(&name(from)), &db(&name(to))));
    }

    pub fn link(&self, from: u64, to: u64) {
        self.change(|union| union.link(&db(&name(from)), &db(&name(to))));
    }

    pub fn restore(&self, names: Names) {
        let (entries, tails) = entries(self.world, names);
        self.change(|union| union.restore(entries, tails, "bundle-1"));
        self.done();
    }
}

fn len_of(seed: u64) -> usize {
    OBJECTS.iter().find(|(other, _)| *other == seed).unwrap().1
}

pub fn bytes_of(seed: u64) -> Bytes {
    content(seed, len_of(seed))
}

/// A world whose store has all objects.
pub fn objects() -> World {
    let world = World::new();
    for (seed, _) in OBJECTS {
        world.store.insert(&key(seed), bytes_of(seed));
    }
    world
}

fn options(world: &World, env: Arc<dyn Env>) -> UnionOptions {
    let mut options = cached_options(world, env, u64::MAX);
    // One thread of each kind, so that a step is the same one in each run.
    options.cache.writer_threads = 1;
    options.download.parallel_files = 1;
    options.download.chunk_bytes = REQUEST;
    options.download.parallel_chunks = 2;
    options
}

pub fn open(world: &World, env: Arc<dyn Env>) -> Arc<UnionEnv> {
    UnionEnv::open(options(world, env)).unwrap()
}

/// A snapshot's entries and tails. The tail of 13 is not among them, as of a file that was uploaded here.
fn entries(world: &World, names: Names) -> (Vec<CatalogEntry>, Bytes) {
    let files = names
        .iter()
        .map(|&(number, seed)| (number, seed, len_of(seed)));
    let mut snapshot = world.snapshot(&files.collect::<Vec<_>>());
    for entry in &mut snapshot.entries {
        if let Some(tail) = entry.tail.as_mut().filter(|_| entry.name == name(13)) {
            tail.bundle_offset = None;
        }
    }
    (snapshot.entries, snapshot.tails.into())
}

fn restore(world: &World, union: &UnionEnv, names: Names) {
    let (entries, tails) = entries(world, names);
    union.restore(entries, tails, "bundle-1").unwrap();
}

pub fn read(union: &UnionEnv, number: u64, ranges: &[(u64, usize)]) {
    let file = union.open_random(&db(&name(number))).unwrap();
    for &(at, len) in ranges {
        read_at(&*file, at, len).unwrap();
        union.flush_cache();
    }
}

pub fn download(union: &UnionEnv) {
    union.download().wait_until_local().unwrap();
    // Its threads have ended what belongs to it.
    union.download().stop();
}

pub const MACHINE: Names = &[(12, 1), (13, 2), (14, 3), (15, 4), (16, 5)];

/// The pages of 15 that are in its cache.
pub const PAGES_OF_15: [u64; 3] = [1, 2, 5];

/// 12 and 13 are local, of 15 some pages are here, 14 and 16 are remote, 98 and 99 are RocksDB's own.
fn machine_of(world: &World, options: UnionOptions) -> Option<Arc<UnionEnv>> {
    let union = UnionEnv::open(options).unwrap();
    restore(world, &union, &[(12, 1), (13, 2)]);
    download(&union);
    restore(world, &union, MACHINE);
    read(&union, 15, &[(1024, 2048), (5 * 1024, 10)]);
    for (number, seed) in OWN {
        write_file(&*union, &db(&name(number)), &bytes_of(seed)).unwrap();
    }
    union.sync_dir(union.db_dir()).unwrap();
    Some(union)
}

pub fn machine(world: &World, env: Arc<dyn Env>) -> Option<Arc<UnionEnv>> {
    machine_of(world, options(world, env))
}

pub fn empty(world: &World, env: Arc<dyn Env>) -> Option<Arc<UnionEnv>> {
    Some(open(world, env))
}

pub fn only_small(world: &World, env: Arc<dyn Env>) -> Option<Arc<UnionEnv>> {
    let union = open(world, env);
    restore(world, &union, &[(16, 5), (17, 8)]);
    Some(union)
}

pub fn two_names(world: &World, env: Arc<dyn Env>) -> Option<Arc<UnionEnv>> {
    let union = open(world, env);
    restore(world, &union, &[(14, 3), (16, 5)]);
    read(&union, 14, &[(4096, 100)]);
    for number in [14, 16] {
        let (from, to) = (db(&name(number)), db(&name(number + 10)));
        union.link(&from, &to).unwrap();
    }
    union.sync_dir(union.db_dir()).unwrap();
    Some(union)
}

/// The machine, whose download the disk cut short in the middle of 15.
pub fn half_downloaded(world: &World, env: Arc<dyn Env>) -> Option<Arc<UnionEnv>> {
    drop(machine(world, env.clone()));
    let plan = FaultPlan::new();
    let union = open(world, Arc::new(FaultEnv::new(env.clone(), plan.clone())));
    plan.fail_from(8, ErrorKind::Io);
    union.download().wait_until_local().unwrap_err();
    drop(union);
    let there = kept(&*env, &remote_file(4, &bytes_of(4))).good.len();
    assert!((4..12).contains(&there), "{there} of 12 pages");
    Some(open(world, env))
}

pub fn four_chunks(world: &World, env: Arc<dyn Env>) -> Option<Arc<UnionEnv>> {
    let union = open(world, env);
    restore(world, &union, &[(30, 30)]);
    read(&union, 30, &[0, 1, 2, 3].map(|chunk| (chunk * CHUNK, 700)));
    Some(union)
}

pub fn one_large(world: &World, env: Arc<dyn Env>) -> Option<Arc<UnionEnv>> {
    let union = open(world, env);
    restore(world, &union, &[(31, 31)]);
    Some(union)
}

pub fn limited(world: &World, env: Arc<dyn Env>) -> Option<Arc<UnionEnv>> {
    let mut options = options(world, env);
    options.cache.disk_budget_bytes = 1 << 30;
    machine_of(world, options)
}

/// A directory in which every kind of thing lies that an open removes.
pub fn untidy(world: &World, env: Arc<dyn Env>) -> Option<Arc<UnionEnv>> {
    drop(machine(world, env.clone()));
    let id = "0123456789abcdef0123456789abcdef";
    let names = [
        "CATALOG.tmp".into(),
        "download/000016.sst.0.part".into(),
        "tails/bundle-0".into(),
        "tails/000012.sst.tail".into(),
        "tails/bundle-1.tmp".into(),
        format!("cache/{id}.data"),
        format!("cache/{id}.map"),
        "cache/other".into(),
        // Of another length than the object.
        "db/000014.sst".into(),
    ];
    for name in names {
        write_file(&*env, &Path::new(ROOT).join(name), b"left").unwrap();
    }
    None
}
